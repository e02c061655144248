//! `ripstop describe`: everything about one thing.

use clap::{Args, ValueEnum};
use ripstop_types::{NodeName, PodName, validate_dns_name};
use serde::Deserialize;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::{Out, text};
use crate::subject::{Subject, SubjectParser};
use crate::target::Target;

/// Tell everything about a node, a pod, a network or an object of BGP
///
/// What is known of it, what it caused in the kernel or which sessions it has, and what is wrong with it.
#[derive(Debug, Args)]
#[command(override_usage = "ripstop describe [OPTIONS] <KIND> <NAME>\n       ripstop describe [OPTIONS] <KIND>/<NAME>")]
pub struct Describe {
    /// What it is; also in the plural, and no, po, net and svc; with its name in one word as KIND/NAME
    #[arg(value_name = "KIND", value_parser = SubjectParser::<Described>::new())]
    pub subject: Subject<Described>,
    /// Its name; a pod's and a Service's is NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Namespace of a pod or a Service that is given as NAME
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    #[command(flatten)]
    pub target: Target,
}

/// What can be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Described {
    /// A node of the cluster
    #[value(aliases = ["nodes", "no"])]
    Node,
    /// A pod of the asked node
    #[value(aliases = ["pods", "po"])]
    Pod,
    /// A network of the cluster
    #[value(aliases = ["networks", "nets", "net"])]
    Network,
    /// A Service of the cluster, and who answers for its addresses
    #[value(aliases = ["services", "svc"])]
    Service,
    /// A BgpPeer
    #[value(name = "bgppeer", aliases = ["bgppeers"])]
    BgpPeer,
    /// A BgpConfiguration
    #[value(name = "bgpconfiguration", aliases = ["bgpconfigurations", "bgpconfig"])]
    BgpConfiguration,
    /// A BgpFilter
    #[value(name = "bgpfilter", aliases = ["bgpfilters"])]
    BgpFilter,
}

#[derive(Deserialize)]
struct Description {
    text: String,
}

impl Describe {
    /// Prints the agent's text.
    ///
    /// # Errors
    /// A usage error for a name that cannot be one, and where the agent does not answer or does not know it.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let description: Description = agent.get(&self.path()?)?;
        out.line(text::escaped(&description.text, true).trim_end_matches('\n'))
    }

    /// The path at the agent. A checked name needs no escapes.
    fn path(&self) -> Result<String, Failure> {
        let name = match (&self.subject.name, &self.name) {
            (Some(name), None) | (None, Some(name)) => name.as_str(),
            (None, None) => {
                return Err(Failure::Usage("describe: a name is missing; accepted is KIND NAME or KIND/NAME".into()));
            }
            (Some(_), Some(more)) => {
                return Err(Failure::Usage(format!("{more:?}: one thing is described at a time")));
            }
        };
        let path = match self.subject.kind {
            Described::Node => name.parse::<NodeName>().map(|name| format!("node/{name}")),
            Described::Network => validate_dns_name("a network name", name).map(|()| format!("network/{name}")),
            Described::Pod | Described::Service => {
                let named = if name.contains('/') { name.parse() } else { PodName::new(&self.namespace, name) };
                let kind = if self.subject.kind == Described::Pod { "pod" } else { "service" };
                named.map(|name| format!("{kind}/{}/{}", name.namespace, name.name))
            }
            Described::BgpPeer | Described::BgpConfiguration | Described::BgpFilter => {
                let kind =
                    self.subject.kind.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                validate_dns_name("a name of an object", name).map(|()| format!("{kind}/{name}"))
            }
        };
        path.map(|path| format!("/v1/describe/{path}")).map_err(|invalid| Failure::Usage(invalid.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kind: Described, name: &str, namespace: &str) -> Result<String, u8> {
        let (name, namespace) = (Some(name.to_owned()), namespace.to_owned());
        let subject = Subject { kind, name: None };
        Describe { subject, name, namespace, target: Target::default() }.path().map_err(|failure| failure.code())
    }

    #[test]
    fn a_pod_has_a_namespace() {
        assert_eq!(path(Described::Pod, "web", "default").unwrap(), "/v1/describe/pod/default/web");
        assert_eq!(path(Described::Pod, "kube/web", "default").unwrap(), "/v1/describe/pod/kube/web");
        assert_eq!(path(Described::Service, "web", "default").unwrap(), "/v1/describe/service/default/web");
        assert_eq!(path(Described::Node, "n1", "default").unwrap(), "/v1/describe/node/n1");
        assert_eq!(path(Described::BgpPeer, "tor", "default").unwrap(), "/v1/describe/bgppeer/tor");
    }

    #[test]
    fn a_name_that_is_none_is_not_asked_for() {
        for kind in [Described::Node, Described::Pod, Described::Network, Described::BgpFilter] {
            for name in ["../metrics", "", "a b", "a?b", "a\r\nb", "a/b/c"] {
                assert_eq!(path(kind, name, "default"), Err(2), "{kind:?} {name:?}");
            }
        }
    }
}
