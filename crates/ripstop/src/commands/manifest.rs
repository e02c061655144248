//! `ripstop apply` and `ripstop delete`: what a file says shall be, or shall not be.

use std::fs::File;
use std::io::{self, Read};

use clap::{Args, ValueEnum};
use ripstop_objects::NetworkName;
use ripstop_types::{NamespacedName, NodeName};
use serde_json::Value;

use crate::ask::Agent;
use crate::failure::Failure;
use crate::print::text::{escaped, field};
use crate::print::{Format, Out};
use crate::subject::{Subject, SubjectParser};
use crate::target::Target;

/// The longest file that is sent: the agent takes no more.
const MAX_FILE: u64 = 4 << 20;

/// Create or change the networks, policies, Services, endpoints, pods, namespaces and labels of nodes that a file describes
///
/// The file holds documents of kind Network (ripstop.io/v1alpha1) in YAML or JSON, or Flannel's net-conf.json, which is
/// the network `default`; and where the store is not Kubernetes, AddressPool, BgpConfiguration, BgpPeer and BgpFilter (ripstop.io/v1alpha1), and NetworkPolicy,
/// ClusterNetworkPolicy, Service, EndpointSlice, Pod, Namespace and Node as Kubernetes has them; of a Node the labels matter, and its addresses if it names some.
/// MetalLB's IPAddressPools become AddressPools by what its L2Advertisements, BGPAdvertisements and Communities in the same file say of them (metallb.io/v1beta1). A Service without clusterIP or node ports gets the first that are free and keeps them. Either all of the file is
/// taken, or, where anything in it is wrong, nothing.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    manifest: Manifest,
    #[command(flatten)]
    pub target: Target,
}

/// Delete networks, policies, Services, endpoints, pods and namespaces, or a node that is gone for good
///
/// A network of which a node owns a range is not deleted. Of a file, one that `ripstop apply` takes, only names matter, and
/// all of it goes or nothing. What is not there is named, and the exit code is 1. A namespace goes without what lies in it. With a node go its record and its claims on ranges, which other nodes may take then; as
/// long as it shows signs of life the agent refuses: two nodes would use the same addresses.
#[derive(Debug, Args)]
#[command(override_usage = "ripstop delete [OPTIONS] <KIND> <NAME>\n       ripstop delete [OPTIONS] --filename <FILE>")]
pub struct Delete {
    /// What is deleted by name; with the name in one word as KIND/NAME
    #[arg(
        value_name = "KIND",
        value_parser = SubjectParser::<Kind>::new(),
        required_unless_present = "file",
        conflicts_with = "file"
    )]
    subject: Option<Subject<Kind>>,
    /// Its name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The namespace of a NetworkPolicy, a Service, an EndpointSlice or a pod [default: default]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "file")]
    namespace: Option<String>,
    /// Delete what this file describes; - is standard input
    #[arg(short, long = "filename", visible_alias = "file", value_name = "FILE")]
    file: Option<String>,
    /// That something is not there is no failure
    #[arg(long)]
    ignore_not_found: bool,
    /// Form of the answer: {object, action} for each object
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    pub target: Target,
}

/// What is deleted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A node that is gone for good
    #[value(aliases = ["nodes", "no"])]
    Node,
    /// A network of which no node owns a range
    #[value(aliases = ["networks", "nets", "net"])]
    Network,
    /// A Service, which gives its addresses back
    #[value(aliases = ["services", "svc"])]
    Service,
    /// Endpoints that were applied; those that agents publish come again
    #[value(aliases = ["endpointslices"])]
    Endpointslice,
    /// A pod's object, not the pod
    #[value(aliases = ["pods", "po"])]
    Pod,
    /// A namespace's object
    #[value(aliases = ["namespaces", "ns"])]
    Namespace,
    /// A policy of a namespace
    #[value(aliases = ["networkpolicies", "netpol"])]
    Networkpolicy,
    /// A policy of the cluster
    #[value(aliases = ["clusternetworkpolicies", "cnp"])]
    Clusternetworkpolicy,
    /// A pool of addresses; Services that have some of it get others
    #[value(aliases = ["addresspools", "pools", "pool"])]
    Addresspool,
}

#[derive(Debug, Args)]
struct Manifest {
    /// The file; - is standard input
    #[arg(short, long = "filename", visible_alias = "file", value_name = "FILE")]
    file: String,
    /// Form of the answer: {object, action} for each document
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl Apply {
    /// Sends the file.
    ///
    /// # Errors
    /// Where it cannot be read, or the agent does not answer or refuses.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        self.manifest.send(agent, "/v1/apply", out)
    }
}

impl Delete {
    /// Sends the file, or what is named.
    ///
    /// # Errors
    /// As [`Apply::run`], and where something is not there.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let Some(subject) = &self.subject else {
            let text = read(self.file.as_deref().unwrap_or("-"), MAX_FILE)?;
            return self.send(agent, "", text.as_bytes(), out);
        };
        let name = match (&subject.name, &self.name) {
            (Some(name), None) | (None, Some(name)) => name.as_str(),
            (None, None) => {
                return Err(Failure::Usage("delete: a name is missing; accepted is KIND NAME or KIND/NAME".into()));
            }
            (Some(_), Some(more)) => {
                return Err(Failure::Usage(format!("{more:?}: one thing is deleted at a time")));
            }
        };
        let without = matches!(
            subject.kind,
            Kind::Node | Kind::Network | Kind::Namespace | Kind::Clusternetworkpolicy | Kind::Addresspool
        );
        if self.namespace.is_some() && without {
            let why = "--namespace: it is for a NetworkPolicy, a Service, an EndpointSlice or a pod";
            return Err(Failure::Usage(why.into()));
        }
        match subject.kind {
            Kind::Node => {
                let node: NodeName = name.parse().map_err(|invalid| Failure::Usage(format!("NAME: {invalid}")))?;
                self.send(agent, &format!("/node/{node}"), &[], out)
            }
            Kind::Network => {
                let network: NetworkName =
                    name.parse().map_err(|invalid| Failure::Usage(format!("NAME: {invalid}")))?;
                self.send(agent, &format!("/network/{network}"), &[], out)
            }
            Kind::Service => self.delete_object("service", name, agent, out),
            Kind::Endpointslice => self.delete_object("endpointslice", name, agent, out),
            Kind::Pod => self.delete_object("pod", name, agent, out),
            Kind::Networkpolicy => self.delete_object("networkpolicy", name, agent, out),
            Kind::Namespace => self.delete_by_name("namespace", name, agent, out),
            Kind::Clusternetworkpolicy => self.delete_by_name("clusternetworkpolicy", name, agent, out),
            Kind::Addresspool => self.delete_by_name("addresspool", name, agent, out),
        }
    }
}

impl Delete {
    fn send(&self, agent: &Agent, path: &str, body: &[u8], out: &mut Out) -> Result<(), Failure> {
        let results = post(agent, &format!("/v1/delete{path}"), body)?;
        let (missing, done): (Vec<Value>, Vec<Value>) =
            results.iter().cloned().partition(|result| field(result, "action") == "not found");
        if !out.data(self.output, &results.into())? {
            tell(&done, out)?;
        }
        if missing.is_empty() || self.ignore_not_found {
            return Ok(());
        }
        let sentences: Vec<String> =
            missing.iter().map(|result| format!("{} not found", field(result, "object"))).collect();
        Err(Failure::Failed(sentences.join("\n")))
    }

    fn delete_by_name(&self, kind: &str, name: &str, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        ripstop_types::validate_dns_name("a name", name)
            .map_err(|invalid| Failure::Usage(format!("NAME: {invalid}")))?;
        self.send(agent, &format!("/{kind}/{name}"), &[], out)
    }

    /// `NAME` with -n, or `NAMESPACE/NAME`.
    fn delete_object(&self, kind: &str, name: &str, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let whole = match (&self.namespace, name.contains('/')) {
            (Some(namespace), false) => NamespacedName::new(namespace, name),
            (None, _) => name.parse(),
            (Some(_), true) => {
                return Err(Failure::Usage(format!("{name:?}: its namespace is said twice; say it once")));
            }
        };
        let whole = whole.map_err(|invalid| Failure::Usage(format!("NAME: {invalid}")))?;
        self.send(agent, &format!("/{kind}/{whole}"), &[], out)
    }
}

impl Manifest {
    fn send(&self, agent: &Agent, path: &str, out: &mut Out) -> Result<(), Failure> {
        let results = post(agent, path, read(&self.file, MAX_FILE)?.as_bytes())?;
        if out.data(self.output, &results.clone().into())? { Ok(()) } else { tell(&results, out) }
    }
}

/// What became of each object.
fn post(agent: &Agent, path: &str, body: &[u8]) -> Result<Vec<Value>, Failure> {
    let answer = agent.post(path, "application/yaml", body)?;
    Ok(answer.get("results").and_then(Value::as_array).cloned().unwrap_or_default())
}

fn tell(results: &[Value], out: &mut Out) -> Result<(), Failure> {
    results.iter().try_for_each(|result| out.line(&format!("{} {}", field(result, "object"), field(result, "action"))))
}

/// The text of a file that is no longer than so many bytes.
///
/// # Errors
/// Where it cannot be read, is longer, or is no text.
pub fn read(file: &str, most: u64) -> Result<String, Failure> {
    let name = if file == "-" { "standard input".to_owned() } else { escaped(file, false) };
    let cannot = |error: io::Error| Failure::system(&format!("cannot read {name}"), &error);
    let mut source: Box<dyn Read> = match file {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(cannot)?),
    };
    let mut bytes = Vec::new();
    source.by_ref().take(most + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(Failure::Failed(format!(
            "{name} is longer than {} MiB, which is the most that is read",
            most >> 20
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure::Failed(format!("{name} is not UTF-8 text; YAML or JSON is accepted")))
}
