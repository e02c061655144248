//! The lab's wires: a router with one bridge a subnet, and a veth pair to each machine.
//!
//! The router knows the subnets and nothing of pods: a pod's address is not routable between subnets unless a node wraps
//! its packets. Machines get an address, a default route, and no other setting: what a node needs beyond that is the
//! agent's work.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::device;
use crate::error::{Attempt, LabError, Result};
use crate::layout::{self, Layout, OUTSIDE, ROUTER};
use crate::options::Options;
use crate::space::{self, Place};
use crate::state::Machine;

/// Makes the router: its namespace, a bridge for every subnet, forwarding.
pub fn lay_router(layout: &Layout, options: &Options) -> Result<()> {
    space::netns_add(&layout.netns(ROUTER))?;
    let netns = layout.netns_path(ROUTER);
    settings(
        &netns,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            // A bridge that called netfilter would answer for nothing here.
            ("net/bridge/bridge-nf-call-iptables", "0"),
            ("net/bridge/bridge-nf-call-ip6tables", "0"),
        ],
    )?;
    ip_batch(&netns, &router_script(options))
}

/// Makes a machine's namespace and the cable from the router to it, with addresses and default routes.
pub fn lay_machine(layout: &Layout, name: &str, machine: &Machine) -> Result<()> {
    space::netns_add(&layout.netns(name))?;
    settings(&layout.netns_path(name), &[("net/ipv6/conf/default/accept_dad", "0")])?;
    ip_batch(&layout.netns_path(ROUTER), &cable_script(layout, name, machine))?;
    ip_batch(&layout.netns_path(name), &machine_script(machine))?;
    settle(&layout.netns_path(ROUTER), name)
}

/// Takes a machine's cable away for good, and with it the interface in the machine.
pub fn remove_cable(layout: &Layout, name: &str) -> Result<()> {
    ip_batch(&layout.netns_path(ROUTER), &format!("link del {name}\n"))
}

/// Unplugs a machine's cable at the router, or plugs it in again.
pub fn plug(layout: &Layout, name: &str, plugged: bool) -> Result<()> {
    let state = if plugged { "up" } else { "down" };
    ip_batch(&layout.netns_path(ROUTER), &format!("link set {name} {state}\n"))?;
    settle(&layout.netns_path(name), "eth0")
}

/// Whether a machine's cable is plugged in.
#[must_use]
pub fn plugged(layout: &Layout, name: &str) -> bool {
    space::in_netns(&layout.netns_path(ROUTER), || device::is_up(name)).unwrap_or(false)
}

/// Makes a device whose other end was set up just now ready to send.
///
/// The end that came up first learns of its carrier by deferred work of the kernel, and drops what it is to send until
/// that has run: a lost ARP request then costs a second. The kernel catches up when the link is asked for
/// (`linkwatch_sync_dev` in `rtnl_getlink`, net/core/rtnetlink.c).
pub fn settle(netns: &Path, device: &str) -> Result<()> {
    ip_batch(netns, &format!("link show dev {device}\n"))
}

/// Runs commands of ip(8) in a network namespace, all or an error that names the command which failed.
pub fn ip_batch(netns: &Path, script: &str) -> Result<()> {
    let doing = || format!("run ip in {}", netns.display());
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = Place::host().in_netns(netns)?.spawn(&mut command)?;
    if let Some(mut input) = child.stdin.take() {
        // If ip ended early, its own message is the better one.
        let _ = input.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().attempt(doing)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let number = said.rsplit_once("-:").and_then(|(_, number)| number.trim().parse::<usize>().ok());
    let line = number.and_then(|number| script.lines().nth(number.saturating_sub(1))).unwrap_or("?");
    Err(LabError::failed(format!("in {}: `ip {line}` failed: {said}", netns.display())))
}

/// Writes settings under /proc/sys in a network namespace. One that the kernel does not have is passed over.
pub fn settings(netns: &Path, values: &[(&str, &str)]) -> Result<()> {
    space::in_netns(netns, || {
        for (name, value) in values {
            let path = Path::new("/proc/sys").join(name);
            if path.exists() {
                fs::write(&path, value).attempt(|| format!("write {value} to {}", path.display()))?;
            }
        }
        Ok(())
    })?
}

fn router_script(options: &Options) -> String {
    let mut script = String::from("link set lo up\n");
    for subnet in 1..=options.subnets {
        let (v4, v6) = layout::router_addresses(subnet);
        let mac = layout::mac(0, subnet);
        line(&mut script, format_args!("link add sub{subnet} address {mac} type bridge stp_state 0 mcast_snooping 0"));
        addresses(&mut script, options, &format!("sub{subnet}"), v4, v6);
        line(&mut script, format_args!("link set sub{subnet} up"));
    }
    script
}

fn addresses(script: &mut String, options: &Options, device: &str, v4: std::net::Ipv4Addr, v6: std::net::Ipv6Addr) {
    if options.families.v4() {
        line(script, format_args!("addr add {v4}/24 dev {device}"));
    }
    if options.families.v6() {
        line(script, format_args!("addr add {v6}/64 dev {device} nodad"));
    }
}

/// The cable bears the machine's name at the router.
fn cable_script(layout: &Layout, name: &str, machine: &Machine) -> String {
    let number = machine.number();
    let mut script = String::new();
    line(
        &mut script,
        format_args!(
            "link add {name} address {} type veth peer name eth0 address {} netns {}",
            layout::mac(2, number),
            layout::mac(1, number),
            layout.netns(name)
        ),
    );
    if machine.subnet > 0 {
        line(&mut script, format_args!("link set {name} master sub{} up", machine.subnet));
        return script;
    }
    let (v4, v6) = layout::outside_gateway();
    if machine.v4.is_some() {
        line(&mut script, format_args!("addr add {v4}/24 dev {OUTSIDE}"));
    }
    if machine.v6.is_some() {
        line(&mut script, format_args!("addr add {v6}/64 dev {OUTSIDE} nodad"));
    }
    line(&mut script, format_args!("link set {name} up"));
    script
}

fn machine_script(machine: &Machine) -> String {
    let (gateway4, gateway6) = match machine.subnet {
        0 => layout::outside_gateway(),
        subnet => layout::router_addresses(subnet),
    };
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    if let Some(v4) = machine.v4 {
        line(&mut script, format_args!("addr add {v4}/24 dev eth0"));
        line(&mut script, format_args!("route add default via {gateway4}"));
    }
    if let Some(v6) = machine.v6 {
        line(&mut script, format_args!("addr add {v6}/64 dev eth0 nodad"));
        line(&mut script, format_args!("route add default via {gateway6}"));
    }
    script
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(script, "{text}");
}
