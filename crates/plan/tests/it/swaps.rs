//! Networks that swap what only one of them can have: names, network identifiers, devices.

use std::collections::BTreeSet;

use proptest::prelude::*;
use ripstop_netmodel::{Entry, Fdb, Key, Link, LinkKind, Model, Nexthop, Ns, Object, Resource, RouteTarget};
use ripstop_plan::{Action, Plan, apply_to_model, diff, diff_all};

use crate::cases::{allow, assert_told, planned, told};
use crate::laws::config;
use crate::world::{address, ip, link, mac, model, name, pair, pod, route};

/// A tunnel device of a network.
fn tunnel(device: &str, vni: u32, network: &str) -> Link {
    let kind = LinkKind::Vxlan { vni, port: 8472, local: ip("192.0.2.1") };
    Link { altname: Some(format!("ripstop.tunnel.{network}").into()), ..link(&Ns::Host, device, kind) }
}

/// What reaches one peer of a network by its device.
fn peer(device: &str, number: u8) -> [Object; 3] {
    let id = 0x5200_0000 + u32::from(number);
    let inner = format!("10.{number}.2.1");
    [
        Fdb { link: name(device), mac: mac(number), dst: ip("192.0.2.2") }.into(),
        Nexthop { id, link: name(device), gateway: ip(&inner), onlink: true }.into(),
        route(&Ns::Host, &format!("10.{number}.2.0/24"), RouteTarget::Nexthop(id)).into(),
    ]
}

fn with_peers(links: [Link; 2], devices: [&str; 2]) -> Model {
    let peers = [peer(devices[0], 1), peer(devices[1], 2)].into_iter().flatten();
    let objects = links.into_iter().map(Object::from).chain(peers);
    objects.map(|object| Entry { object, owner: Some(crate::world::owner()) }).collect()
}

fn key(device: &str) -> Key {
    Key::Link { ns: Ns::Host, name: name(device) }
}

/// The devices stay, with everything that goes through them; only whose they are changes.
#[test]
fn two_networks_swap_their_identifiers() {
    let before = with_peers([tunnel("ript1", 1, "a"), tunnel("ript2", 2, "b")], ["ript1", "ript2"]);
    let after = with_peers([tunnel("ript1", 1, "b"), tunnel("ript2", 2, "a")], ["ript2", "ript1"]);
    assert_told(
        &planned(&before, &after),
        "1 update link ript1 (another link takes its alternative name; undo: update link ript1)
         2 update link ript2 (another link takes its alternative name; undo: update link ript2)
         3 update link ript1 (differs in altname: ripstop.tunnel.a, wanted ripstop.tunnel.b; undo: update link ript1)
         4 update link ript2 (differs in altname: ripstop.tunnel.b, wanted ripstop.tunnel.a; undo: update link ript2)
         5 create fdb 0a:00:00:00:00:02 dev ript1 (missing; undo: delete fdb 0a:00:00:00:00:02 dev ript1)
         6 create fdb 0a:00:00:00:00:01 dev ript2 (missing; undo: delete fdb 0a:00:00:00:00:01 dev ript2)
         7 update nexthop id 1375731713 (differs in link: ript1, wanted ript2; undo: update nexthop id 1375731713)
         8 update nexthop id 1375731714 (differs in link: ript2, wanted ript1; undo: update nexthop id 1375731714)
         9 delete fdb 0a:00:00:00:00:02 dev ript2 (no longer wanted; undo: create fdb 0a:00:00:00:00:02 dev ript2)
         10 delete fdb 0a:00:00:00:00:01 dev ript1 (no longer wanted; undo: create fdb 0a:00:00:00:00:01 dev ript1)",
    );
    // Asked for one of both devices, the plan takes the other along: neither works alone.
    let plan = diff(&before, &after, &BTreeSet::from([key("ript1")]), &allow);
    let touched: Vec<String> = plan.steps.iter().map(|step| step.key.to_string()).collect();
    assert_eq!(touched, ["link ript1", "link ript2", "link ript1", "link ript2"]);
}

/// A device that gets its identifier from one that goes, which gave it to one that is new.
#[test]
fn an_identifier_is_passed_on() {
    let before = model([tunnel("ript3", 3, "a").into(), tunnel("ript4", 4, "b").into()]);
    let after = model([tunnel("ript1", 1, "a").into(), tunnel("ript3", 3, "b").into()]);
    assert_told(
        &planned(&before, &after),
        "1 update link ript3 (another link takes its alternative name; undo: update link ript3)
         2 delete link ript4 (no longer wanted; undo: create link ript4)
         3 create link ript1 (missing; undo: delete link ript1)
         4 update link ript3 (differs in altname: ripstop.tunnel.a, wanted ripstop.tunnel.b; undo: update link ript3)",
    );
}

/// A network identifier cannot be changed in place: devices that swap theirs are made anew, both removed first.
#[test]
fn devices_swap_their_identifiers() {
    let before = model([tunnel("ripa", 1, "a").into(), tunnel("ripb", 2, "b").into()]);
    let after = model([tunnel("ripa", 2, "a").into(), tunnel("ripb", 1, "b").into()]);
    assert_told(
        &planned(&before, &after),
        "1 delete link ripa (differs in kind; undo: create link ripa)
         2 delete link ripb (differs in kind; undo: create link ripb)
         3 create link ripa (differs in kind; undo: delete link ripa)
         4 create link ripb (differs in kind; undo: delete link ripb)",
    );
}

/// The holder is kept until its owner's kind is known: who wants what it has is refused, with what would hang on it.
#[test]
fn what_a_kept_link_has_is_refused_to_others() {
    let before = model([tunnel("ript1", 1, "a").into()]);
    let peers: Vec<Entry> = model([tunnel("ript2", 2, "a").into()]).iter().map(|(_, e)| (**e).clone()).collect();
    let hanging = peer("ript2", 1).into_iter().map(|object| Entry { object, owner: None });
    let after: Model = peers.into_iter().chain(hanging).collect();
    let keep = |_: &Key, _: &Entry| Err("nobody knows yet".to_owned());
    let plan = diff_all(&before, &after, &keep);
    assert_told(
        &plan,
        "1 refuse link ript1 (nobody knows yet; no way back)
         2 refuse link ript2 (link ript1 has the alternative name ripstop.tunnel.a, and keeps it: nobody knows yet; no way back)
         3 refuse fdb 0a:00:00:00:00:01 dev ript2 (needs link ript2, which is refused; no way back)
         4 refuse nexthop id 1375731713 (needs link ript2, which is refused; no way back)
         5 refuse route 10.1.2.0/24 (needs nexthop id 1375731713, which is refused; no way back)",
    );
    // Once it is known, everything finds its place.
    planned(&before, &after);
}

/// A pair that should take the place of another link, and has to wait: its other end does not come by itself.
#[test]
fn of_a_pair_that_is_refused_no_end_comes() {
    let pod = pod(1);
    let kept = Link { altname: Some("ripstop.network.a".into()), ..link(&Ns::Host, "ripz", LinkKind::Bridge) };
    let bridge = Link { name: name("rip0"), ..kept.clone() };
    let before = model([kept.into(), link(&Ns::Host, "ripp2", LinkKind::Tun).into()]);
    let [host, end, _] = pair("ripp2", &pod, "eth0");
    let host = Link { master: Some(name("rip0")), ..host };
    let after = model([bridge.into(), host.into(), end.into(), address(&pod, "eth0", "10.244.1.2", 32).into()]);
    let keep =
        |key: &Key, _: &Entry| if key.to_string() == "link ripz" { Err("nobody knows yet".to_owned()) } else { Ok(()) };
    assert_told(
        &diff_all(&before, &after, &keep),
        "1 refuse link rip0 (link ripz has the alternative name ripstop.network.a, and keeps it: nobody knows yet; no way back)
         2 refuse link ripp2 (needs link rip0, which is refused; no way back)
         3 refuse link ripz (nobody knows yet; no way back)
         4 refuse link eth0 in /run/netns/p1 (needs link ripp2, which is refused; no way back)
         5 refuse address 10.244.1.2 dev eth0 in /run/netns/p1 (needs link eth0 in /run/netns/p1, which is refused; no way back)",
    );
}

#[test]
fn of_two_that_want_one_name_the_first_gets_it() {
    let both = model([tunnel("ript1", 1, "a").into(), tunnel("ript2", 2, "a").into()]);
    assert_told(
        &diff_all(&Model::new(), &both, &allow),
        "1 create link ript1 (missing; undo: delete link ript1)
         2 refuse link ript2 (link ript1 wants the same name, network identifier or other end; no way back)",
    );
    let second = model([tunnel("ript2", 2, "a").into()]);
    assert_told(
        &diff_all(&second, &both, &allow),
        "1 refuse link ript1 (link ript2 has the alternative name ripstop.tunnel.a, and keeps it; no way back)",
    );
}

/// Devices with their cards dealt: who has which name, and which identifier.
fn dealt(names: &[usize], identifiers: &[u32], there: &[bool]) -> Model {
    let mut model = Model::new();
    for (n, device) in ["ripa", "ripb", "ripc", "ripd"].into_iter().enumerate().filter(|(n, _)| there[*n]) {
        let of = ["a", "b", "c", "d"][names[n]];
        model.insert(tunnel(device, identifiers[n], of), Some(crate::world::owner()));
        for object in peer(device, u8::try_from(n).unwrap() + 1) {
            model.insert(object, Some(crate::world::owner()));
        }
    }
    model
}

fn cards() -> impl Strategy<Value = Model> {
    let names = Just(vec![0_usize, 1, 2, 3]).prop_shuffle();
    let identifiers = prop_oneof![Just(vec![1_u32, 2, 3, 4]), Just(vec![1_u32, 2, 3, 4]).prop_shuffle()];
    let there = prop::collection::vec(prop::bool::weighted(0.8), 4);
    (names, identifiers, there).prop_map(|(names, identifiers, there)| dealt(&names, &identifiers, &there))
}

fn run(model: &mut Model, plan: &Plan) -> Result<(), TestCaseError> {
    for step in &plan.steps {
        let applied = apply_to_model(model, step);
        prop_assert!(applied.is_ok(), "{applied:?}\n{}", told(plan));
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    /// However names and identifiers are passed around: one plan gets there, broken off anywhere a second one does, and
    /// nothing is removed for a name.
    #[test]
    fn every_swap_converges(before in cards(), after in cards(), cut in any::<prop::sample::Index>()) {
        let plan = diff_all(&before, &after, &allow);
        prop_assert!(plan.steps.iter().all(|step| step.action != Action::Refuse), "{}", told(&plan));
        let mut is = before.clone();
        let (first, rest) = plan.steps.split_at(cut.index(plan.steps.len() + 1));
        run(&mut is, &Plan { steps: first.to_vec() })?;
        let mut broken_off = is.clone();
        run(&mut is, &Plan { steps: rest.to_vec() })?;
        prop_assert_eq!(&is, &after);
        let next = diff_all(&broken_off, &after, &allow);
        run(&mut broken_off, &next)?;
        prop_assert_eq!(&broken_off, &after);
        for step in plan.steps.iter().filter(|step| step.action == Action::Delete) {
            if let (Some(was), Some(wanted)) = (before.get(&step.key), after.get(&step.key)) {
                prop_assert!(!wanted.object.can_update(&was.object), "{} is removed for a name", step.key);
            }
        }
    }

    /// A plan that was asked for one device alone does what that one needs.
    #[test]
    fn one_device_takes_along_whom_it_needs(before in cards(), after in cards(), pick in 0_usize..4) {
        let asked = key(["ripa", "ripb", "ripc", "ripd"][pick]);
        let mut is = before.clone();
        run(&mut is, &diff(&before, &after, &BTreeSet::from([asked.clone()]), &allow))?;
        prop_assert_eq!(is.get(&asked), after.get(&asked));
    }
}
