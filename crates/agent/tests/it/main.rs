//! The agent as a process of its own in a network namespace of its own, with a router, pods and a store around it.
//!
//! Every test makes its namespaces and folders, so tests run beside each other. They need root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

#[path = "../../../tables/tests/scenario/mod.rs"]
mod scenario;
#[path = "../../../store/tests/it/kubernetes/server.rs"]
mod server;
mod support;

mod alone;
mod bad_policies;
mod bad_services;
mod balancers;
mod bandwidth;
mod beside;
mod bgp_secret;
mod blocks;
mod blocks_world;
mod capabilities;
mod check;
mod comings;
mod crash;
mod crowd;
mod drops;
mod egress;
mod foreign;
mod hold;
mod host_ports;
mod http;
mod hygiene;
mod idle;
mod in_cluster;
mod iptables;
mod ipvs;
mod kube_proxy;
mod kubernetes;
mod logs;
mod long_policies;
mod many;
mod metallb;
mod networks;
mod node_life;
mod nodes;
mod policies;
mod policy_answers;
mod pools;
mod proxies;
mod purge;
mod repair;
mod restart;
mod revoke;
mod services;
mod spoof;
mod status;
mod swap;
mod traffic;
mod verbs;
mod versions;

/// What [`support::agent::Agent`] starts: this program again, as an agent.
#[test]
#[ignore = "is the agent that other tests start"]
fn agent_process() {
    support::agent::run_as_told();
}
