//! What probes are for, and what becomes of what they find.
//!
//! The prober beside the core is told which ways there are, and whose probes it answers; its findings are inputs. They
//! become rows, by which routes get their length and tunnel devices their checksums. Nothing of a probe is decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_fabric::{host, paths, probing};
use ripstop_netmodel::{HostLink, NFT_TABLE};
use ripstop_nft::model::{Key as ElementValue, Name};
use ripstop_tables::{Change, Checksums, ProbeInput, Reach, Report, StoreKind, Target, Tunnel, Withdrawn};
use ripstop_types::{Family, IfName, Millis, NodeName};

use super::{Core, Level, Output};

/// Least time between two looks at what the prober is to be told, in milliseconds; longer where there are many peers.
const PAUSE_MS: u64 = 100;

/// More objects on their way into the kernel than this are the change of a cluster: a node joins.
const BUSY: usize = 1_000;

/// What the prober is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProbePlan {
    /// Addresses to which the longest packet is looked for.
    pub targets: BTreeSet<Target>,
    /// Ends of tunnels at which checksums are looked at.
    pub tunnels: BTreeSet<Tunnel>,
    /// Tunnel devices that leave no checksum to hardware, because it did not come right.
    pub broken: BTreeSet<IfName>,
    /// Another number when the links below tunnels have changed.
    pub links: u64,
    /// Addresses whose probes are answered.
    pub askers: BTreeSet<IpAddr>,
}

/// What the core remembers of the prober.
#[derive(Debug, Default)]
pub(super) struct Probes {
    told: ProbePlan,
    /// The uplinks when [`ProbePlan::links`] was counted up last.
    links: BTreeMap<IfName, HostLink>,
    /// Something may differ from what was told.
    is_due: bool,
    /// When that is looked at next: it takes a look at every peer, and much may change at once.
    next: Millis,
    /// Whose an address is, of those that were told.
    owners: BTreeMap<IpAddr, NodeName>,
    /// Why this node answers no probes.
    closed: Option<String>,
}

impl Core {
    /// The prober said something.
    pub(super) fn take_probe(&mut self, input: ProbeInput) -> BTreeSet<Change> {
        let reports = match input {
            ProbeInput::Open { port } => {
                self.probes.closed = None;
                return self.set_probe_port(Some(port));
            }
            ProbeInput::Closed { why } => {
                if self.probes.closed.as_ref() != Some(&why) {
                    self.log(Level::Warn, closed_sentence(&why));
                }
                self.probes.closed = Some(why);
                return self.set_probe_port(None);
            }
            ProbeInput::Ready { pod, order, ready } => return self.take_readiness(&pod, order, ready),
            ProbeInput::Found { reports } => reports,
        };
        let mut changes = BTreeSet::new();
        for report in reports {
            match report {
                Report::Reach(address, reach) => changes.extend(self.take_reach(address, reach)),
                Report::Checksums(link, state) => changes.extend(self.take_checksums(link, state)),
            }
        }
        changes
    }

    fn set_probe_port(&mut self, port: Option<u16>) -> BTreeSet<Change> {
        if self.tables.probe_port == port {
            return BTreeSet::new();
        }
        self.tables.probe_port = port;
        BTreeSet::from([Change::Realised])
    }

    fn take_reach(&mut self, address: IpAddr, reach: Reach) -> Option<Change> {
        let node = self.node_at(address)?;
        let was = self.narrow(address);
        // A prober that has just started knows no length yet: that of the last one stays until it does.
        let known = self.tables.reaches.get(&address).and_then(|reach| reach.mtu);
        let reach = Reach { mtu: reach.mtu.or(known), ..reach };
        if self.tables.reaches.insert(address, reach) == Some(reach) {
            return None;
        }
        match (was, self.narrow(address)) {
            (before, Some(now)) if before != Some(now) => {
                let text = self.narrow_sentence(&node, address, now);
                self.log(if before.is_none() { Level::Warn } else { Level::Info }, text);
            }
            (Some(_), None) => {
                let text =
                    format!("the way to {node} at {address} carries packets as long as its link here takes again");
                self.log(Level::Info, text);
            }
            _ => {}
        }
        Some(Change::Reach(node))
    }

    fn take_checksums(&mut self, link: IfName, state: Checksums) -> Option<Change> {
        let network = self.tables.networks.values().find(|row| paths::vxlan_link(&row.value).as_ref() == Some(&link));
        let network = network.map(|row| row.value.name.clone())?;
        if self.tables.checksums.insert(link.clone(), state) == Some(state) {
            return None;
        }
        match state {
            Checksums::Broken => self.log(Level::Warn, offload_sentence(&link)),
            Checksums::Untold => {
                self.log(Level::Info, format!("links changed: {link} leaves checksums to hardware again, to see"))
            }
            Checksums::Fine => self.log(Level::Info, format!("checksums that {link} leaves to hardware come right")),
        }
        Some(Change::Tunnel(network))
    }

    /// The node that has an address.
    fn node_at(&self, address: IpAddr) -> Option<NodeName> {
        let told = self.probes.owners.get(&address).and_then(|name| self.tables.nodes.get(name));
        if let Some(row) = told.filter(|row| row.value.addresses.iter().any(|own| own.ip == address)) {
            return Some(row.value.name.clone());
        }
        let has = |node: &ripstop_objects::NodeRecord| node.addresses.iter().any(|own| own.ip == address);
        let peers = self.tables.peers().map(|row| &row.value);
        let outer = |node: &ripstop_objects::NodeRecord| {
            self.tables.networks.values().any(|row| {
                let vtep = node.vxlan(row.value.spec.backend.vni);
                vtep.is_some_and(|vtep| vtep.outer(Family::of(address)) == Some(address))
            })
        };
        peers.filter(|node| has(node) || outer(node)).map(|node| node.name.clone()).next()
    }

    /// The length that a way carries, where that is less than its link here takes.
    fn narrow(&self, address: IpAddr) -> Option<u32> {
        let found = self.tables.reaches.get(&address)?.mtu?;
        probing::link_mtu(&self.tables, address).filter(|link| found < *link).map(|_| found)
    }

    fn narrow_sentence(&self, node: &NodeName, address: IpAddr, found: u32) -> String {
        let link = probing::link_mtu(&self.tables, address).unwrap_or(found);
        format!(
            "the way to {node} at {address} carries packets of {found} bytes at most, though the link here takes {link}; \
             packets to its pods are kept shorter"
        )
    }

    /// Something changed of what the prober is told.
    pub(super) fn note_for_prober(&mut self, changes: &BTreeSet<Change>) {
        let concerns = |change: &Change| !matches!(change, Change::Alive(_) | Change::Pod(_) | Change::Store);
        self.probes.is_due |= changes.iter().any(concerns);
    }

    /// Tells the prober what is news to it. The model must be up to date: what it wants and the kernel has not got is not
    /// answered yet.
    pub(super) fn refresh_probes(&mut self) {
        if self.probes_due().is_none_or(|due| self.at.now < due) || !self.desired.is_whole() {
            return;
        }
        self.probes.is_due = false;
        let pause = PAUSE_MS + self.tables.nodes.len() as u64 / 10;
        self.probes.next = self.at.now.plus(pause);
        let plan = self.probe_plan();
        self.forget_reaches(&plan);
        if plan != self.probes.told {
            self.probes.told = plan.clone();
            self.outputs.push(Output::Probe(Box::new(plan)));
        }
    }

    /// When there may be something to tell the prober: not while much is on its way into the kernel, of which each end brings
    /// the question up again.
    pub(super) fn probes_due(&self) -> Option<Millis> {
        let may_be = self.probes.is_due && !self.held && !self.must_wait() && self.busy.len() <= BUSY;
        may_be.then_some(self.probes.next)
    }

    fn probe_plan(&mut self) -> ProbePlan {
        let tables = &self.tables;
        let named = tables.peers().map(|row| &row.value);
        self.probes.owners =
            named.flat_map(|node| node.addresses.iter().map(|own| (own.ip, node.name.clone()))).collect();
        if tables.withdrawn == Withdrawn::Everything {
            return ProbePlan::default();
        }
        let uplinks = Family::BOTH.into_iter().flat_map(|family| host::uplinks(tables, family));
        let links: BTreeMap<IfName, HostLink> = uplinks
            .filter_map(|uplink| tables.facts.links.get_key_value(uplink.link))
            .map(|(name, link)| (name.clone(), link.clone()))
            .collect();
        let is_first = self.probes.links.is_empty();
        let changed = links != self.probes.links && !links.is_empty();
        let broken = tables.checksums.iter().filter(|(_, state)| **state == Checksums::Broken);
        let mut askers = BTreeSet::new();
        for peer in tables.peers() {
            for ip in probing::askers(tables, &peer.value) {
                if self.takes_packets_from(ip) {
                    askers.insert(ip);
                } else {
                    self.probes.is_due = true;
                }
            }
        }
        let probing::Ways { targets, tunnels } = probing::ways(tables);
        let plan = ProbePlan {
            targets,
            tunnels,
            broken: broken.map(|(link, _)| link.clone()).collect(),
            links: self.probes.told.links + u64::from(changed && !is_first),
            askers,
        };
        if changed {
            self.probes.links = links;
        }
        plan
    }

    /// Whether tunnel packets from an address would be taken: an answer to a probe is a word that they are.
    fn takes_packets_from(&self, ip: IpAddr) -> bool {
        let set = if ip.is_ipv4() { "nodes4" } else { "nodes6" };
        let key = ripstop_netmodel::Key::NftElement(ripstop_nft::model::ElementKey {
            family: ripstop_nft::model::TableFamily::Inet,
            table: Name::from(NFT_TABLE),
            set: Name::from(set),
            key: ElementValue::new(false, [ip]),
        });
        self.desired.model().get(&key).is_none() || self.applied.get(&key).is_some()
    }

    /// Forgets the ways to addresses that are no node's any more, and what is not to be looked at.
    fn forget_reaches(&mut self, plan: &ProbePlan) {
        let probing = self.tables.config.probing;
        let probed: BTreeSet<IpAddr> = plan.targets.iter().map(|target| target.address).collect();
        let is_known = |ip: &IpAddr| probed.contains(ip) || self.probes.owners.contains_key(ip);
        // Before nodes are read nobody knows whose an address is.
        let is_read = self.tables.knows(StoreKind::Nodes);
        self.tables.reaches.retain(|ip, _| probing.mtu && (is_known(ip) || !is_read));
        if !probing.checksum {
            self.tables.checksums.clear();
        }
    }

    /// What deserves a look, in sentences.
    pub(super) fn probe_warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.probes.closed.iter().map(|why| closed_sentence(why)).collect();
        for address in self.tables.reaches.keys() {
            if let (Some(found), Some(node)) = (self.narrow(*address), self.node_at(*address)) {
                warnings.push(self.narrow_sentence(&node, *address, found));
            }
        }
        for network in self.tables.networks.values().map(|row| &*row.value) {
            for peer in self.tables.peers().map(|row| &*row.value) {
                let paths =
                    network.spec.families().filter_map(|family| paths::path(&self.tables, network, peer, family).ok());
                let narrow = paths.filter(|path| !paths::carries_its_family(&self.tables, path));
                warnings.extend(narrow.map(|path| {
                    format!(
                        "the way to {} at {} is too narrow for {} packets in {}: they need 1280 bytes inside, so longer ones than it \
                         carries are lost",
                        peer.name,
                        path.underlay(),
                        path.family,
                        path.encapsulation
                    )
                }));
            }
        }
        let broken = self.tables.checksums.iter().filter(|(_, state)| **state == Checksums::Broken);
        warnings.extend(broken.map(|(link, _)| offload_sentence(link)));
        warnings
    }

    /// Counts for metrics: ways that are probed, those that carry less than their links, tunnels without offload.
    #[must_use]
    pub fn probe_counts(&self) -> [usize; 3] {
        let narrow = self.tables.reaches.keys().filter(|address| self.narrow(**address).is_some()).count();
        [self.probes.told.targets.len(), narrow, self.probes.told.broken.len()]
    }
}

fn closed_sentence(why: &str) -> String {
    format!("this node answers no probes of the ways to it: {why}; see probing in the configuration")
}

fn offload_sentence(link: &IfName) -> String {
    format!(
        "packets whose checksums {link} leaves to hardware do not arrive; they are completed before they are sent \
         (`ethtool -K {link} tx off`)"
    )
}
