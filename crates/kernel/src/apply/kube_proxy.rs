//! What Kubernetes' kube-proxy leaves in the kernel of a node: it takes nothing away when it ends.
//!
//! Tables `kube-proxy` of nftables (mode nftables); chains `KUBE-…` of iptables, of either backend (iptables and ipvs); the link
//! `kube-ipvs0` with the addresses of virtual servers (ipvs). Names are those of its own sources (pkg/proxy/*/proxier.go). Chains of
//! kubelet have the same beginning and are none of these, so what is kube-proxy's is told by whole names.
//!
//! Not here: whether it runs. It is for an operator's command, which knows; an agent removes nothing of others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use ripstop_netmodel::{IptablesBackend, VirtualServer};
use ripstop_nft::decode::Answers;
use ripstop_nft::encode::Batch;
use ripstop_nft::model::{Name, TableFamily};
use ripstop_types::Family;

use crate::error::Fault;
use crate::iptables::{At, chains, lacking, legacy_tables, restore, save};
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Message, NetlinkError, Protocol, Socket};
use crate::observe::ipvs::{Ipvs, is_there};
use crate::wire::{address, ipvs, link};

/// Its tables of nftables.
const TABLE: &str = "kube-proxy";
/// Its link for the addresses of virtual servers.
const LINK: &str = "kube-ipvs0";
/// Its chains of iptables.
const CHAINS: [&str; 13] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-POSTROUTING",
    "KUBE-MARK-MASQ",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    "KUBE-PROXY-CANARY",
    "KUBE-LOAD-BALANCER",
    "KUBE-NODE-PORT",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-SOURCE-RANGES-FIREWALL",
];
/// What its chains for a Service or an endpoint begin with.
const PREFIXES: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-XLB-", "KUBE-FW-"];
/// Its chain that packets to any Service pass.
const SERVICES: &str = "KUBE-SERVICES";
/// The kernel's chain of packets that leave.
const LEAVING: &str = "POSTROUTING";
/// What packets take to pass a chain that they are in.
const PASSING: Duration = Duration::from_millis(500);

/// What is there of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeProxy {
    /// Families of its tables of nftables.
    tables: BTreeSet<Family>,
    /// Its chains of iptables, by backend and family and by table.
    chains: BTreeMap<At, BTreeMap<String, BTreeSet<String>>>,
    /// Where its chain of all Services leads anywhere: it makes it first, and rules a moment later.
    leading: BTreeSet<At>,
    /// Its link's index.
    link: Option<u32>,
    /// Virtual servers at the link's addresses.
    servers: Vec<VirtualServer>,
}

impl KubeProxy {
    /// Looks for it in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel, or a program of iptables, does not answer.
    pub fn find() -> Result<Self, Fault> {
        let mut found = Self::default();
        let mut nft = open(Protocol::Netfilter)?;
        let lacks = lacking(true);
        for family in Family::BOTH {
            let there = chains(&mut nft, family).map_err(refused)?;
            for (table, chain) in &there {
                if table == TABLE {
                    found.tables.insert(family);
                }
                if is_its(chain) && ["nat", "filter", "mangle"].contains(&table.as_str()) {
                    found.note((IptablesBackend::Nft, family), table, chain);
                }
                if (table.as_str(), chain.as_str()) == ("nat", SERVICES) && has_rules(&mut nft, family)? {
                    found.leading.insert((IptablesBackend::Nft, family));
                }
            }
            let legacy = (IptablesBackend::Legacy, family);
            if !lacks.contains_key(&legacy.0) && !legacy_tables(family).is_empty() {
                let text = save(legacy)?;
                for (table, chain) in declared(&text) {
                    found.note(legacy, table, chain);
                }
                if leads(&text) {
                    found.leading.insert(legacy);
                }
            }
        }
        found.find_servers()?;
        Ok(found)
    }

    fn note(&mut self, at: At, table: &str, chain: &str) {
        self.chains.entry(at).or_default().entry(table.to_owned()).or_default().insert(chain.to_owned());
    }

    fn find_servers(&mut self) -> Result<(), Fault> {
        let mut route = open(Protocol::Route)?;
        let Ok(name) = LINK.parse() else { return Ok(()) };
        let found = match route.call(link::get(&name)) {
            Ok(found) => found,
            Err(error) if error.errno == libc::ENODEV => return Ok(()),
            Err(error) => return Err(refused(error)),
        };
        self.link = found.first().and_then(link::RawLink::read).map(|link| link.index);
        if !is_there() {
            return Ok(());
        }
        let replies = route.dump(&address::dump(self.link)).map_err(refused)?;
        let addresses = replies.iter().filter_map(address::RawAddress::read);
        let addresses: BTreeSet<IpAddr> =
            addresses.filter(|address| Some(address.index) == self.link).map(|address| address.ip).collect();
        let servers = Ipvs::open().and_then(|mut ipvs| ipvs.services()).map_err(refused)?;
        let servers = servers.into_iter().map(|service| service.server);
        self.servers = servers.filter(|server| addresses.contains(&server.ip)).collect();
        Ok(())
    }

    /// Whether nothing is there of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether new connections find what leads them on.
    #[must_use]
    pub fn serves(&self) -> bool {
        let in_nat = |tables: &BTreeMap<String, BTreeSet<String>>| {
            tables.get("nat").is_some_and(|chains| chains.contains(SERVICES))
        };
        let mut places = self.chains.iter().filter(|(_, tables)| in_nat(tables)).map(|(at, _)| at).peekable();
        !self.tables.is_empty() || places.peek().is_some() && places.all(|at| self.leading.contains(at))
    }

    /// Whether it has virtual servers of IPVS.
    #[must_use]
    pub fn has_virtual_servers(&self) -> bool {
        self.link.is_some()
    }

    /// What is there, in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let tables = self.tables.iter().map(|family| format!("nft table {} {TABLE}", nft_family(*family)));
        let chains = self.chains.iter().flat_map(|((backend, family), tables)| {
            let at = format!("{} of iptables-{}", family, backend.as_str());
            tables.iter().map(move |(table, chains)| format!("{} chains KUBE-… in table {table} ({at})", chains.len()))
        });
        let link = self.link.map(|_| format!("link {LINK} and {} virtual servers", self.servers.len()));
        tables.chain(chains).chain(link).collect()
    }

    /// Takes it out: first what leads there, then, when no packet is on its way through it any more, the rest, with what sees packets
    /// leave that it has let in. What is not its own stays.
    ///
    /// # Errors
    /// What could not be removed first; what was before it is gone.
    pub fn remove(&self) -> Result<(), Fault> {
        let mut texts = BTreeMap::new();
        for at in self.chains.keys() {
            let text = save(*at)?;
            write(*at, &unhooking(&text))?;
            texts.insert(*at, text);
        }
        self.unhook_tables()?;
        thread::sleep(PASSING);
        for (at, text) in &texts {
            write(*at, &removing(text))?;
        }
        self.remove_tables()?;
        self.remove_servers()
    }

    fn remove_tables(&self) -> Result<(), Fault> {
        if self.tables.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for family in &self.tables {
            batch.destroy_table(nft_family(*family), &Name::from(TABLE)).map_err(unsupported)?;
        }
        transact(&mut open(Protocol::Netfilter)?, batch)
    }

    /// Takes away the rules of its chains at the kernel's hooks but the last one. In a table that is being deleted elements vanish before
    /// packets in its chains do, and one that looks for its Service then would not find it.
    fn unhook_tables(&self) -> Result<(), Fault> {
        let mut nft = open(Protocol::Netfilter)?;
        let mut batch = Batch::new();
        for family in &self.tables {
            for chain in hooked(&mut nft, *family)? {
                let chain: Name = chain.parse().map_err(unsupported)?;
                batch.flush_chain(nft_family(*family), &Name::from(TABLE), &chain).map_err(unsupported)?;
            }
        }
        if batch.is_empty() { Ok(()) } else { transact(&mut nft, batch) }
    }

    fn remove_servers(&self) -> Result<(), Fault> {
        if !self.servers.is_empty() {
            let mut there = Ipvs::open().map_err(refused)?;
            let family = there.family;
            let messages = self.servers.iter().map(|server| ipvs::delete_service(family, server)).collect();
            gone(&mut there.socket, messages, libc::ESRCH)?;
        }
        match self.link {
            Some(index) => gone(&mut open(Protocol::Route)?, vec![link::delete(index)], libc::ENODEV),
            None => Ok(()),
        }
    }
}

/// Whether its chain of all Services has a rule in iptables' own table of nftables.
fn has_rules(nft: &mut Socket, family: Family) -> Result<bool, Fault> {
    let number = if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
    let request = Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE, 0, &[number, 0, 0, 0]);
    let request = request.str(NFTA_RULE_TABLE, "nat").str(NFTA_RULE_CHAIN, SERVICES);
    match nft.dump(&request) {
        Ok(rules) => Ok(rules.iter().next().is_some()),
        // It has gone meanwhile.
        Err(error) if error.errno == libc::ENOENT => Ok(false),
        Err(error) => Err(refused(error)),
    }
}

/// The same of what `iptables-save` prints.
fn leads(text: &str) -> bool {
    let nat = tables(text).into_iter().filter(|(table, _)| *table == "nat");
    nat.flat_map(|(_, lines)| lines)
        .any(|line| line.strip_prefix("-A ").and_then(|rule| rule.split(' ').next()) == Some(SERVICES))
}

/// Names of chains of its table that packets come to by themselves, but for those that leave.
fn hooked(nft: &mut Socket, family: Family) -> Result<Vec<String>, Fault> {
    let number = if family == Family::V4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
    let request = Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, 0, &[number, 0, 0, 0]);
    let replies = nft.dump(&request).map_err(refused)?;
    let chains = replies.iter().filter_map(|reply| {
        let (_, attrs) = reply.split::<4>()?;
        let hook = attrs.get(NFTA_CHAIN_HOOK).map(Attrs)?.be32(NFTA_HOOK_HOOKNUM)?;
        let is_there = attrs.str(NFTA_CHAIN_TABLE) == Some(TABLE) && hook != NF_INET_POST_ROUTING;
        is_there.then(|| attrs.str(NFTA_CHAIN_NAME).map(str::to_owned)).flatten()
    });
    Ok(chains.collect())
}

fn transact(nft: &mut Socket, batch: Batch) -> Result<(), Fault> {
    let encoded = batch.finish(nft.next_seq());
    nft.set_seq(encoded.next_seq());
    let mut answers = Answers::to(&encoded);
    nft.transact(&encoded.bytes, |bytes| drop(answers.take(bytes))).map_err(refused)?;
    match answers.refusals().first() {
        Some(refusal) => Err(refused(NetlinkError::with_text(refusal.errno, TABLE))),
        None => Ok(()),
    }
}

#[allow(clippy::needless_pass_by_value)]
fn unsupported(error: impl std::fmt::Display) -> Fault {
    Fault::Unsupported(error.to_string().into())
}

/// Sends removals; what is gone already was to go.
fn gone(socket: &mut Socket, messages: Vec<Message>, gone: i32) -> Result<(), Fault> {
    let errors = socket.batch(messages).into_iter().filter_map(|answer| answer.result.err());
    errors.filter(|error| error.errno != gone).map(refused).next().map_or(Ok(()), Err)
}

fn write(at: At, input: &str) -> Result<(), Fault> {
    if input.is_empty() { Ok(()) } else { restore(at, input).map_err(|refusal| refusal.fault) }
}

fn open(protocol: Protocol) -> Result<Socket, Fault> {
    Socket::open(protocol).map_err(|error| refused(NetlinkError::from_io(&error)))
}

#[allow(clippy::needless_pass_by_value)]
fn refused(error: NetlinkError) -> Fault {
    Fault::refused(&error, None)
}

fn nft_family(family: Family) -> TableFamily {
    match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    }
}

/// Whether a chain is kube-proxy's by its name.
fn is_its(chain: &str) -> bool {
    CHAINS.contains(&chain) || PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

/// The tables of what `iptables-save` prints, with their lines.
fn tables(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut tables: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix('*'), tables.last_mut()) {
            (Some(table), _) => tables.push((table, Vec::new())),
            (None, Some((_, lines))) => lines.push(line),
            (None, None) => {}
        }
    }
    tables
}

/// Its chains, by table.
fn declared(text: &str) -> impl Iterator<Item = (&str, &str)> {
    tables(text).into_iter().flat_map(|(table, lines)| {
        let names = lines.into_iter().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        names.filter(|chain| is_its(chain)).map(move |chain| (table, chain)).collect::<Vec<_>>()
    })
}

/// What takes out rules of others' chains that lead to its own, but for packets that leave.
fn unhooking(text: &str) -> String {
    of_tables(text, |lines| unhooked(lines, |chain| chain != LEAVING))
}

/// Removals of rules in some of others' chains that lead to its own.
fn unhooked(lines: &[&str], is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let rules = lines.iter().filter_map(|line| line.strip_prefix("-A "));
    let leads_there = |rule: &&str| {
        let mut words = rule.split(' ');
        let is_at = words.next().is_some_and(|chain| !is_its(chain) && is_meant(chain));
        let mut rest = words.skip_while(|word| !matches!(*word, "-j" | "-g")).skip(1);
        is_at && rest.next().is_some_and(is_its)
    };
    rules.filter(leads_there).map(|rule| format!("-D {rule}")).collect()
}

/// What takes out its chains, and what leads there still.
fn removing(text: &str) -> String {
    of_tables(text, |lines| {
        let unhooked = unhooked(lines, |chain| chain == LEAVING);
        let names = lines.iter().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        let names: Vec<&str> = names.filter(|chain| is_its(chain)).collect();
        // Said so, a chain is emptied, or made where it has gone meanwhile.
        let emptied = names.iter().map(|chain| format!(":{chain} - [0:0]"));
        let deleted = names.iter().map(|chain| format!("-X {chain}"));
        emptied.chain(unhooked).chain(deleted).collect()
    })
}

fn of_tables(text: &str, lines_of: impl Fn(&[&str]) -> Vec<String>) -> String {
    let mut input = String::new();
    for (table, lines) in tables(text) {
        let lines = lines_of(&lines);
        if !lines.is_empty() {
            input.push_str(&format!("*{table}\n{}\nCOMMIT\n", lines.join("\n")));
        }
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "# Generated by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
        :KUBE-SVC-ABC - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\n:MINE - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n-A PREROUTING -j MINE\n\
        -A POSTROUTING -j KUBE-SVC-ABC\n\
        -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC\nCOMMIT\n# Completed\n# Generated by iptables-save\n*filter\n\
        :KUBE-FIREWALL - [0:0]\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n";

    #[test]
    fn what_leads_to_its_chains_goes_first_and_others_stay() {
        let unhooked =
            "*nat\n-D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(unhooking(SAVED), unhooked);
        let removed = "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n-D POSTROUTING -j KUBE-SVC-ABC\n-X KUBE-SERVICES\n-X KUBE-SVC-ABC\nCOMMIT\n";
        assert_eq!(removing(SAVED), removed);
        assert!(leads(SAVED) && !leads(&SAVED.replace("-A KUBE-SERVICES ", "-A MINE ")), "a chain alone leads nowhere");
        assert_eq!(declared(SAVED).collect::<Vec<_>>(), [("nat", "KUBE-SERVICES"), ("nat", "KUBE-SVC-ABC")]);
    }

    #[test]
    fn chains_of_kubelet_are_none_of_its() {
        for chain in
            ["KUBE-FIREWALL", "KUBE-KUBELET-CANARY", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP", "KUBE-ROUTER-INPUT"]
        {
            assert!(!is_its(chain), "{chain}");
        }
    }
}
