//! Documents people write: the agent's configuration, networks, Flannel's `net-conf.json`, MetalLB's pools, and files of several.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::decode::tree::Tree;
use crate::decode::{Decoder, Node, Unknown, config, flannel, metallb, network};
use crate::{AgentConfig, Applied, Fault, Faults, Network, NetworkName, Note, check_networks};

impl AgentConfig {
    /// Reads a configuration from YAML or JSON. An empty text is a complete one.
    ///
    /// # Errors
    /// Everything wrong with it, under the object `config`.
    pub fn decode(text: &str) -> Result<(Self, Vec<Note>), Faults> {
        let tree = one_document("config", text)?.unwrap_or(Tree::Null);
        let mut decoder = Decoder::new("config", Unknown::Refuse);
        let value = config::agent_config(&mut decoder, &Node::root(&tree));
        decoder.finish(value)
    }
}

impl Network {
    /// Reads one network from YAML or JSON.
    ///
    /// # Errors
    /// Everything wrong with it, under the object `network/NAME`.
    pub fn decode(text: &str) -> Result<Self, Faults> {
        let tree = one_document("network", text)?
            .ok_or_else(|| Fault::new("network", "", "found an empty text", "one document of kind Network"))?;
        let mut decoder = Decoder::new(network::object_name(&tree, "network"), Unknown::Refuse);
        let value = network::network(&mut decoder, &Node::root(&tree));
        decoder.finish(value).map(|(network, _)| network)
    }

    /// Reads Flannel's `net-conf.json` as the network of this name. The notes say what has no effect here.
    ///
    /// # Errors
    /// Everything wrong with it or not available, under Flannel's names of the fields.
    pub fn from_flannel(name: NetworkName, text: &str) -> Result<(Self, Vec<Note>), Faults> {
        let object = format!("network/{name}");
        let tree = one_document(&object, text)?
            .ok_or_else(|| Fault::new(&object, "", "found an empty text", "Flannel's net-conf.json"))?;
        let mut decoder = Decoder::new(object, Unknown::Refuse);
        let value = flannel::net_conf(&mut decoder, &Node::root(&tree), name);
        decoder.finish(value)
    }
}

/// What a file for `ripstop apply -f` or `delete -f` holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// Its networks, in their order in the file. Flannel's `net-conf.json` is the network `default`.
    pub networks: Vec<Network>,
    /// Its objects of Kubernetes' kinds, in their order in the file. MetalLB's pools are AddressPools, the last ones.
    pub objects: Vec<Applied>,
    /// What has no effect.
    pub notes: Vec<Note>,
}

impl Manifest {
    /// Reads documents of YAML (separated by `---`) or JSON. Empty documents are passed over; of a List the items are read.
    ///
    /// # Errors
    /// Everything wrong with any of them, and what is wrong between them: a name twice, ranges that overlap. A text
    /// that is neither YAML nor JSON has no documents, hence one fault.
    pub fn decode(text: &str) -> Result<Self, Faults> {
        let documents = Tree::parse(text).map_err(|sentence| syntax("manifest", &sentence))?;
        let documents: Vec<&Tree<'_>> = documents.iter().flat_map(items).collect();
        let (mut manifest, mut faults) = (Self::default(), Faults::none());
        let (of_metallb, own): (Vec<_>, Vec<_>) =
            documents.into_iter().enumerate().partition(|(_, tree)| metallb::is_of(tree));
        for (n, tree) in own.into_iter().filter(|(_, tree)| **tree != Tree::Null) {
            let otherwise = format!("document {}", n + 1);
            if let Some(kind) = Applied::kind_of(tree) {
                manifest.take(Applied::read(kind, tree, &otherwise), &mut faults);
                continue;
            }
            match document(tree, &otherwise) {
                Ok((network, notes)) => {
                    manifest.networks.push(network);
                    manifest.notes.extend(notes);
                }
                Err(more) => faults.append(more),
            }
        }
        let of_metallb: Vec<&Tree<'_>> = of_metallb.into_iter().map(|(_, tree)| tree).collect();
        match metallb::address_pools(&of_metallb) {
            Ok((pools, notes)) => {
                pools.iter().for_each(|pool| manifest.take(Applied::of_pool(pool), &mut faults));
                manifest.notes.extend(notes);
            }
            Err(more) => faults.append(more),
        }
        if let Err(more) = check_networks(&manifest.networks) {
            faults.append(more);
        }
        if faults.is_empty() && manifest.networks.is_empty() && manifest.objects.is_empty() {
            let accepted = "one or more documents of kind Network, Service, EndpointSlice, Pod, Namespace, Node, NetworkPolicy, \
                            ClusterNetworkPolicy, BgpConfiguration, BgpFilter, BgpPeer or AddressPool";
            faults.push(Fault::new("manifest", "", "found no document", accepted));
        }
        faults.into_result().map(|()| manifest)
    }

    /// Takes an object in, or what is wrong with it.
    fn take(&mut self, read: Result<Applied, Faults>, faults: &mut Faults) {
        match read {
            Ok(object) if self.objects.iter().any(|other| other.name() == object.name()) => {
                faults.push(Fault::new(object.name(), "", "found it twice", "each object once"));
            }
            Ok(object) => self.objects.push(object),
            Err(more) => faults.append(more),
        }
    }
}

/// The documents that one is: the items of a List as kubectl prints it, or itself.
fn items<'t>(tree: &'t Tree<'static>) -> Vec<&'t Tree<'static>> {
    match (tree.text_at(&["kind"]), tree.get("items")) {
        (Some("List"), Some(Tree::List(items))) => items.iter().collect(),
        _ => vec![tree],
    }
}

fn document(tree: &Tree, otherwise: &str) -> Result<(Network, Vec<Note>), Faults> {
    if flannel::is_net_conf(tree) {
        let name = NetworkName::first();
        let mut decoder = Decoder::new(format!("network/{name}"), Unknown::Refuse);
        let value = flannel::net_conf(&mut decoder, &Node::root(tree), name);
        return decoder.finish(value);
    }
    let mut decoder = Decoder::new(network::object_name(tree, otherwise), Unknown::Refuse);
    let value = network::network(&mut decoder, &Node::root(tree));
    decoder.finish(value)
}

/// The only document of a text; `None` for a text without any.
fn one_document(object: &str, text: &str) -> Result<Option<Tree<'static>>, Faults> {
    let mut documents = Tree::parse(text).map_err(|sentence| syntax(object, &sentence))?;
    documents.retain(|tree| *tree != Tree::Null);
    if documents.len() > 1 {
        let found = format!("found {} documents", documents.len());
        return Err(Fault::new(object, "", found, "one document").into());
    }
    Ok(documents.pop())
}

/// The fault of a text that is neither YAML nor JSON.
fn syntax(object: &str, (found, accepted): &(String, String)) -> Faults {
    Fault::new(object, "", format!("found {found}"), accepted.clone()).into()
}

impl<'de> Deserialize<'de> for AgentConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Tree::deserialize(deserializer)?;
        let mut decoder = Decoder::new("config", Unknown::PassOver);
        let value = config::agent_config(&mut decoder, &Node::root(&tree));
        decoder.finish(value).map(|(config, _)| config).map_err(D::Error::custom)
    }
}
