//! The CNI project's plugins: a node's list once it has ranges, and the way between nodes by static routes or flanneld.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Instant;

use serde_json::Value;

use super::bringup::wait;
use super::client;
use super::network::gateway;
use super::node::{LIST, LISTS, reference_list};
use crate::cables;
use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::layout::{CONTROL, ROUTER, node_name};
use crate::options::Cni;
use crate::process::ProcessId;
use crate::state::{Machine, State};

/// Where flanneld says what it leased, as variables of a shell.
const LEASE: &str = "/run/flannel/subnet.env";

/// What a node owns.
struct Ranges {
    all: Vec<String>,
    mtu: Option<u32>,
}

/// Writes each node's list as soon as it has a range and, where no other program does, everybody's routes to it.
pub fn connect(lab: &Lab, state: &State, cni: Cni, deadline: Instant) -> Result<()> {
    let ranges = wait("ranges of pods", deadline, || ranges(lab, state, cni))?;
    for (name, own) in &ranges {
        let on = [("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];
        cables::settings(&lab.layout().netns_path(name), &on)?;
        // As flannel's own plugin delegates.
        let (file, network) = if cni == Cni::Flannel { ("10-flannel.conflist", "cbr0") } else { (LIST, "reference") };
        let text = format!("{:#}\n", reference_list(network, &own.all, own.mtu));
        let folder = inside(&state.machines[name], LISTS)?;
        let (hidden, list) = (folder.join(".new"), folder.join(file));
        // The runtime looks at a file as soon as it has a name that counts.
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &list))
            .attempt(|| format!("write {name}'s list"))?;
    }
    lay_routes(lab, state, &ranges, |name| cni == Cni::Reference || name == CONTROL)
}

/// A path as a machine sees it.
pub fn inside(machine: &Machine, path: &str) -> Result<PathBuf> {
    let ProcessId { pid, .. } = machine.init.ok_or_else(|| LabError::failed("a machine is switched off"))?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")).join(path.trim_start_matches('/')))
}

/// The ranges of all nodes by name, or which of them has none yet.
fn ranges(lab: &Lab, state: &State, cni: Cni) -> Result<BTreeMap<String, Ranges>> {
    let nodes = if cni == Cni::Flannel { Value::Null } else { client::json(lab, &["get", "nodes"])? };
    let own = |(number, machine): (u32, &Machine)| {
        let name = node_name(number);
        let own = if cni == Cni::Flannel { leased(machine)? } else { assigned(&nodes, &name) };
        let own = own.ok_or_else(|| LabError::failed(format!("{name} has none")))?;
        Ok((name, own))
    };
    state.nodes().map(own).collect()
}

/// What the controllers gave a node.
fn assigned(nodes: &Value, name: &str) -> Option<Ranges> {
    let node = nodes["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == name)?;
    let all = node["spec"]["podCIDRs"].as_array()?.iter().filter_map(Value::as_str).map(str::to_owned);
    Some(Ranges { all: all.collect(), mtu: None })
}

/// What flanneld leased.
fn leased(machine: &Machine) -> Result<Option<Ranges>> {
    let Ok(text) = fs::read_to_string(inside(machine, LEASE)?) else { return Ok(None) };
    let value = |name: &str| {
        let mut words = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        words.next().map(str::to_owned)
    };
    let range = value("FLANNEL_SUBNET").and_then(|text| without_host(&text));
    Ok(range.map(|range| Ranges { all: vec![range], mtu: value("FLANNEL_MTU").and_then(|mtu| mtu.parse().ok()) }))
}

/// flanneld writes the node's own address in the range; a range has none.
fn without_host(text: &str) -> Option<String> {
    let (ip, length) = text.split_once('/')?;
    let (ip, length) = (ip.parse::<Ipv4Addr>().ok()?, length.parse::<u32>().ok()?);
    let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0);
    Some(format!("{}/{length}", Ipv4Addr::from(u32::from(ip) & mask)))
}

/// Routes of these machines to the pods of all nodes. The control plane's machine has no part in another program's tunnel.
fn lay_routes(lab: &Lab, state: &State, ranges: &BTreeMap<String, Ranges>, of: impl Fn(&str) -> bool) -> Result<()> {
    let machines = state.machines.iter().filter(|(_, machine)| machine.subnet > 0);
    let all = machines.map(|(name, machine)| (name.as_str(), Some(machine))).chain([(ROUTER, None)]);
    for (from, machine) in all.filter(|(name, _)| of(name)) {
        // Another subnet's node is not reached without a tunnel, nor needed.
        let near = |name: &String| of(ROUTER) || machine.is_some_and(|own| own.subnet == state.machines[name].subnet);
        let others = ranges.iter().filter(|(name, _)| *name != from && near(name));
        let routes = others.flat_map(|(name, own)| own.all.iter().map(|range| (&state.machines[name], range)));
        let route = |(to, range): (&Machine, &String)| {
            Some(format!("route replace {range} via {}\n", gateway(machine, to, is_v4(range))?))
        };
        let script: String = routes.filter_map(route).collect();
        cables::ip_batch(&lab.layout().netns_path(from), &script)?;
    }
    Ok(())
}

fn is_v4(range: &str) -> bool {
    range.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_no_address() {
        assert_eq!(without_host("10.244.7.1/24").as_deref(), Some("10.244.7.0/24"));
        assert_eq!(without_host("10.244.7.1/32").as_deref(), Some("10.244.7.1/32"));
        for text in ["10.244.7.1", "10.244.7.1/33", "x/24"] {
            assert_eq!(without_host(text), None, "{text}");
        }
    }
}
