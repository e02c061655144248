//! Who is meant by a word of the command line: `namespace/pod`, `pod`, an address, or `node/NAME`.

use std::net::IpAddr;

use ripstop_policy::explain::Party;
use ripstop_types::{NodeName, PodName};

use super::objects::Objects;
use crate::failure::Failure;
use crate::print::text::escaped;

/// What is accepted.
pub const ACCEPTED: &str = "NAMESPACE/POD, POD, an address, or node/NAME";

/// What a word names.
pub enum Named {
    /// An address, whoever has it.
    Address(IpAddr),
    /// A node.
    Node(NodeName),
    /// A pod.
    Pod(PodName),
}

impl Named {
    /// What a word can mean.
    ///
    /// # Errors
    /// A usage error for one that can mean nobody.
    pub fn of(word: &str, namespace: &str) -> Result<Self, Failure> {
        if let Ok(ip) = word.parse::<IpAddr>() {
            return Ok(Self::Address(ip));
        }
        if let Some(name) = word.strip_prefix("node/") {
            let name: Result<NodeName, _> = name.parse();
            return name.map(Self::Node).map_err(|invalid| Failure::Usage(format!("{invalid}")));
        }
        let name: Result<PodName, _> = if word.contains('/') { word.parse() } else { PodName::new(namespace, word) };
        name.map(Self::Pod).map_err(|_| Failure::Usage(format!("{:?}: accepted is {ACCEPTED}", escaped(word, false))))
    }
}

impl Objects {
    /// Whom a word means. A pod on its node's network is its node: it has that one's addresses, and policies see nothing else.
    ///
    /// # Errors
    /// A usage error for a word that can mean nobody, and a failure for what is not there or has no address.
    pub fn party(&self, word: &str, namespace: &str) -> Result<Party, Failure> {
        let name = match Named::of(word, namespace)? {
            Named::Address(ip) => return Ok(Party { name: ip.to_string(), ips: vec![ip] }),
            Named::Node(name) => return self.node(&name).map(|ips| Party { name: format!("node/{name}"), ips }),
            Named::Pod(name) => name,
        };
        if let Some(ips) = self.closed.get(&name) {
            return Ok(Party { name: name.to_string(), ips: ips.clone() });
        }
        let pod = self.pods.get(&name);
        let pod = pod.ok_or_else(|| Failure::Failed(format!("pod {:?} not found", name.to_string())))?;
        let ips = match (&pod.node, pod.host_network) {
            (Some(node), true) => self.node(node)?,
            (None, true) => return Err(Failure::Failed(format!("pod {name} has its node's network, and no node yet"))),
            (_, false) if pod.has_finished() => {
                return Err(Failure::Failed(format!("pod {name} has finished: its addresses are no longer its own")));
            }
            (_, false) => pod.ips.clone(),
        };
        Ok(Party { name: name.to_string(), ips })
    }

    fn node(&self, name: &NodeName) -> Result<Vec<IpAddr>, Failure> {
        let node = self.nodes.get(name);
        let node = node.ok_or_else(|| Failure::Failed(format!("node {:?} not found", name.as_str())))?;
        if node.addresses.is_empty() {
            return Err(Failure::Failed(format!("node {name} has no address in its status")));
        }
        Ok(node.addresses.clone())
    }
}
