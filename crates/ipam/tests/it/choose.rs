//! The choice of a range, against the plainest way to say the same.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ripstop_ipam::{Choice, Claim, ClaimKey, ClaimState, Claimant, RangeFault, RangeRequest, choose, ranges::start_of};
use ripstop_types::{NodeName, Prefix};

pub fn claimant(node: &str) -> Claimant {
    Claimant { node: node.parse().unwrap(), machine: format!("m-{node}").into(), boot: "b1".into(), run: 1 }
}

fn held(node: &str) -> Claim {
    Claim::new(claimant(node), ClaimState::Held)
}

fn claims(rows: &[(&str, &str)]) -> BTreeMap<ClaimKey, Claim> {
    rows.iter().map(|(range, node)| (ClaimKey::new("default", range.parse().unwrap()), held(node))).collect()
}

fn request(pool: &str, len: u8) -> RangeRequest {
    RangeRequest::new("default", pool.parse().unwrap(), len)
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
fn the_start_of_a_name_never_changes() {
    let start = |name: &str| start_of(&name.parse().unwrap(), 256);
    // Worked out from the definition with another program; a change of these moves the ranges of running clusters.
    assert_eq!(["n1", "n2", "n3", "worker-1.example"].map(start), [4, 21, 19, 57]);
    assert_eq!(start_of(&"n1".parse().unwrap(), 1), 0);
}

#[test]
fn own_claims_win_the_lowest_first_unless_another_is_preferred() {
    let claims = claims(&[("10.244.3.0/24", "a"), ("10.244.7.0/24", "n1"), ("10.244.9.0/24", "n1")]);
    let mut request = request("10.244.0.0/16", 24);
    assert_eq!(choose(&request, &claimant("n1"), &claims), Ok(Choice::Held(prefix("10.244.7.0/24"))));
    request.preferred = Some(prefix("10.244.9.0/24"));
    assert_eq!(choose(&request, &claimant("n1"), &claims), Ok(Choice::Held(prefix("10.244.9.0/24"))));
    request.preferred = Some(prefix("10.244.3.0/24"));
    assert_eq!(choose(&request, &claimant("n1"), &claims), Ok(Choice::Held(prefix("10.244.7.0/24"))));
    request.min = Some("10.244.8.0".parse().unwrap());
    assert_eq!(choose(&request, &claimant("n1"), &claims), Ok(Choice::Held(prefix("10.244.9.0/24"))));
}

#[test]
fn a_claim_of_another_network_is_not_ours_but_in_the_way() {
    let other = BTreeMap::from([(ClaimKey::new("other", prefix("10.244.0.0/24")), held("n1"))]);
    let chosen = choose(&request("10.244.0.0/23", 24), &claimant("n1"), &other);
    assert_eq!(chosen, Ok(Choice::Claim(prefix("10.244.1.0/24"))));
}

#[test]
fn a_preferred_range_is_taken_if_free_and_passed_over_if_not() {
    let mut request = request("10.244.0.0/16", 24);
    request.preferred = Some(prefix("10.244.77.0/24"));
    assert_eq!(choose(&request, &claimant("n1"), &claims(&[])), Ok(Choice::Claim(prefix("10.244.77.0/24"))));
    let taken = claims(&[("10.244.77.0/24", "a")]);
    let Ok(Choice::Claim(other)) = choose(&request, &claimant("n1"), &taken) else { panic!("no range") };
    assert_ne!(other, prefix("10.244.77.0/24"));
    // Of another length or excluded: not a range of the network.
    request.preferred = Some(prefix("10.244.77.0/25"));
    assert!(matches!(choose(&request, &claimant("n1"), &claims(&[])), Ok(Choice::Claim(range)) if range.len() == 24));
}

#[test]
fn an_assigned_range_is_this_one_or_none() {
    let mut request = request("10.244.0.0/16", 24);
    request.assigned = Some(prefix("10.244.4.0/25"));
    assert_eq!(choose(&request, &claimant("n1"), &claims(&[])), Ok(Choice::Claim(prefix("10.244.4.0/25"))));
    let fault = choose(&request, &claimant("n1"), &claims(&[("10.244.4.0/24", "n2")])).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "network default: range 10.244.4.0/25 was assigned to this node, but node n2 holds 10.244.4.0/24; if n2 is gone, \
         `ripstop ipam release 10.244.4.0/24`"
    );
    request.assigned = Some(prefix("10.245.4.0/24"));
    let fault = choose(&request, &claimant("n1"), &claims(&[])).unwrap_err();
    assert!(
        fault.to_string().contains("10.245.4.0/24 was assigned to this node, but is not inside 10.244.0.0/16"),
        "{fault}"
    );
}

#[test]
fn faults_say_what_is_wrong() {
    let me = claimant("n1");
    let full = claims(&[("10.244.0.0/24", "a"), ("10.244.1.0/24", "b")]);
    let fault = choose(&request("10.244.0.0/23", 24), &me, &full).unwrap_err();
    assert!(fault.to_string().contains("no free range of /24 in 10.244.0.0/23: 2 claims hold all 2"), "{fault}");
    let fault = choose(&request("10.244.0.0/23", 22), &me, &claims(&[])).unwrap_err();
    assert!(fault.to_string().contains("10.244.0.0/23 has no ranges of /22: the length must be 23 to 32"), "{fault}");
    let mut none = request("10.244.0.0/23", 24);
    none.exclude = vec![prefix("10.244.0.0/24"), prefix("10.244.1.128/25")];
    assert!(matches!(choose(&none, &me, &claims(&[])), Err(RangeFault::NoCandidate { .. })));
    none.exclude.clear();
    none.min = Some("10.244.1.1".parse().unwrap());
    assert!(matches!(choose(&none, &me, &claims(&[])), Err(RangeFault::NoCandidate { .. })));
    let mut twin = claims(&[("10.244.0.0/24", "n1")]);
    twin.values_mut().for_each(|claim| claim.claimant.machine = "another".into());
    let mut assigned = request("10.244.0.0/16", 24);
    assigned.assigned = Some(prefix("10.244.0.0/24"));
    let fault = choose(&assigned, &me, &twin).unwrap_err();
    assert!(fault.to_string().contains("held by another machine of this name (another)"), "{fault}");
}

#[test]
fn ten_thousand_claims_are_looked_at_in_one_pass() {
    let all: BTreeMap<ClaimKey, Claim> = (0..16_383u32)
        .map(|n| {
            let range = prefix("10.0.0.0/10").subnet(24, u128::from(n)).unwrap();
            (ClaimKey::new("default", range), held(&format!("a{n}")))
        })
        .collect();
    // Each of a thousand nodes finds the only range that is left. Quadratic work would take minutes.
    for n in 0..1_000 {
        let chosen = choose(&request("10.0.0.0/10", 24), &claimant(&format!("n{n}")), &all);
        assert_eq!(chosen, Ok(Choice::Claim(prefix("10.63.255.0/24"))));
    }
}

#[test]
fn a_very_large_pool_is_no_exception() {
    let me = claimant("n1");
    let Ok(Choice::Claim(range)) = choose(&request("::/0", 128), &me, &claims(&[])) else { panic!("no range") };
    assert_eq!(range.len(), 128);
    let whole = choose(&request("::/0", 0), &me, &claims(&[]));
    assert_eq!(whole, Ok(Choice::Claim(prefix("::/0"))));
    let Ok(Choice::Claim(range)) = choose(&request("fd00::/16", 64), &me, &claims(&[])) else { panic!("no range") };
    assert!(prefix("fd00::/16").covers(&range) && range.len() == 64);
}

/// Probes candidate after candidate.
fn plainly(request: &RangeRequest, me: &Claimant, claims: &BTreeMap<ClaimKey, Claim>) -> Option<Choice> {
    let candidates: Vec<Prefix> = (0..request.pool.count_of(request.len))
        .filter_map(|n| request.pool.subnet(request.len, n))
        .filter(|range| {
            request.min.is_none_or(|min| range.addr() >= min) && request.max.is_none_or(|max| range.addr() <= max)
        })
        .collect();
    let excluded = |range: &Prefix| request.exclude.iter().any(|excluded| excluded.overlaps(range));
    let own = |range: &&Prefix| {
        let key = ClaimKey::new("default", **range);
        !excluded(range) && claims.get(&key).is_some_and(|claim| claim.claimant.same_machine(me))
    };
    if let Some(range) = candidates.iter().filter(own).find(|range| Some(**range) == request.preferred) {
        return Some(Choice::Held(*range));
    }
    if let Some(range) = candidates.iter().find(own) {
        return Some(Choice::Held(*range));
    }
    let free = |range: &&Prefix| !excluded(range) && !claims.keys().any(|key| key.range.overlaps(range));
    if let Some(range) = candidates.iter().filter(free).find(|range| Some(**range) == request.preferred) {
        return Some(Choice::Claim(*range));
    }
    let start = start_of(&me.node, candidates.len() as u128) as usize;
    candidates[start.min(candidates.len())..].iter().chain(&candidates).find(free).map(|range| Choice::Claim(*range))
}

fn part_of(pool: &'static str) -> impl Strategy<Value = Prefix> {
    (any::<prop::sample::Index>(), 22u8..=28).prop_map(move |(index, len)| {
        let pool = prefix(pool);
        pool.subnet(len, index.index(pool.count_of(len) as usize) as u128).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_choice_is_what_probing_one_by_one_finds(
        len in 22u8..=28,
        node in "n[0-9]{1,3}",
        taken in prop::collection::vec((part_of("10.0.0.0/22"), "[a-c]|me"), 0..12),
        exclude in prop::collection::vec(part_of("10.0.0.0/22"), 0..3),
        preferred in prop::option::of(part_of("10.0.0.0/22")),
        min in prop::option::of(part_of("10.0.0.0/22")),
        max in prop::option::of(part_of("10.0.0.0/22")),
    ) {
        let me = claimant(&node);
        let row = |(range, holder): &(Prefix, String)| {
            (ClaimKey::new("default", *range), held(if holder == "me" { &node } else { holder }))
        };
        let claims: BTreeMap<ClaimKey, Claim> = taken.iter().map(row).collect();
        let mut request = request("10.0.0.0/22", len);
        (request.exclude, request.preferred) = (exclude, preferred);
        (request.min, request.max) = (min.map(|range| range.addr()), max.map(|range| range.addr()));
        prop_assert_eq!(choose(&request, &me, &claims).ok(), plainly(&request, &me, &claims));
        // In the order in which claims happen to come, nothing depends.
        prop_assert_eq!(choose(&request, &me, claims.iter().rev()).ok(), choose(&request, &me, &claims).ok());
    }
}

#[test]
fn names_spread_over_the_ranges() {
    let names = (0..256).map(|n| format!("node-{n}").parse::<NodeName>().unwrap());
    let starts: std::collections::BTreeSet<u128> = names.map(|name| start_of(&name, 256)).collect();
    // 256 throws into 256 places hit 162 on average.
    assert!(starts.len() > 140, "{}", starts.len());
}
