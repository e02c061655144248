//! What is there whatever the Services: the ways into their chains, and what becomes of all packets to or from them.

use std::net::IpAddr;

use ripstop_netmodel::{
    CLUSTER_IPS_CHAIN, Entry, FRONTENDS_CHAIN, HAIRPIN_CHAIN, IptablesTable, MASQUERADE_MARK, OTHERS_CHAIN, PORTS_CHAIN,
};
use ripstop_types::{Family, Owner, Prefix};

use super::{Place, from, host, mark, of_pods, to};
use crate::Part;
use crate::services::Rules;

/// Where packets are looked at, in both tables.
const SERVICES: &str = "RIPSTOP-SERVICES";
/// What is done with packets that are passed on.
const FORWARDED: &str = "RIPSTOP-FORWARDED";
/// What leaves.
const LEAVING: &str = "RIPSTOP-LEAVING";
/// What leaves with the node's address.
const MASQUERADE: &str = "RIPSTOP-MASQUERADE";
/// Marks what goes to a ClusterIP and is not of this node's pods.
pub(super) const MARK_CLUSTER: &str = "RIPSTOP-MARK-CLUSTER";

/// The chains of both tables. `own` are the node's addresses at which node ports are served.
#[must_use]
pub fn base(place: Place, own: &[IpAddr], pods: &[Prefix], service_ranges: &[Prefix], rules: &Rules) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    for family in place.families() {
        let of_family = |ranges: &[Prefix]| -> Vec<Prefix> {
            ranges.iter().filter(|range| range.family() == family).copied().collect()
        };
        let own = own.iter().filter(|ip| Family::of(**ip) == family);
        let own: Vec<String> = own.map(|ip| format!("-d {} -j {PORTS_CHAIN}", host(*ip))).collect();
        nat(&mut part, place, family, &own, &of_family(pods), rules);
        filter(&mut part, place, family, &own, &of_family(service_ranges), rules);
    }
    part.entries
}

fn nat(part: &mut Part, place: Place, family: Family, own: &[String], pods: &[Prefix], how: &Rules) {
    let table = IptablesTable::Nat;
    let mut add = |chain: &str, rules: Vec<String>| part.add(place.chain(family, table, chain, rules));
    add(SERVICES, own.iter().cloned().chain([format!("-j {FRONTENDS_CHAIN}")]).collect());
    for chain in [FRONTENDS_CHAIN, PORTS_CHAIN, HAIRPIN_CHAIN] {
        add(chain, Vec::new());
    }
    let kept = of_pods(pods, how.pod_links.as_ref()).into_iter().filter(|_| !how.masquerade_all);
    add(MARK_CLUSTER, kept.map(|from| format!("{from}-j RETURN")).chain([mark()]).collect());
    // The mark would go on with what a tunnel makes of the packet.
    let masquerade =
        [format!("-j MARK --set-xmark {MASQUERADE_MARK:#x}/0x0"), "-j MASQUERADE --random-fully".to_owned()];
    add(MASQUERADE, masquerade.into());
    let marked = format!("-m mark --mark {MASQUERADE_MARK:#x}/{MASQUERADE_MARK:#x} -j {MASQUERADE}");
    let hairpin =
        pods.iter().map(|range| format!("{}{}-m conntrack --ctstate DNAT -j {HAIRPIN_CHAIN}", from(range), to(range)));
    let hairpin: Vec<String> = match how.pod_links {
        // What leaves has no link that it came by here: any may be a pod.
        Some(_) => vec![format!("-m conntrack --ctstate DNAT -j {HAIRPIN_CHAIN}")],
        None => hairpin.collect(),
    };
    add(LEAVING, [marked].into_iter().chain(hairpin).collect());
    for (chain, to) in [("PREROUTING", SERVICES), ("OUTPUT", SERVICES), ("POSTROUTING", LEAVING)] {
        add(chain, vec![format!("-j {to}")]);
    }
}

fn filter(part: &mut Part, place: Place, family: Family, own: &[String], service_ranges: &[Prefix], how: &Rules) {
    let table = IptablesTable::Filter;
    let mut add = |chain: &str, rules: Vec<String>| part.add(place.chain(family, table, chain, rules));
    // What was sent on is at an endpoint, which may have the address of another Service.
    let mut services = vec!["-m conntrack --ctstate DNAT -j RETURN".to_owned()];
    services.extend(own.iter().cloned());
    services.extend([FRONTENDS_CHAIN, CLUSTER_IPS_CHAIN].map(|chain| format!("-j {chain}")));
    services.extend(service_ranges.iter().map(|range| format!("{}-g {OTHERS_CHAIN}", to(range))));
    add(SERVICES, services);
    for chain in [FRONTENDS_CHAIN, PORTS_CHAIN, CLUSTER_IPS_CHAIN, OTHERS_CHAIN] {
        add(chain, Vec::new());
    }
    // What connection tracking takes for out of its window would be passed on untranslated, and the client reset its connection.
    let invalid = (!how.liberal).then(|| "-m conntrack --ctstate INVALID -j DROP".to_owned());
    add(FORWARDED, invalid.into_iter().chain([format!("-j {SERVICES}")]).collect());
    add("FORWARD", vec![format!("-m conntrack --ctstate INVALID,NEW -j {FORWARDED}")]);
    for chain in ["INPUT", "OUTPUT"] {
        add(chain, vec![format!("-m conntrack --ctstate NEW -j {SERVICES}")]);
    }
    // Behind the exceptions: what no Service has among the ranges of ClusterIPs leads nowhere.
    part.add(place.entry(family, table, OTHERS_CHAIN, "", "-j DROP"));
}
