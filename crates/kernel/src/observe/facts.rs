//! What is on the host and not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_netmodel::{ForeignDrop, HostFacts, HostLink, LINK_PREFIX, Limit, NFT_TABLE, NeighbourLimits};
use ripstop_types::Family;

use super::jump;
use crate::apply::routes;
use crate::error::ObserveError;
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Message, Replies, Reply, Socket};
use crate::sysctl;
use crate::wire;
use crate::wire::address::RawAddress;
use crate::wire::link::RawLink;

/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;

pub(super) fn read(route: &mut Socket, nft: &mut Socket, abilities: Abilities) -> Result<HostFacts, ObserveError> {
    let ipv6 = std::path::Path::new("/proc/net/if_inet6").exists();
    let links = route.dump(&wire::link::dump()).map_err(|e| ObserveError::new("links", e))?;
    let links: BTreeMap<u32, RawLink> = links.iter().filter_map(RawLink::read).map(|link| (link.index, link)).collect();
    let addresses = route.dump(&wire::address::dump(None)).map_err(|e| ObserveError::new("addresses", e))?;
    let mut by_link: BTreeMap<u32, BTreeSet<(IpAddr, u8)>> = BTreeMap::new();
    for address in addresses.iter().filter_map(RawAddress::read).filter(is_usable) {
        by_link.entry(address.index).or_default().insert((address.ip, address.len));
    }
    let mut ports: BTreeMap<u32, u32> = BTreeMap::new();
    for master in links.values().filter_map(|link| link.master) {
        *ports.entry(master).or_default() += 1;
    }
    let Abilities { ifb, ipip, tcx } = abilities;
    let ipvs = super::ipvs::is_there();
    let mut facts = HostFacts { ipv6, ifb, ipvs, ipip, tcx, ..HostFacts::default() };
    for link in links.values().filter(|link| is_foreign(link)) {
        let addresses = by_link.remove(&link.index).unwrap_or_default().into_iter().collect();
        let running = is_running(link);
        let accept_ra = number(&format!("net/ipv6/conf/{}/accept_ra", link.name));
        let kind = link.kind.as_deref().map(Into::into);
        let (mtu, mac, taken) = (link.mtu, link.mac, link.is_taken());
        let ports = ports.get(&link.index).copied().unwrap_or_default();
        let link_facts = HostLink { running, mtu, mac, addresses, accept_ra, kind, ports, taken };
        facts.links.insert(link.name.clone(), link_facts);
    }
    for family in Family::BOTH {
        if let Some(link) = default_link(route, family)?.and_then(|index| links.get(&index)) {
            facts.default_links.insert(family, link.name.clone());
        }
    }
    facts.bridge_netfilter = bridge_netfilter(ipv6);
    facts.foreign_drops = foreign_drops(nft)?;
    facts.legacy_filters = Family::BOTH.into_iter().filter(|family| has_legacy_filter(*family)).collect();
    facts.iptables = crate::iptables::preferred(nft);
    facts.iptables_lacks = crate::iptables::lacking(ipv6);
    facts.neighbour_limits =
        Family::BOTH.into_iter().filter_map(|family| Some((family, neighbour_limits(family)?))).collect();
    facts.conntrack = CONNTRACK.iter().filter_map(|name| Some(((*name).into(), conntrack_limit(name)?))).collect();
    facts.conntrack_full = is_conntrack_full();
    facts.cpus = cpus();
    Ok(facts)
}

/// Settings of connection tracking that who serves Services may raise.
const CONNTRACK: [&str; 7] = [
    "max",
    "buckets",
    "tcp_timeout_established",
    "tcp_timeout_close_wait",
    "tcp_be_liberal",
    "udp_timeout",
    "udp_timeout_stream",
];

/// Whether connection tracking of this namespace holds nineteen in twenty of the connections that it may, or more. The kernel says
/// so of itself in its log alone (`nf_conntrack: table full, dropping packet`).
#[must_use]
pub fn is_conntrack_full() -> bool {
    let (Some(count), Some(max)) = (conntrack("count"), conntrack("max")) else { return false };
    max > 0 && count.saturating_mul(20) >= max.saturating_mul(19)
}

/// A number of connection tracking.
pub(super) fn conntrack(name: &str) -> Option<u64> {
    number(&format!("net/netfilter/nf_conntrack_{name}"))
}

fn conntrack_limit(name: &str) -> Option<Limit> {
    let path = format!("net/netfilter/nf_conntrack_{name}");
    Some(Limit { value: number(&path)?, writable: sysctl::is_writable(&path) })
}

/// Count of CPUs that are online, whatever of them this process may use; `0-3,6` (cputopology, `/sys/devices/system/cpu/online`).
fn cpus() -> u64 {
    let count = |text: &str| {
        let ranges = text.trim().split(',').map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)? + 1)
        });
        ranges.sum::<Option<u64>>()
    };
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok().and_then(|text| count(&text));
    online.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |count| count.get() as u64))
}

/// What the kernel can make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Abilities {
    /// Devices that shape what a link receives.
    ifb: bool,
    /// Devices for IPIP.
    ipip: bool,
    /// Programs of ours at links.
    tcx: bool,
}

impl Abilities {
    /// Asks, loading modules if need be.
    pub(super) fn ask(route: &mut Socket) -> Self {
        let ifb = can_make(route, "ifb");
        Self { ifb, ipip: super::ipip::has_device(), tcx: ripstop_bpf::is_supported() }
    }
}

/// Whether the kernel can make devices of this kind, loading a module if need be.
fn can_make(route: &mut Socket, kind: &str) -> bool {
    matches!(route.call(wire::link::get_kind(kind)), Err(error) if error.errno == libc::EINVAL)
}

/// Whether a link is neither ours nor loopback.
pub(crate) fn is_foreign(link: &RawLink) -> bool {
    link.flags & IFF_LOOPBACK == 0 && !link.name.as_str().starts_with(LINK_PREFIX)
}

/// Up, with carrier, and waiting for nobody (802.1X). `IFF_RUNNING` says the same up to a second later
/// (`linkwatch_schedule_work`, net/core/link_watch.c); by the carrier the kernel lets nexthops stand or go.
pub(crate) fn is_running(link: &RawLink) -> bool {
    const ALL: u32 = IFF_UP | IFF_LOWER_UP;
    link.flags & (ALL | IFF_DORMANT) == ALL
}

/// An address others can reach the node by. Temporary ones of IPv6 (RFC 8981) change too often to be named to anyone; the
/// same flag of an IPv4 address means that it is not the first of its range.
pub(crate) fn is_usable(address: &RawAddress) -> bool {
    let temporary = address.ip.is_ipv6() && address.flags & IFA_F_TEMPORARY != 0;
    address.scope == RT_SCOPE_UNIVERSE && !temporary
}

/// The link of the default route with the lowest metric, in the main table.
fn default_link(socket: &mut Socket, family: Family) -> Result<Option<u32>, ObserveError> {
    let all = routes(socket, family, None, Some(RT_TABLE_MAIN)).map_err(|e| ObserveError::new("routes", e))?;
    let defaults = all.iter().filter(|route| route.dst.len() == 0 && route.kind == RTN_UNICAST);
    let candidates = defaults.filter_map(|route| route.index.map(|index| (route.metric, index)));
    Ok(candidates.min().map(|(_, index)| index))
}

/// Whether br_netfilter hands bridged packets of every family the kernel has to netfilter.
fn bridge_netfilter(ipv6: bool) -> Option<bool> {
    let on = |name: &str| sysctl::read(&format!("net/bridge/{name}")).ok().flatten().map(|value| value != "0");
    let v4 = on("bridge-nf-call-iptables")?;
    Some(v4 && (!ipv6 || on("bridge-nf-call-ip6tables").unwrap_or(true)))
}

/// A setting that is a number; `None` where there is none of its name.
fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    sysctl::read(path).ok().flatten()?.parse().ok()
}

/// Whether legacy iptables has a table `filter` in this namespace. Where only nftables is used, its list is empty.
fn has_legacy_filter(family: Family) -> bool {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

/// The limits of a neighbour table, where they can be set: they are the machine's, and only its own namespace has them.
fn neighbour_limits(family: Family) -> Option<NeighbourLimits> {
    let word = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let path = |n: u8| format!("net/{word}/neigh/default/gc_thresh{n}");
    let limits = [number(&path(1))?, number(&path(2))?, number(&path(3))?];
    (1..=3).all(|n| sysctl::is_writable(&path(n))).then_some(NeighbourLimits(limits))
}

/// A base chain on the forward hook.
#[derive(Debug)]
pub(crate) struct ForwardChain {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    drops: bool,
}

/// Chains of others on the forward hook of families that see routed packets.
pub(crate) fn forward_chains(socket: &mut Socket) -> Result<Vec<ForwardChain>, ObserveError> {
    match socket.dump(&request(NFT_MSG_GETCHAIN, 0)) {
        Ok(replies) => Ok(replies.iter().filter_map(forward_chain).filter(|chain| chain.table != NFT_TABLE).collect()),
        // A kernel without nftables has no chains.
        Err(error) if matches!(error.errno, libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => Ok(Vec::new()),
        Err(error) => Err(ObserveError::new("nftables chains", error)),
    }
}

fn request(kind: u16, family: u8) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, 0, &[family, 0, 0, 0])
}

fn foreign_drops(socket: &mut Socket) -> Result<Vec<ForeignDrop>, ObserveError> {
    let mut drops = Vec::new();
    for chain in forward_chains(socket)? {
        let rules = rules_of(socket, &chain)?;
        if !chain.drops && !ends_in_drop(&rules) {
            continue;
        }
        let family = family_word(chain.family);
        let iptables = matches!(family, "ip" | "ip6") && chain.table == "filter" && chain.name == "FORWARD";
        let docker_user = iptables && rules.iter().any(|rule| jump::jumps_to(rule, "DOCKER-USER"));
        drops.push(ForeignDrop {
            family: family.into(),
            table: chain.table.as_str().into(),
            chain: chain.name.as_str().into(),
            iptables,
            docker_user,
        });
    }
    drops.sort();
    Ok(drops)
}

/// The rules of a chain; none where it was removed since.
fn rules_of(socket: &mut Socket, chain: &ForwardChain) -> Result<Replies, ObserveError> {
    let request =
        request(NFT_MSG_GETRULE, chain.family).str(NFTA_RULE_TABLE, &chain.table).str(NFTA_RULE_CHAIN, &chain.name);
    match socket.dump(&request) {
        Ok(rules) => Ok(rules),
        Err(error) if error.errno == libc::ENOENT => Ok(Replies::default()),
        Err(error) => Err(ObserveError::new("nftables rules", error)),
    }
}

/// Whether the last rule of a chain drops or rejects whatever comes to it.
fn ends_in_drop(rules: &Replies) -> bool {
    rules.iter().filter_map(rule_drops).last().unwrap_or(false)
}

/// A base chain on the forward hook of a family that sees routed packets.
pub(crate) fn forward_chain(reply: Reply<'_>) -> Option<ForwardChain> {
    let (header, attrs) = reply.split::<NFGEN>()?;
    let hook = attrs.get(NFTA_CHAIN_HOOK).map(Attrs)?;
    let routed = family_word(header[0]) != "other";
    if !routed || hook.be32(NFTA_HOOK_HOOKNUM)? != NF_INET_FORWARD {
        return None;
    }
    Some(ForwardChain {
        family: header[0],
        table: attrs.str(NFTA_CHAIN_TABLE)?.into(),
        name: attrs.str(NFTA_CHAIN_NAME)?.into(),
        drops: attrs.be32(NFTA_CHAIN_POLICY) == Some(NF_DROP),
    })
}

/// Whether a rule, as the kernel shows it, drops every packet; `None` for what is too short to be one.
pub(crate) fn rule_drops(reply: Reply<'_>) -> Option<bool> {
    let (_, rule) = reply.split::<NFGEN>()?;
    Some(always_drops(rule.nested(NFTA_RULE_EXPRESSIONS)))
}

/// Whether a rule drops or rejects every packet: nothing in it but counters before the verdict.
fn always_drops(expressions: Attrs<'_>) -> bool {
    let mut drops = false;
    for (_, expression) in expressions.into_iter().filter(|(kind, _)| *kind == NFTA_LIST_ELEM) {
        let expression = Attrs(expression);
        let data = expression.nested(NFTA_EXPR_DATA);
        drops = match expression.str(NFTA_EXPR_NAME) {
            Some("counter" | "log") => false,
            Some("reject") => true,
            Some("target") => matches!(data.str(NFTA_TARGET_NAME), Some("REJECT" | "DROP")),
            Some("immediate") => {
                let verdict = data.nested(NFTA_IMMEDIATE_DATA).nested(NFTA_DATA_VERDICT).be32(NFTA_VERDICT_CODE);
                verdict == Some(NF_DROP)
            }
            // A condition.
            _ => return false,
        };
    }
    drops
}

/// `NFPROTO_*` as nft writes it.
fn family_word(family: u8) -> &'static str {
    match family {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => "other",
    }
}
