//! Settings of the node and the base of the ruleset.

use ripstop_fabric::{egress, hygiene};
use ripstop_netmodel::{Entry, ForwardJump, NftTable, Ns, Sysctl};
use ripstop_tables::{Tables, Withdrawn};
use ripstop_types::{Family, Owner};

use crate::network::is_plain_anyway;
use crate::{Part, ruleset};

/// Nothing until a network is known: a node without a network is left as it is.
pub(crate) fn objects(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    if tables.networks.is_empty() {
        return part.entries;
    }
    for family in families(tables) {
        let path = match family {
            Family::V4 => "net/ipv4/ip_forward",
            Family::V6 => "net/ipv6/conf/all/forwarding",
        };
        part.add(setting(path, "1"));
    }
    if families(tables).any(|family| family == Family::V6) {
        for link in hygiene::advertised_links(tables) {
            part.add(setting(&format!("net/ipv6/conf/{link}/accept_ra"), "2"));
        }
    }
    for (family, limits) in hygiene::neighbour_limits(tables) {
        let word = if family == Family::V4 { "ipv4" } else { "ipv6" };
        for (n, limit) in (1..).zip(limits) {
            part.add(setting(&format!("net/{word}/neigh/default/gc_thresh{n}"), &limit.to_string()));
        }
    }
    let jumps = hygiene::jumps(tables).filter(|_| tables.withdrawn == Withdrawn::Nothing);
    for (family, chain) in jumps {
        part.add(ForwardJump { family, chain: chain.into(), whole: true });
    }
    part.add(NftTable { table: ruleset::ruleset(tables) });
    for family in Family::BOTH {
        for prefix in egress::always_plain(family).filter(|prefix| !is_plain_anyway(tables, prefix)) {
            part.add(ruleset::interval(ruleset::sets(family).plain, prefix, &Owner::agent()));
        }
    }
    part.entries
}

pub(crate) fn setting(path: &str, value: &str) -> Sysctl {
    Sysctl { ns: Ns::Host, link: None, path: path.into(), value: value.into() }
}

/// The families of all networks.
fn families(tables: &Tables) -> impl Iterator<Item = Family> {
    Family::BOTH
        .into_iter()
        .filter(|family| tables.networks.values().any(|row| row.value.spec.ranges.get(*family).is_some()))
}
