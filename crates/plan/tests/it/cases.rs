//! Single stories, told as the steps that a plan must have.
//!
//! A step is written as `ripstop plan` shows it: number, action, object, reason, and what undoes it.

use std::collections::BTreeSet;

use ripstop_netmodel::{
    BridgePort, Entry, Key, Link, LinkKind, Model, Neighbour, Nexthop, NftTable, Ns, Object, Qdisc, Record,
    RecordGuard, RecordScope, Resource, Route, RouteTarget, Sysctl,
};
use ripstop_nft::model::{Data, ElementBody, Key as ElementValue, TableFamily, Value};
use ripstop_plan::{Action, Plan, Step, apply_to_model, diff, diff_all};
use ripstop_types::{Owner, Prefix};

use crate::world::{address, element, ip, link, mac, model, name, pair, pod, put, route, table, via};

pub fn allow(_: &Key, _: &Entry) -> Result<(), String> {
    Ok(())
}

pub fn told(plan: &Plan) -> String {
    let line = |step: ripstop_plan::StepView| {
        let undo = step.inverse.map_or("no way back".to_owned(), |undo| format!("undo: {undo}"));
        format!("{} {} {} ({}; {undo})\n", step.step, step.action, step.object, step.reason)
    };
    plan.view().into_iter().map(line).collect()
}

/// Compares with an indented literal.
pub fn assert_told(plan: &Plan, expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let told = told(plan);
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told, expected, "told:\n{}", told.join("\n"));
}

/// Every step finds what it needs, and the goal is reached.
pub fn assert_runs(observed: &Model, desired: &Model, plan: &Plan) {
    let mut is = observed.clone();
    for step in &plan.steps {
        apply_to_model(&mut is, step).unwrap_or_else(|fault| panic!("{}: {}\n{}", fault.key, fault.why, told(plan)));
    }
    for (key, wanted) in desired.iter() {
        let found = is.get(key).unwrap_or_else(|| panic!("{key} is missing\n{}", told(plan)));
        assert!(wanted.object.satisfied_by(&found.object), "{key}\n{}", told(plan));
    }
}

pub fn planned(observed: &Model, desired: &Model) -> Plan {
    let plan = diff_all(observed, desired, &allow);
    assert_runs(observed, desired, &plan);
    plan
}

fn key_of(object: impl Into<Object>) -> Key {
    object.into().key()
}

fn rip0() -> Link {
    link(&Ns::Host, "rip0", LinkKind::Bridge)
}

fn tunnel(port: u16) -> Link {
    link(&Ns::Host, "ript1", LinkKind::Vxlan { vni: 1, port, local: ip("192.0.2.1") })
}

fn lease(value: &str) -> Record {
    let scope = RecordScope::Boot("leases".into());
    Record { scope, key: "c1.eth0".into(), value: value.into(), guard: RecordGuard::Any }
}

/// A routed pod: its file, its pair, and what makes it reachable.
fn routed_pod() -> Model {
    let [host, end, lo] = pair("rippa", &pod(1), "eth0");
    let ns = pod(1);
    model([
        lease("{}").into(),
        host.into(),
        end.into(),
        lo.into(),
        address(&ns, "eth0", "10.244.1.7", 32).into(),
        Neighbour { ns: ns.clone(), link: name("eth0"), ip: ip("169.254.1.1"), mac: mac(1) }.into(),
        route(&ns, "0.0.0.0/0", via("eth0", "169.254.1.1", false)).into(),
        route(&ns, "169.254.1.1/32", RouteTarget::Link(name("eth0"))).into(),
        route(&Ns::Host, "10.244.1.7/32", RouteTarget::Link(name("rippa"))).into(),
        Qdisc { ns: Ns::Host, link: name("rippa"), rate: 1_000_000, burst: 16_000, limit: 32_000 }.into(),
    ])
}

#[test]
fn a_pod_is_made_file_first_and_the_way_to_its_gateway_before_the_default_route() {
    assert_told(
        &planned(&Model::new(), &routed_pod()),
        "1 create file leases/c1.eth0 (missing; undo: delete file leases/c1.eth0)
         2 create link rippa (missing; undo: delete link rippa)
         3 create link eth0 in /run/netns/p1 (missing; no way back)
         4 create link lo in /run/netns/p1 (missing; no way back)
         5 create address 10.244.1.7 dev eth0 in /run/netns/p1 (missing; undo: delete address 10.244.1.7 dev eth0 in /run/netns/p1)
         6 create neighbour 169.254.1.1 dev eth0 in /run/netns/p1 (missing; undo: delete neighbour 169.254.1.1 dev eth0 in /run/netns/p1)
         7 create route 10.244.1.7/32 (missing; undo: delete route 10.244.1.7/32)
         8 create route 169.254.1.1/32 in /run/netns/p1 (missing; undo: delete route 169.254.1.1/32 in /run/netns/p1)
         9 create route 0.0.0.0/0 in /run/netns/p1 (missing; undo: delete route 0.0.0.0/0 in /run/netns/p1)
         10 create qdisc dev rippa (missing; undo: delete qdisc dev rippa)",
    );
}

/// The link takes along what lies in the pod, so nothing is asked of a namespace that may be gone. The file is the promise
/// of the address: it goes last, and what another node might use by then cannot be called back.
#[test]
fn a_pod_leaves_by_its_link_and_its_file_goes_last() {
    assert_told(
        &planned(&routed_pod(), &Model::new()),
        "1 delete route 10.244.1.7/32 (no longer wanted; undo: create route 10.244.1.7/32)
         2 delete link rippa (no longer wanted; undo: create link rippa)
         3 delete file leases/c1.eth0 (no longer wanted; no way back)",
    );
}

/// What a pod sends is never longer than what the links of others take: its link grows behind the route that says what it
/// sends, and shrinks before that.
#[test]
fn a_link_grows_behind_routes_and_shrinks_before_them() {
    let of = |link_mtu, route_mtu| {
        let [host, end, _] = pair("rippa", &pod(1), "eth0");
        let gateway = route(&pod(1), "0.0.0.0/0", via("eth0", "169.254.1.1", true));
        model([
            Link { mtu: Some(link_mtu), ..host }.into(),
            Link { mtu: Some(link_mtu), ..end }.into(),
            Route { mtu: route_mtu, ..gateway }.into(),
        ])
    };
    assert_told(
        &planned(&of(1450, None), &of(1500, Some(1450))),
        "1 update route 0.0.0.0/0 in /run/netns/p1 (differs in mtu: null, wanted 1450; undo: update route 0.0.0.0/0 in /run/netns/p1)
         2 update link eth0 in /run/netns/p1 (differs in mtu: 1450, wanted 1500; undo: update link eth0 in /run/netns/p1)
         3 update link rippa (differs in mtu: 1450, wanted 1500; undo: update link rippa)",
    );
    assert_told(
        &planned(&of(1500, Some(1450)), &of(1450, None)),
        "1 update link rippa (differs in mtu: 1500, wanted 1450; undo: update link rippa)
         2 update link eth0 in /run/netns/p1 (differs in mtu: 1500, wanted 1450; undo: update link eth0 in /run/netns/p1)
         3 update route 0.0.0.0/0 in /run/netns/p1 (differs in mtu: 1450, wanted null; undo: update route 0.0.0.0/0 in /run/netns/p1)",
    );
}

/// Nothing is sent into a link that does not take it yet: the receiving end grows first and shrinks last.
#[test]
fn a_bridge_grows_last_and_shrinks_first() {
    let of = |mtu| {
        let [host, end, _] = pair("ripa", &pod(1), "eth0");
        let port = BridgePort { hairpin: true, learning: true };
        let links = [rip0(), Link { master: Some(name("rip0")), port: Some(port), ..host }, end];
        model(links.map(|link| Link { mtu: Some(mtu), ..link }.into()))
    };
    let order = |plan: &Plan| plan.steps.iter().map(|step| step.key.to_string()).collect::<Vec<_>>();
    let (bridge, host, end) = ("link rip0", "link ripa", "link eth0 in /run/netns/p1");
    assert_eq!(order(&planned(&of(1450), &of(1500))), [end, host, bridge]);
    assert_eq!(order(&planned(&of(1500), &of(1450))), [bridge, host, end]);
}

/// What is remembered of a pod's namespace is not removed there when the link has gone: the path may be another pod's.
#[test]
fn a_namespace_without_our_link_is_left_alone() {
    let mut observed = routed_pod();
    observed.remove(&key_of(pair("rippa", &pod(1), "eth0")[0].clone()));
    assert_told(
        &planned(&observed, &Model::new()),
        "1 delete qdisc dev rippa (no longer wanted; undo: create qdisc dev rippa)
         2 delete route 10.244.1.7/32 (no longer wanted; undo: create route 10.244.1.7/32)
         3 delete file leases/c1.eth0 (no longer wanted; no way back)",
    );
}

/// The other end was renamed or moved: it cannot be brought back, so the pair is made again with everything on it.
#[test]
fn a_pair_whose_other_end_vanished_is_made_again() {
    let desired = routed_pod();
    let mut observed = desired.clone();
    let end = pair("rippa", &pod(1), "eth0")[1].clone().key();
    observed.remove(&end);
    let plan = planned(&observed, &desired);
    let told = told(&plan);
    assert!(told.starts_with("1 delete link rippa (its other end, link eth0 in /run/netns/p1, is gone;"), "{told}");
    assert_eq!(plan.steps.len(), 9, "everything but the file and lo\n{told}");
}

/// A namespace that nobody looked into is not a namespace in which something is missing.
#[test]
fn a_pair_is_not_torn_because_its_pod_was_not_looked_into() {
    let desired = routed_pod();
    let mut observed = desired.clone();
    observed.retain(|key, _| key.ns() != Some(&pod(1)));
    let plan = diff_all(&observed, &desired, &allow);
    assert!(plan.steps.iter().all(|step| step.action == Action::Create), "{}", told(&plan));
    assert!(plan.steps.iter().all(|step| step.key.ns() == Some(&pod(1))), "{}", told(&plan));
}

/// The pair vanished behind our back, and its pod's side is still remembered.
#[test]
fn a_lost_pair_is_made_with_everything_that_was_remembered_of_it() {
    let desired = routed_pod();
    let mut observed = desired.clone();
    observed.remove(&key_of(pair("rippa", &pod(1), "eth0")[0].clone()));
    let told = told(&diff_all(&observed, &desired, &allow));
    for object in ["link rippa", "link eth0", "address 10.244.1.7", "route 0.0.0.0/0", "qdisc dev rippa"] {
        assert!(told.contains(&format!("create {object}")), "{object}:\n{told}");
    }
}

/// One end of a pair has a name that a leaving pair's still has: that goes first, though removals come last.
#[test]
fn a_leaving_pair_makes_room_for_one_that_takes_its_place() {
    let of = |host: &str| model(pair(host, &pod(1), "eth0").map(Object::from));
    assert_told(
        &planned(&of("rippz"), &of("rippa")),
        "1 delete link rippz (no longer wanted; undo: create link rippz)
         2 create link rippa (missing; undo: delete link rippa)
         3 create link eth0 in /run/netns/p1 (written anew with link rippz; no way back)",
    );
}

/// The network got another identifier: the new device takes the old one's alternative name, of which there can be one. The
/// nexthop that would have moved goes with the old device, and is made instead.
#[test]
fn a_leaving_tunnel_makes_room_for_one_of_its_name() {
    let of = |dev: &str, vni| {
        let kind = LinkKind::Vxlan { vni, port: 8472, local: ip("192.0.2.1") };
        let link = Link { altname: Some("ripstop.tunnel.default".into()), ..link(&Ns::Host, dev, kind) };
        let nexthop = Nexthop { id: 0x5200_0001, link: name(dev), gateway: ip("10.244.2.1"), onlink: true };
        model([link.into(), nexthop.into()])
    };
    assert_told(
        &planned(&of("ript1", 1), &of("ript2", 2)),
        "1 delete link ript1 (no longer wanted; undo: create link ript1)
         2 create link ript2 (missing; undo: delete link ript2)
         3 create nexthop id 1375731713 (written anew with link ript1; undo: delete nexthop id 1375731713)",
    );
}

/// A tunnel device cannot change its port: neighbour, nexthop and routes go with the old one and are written again,
/// though the change is only about the device.
#[test]
fn what_hangs_on_a_remade_link_is_written_again() {
    let id = 0x5200_0001;
    let through = |port| {
        model([
            tunnel(port).into(),
            Neighbour { ns: Ns::Host, link: name("ript1"), ip: ip("10.244.2.1"), mac: mac(2) }.into(),
            Nexthop { id, link: name("ript1"), gateway: ip("10.244.2.1"), onlink: true }.into(),
            route(&Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(id)).into(),
            route(&Ns::Host, "10.244.1.0/24", RouteTarget::Unreachable).into(),
        ])
    };
    let (observed, desired) = (through(8472), through(4789));
    let plan = diff(&observed, &desired, &BTreeSet::from([key_of(tunnel(4789))]), &allow);
    assert_runs(&observed, &desired, &plan);
    assert_told(
        &plan,
        "1 delete link ript1 (differs in kind; undo: create link ript1)
         2 create link ript1 (differs in kind; undo: delete link ript1)
         3 create neighbour 10.244.2.1 dev ript1 (written anew with link ript1; undo: delete neighbour 10.244.2.1 dev ript1)
         4 create nexthop id 1375731713 (written anew with link ript1; undo: delete nexthop id 1375731713)
         5 create route 10.244.2.0/24 (written anew with link ript1; undo: delete route 10.244.2.0/24)",
    );
}

#[test]
fn ports_come_back_to_a_bridge_that_is_made_again() {
    let port = |host: &str| {
        let [mut first, second, lo] = pair(host, &pod(1), "eth0");
        first.master = Some(name("rip0"));
        first.port = Some(BridgePort { hairpin: true, learning: true });
        [first, second, lo]
    };
    let mut desired = model(port("ripa").map(Object::from));
    put(&mut desired, rip0());
    let mut observed = desired.clone();
    put(&mut observed, link(&Ns::Host, "rip0", LinkKind::Ifb { index: 0x4000_0001 }));
    assert_told(
        &planned(&observed, &desired),
        "1 delete link rip0 (differs in kind: another, wanted bridge; undo: create link rip0)
         2 create link rip0 (differs in kind: another, wanted bridge; undo: delete link rip0)
         3 update link ripa (lost link rip0; undo: update link ripa)",
    );
    // The bridge is missing and its port has not been seen without it yet. By name alone the port came first.
    let mut observed = desired.clone();
    observed.remove(&key_of(rip0()));
    assert_told(
        &planned(&observed, &desired),
        "1 create link rip0 (missing; undo: delete link rip0)
         2 update link ripa (lost link rip0; undo: update link ripa)",
    );
}

/// IPv4 routes go with the address that is their source; the kernel does not say so.
#[test]
fn routes_come_back_with_the_address_they_leave_from() {
    let of = |len| {
        model([
            rip0().into(),
            address(&Ns::Host, "rip0", "10.244.1.1", len).into(),
            Route { src: Some(ip("10.244.1.1")), ..route(&Ns::Host, "10.244.2.0/24", via("eth0", "192.0.2.9", true)) }
                .into(),
        ])
    };
    assert_told(
        &planned(&of(24), &of(32)),
        "1 delete address 10.244.1.1 dev rip0 (differs in len: 24, wanted 32; undo: create address 10.244.1.1 dev rip0)
         2 create address 10.244.1.1 dev rip0 (differs in len: 24, wanted 32; undo: delete address 10.244.1.1 dev rip0)
         3 create route 10.244.2.0/24 (written anew with address 10.244.1.1 dev rip0; undo: delete route 10.244.2.0/24)",
    );
}

/// The peer moved to IPv6: one nexthop object cannot follow, and its routes go with it.
#[test]
fn a_nexthop_of_the_other_family_is_another_object() {
    let id = 0x5200_0001;
    let of = |gateway: &str, dst: &str| {
        model([
            Nexthop { id, link: name("eth0"), gateway: ip(gateway), onlink: false }.into(),
            route(&Ns::Host, dst, RouteTarget::Nexthop(id)).into(),
        ])
    };
    assert_told(
        &planned(&of("192.0.2.2", "10.244.2.0/24"), &of("2001:db8::2", "fd00:2::/64")),
        "1 delete nexthop id 1375731713 (differs in gateway: 192.0.2.2, wanted 2001:db8::2; undo: create nexthop id 1375731713)
         2 create nexthop id 1375731713 (differs in gateway: 192.0.2.2, wanted 2001:db8::2; undo: delete nexthop id 1375731713)
         3 create route fd00:2::/64 (missing; undo: delete route fd00:2::/64)
         4 delete route 10.244.2.0/24 (no longer wanted; undo: create route 10.244.2.0/24)",
    );
    // A move within the family is one step, whatever the count of routes.
    assert_told(
        &planned(&of("192.0.2.2", "10.244.2.0/24"), &of("192.0.2.3", "10.244.2.0/24")),
        "1 update nexthop id 1375731713 (differs in gateway: 192.0.2.2, wanted 192.0.2.3; undo: update nexthop id 1375731713)",
    );
}

/// A peer that is refused keeps its route, which now leads nowhere, and loses its nexthop afterwards.
#[test]
fn a_route_moves_away_before_its_nexthop_goes() {
    let id = 0x5200_0001;
    let observed = model([
        Nexthop { id, link: name("eth0"), gateway: ip("192.0.2.2"), onlink: false }.into(),
        route(&Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(id)).into(),
    ]);
    let desired = model([route(&Ns::Host, "10.244.2.0/24", RouteTarget::Unreachable).into()]);
    assert_told(
        &planned(&observed, &desired),
        "1 update route 10.244.2.0/24 (differs in target: another, wanted unreachable; undo: update route 10.244.2.0/24)
         2 delete nexthop id 1375731713 (no longer wanted; undo: create nexthop id 1375731713)",
    );
}

fn port(n: u16) -> Object {
    let key = ElementValue::new(false, [Value::Service(n)]);
    element(TableFamily::Inet, "ports", key, ElementBody::default()).into()
}

fn marked(mark: u32) -> Object {
    let body = ElementBody::data(Data::Values(vec![Value::Mark(mark)]));
    element(TableFamily::Inet, "map", ElementValue::new(false, [Value::Service(80)]), body).into()
}

/// A table is replaced whole, in one transaction with its elements: those that stay are in it, those that go are not.
#[test]
fn elements_are_written_again_with_their_table() {
    let observed = model([NftTable { table: table(TableFamily::Inet, 1) }.into(), port(1), port(2)]);
    let desired = model([NftTable { table: table(TableFamily::Inet, 3) }.into(), port(1), port(3)]);
    assert_told(
        &planned(&observed, &desired),
        "1 update nft table inet ripstop (differs in table; undo: update nft table inet ripstop)
         2 create nft element inet ripstop ports { 1 } (written anew with nft table inet ripstop; undo: delete nft element inet ripstop ports { 1 })
         3 create nft element inet ripstop ports { 3 } (missing; undo: delete nft element inet ripstop ports { 3 })",
    );
}

#[test]
fn an_element_cannot_change_its_value_in_place() {
    let of = |mark| model([NftTable { table: table(TableFamily::Inet, 1) }.into(), marked(mark)]);
    assert_told(
        &planned(&of(1), &of(2)),
        "1 delete nft element inet ripstop map { 80 } (differs in body; undo: create nft element inet ripstop map { 80 })
         2 create nft element inet ripstop map { 80 } (differs in body; undo: delete nft element inet ripstop map { 80 })",
    );
}

/// The rules changed with a new version, and the store has not said yet which peers there are: what is known of them from
/// the kernel goes into the new table.
#[test]
fn elements_of_owners_not_known_yet_move_to_the_new_table() {
    let observed = model([NftTable { table: table(TableFamily::Inet, 1) }.into(), port(1), port(2)]);
    let desired = model([NftTable { table: table(TableFamily::Inet, 3) }.into(), port(1)]);
    let unknown = |_: &Key, _: &Entry| Err("kept: nodes have not been read yet".to_owned());
    let plan = diff_all(&observed, &desired, &unknown);
    assert_told(
        &plan,
        "1 update nft table inet ripstop (differs in table; undo: update nft table inet ripstop)
         2 create nft element inet ripstop ports { 1 } (written anew with nft table inet ripstop; undo: delete nft element inet ripstop ports { 1 })
         3 create nft element inet ripstop ports { 2 } (kept, and written anew with nft table inet ripstop; undo: delete nft element inet ripstop ports { 2 })
         4 refuse nft element inet ripstop ports { 2 } (kept: nodes have not been read yet; no way back)",
    );
}

/// The tunnel's owner is known to be gone, its peers' owners are not known: nothing goes yet.
#[test]
fn what_a_kept_object_hangs_on_is_kept_too() {
    let observed = model([
        tunnel(8472).into(),
        Neighbour { ns: Ns::Host, link: name("ript1"), ip: ip("10.244.2.1"), mac: mac(2) }.into(),
        rip0().into(),
    ]);
    let guard = |key: &Key, _: &Entry| match key {
        Key::Neighbour { .. } => Err("kept: nodes have not been read yet".to_owned()),
        _ => Ok(()),
    };
    assert_told(
        &diff_all(&observed, &Model::new(), &guard),
        "1 refuse link ript1 (neighbour 10.244.2.1 dev ript1 needs it and is kept; no way back)
         2 refuse neighbour 10.244.2.1 dev ript1 (kept: nodes have not been read yet; no way back)
         3 delete link rip0 (no longer wanted; undo: create link rip0)",
    );
}

/// A setting has a value, not a presence: what it was before we set it is not known unless it was read.
#[test]
fn settings_are_changed_and_never_removed() {
    let of = |value: &str| {
        model([Sysctl { ns: Ns::Host, link: None, path: "net/ipv4/ip_forward".into(), value: value.into() }.into()])
    };
    assert_told(
        &planned(&of("0"), &of("1")),
        "1 update sysctl net.ipv4.ip_forward (differs in value: 0, wanted 1; undo: update sysctl net.ipv4.ip_forward)",
    );
    assert_told(&planned(&Model::new(), &of("1")), "1 create sysctl net.ipv4.ip_forward (missing; no way back)");
    assert_told(&planned(&of("1"), &Model::new()), "");
}

#[test]
fn records_change_in_place_and_their_removal_has_no_way_back() {
    let plan = planned(&model([lease("1").into()]), &model([lease("2").into()]));
    assert_told(
        &plan,
        "1 update file leases/c1.eth0 (differs in value: 1, wanted 2; undo: update file leases/c1.eth0)",
    );
    let undo = plan.steps[0].inverse().unwrap();
    assert_eq!(undo.after.unwrap().object, lease("1").into());
    let plan = planned(&model([lease("1").into()]), &Model::new());
    assert!(plan.steps[0].is_irreversible() && plan.steps[0].inverse().is_none());
}

/// Only the keys that are asked for are touched; what only looks wrong elsewhere is not this plan's.
#[test]
fn other_keys_are_left_alone() {
    let desired = model([rip0().into(), tunnel(8472).into()]);
    let plan = diff(&Model::new(), &desired, &BTreeSet::from([key_of(rip0())]), &allow);
    assert_told(&plan, "1 create link rip0 (missing; undo: delete link rip0)");
    assert!(diff(&Model::new(), &desired, &BTreeSet::new(), &allow).is_empty());
}

/// The owner is the wanted object's, otherwise that of what was there; what nobody is known to own is the agent's.
#[test]
fn a_step_names_the_object_that_caused_it() {
    let owned = |object: Object, owner: Option<Owner>| {
        let mut model = Model::new();
        model.insert(object, owner);
        model
    };
    let new = owned(rip0().into(), Some(Owner::network("default")));
    let old = owned(Link { up: false, ..rip0() }.into(), Some(Owner::from_mark("stranger")));
    let owner = |plan: &Plan| plan.steps[0].owner.to_string();
    assert_eq!(owner(&planned(&old, &new)), "network/default");
    assert_eq!(owner(&planned(&old, &Model::new())), "stranger");
    assert_eq!(owner(&planned(&owned(rip0().into(), None), &Model::new())), "agent");
}

#[test]
fn a_refusal_does_nothing_and_is_shown() {
    let observed = model([rip0().into()]);
    let plan = diff_all(&observed, &Model::new(), &|_: &Key, _: &Entry| Err("not known yet".to_owned()));
    let mut model = observed.clone();
    apply_to_model(&mut model, &plan.steps[0]).unwrap();
    assert_eq!(model, observed);
    assert!(plan.inverse(&observed).is_empty());
    let view = serde_json::to_value(plan.view()).unwrap();
    let expected = serde_json::json!([{
        "step": 1, "action": "refuse", "object": "link rip0", "owner": "test", "reason": "not known yet",
        "inverse": null, "state": null
    }]);
    assert_eq!(view, expected);
}

fn create(object: Object) -> Step {
    Step {
        action: Action::Create,
        key: object.key(),
        after: Some(Entry { object, owner: None }.into()),
        before: None,
        owner: Owner::agent(),
        reason: "test".into(),
    }
}

/// Refused with this sentence, and nothing is changed.
fn assert_refused(there: &Model, object: impl Into<Object>, why: &str) {
    let mut model = there.clone();
    let fault = apply_to_model(&mut model, &create(object.into())).unwrap_err();
    assert_eq!(fault.why, why, "{}", fault.key);
    assert_eq!(model, *there, "a refused step changes nothing");
}

/// A tunnel, a bridge, and a pod's pair.
fn some_links() -> Model {
    let [first, second, _] = pair("rippa", &pod(1), "eth0");
    model([tunnel(8472).into(), rip0().into(), first.into(), second.into()])
}

#[test]
fn the_model_refuses_what_needs_something_that_is_not_there() {
    let none = Model::new();
    assert_refused(&none, address(&Ns::Host, "rip0", "10.0.0.1", 24), "needs link rip0, which is not there");
    assert_refused(&none, port(1), "needs nft table inet ripstop, which is not there");
    let [first, second, _] = pair("rippa", &pod(1), "eth0");
    let in_bridge = Link { master: Some(name("rip0")), ..first };
    assert_refused(&none, in_bridge, "needs link rip0, which is not there");
    assert_refused(&none, second, "is not there: it is made with the pair's first end");
    let all = Prefix::default_route(ripstop_types::Family::V6);
    assert_refused(
        &model([NftTable { table: table(TableFamily::Inet, 2) }.into()]),
        element(TableFamily::Inet, "ranges", ElementValue::new(true, [all]), ElementBody::default()),
        "table inet ripstop, set ranges, element: the table declares no such set",
    );
    let by_nexthop = route(&Ns::Host, "10.0.0.0/8", RouteTarget::Nexthop(7));
    assert_refused(&none, by_nexthop, "needs nexthop id 7, which is not there");
    let there = some_links();
    let from_nowhere = Route { src: Some(ip("10.0.0.1")), ..route(&Ns::Host, "10.0.0.0/8", RouteTarget::Unreachable) };
    assert_refused(&there, from_nowhere, "its source 10.0.0.1 is no address of the namespace");
    let by_a_stranger = route(&pod(1), "0.0.0.0/0", via("eth0", "169.254.1.1", false));
    assert_refused(&there, by_a_stranger, "its gateway 169.254.1.1 is not on eth0");
    // The uplink is not ours and in no model; it may be referred to.
    let uplink = route(&Ns::Host, "10.0.0.0/8", via("eth0", "192.0.2.1", true));
    apply_to_model(&mut Model::new(), &create(uplink.into())).unwrap();
}

#[test]
fn the_model_refuses_what_another_has_already() {
    let there = some_links();
    assert_refused(&there, tunnel(4789), "is there and cannot become what is asked in place");
    let twin = Link { name: name("ript2"), ..tunnel(8472) };
    assert_refused(&there, twin, "link ript1 has the same alternative name, or network identifier and port");
    let named = |link: Link| Link { altname: Some("one.name".into()), ..link };
    let there = model([named(rip0()).into()]);
    assert_refused(
        &there,
        named(tunnel(8472)),
        "link rip0 has the same alternative name, or network identifier and port",
    );
    let [other, _, _] = pair("rippb", &pod(1), "eth0");
    assert_refused(&some_links(), other, "link eth0 in /run/netns/p1 is the other end of link rippa");
}

/// A link whose router's advertisements are not taken any more loses their routes when forwarding is turned on.
#[test]
fn advertisements_are_accepted_before_the_node_forwards() {
    let setting = |path: &str, value: &str| Sysctl { ns: Ns::Host, link: None, path: path.into(), value: value.into() };
    let settings = |values: [&str; 2]| {
        model([
            setting("net/ipv6/conf/all/forwarding", values[0]).into(),
            setting("net/ipv6/conf/eth0/accept_ra", values[1]).into(),
        ])
    };
    let plan = planned(&settings(["0", "1"]), &settings(["1", "2"]));
    assert_told(
        &plan,
        "1 update sysctl net.ipv6.conf.eth0.accept_ra (differs in value: 1, wanted 2; undo: update sysctl net.ipv6.conf.eth0.accept_ra)
         2 update sysctl net.ipv6.conf.all.forwarding (differs in value: 0, wanted 1; undo: update sysctl net.ipv6.conf.all.forwarding)",
    );
}
