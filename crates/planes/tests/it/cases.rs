//! The product's rules in the kernel, with real packets: by each compiler what every case expects, and what the oracle says of scenarios
//! that nobody thought of.

use ripstop_conformance::services::{Oracle, compare};
use ripstop_netmodel::IptablesBackend;
use ripstop_planes::Compiler;

use crate::{has_ipvs, is_long, judged, scene};

/// Scenarios drawn.
const REAL: u32 = 300;
/// The same where each change runs a program or two.
const BY_PROGRAM: u32 = 100;

#[test]
fn the_rules_do_in_the_kernel_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Nftables, REAL);
}

#[test]
fn the_chains_of_iptables_over_nftables_do_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Iptables(IptablesBackend::Nft), BY_PROGRAM);
}

#[test]
fn the_chains_of_legacy_iptables_do_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Iptables(IptablesBackend::Legacy), BY_PROGRAM);
}

fn in_the_kernel(compiler: Compiler, scenarios: u32) {
    let Some(mut scene) = scene(compiler) else { return };
    judged(&mut scene);
    let outcome = compare(&mut Oracle::default(), &mut scene, 1, scenarios);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn ipvs_does_in_the_kernel_what_cases_and_oracle_say() {
    if !has_ipvs() {
        return;
    }
    in_the_kernel(Compiler::Ipvs, if is_long() { 10 * REAL } else { REAL });
}
