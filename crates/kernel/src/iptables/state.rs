//! Chains of ours, and how the entries of those that have many are laid out in them.
//!
//! A chain with an entry for each address is a tree: its root leads on by the last four bits of the destination, each branch by the four
//! bits before, so a packet passes 32 rules at most before the leaf. The node's own addresses are told apart by the port instead. Leaves
//! and branches are there as far as something is in them.
//!
//! Not here: text, programs, and which rules are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{
    CLUSTER_IPS_CHAIN, FRONTENDS_CHAIN, HAIRPIN_CHAIN, IPTABLES_PREFIX, IptablesKey, IptablesRules, IptablesTable,
    OTHERS_CHAIN, PORTS_CHAIN,
};
use ripstop_types::{Owner, Prefix};

use super::{At, is_ours};

/// Chains that have an entry for each place.
const MANY: [&str; 5] = [FRONTENDS_CHAIN, PORTS_CHAIN, CLUSTER_IPS_CHAIN, HAIRPIN_CHAIN, OTHERS_CHAIN];
/// So many ports are in a leaf.
const PORTS: u16 = 64;

/// A chain of a table.
pub(crate) type Place = (IptablesTable, Arc<str>);

/// A rule, or the target of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) text: Arc<str>,
    pub(crate) owner: Option<Owner>,
}

/// A chain of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Its rules, first of all; none where it is there for its entries only.
    pub(crate) whole: Option<Vec<Rule>>,
    /// Entries, and of a tree the ways to its branches: what a packet must be like, and the target.
    pub(crate) entries: BTreeMap<Arc<str>, Rule>,
}

/// What of ours is in the tables of a backend and family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) chains: BTreeMap<Place, Chain>,
    /// Jumps to chains of ours in the kernel's own, as they are written there, by what they do. Of ours one each is wanted.
    pub(crate) jumps: BTreeMap<Place, Vec<Jump>>,
}

/// A jump in one of the kernel's chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Jump {
    pub(crate) rule: Rule,
    /// As it is written there.
    pub(crate) written: String,
    /// Something before it lets pass what it would refuse.
    pub(crate) is_late: bool,
}

/// What a run changes.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) chains: BTreeSet<Place>,
    /// Those of them that were not there.
    pub(crate) made: BTreeSet<Place>,
    /// Jumps that go, as they are written.
    pub(crate) gone: BTreeMap<Place, Vec<String>>,
    /// Chains of the kernel's that get one.
    pub(crate) jumps: BTreeSet<Place>,
}

impl State {
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// Puts rules or an entry in the place of what is there of it.
    pub(crate) fn put(&mut self, rules: &IptablesRules, owner: Option<&Owner>, touched: &mut Touched) {
        let key = &rules.key;
        let rule = |text: &Arc<str>| Rule { text: text.clone(), owner: owner.cloned() };
        let place = (key.table, key.chain.clone());
        if !is_ours(&key.chain) {
            self.take_jumps(&place, touched);
            let jumps = rules.rules.iter().map(|text| {
                let rule = rule(text);
                Jump { written: super::text::written(&rule, None), rule, is_late: false }
            });
            self.jumps.insert(place.clone(), jumps.collect());
            touched.jumps.insert(place);
            return;
        }
        match &key.entry {
            None => {
                if !self.chains.contains_key(&place) {
                    touched.made.insert(place.clone());
                }
                self.chains.entry(place.clone()).or_default().whole = Some(rules.rules.iter().map(rule).collect());
                touched.chains.insert(place);
            }
            Some(entry) => {
                let Some(target) = rules.rules.first() else { return };
                let (ways, leaf) = layout(&key.chain, entry);
                for (chain, way, to) in ways {
                    let place = (key.table, chain);
                    let branch = self.chains.entry(place.clone()).or_default();
                    let rule = Rule { text: format!("-j {to}").into(), owner: None };
                    if branch.entries.insert(way, rule.clone()) != Some(rule) {
                        touched.chains.insert(place);
                    }
                }
                let place = (key.table, leaf);
                self.chains.entry(place.clone()).or_default().entries.insert(entry.clone(), rule(target));
                touched.chains.insert(place);
            }
        }
    }

    /// Takes rules or an entry away, and branches that nothing is left in.
    pub(crate) fn remove(&mut self, key: &IptablesKey, touched: &mut Touched) {
        let place = (key.table, key.chain.clone());
        if !is_ours(&key.chain) {
            self.take_jumps(&place, touched);
            self.jumps.remove(&place);
            return;
        }
        match &key.entry {
            None => {
                if let Some(chain) = self.chains.get_mut(&place) {
                    chain.whole = None;
                }
                self.clear(&place, touched);
                self.clear_tree(&place, touched);
            }
            // What is in a chain where it does not belong says in which.
            Some(entry) if entry.starts_with(IPTABLES_PREFIX) => {
                let (chain, entry) = entry.split_once(' ').unwrap_or((entry, ""));
                self.take((key.table, chain.into()), entry, touched);
            }
            Some(entry) => {
                let (ways, leaf) = layout(&key.chain, entry);
                let mut is_gone = self.take((key.table, leaf), entry, touched);
                for (chain, way, _) in ways.into_iter().rev() {
                    if !is_gone {
                        break;
                    }
                    is_gone = self.take((key.table, chain), &way, touched);
                }
            }
        }
    }

    /// Takes an entry out of a chain; says whether the chain went with it.
    fn take(&mut self, place: Place, entry: &str, touched: &mut Touched) -> bool {
        if let Some(chain) = self.chains.get_mut(&place) {
            chain.entries.remove(entry);
        }
        self.clear(&place, touched)
    }

    /// Removes a chain in which nothing is and that nobody wants by itself; says whether it is gone.
    fn clear(&mut self, place: &Place, touched: &mut Touched) -> bool {
        touched.chains.insert(place.clone());
        let is_over = self.chains.get(place).is_none_or(|chain| chain.whole.is_none() && chain.entries.is_empty());
        if is_over {
            self.chains.remove(place);
        }
        is_over
    }

    /// Removes what is left of a tree whose root goes: branches that lead nowhere.
    fn clear_tree(&mut self, (table, root): &Place, touched: &mut Touched) {
        let is_branch = |(of, chain): &Place| of == table && chain != root && root_of(chain) == Some(&**root);
        let branches: Vec<Place> = self.chains.keys().filter(|place| is_branch(place)).cloned().collect();
        for place in branches.into_iter().rev() {
            if let Some(chain) = self.chains.get_mut(&place) {
                chain.entries.retain(|_, rule| !leads_down(root, &rule.text));
            }
            self.clear(&place, touched);
        }
        if let Some(chain) = self.chains.get_mut(&(*table, root.clone())).filter(|chain| chain.whole.is_none()) {
            chain.entries.retain(|_, rule| !leads_down(root, &rule.text));
            self.clear(&(*table, root.clone()), touched);
        }
    }

    fn take_jumps(&mut self, place: &Place, touched: &mut Touched) {
        let jumps = self.jumps.get(place).into_iter().flatten().map(|jump| jump.written.clone());
        let gone = touched.gone.entry(place.clone()).or_default();
        // One that this run has written itself is not there yet.
        if touched.jumps.contains(place) {
            return;
        }
        gone.extend(jumps);
    }

    /// What is there, in the words of the model.
    pub(crate) fn objects(&self, at: At) -> Vec<(IptablesRules, Option<Owner>)> {
        let mut objects = Vec::new();
        let key = |(table, chain): &Place, entry: Option<Arc<str>>| {
            let (backend, family) = at;
            IptablesKey { backend, family, table: *table, chain: chain.clone(), entry }
        };
        for (place, jumps) in &self.jumps {
            let late = jumps.iter().filter(|jump| jump.is_late).map(|_| "behind what lets packets pass".into());
            let rules = jumps.iter().map(|jump| jump.rule.text.clone()).chain(late).collect();
            let owner = jumps.iter().find_map(|jump| jump.rule.owner.clone());
            objects.push((IptablesRules { key: key(place, None), rules }, owner));
        }
        for (place, chain) in &self.chains {
            let root = root_of(&place.1);
            if let Some(rules) = chain.whole.as_ref().filter(|_| root.is_none_or(|root| *root == *place.1)) {
                let owner = rules.iter().find_map(|rule| rule.owner.clone());
                let rules = rules.iter().map(|rule| rule.text.clone()).collect();
                objects.push((IptablesRules { key: key(place, None), rules }, owner));
            }
            let Some(root) = root else { continue };
            for (entry, rule) in chain.entries.iter().filter(|(_, rule)| !leads_down(root, &rule.text)) {
                let entry = match self.is_reached(place, root, entry) {
                    Some(true) => entry.clone(),
                    // It is not where packets come by: as good as missing, and written again.
                    Some(false) => continue,
                    None => format!("{} {entry}", place.1).into(),
                };
                let key = key(&(place.0, root.into()), Some(entry));
                objects.push((IptablesRules { key, rules: vec![rule.text.clone()] }, rule.owner.clone()));
            }
        }
        objects
    }

    /// Whether packets come to an entry; `None` where it has no business in that chain.
    fn is_reached(&self, (table, chain): &Place, root: &str, entry: &str) -> Option<bool> {
        let (ways, leaf) = layout(root, entry);
        let leads = |(from, way, to): &(Arc<str>, Arc<str>, Arc<str>)| {
            let rule = self.chains.get(&(*table, from.clone())).and_then(|chain| chain.entries.get(way));
            rule.is_some_and(|rule| rule.text.strip_prefix("-j ") == Some(&**to))
        };
        (leaf == *chain).then(|| ways.iter().all(leads))
    }
}

/// The chain of many entries that a chain is, or is a branch of.
pub(crate) fn root_of(chain: &str) -> Option<&'static str> {
    MANY.into_iter().find(|root| chain.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')))
}

fn leads_down(root: &str, target: &str) -> bool {
    target.strip_prefix("-j ").is_some_and(|to| to != root && root_of(to) == Some(root))
}

/// A way of a tree: from a chain, by what a packet is like, to another.
type Way = (Arc<str>, Arc<str>, Arc<str>);

/// Where an entry lies: the ways that lead there, from the root on, and the chain.
fn layout(root: &str, entry: &str) -> (Vec<Way>, Arc<str>) {
    let words: Vec<&str> = entry.split(' ').collect();
    let behind = |word: &str| words.iter().position(|at| *at == word).and_then(|at| words.get(at + 1)).copied();
    let stays = || (Vec::new(), Arc::from(root));
    match root {
        FRONTENDS_CHAIN | CLUSTER_IPS_CHAIN => {
            let to = behind("-d").and_then(|to| to.parse::<Prefix>().ok()).map(|to| to.addr());
            to.map_or_else(stays, |to| by_address(root, to))
        }
        PORTS_CHAIN => {
            let port = behind("--dport").and_then(|port| port.parse::<u16>().ok());
            match (behind("-p"), port) {
                (Some(protocol), Some(port)) => {
                    let first = port / PORTS * PORTS;
                    let leaf: Arc<str> = format!("{root}-{protocol}-{first}").into();
                    let way = format!("-p {protocol} --dport {first}:{}", first + (PORTS - 1));
                    (vec![(root.into(), way.into(), leaf.clone())], leaf)
                }
                _ => stays(),
            }
        }
        _ => stays(),
    }
}

fn by_address(root: &str, to: IpAddr) -> (Vec<Way>, Arc<str>) {
    let last = match to {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    let of = |bits: u8, mask: u8| match to {
        IpAddr::V4(_) => format!("-d 0.0.0.{bits}/0.0.0.{mask}"),
        IpAddr::V6(_) if bits == 0 => format!("-d ::/::{mask:x}"),
        IpAddr::V6(_) => format!("-d ::{bits:x}/::{mask:x}"),
    };
    let (low, high) = (last & 0x0f, last & 0xf0);
    let branch: Arc<str> = format!("{root}-{low:x}").into();
    let leaf: Arc<str> = format!("{root}-{low:x}{:x}", high >> 4).into();
    let ways = vec![(root.into(), of(low, 0x0f).into(), branch.clone()), (branch, of(high, 0xf0).into(), leaf.clone())];
    (ways, leaf)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ripstop_netmodel::{Entry, IptablesBackend, Object};
    use ripstop_objects::service::{EndpointSlice, Service};
    use ripstop_services::Node;
    use ripstop_tables::ServiceTables;
    use ripstop_types::{Family, Revision};
    use serde_json::json;

    use super::*;
    use crate::iptables::text;

    const AT: At = (IptablesBackend::Nft, Family::V4);
    const MANY: u32 = 2_000;

    fn tables() -> ServiceTables {
        let mut tables = ServiceTables::default();
        (0..MANY).for_each(|n| put(&mut tables, n, 4));
        tables
    }

    fn put(tables: &mut ServiceTables, n: u32, endpoints: u32) {
        let spec = json!({"type": "NodePort", "clusterIP": Ipv4Addr::from_bits(0x0a60_0001 + n),
            "ports": [{"port": 80, "nodePort": 30_000 + n}]});
        let service = json!({"metadata": {"namespace": "shop", "name": format!("s{n}")}, "spec": spec});
        tables.put_service(Service::from_value(service).unwrap().0, Revision(1));
        let ips = (0..endpoints).map(|e| json!({"addresses": [Ipv4Addr::from_bits(0x0af4_0100 + n * 8 + e)]}));
        let labels = json!({"kubernetes.io/service-name": format!("s{n}")});
        let slice = json!({"metadata": {"namespace": "shop", "name": format!("s{n}-1"), "labels": labels},
            "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": ips.collect::<Vec<_>>()});
        tables.put_slice(EndpointSlice::from_value(slice).unwrap().0);
    }

    fn objects(tables: &ServiceTables, n: u32) -> Vec<Entry> {
        let node_ip = "192.0.2.1".parse().unwrap();
        let node = Node {
            name: "n1".parse().unwrap(),
            zone: None,
            addresses: vec![node_ip],
            node_port_addresses: vec![node_ip],
            localhost: false,
            pods_by_link: false,
            pods: Vec::new(),
            external_ips: false,
            proxy_name: None,
        };
        let place = ripstop_desired::services::iptables::Place { backend: AT.0, ipv6: false };
        let name = format!("shop/s{n}").parse().unwrap();
        ripstop_desired::services::iptables::objects(place, None, &node, tables, &name)
    }

    fn write(state: &mut State, entries: &[Entry]) -> Touched {
        let mut touched = Touched::default();
        put_all(state, entries, &mut touched);
        touched
    }

    fn put_all(state: &mut State, entries: &[Entry], touched: &mut Touched) {
        for entry in entries {
            if let Object::IptablesRules(rules) = &entry.object {
                state.put(rules, entry.owner.as_ref(), touched);
            }
        }
    }

    fn whole(tables: &ServiceTables) -> State {
        written_at_once(tables).0
    }

    /// All of it, and what one run changes that writes it.
    fn written_at_once(tables: &ServiceTables) -> (State, Touched) {
        let (mut state, mut touched) = (State::default(), Touched::default());
        let (nat, filter) = (IptablesTable::Nat, IptablesTable::Filter);
        let roots =
            [(nat, FRONTENDS_CHAIN), (nat, PORTS_CHAIN), (filter, CLUSTER_IPS_CHAIN), (nat, "RIPSTOP-MARK-CLUSTER")];
        for (table, chain) in roots {
            let key = IptablesKey { backend: AT.0, family: AT.1, table, chain: chain.into(), entry: None };
            state.put(&IptablesRules { key, rules: Vec::new() }, None, &mut touched);
        }
        let entries: Vec<Entry> = (0..MANY).flat_map(|n| objects(tables, n)).collect();
        put_all(&mut state, &entries, &mut touched);
        (state, touched)
    }

    #[test]
    fn one_endpoint_less_is_one_chain_whatever_the_number_of_services() {
        let mut tables = tables();
        let mut state = whole(&tables);
        let before = objects(&tables, 7);
        put(&mut tables, 7, 3);
        let changed: Vec<Entry> = objects(&tables, 7).into_iter().filter(|entry| !before.contains(entry)).collect();
        let touched = write(&mut state, &changed);
        let (input, tables) = text::input(&state, &touched);
        assert_eq!(tables, 1);
        let lines: Vec<&str> = input.lines().collect();
        // The table, the chain, its three rules, and the end.
        assert!(lines.len() == 6 && lines[1].starts_with(":RIPSTOP-ALL-"), "{input}");
    }

    #[test]
    fn many_new_chains_come_in_parts_that_lead_to_what_is_there() {
        let tables = tables();
        let (state, mut touched) = written_at_once(&tables);
        let all: BTreeSet<Place> = touched.chains.clone();
        let parts = text::parts(&state, &mut touched);
        // One for each Service's endpoints, and one for each way in, of two.
        assert_eq!(parts.len(), 4, "{:?}", parts.iter().map(String::len).collect::<Vec<_>>());
        let (last, count) = text::input(&state, &touched);
        assert_eq!(count, 2);
        let mut there: BTreeSet<String> = BTreeSet::new();
        for input in parts.iter().chain([&last]) {
            there.extend(input.lines().filter_map(|line| Some(line.strip_prefix(':')?.split(' ').next()?.to_owned())));
            let leads = |word: &str| input.lines().filter_map(|line| line.split(word).nth(1)).collect::<Vec<_>>();
            for to in leads(" -g ").into_iter().chain(leads(" -j ")).filter(|to| is_ours(to)) {
                assert!(there.contains(to), "{to} is not there yet");
            }
        }
        let names: BTreeSet<String> = all.iter().map(|(_, chain)| chain.to_string()).collect();
        assert_eq!(there, names);
        // Few are written at once, and so is what was there.
        let mut again = write(&mut whole(&tables), &(0..MANY).flat_map(|n| objects(&tables, n)).collect::<Vec<_>>());
        assert_eq!(text::parts(&state, &mut again), Vec::<String>::new());
    }

    #[test]
    fn a_packet_passes_few_rules_however_many_services_there_are() {
        let state = whole(&tables());
        let longest = |prefix: &str| {
            let of_tree = state.chains.iter().filter(|((_, name), _)| name.starts_with(prefix));
            of_tree.map(|(_, chain)| chain.entries.len()).max().unwrap()
        };
        assert!(longest(FRONTENDS_CHAIN) <= 16, "{}", longest(FRONTENDS_CHAIN));
        assert!(longest(CLUSTER_IPS_CHAIN) <= 16);
        assert!(longest(PORTS_CHAIN) <= 64);
    }

    #[test]
    fn what_is_written_is_read_back_and_what_is_removed_leaves_nothing() {
        let tables = tables();
        let mut state = whole(&tables);
        let touched = Touched { chains: state.chains.keys().cloned().collect(), ..Touched::default() };
        let (input, _) = text::input(&state, &touched);
        let read = text::read(&input).unwrap();
        assert_eq!(read.objects(AT).len(), state.objects(AT).len());
        let rules = |state: &State| -> BTreeMap<IptablesKey, Vec<Arc<str>>> {
            state.objects(AT).into_iter().map(|(rules, _)| (rules.key, rules.rules)).collect()
        };
        assert_eq!(rules(&read), rules(&state));
        let mut gone = Touched::default();
        state.objects(AT).iter().rev().for_each(|(rules, _)| state.remove(&rules.key, &mut gone));
        assert!(state.is_empty(), "{:?}", state.chains.keys());
        assert_eq!(gone.chains, touched.chains);
    }
}
