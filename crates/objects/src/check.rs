//! Rules that need more than the object itself: other objects, the node, what is in use.

use std::collections::BTreeMap;

use ripstop_types::{Family, Prefix};

use crate::{BackendKind, Fault, Faults, Network, NetworkSpec, NodeAddress, NodeRecord, RangeMode};

fn fault(network: &Network, path: &str, found: impl std::fmt::Display, accepted: impl Into<String>) -> Fault {
    Fault::new(network.owner().as_str(), path, format!("found {found}"), accepted)
}

/// Checks a network against a node it would run on: pods cannot have addresses that the node's own subnets have.
///
/// # Errors
/// One fault for each of the node's subnets that shares addresses with the network.
pub fn check_network_against_host(network: &Network, host: &[NodeAddress]) -> Result<(), Faults> {
    let mut faults = Faults::none();
    for (path, range) in places(&network.spec) {
        for address in host.iter().filter(|address| address.prefix.overlaps(&range)) {
            let found = format!("{range}, which overlaps the node's own subnet {} of {}", address.prefix, address.ip);
            faults.push(fault(network, &path, found, "a range that no node's subnet shares addresses with"));
        }
    }
    faults.into_result()
}

/// Checks networks against each other: names, ranges, and the tunnels' parameters.
///
/// # Errors
/// One fault for each pair that cannot exist together, at the later of the two.
pub fn check_networks(networks: &[Network]) -> Result<(), Faults> {
    let mut faults = Faults::none();
    for (n, network) in networks.iter().enumerate() {
        for earlier in &networks[..n] {
            if earlier.name == network.name {
                faults.push(fault(network, "metadata.name", "the name twice", "each network once"));
                continue;
            }
            for (path, range) in places(&network.spec) {
                let Some(other) = earlier.spec.whole(range.family()).find(|other| other.overlaps(&range)) else {
                    continue;
                };
                let found = format!("{range}, which overlaps {other} of {}", earlier.owner());
                faults.push(fault(network, &path, found, "a range of which no other network has addresses"));
            }
            let (ours, theirs) = (network.spec.backend, earlier.spec.backend);
            if may_encapsulate(&network.spec)
                && may_encapsulate(&earlier.spec)
                && ours.vni == theirs.vni
                && ours.port != theirs.port
            {
                let found =
                    format!("{}, but {} has port {} with VNI {}", ours.port, earlier.owner(), theirs.port, ours.vni);
                faults.push(fault(network, "spec.backend.port", found, "one port for each VNI"));
            }
            check_udp_ports(network, earlier, &mut faults);
        }
    }
    faults.into_result()
}

/// One forwarder serves a node's networks, on a port that no VXLAN device has.
fn check_udp_ports(network: &Network, earlier: &Network, faults: &mut Faults) {
    let (ours, theirs) = (network.spec.backend, earlier.spec.backend);
    let (is_udp, was_udp) = (ours.kind == BackendKind::Udp, theirs.kind == BackendKind::Udp);
    if is_udp && was_udp && ours.udp_port != theirs.udp_port {
        let found = format!("{}, but {} has {}", ours.udp_port, earlier.owner(), theirs.udp_port);
        faults.push(fault(network, "spec.backend.udpPort", found, "one port for all networks of the backend udp"));
    } else if is_udp && may_encapsulate(&earlier.spec) && ours.udp_port == theirs.port {
        let found = format!("{}, on which {} has vxlan", ours.udp_port, earlier.owner());
        faults.push(fault(network, "spec.backend.udpPort", found, "a port that no network has vxlan on"));
    } else if was_udp && may_encapsulate(&network.spec) && ours.port == theirs.udp_port {
        let found = format!("{}, on which {} has udp", ours.port, earlier.owner());
        faults.push(fault(network, "spec.backend.port", found, "a port that no network has udp on"));
    }
}

/// Every prefix of a network, with the field that has it. Those inside others are left out.
fn places(spec: &NetworkSpec) -> Vec<(String, Prefix)> {
    let mut places: Vec<(String, Prefix)> =
        spec.ranges.iter().enumerate().map(|(n, range)| (format!("spec.ranges[{n}]"), range)).collect();
    if let Some(blocks) = &spec.blocks {
        places.extend(
            blocks.pools.iter().enumerate().map(|(n, pool)| (format!("spec.blocks.pools[{n}].range"), pool.range)),
        );
        places.extend(blocks.node_ranges.iter().map(|range| ("spec.blocks.nodeRanges".into(), range)));
    }
    let whole: Vec<Prefix> = Family::BOTH.into_iter().flat_map(|family| spec.whole(family)).collect();
    places.retain(|(_, range)| whole.contains(range));
    places
}

fn may_encapsulate(spec: &NetworkSpec) -> bool {
    spec.backend.kind.may_vxlan()
}

/// Checks a node's podCIDRs against the networks with range mode `pod-cidr`: each lies in one, one a network and family.
///
/// # Errors
/// One fault for each podCIDR that no network can use. Object `config`, path `podCIDRs[n]`.
pub fn check_pod_cidrs(pod_cidrs: &[Prefix], networks: &[Network]) -> Result<(), Faults> {
    let mut faults = Faults::none();
    let mut taken: BTreeMap<(&str, Family), Prefix> = BTreeMap::new();
    for (n, cidr) in pod_cidrs.iter().enumerate() {
        let path = format!("podCIDRs[{n}]");
        let covers = |network: &&Network| {
            network.spec.range_mode == RangeMode::PodCidr
                && network.spec.ranges.get(cidr.family()).is_some_and(|range| range.covers(cidr))
        };
        let Some(network) = networks.iter().find(covers) else {
            let accepted = "a range inside a network of rangeMode pod-cidr";
            faults.push(Fault::new("config", path, format!("found {cidr}"), accepted));
            continue;
        };
        if let Some(first) = taken.insert((network.name.as_str(), cidr.family()), *cidr) {
            let accepted = format!("one {} range of {}; {first} stands before", cidr.family(), network.owner());
            faults.push(Fault::new("config", path, format!("found {cidr}"), accepted));
        }
    }
    faults.into_result()
}

/// Checks that a network may take the place of another of its name while ranges and pods use it.
///
/// `in_use` are the claimed ranges and the addresses of pods (as /32 or /128), as far as the caller knows them. Always
/// allowed: backend type, MTU, masquerade, labels, exclusions that hit nobody, ranges and bounds in which
/// everything in use still lies; in mode `blocks` also pools and ranges in which something is in use, which then lasts until
/// it is free. Only while nothing is in use: the rest.
///
/// # Errors
/// One fault for each field that cannot change now.
pub fn check_change(old: &Network, new: &Network, in_use: &[Prefix]) -> Result<(), Faults> {
    let mut faults = Faults::none();
    let (was, is) = (&old.spec, &new.spec);
    if in_use.is_empty() {
        return Ok(());
    }
    let mut fixed = |path: &str, was: String, is: String| {
        if was != is {
            let accepted = format!("{was}, as long as {} ranges or addresses are in use", in_use.len());
            faults.push(fault(new, path, is, accepted));
        }
    };
    fixed("spec.rangeMode", was.range_mode.as_str().into(), is.range_mode.as_str().into());
    fixed("spec.wiring", was.wiring.as_str().into(), is.wiring.as_str().into());
    let blocks = is.blocks.is_some();
    for family in Family::BOTH.into_iter().filter(|family| in_use.iter().any(|range| range.family() == *family)) {
        let key = if family == Family::V4 { "v4" } else { "v6" };
        let len = |spec: &NetworkSpec| match &spec.blocks {
            Some(blocks) => blocks.len.get(family).to_string(),
            None => spec.node_range_len.get(family).to_string(),
        };
        fixed(&format!("spec.{}.{key}", if blocks { "blocks.len" } else { "nodeRangeLen" }), len(was), len(is));
        let nodes = |spec: &NetworkSpec| {
            let nodes = spec.blocks.as_ref().and_then(|blocks| blocks.node_ranges.get(family));
            nodes.map_or_else(|| "none".into(), |nodes| nodes.to_string())
        };
        fixed("spec.blocks.nodeRanges", nodes(was), nodes(is));
    }
    if may_encapsulate(was) && may_encapsulate(is) {
        fixed("spec.backend.vni", was.backend.vni.to_string(), is.backend.vni.to_string());
        fixed("spec.backend.port", was.backend.port.to_string(), is.backend.port.to_string());
    }
    if was.backend.kind == BackendKind::Udp && is.backend.kind == BackendKind::Udp {
        fixed("spec.backend.udpPort", was.backend.udp_port.to_string(), is.backend.udp_port.to_string());
    }
    for used in in_use {
        check_still_inside(old, new, *used, &mut faults);
    }
    faults.into_result()
}

/// Checks that a range or address in use stays in the network, between its bounds, and not excluded.
fn check_still_inside(old: &Network, new: &Network, used: Prefix, faults: &mut Faults) {
    let family = used.family();
    let (was, is) = (&old.spec, &new.spec);
    match is.ranges.get(family) {
        None => {
            let found = format!("no {family} range, but {used} is in use");
            faults.push(fault(new, "spec.ranges", found, "the range that the network had"));
            return;
        }
        Some(range) if !range.covers(&used) && is.range_mode != RangeMode::Blocks => {
            let index = usize::from(family == Family::V6 && is.ranges.v4.is_some());
            let found = format!("{range}, outside of which {used} is in use");
            faults.push(fault(
                new,
                &format!("spec.ranges[{index}]"),
                found,
                "a range that contains all that is in use",
            ));
        }
        Some(_) => {}
    }
    let bound = |spec: &NetworkSpec| (spec.range_min.get(family), spec.range_max.get(family));
    if is.range_mode == RangeMode::Lease && bound(was) != bound(is) {
        let key = if family == Family::V4 { "v4" } else { "v6" };
        if let Some(min) = is.range_min.get(family).filter(|min| used.addr() < *min) {
            let found = format!("{min}, before which {used} is in use");
            faults.push(fault(new, &format!("spec.rangeMin.{key}"), found, "an address before all that is in use"));
        }
        if let (Some(max), Some(last)) = (is.range_max.get(family), is.last_node_range(family))
            && used.last() > last.last()
        {
            let found = format!("{max}, behind which {used} is in use");
            faults.push(fault(new, &format!("spec.rangeMax.{key}"), found, "an address behind all that is in use"));
        }
    }
    for exclude in is.exclude.iter().filter(|exclude| exclude.covers(&used) && !was.exclude.contains(exclude)) {
        let found = format!("{exclude}, in which {used} is in use");
        faults.push(fault(new, "spec.exclude", found, "a range in which nothing is in use"));
    }
}

/// Checks that the record under this node's name is this machine's: two machines with one name would share addresses.
///
/// # Errors
/// One fault that names the other machine.
pub fn check_node_name(own: &NodeRecord, stored: &NodeRecord) -> Result<(), Faults> {
    if own.name != stored.name || own.identity.machine_id == stored.identity.machine_id {
        return Ok(());
    }
    let addresses: Vec<String> = stored.addresses.iter().map(|address| address.ip.to_string()).collect();
    let found = format!(
        "found the name of another machine, {} at {}",
        stored.identity.machine_id,
        if addresses.is_empty() { "no address".into() } else { addresses.join(", ") },
    );
    let accepted = "a name of its own for each machine, or the other machine's record deleted first";
    Err(Fault::new(format!("node/{}", own.name), "name", found, accepted).into())
}
