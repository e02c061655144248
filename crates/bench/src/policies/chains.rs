//! The rival: policies as chains of iptables, one a policy, in the shape in which kube-router writes them; by hand, since no program of
//! others' that needs no more than this machine has runs here.
//!
//! What stands for what: a chain `KUBE-POD-FW-…` of a pod jumps to the chains `KUBE-NWPLCY-…` of all policies that select it, each marks what
//! it permits, and what bears no mark behind them is rejected. Policies that select no pod of the node have chains, too, as there. Where
//! kube-router matches a set of addresses (ipset), each policy here has one peer, and its address stands for the set. A change is the whole
//! table filter read by `iptables-save` and written by `iptables-restore`, as kube-router does at each.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use ripstop_lab::{settings, space};

use super::MANY;
use crate::load::Course;
use crate::scene::{Programs, Scene, checkpoint};
use crate::variant::{Backend, Shape, by_hand, run_in};

/// Times that a change is made.
const CHANGES: usize = 3;

/// Two nodes by hand, a pod on each.
pub struct Chains {
    nodes: [PathBuf; 2],
    pods: [PathBuf; 2],
    _scene: Scene,
}

impl Chains {
    /// Builds them with so many policies of [`MANY`] about both pods.
    pub fn build(selecting: u32, programs: &Programs) -> Result<Self> {
        checkpoint()?;
        let scene = Scene::new(&format!("chains-{selecting}"), programs)?;
        let (one, two) = scene.machines("n1", "n2")?;
        let nodes = [one, two];
        let pods = [scene.netns("a")?, scene.netns("b")?];
        for number in 1..=2 {
            let (node, pod) = (&nodes[number - 1], &pods[number - 1]);
            by_hand(Backend::HostGw, Shape::Hand, number, node, pod)?;
            run_in(node, "iptables-restore", &["-w"], &rules(number, selecting)).context("iptables-restore")?;
            settings(node, &[("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")])?;
        }
        Ok(Self { nodes, pods, _scene: scene })
    }

    /// The way between the pods.
    pub fn course(&self) -> Result<Course> {
        let mut course = Course::open(&self.pods[0], &self.pods[1], pod(2))?;
        course.reach()?;
        Ok(course)
    }

    /// Milliseconds of reading and writing all rules, as for a change.
    pub fn changes(&self) -> Result<Vec<f64>> {
        let change = |_| {
            checkpoint()?;
            let begun = Instant::now();
            let mut save = std::process::Command::new("iptables-save");
            save.args(["-t", "filter"]).stdout(std::process::Stdio::piped());
            let saved = space::Place::host().in_netns(&self.nodes[0])?.spawn(&mut save)?.wait_with_output()?;
            run_in(&self.nodes[0], "iptables-restore", &["-w"], &String::from_utf8_lossy(&saved.stdout))?;
            Ok(crate::cpu::ms(begun.elapsed()))
        };
        (0..CHANGES).map(change).collect()
    }
}

fn pod(number: usize) -> IpAddr {
    let number = u8::try_from(number).unwrap_or_default();
    [10, 244, number, 2].into()
}

/// The rules of a node.
fn rules(number: usize, selecting: u32) -> String {
    let (own, other) = (pod(number), pod(3 - number));
    let mut text = "*filter\n:KUBE-ROUTER-FORWARD - [0:0]\n:KUBE-POD-FW-0 - [0:0]\n".to_owned();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = text.write_fmt(format_args!("{words}\n"));
    };
    (0..MANY).for_each(|policy| line(format_args!(":KUBE-NWPLCY-{policy} - [0:0]")));
    line(format_args!("-A FORWARD -j KUBE-ROUTER-FORWARD"));
    line(format_args!("-A FORWARD -m mark --mark 0x20000/0x20000 -j ACCEPT"));
    line(format_args!("-A KUBE-ROUTER-FORWARD -d {own} -j KUBE-POD-FW-0"));
    line(format_args!("-A KUBE-ROUTER-FORWARD -s {own} -j KUBE-POD-FW-0"));
    line(format_args!("-A KUBE-POD-FW-0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
    line(format_args!("-A KUBE-POD-FW-0 -m conntrack --ctstate INVALID -j DROP"));
    for policy in 0..selecting {
        line(format_args!("-A KUBE-POD-FW-0 -d {own} -j KUBE-NWPLCY-{policy}"));
        line(format_args!("-A KUBE-POD-FW-0 -s {own} -j KUBE-NWPLCY-{policy}"));
    }
    line(format_args!("-A KUBE-POD-FW-0 -m mark ! --mark 0x10000/0x10000 -j REJECT"));
    line(format_args!("-A KUBE-POD-FW-0 -j MARK --set-xmark 0x0/0x10000"));
    line(format_args!("-A KUBE-POD-FW-0 -j MARK --set-xmark 0x20000/0x20000"));
    for policy in 0..MANY {
        let ports = if policy == 0 { "7000:7999".to_owned() } else { (8000 + policy % 100).to_string() };
        let peer = if policy == 0 {
            other
        } else {
            IpAddr::from([10, 250, (policy % 1000 / 250) as u8, (policy % 250) as u8])
        };
        for (from, to) in [(peer, own), (own, peer)] {
            let chain = format!("-A KUBE-NWPLCY-{policy}");
            line(format_args!("{chain} -s {from} -d {to} -p tcp --dport {ports} -j MARK --set-xmark 0x10000/0x10000"));
            line(format_args!(
                "{chain} -s {from} -d {to} -p tcp --dport {ports} -m mark --mark 0x10000/0x10000 -j RETURN"
            ));
        }
    }
    text.push_str("COMMIT\n");
    text
}
