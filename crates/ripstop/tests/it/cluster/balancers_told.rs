//! What the machines of a segment are told of addresses of Services, asked and unasked, in both families.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ripstop_lab::Target;
use ripstop_types::Mac;

use super::balancers::{Scene, dual, judge};
use super::routers::Router;
use super::segment::{mac_of_name, settled};

const MS: Duration = Duration::from_millis(1);

/// What tells everybody unasked where an address is: there are those that heed only one of the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    ArpRequest,
    ArpReply,
    Advertisement,
}

/// The form of a frame that tells all that an address is at a hardware address.
fn form(frame: &[u8], address: IpAddr, mac: Mac) -> Option<Form> {
    let is = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
    match address {
        IpAddr::V4(ip) => {
            let about_itself = is(22, &mac.0) && is(28, &ip.octets()) && is(38, &ip.octets());
            let to_all = is(0, &[0xff; 6]) && is(6, &mac.0) && is(12, &[8, 6]) && about_itself;
            let operation = frame.get(21).filter(|_| to_all)?;
            [(1, Form::ArpRequest), (2, Form::ArpReply)]
                .into_iter()
                .find(|(of, _)| of == operation)
                .map(|(_, form)| form)
        }
        IpAddr::V6(ip) => {
            let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            let to_all = is(0, &[0x33, 0x33, 0, 0, 0, 1]) && is(6, &mac.0) && is(38, &all_nodes) && is(21, &[255]);
            // An advertisement that nobody asked for, and that overrides what is known.
            let says =
                is(54, &[136, 0]) && is(58, &[0x20]) && is(62, &ip.octets()) && is(78, &[2, 1]) && is(80, &mac.0);
            (to_all && says).then_some(Form::Advertisement)
        }
    }
}

#[test]
fn a_new_owner_tells_all_in_every_form_and_again() {
    let Some(scene) = Scene::of(dual("t-balancers-tell")) else { return };
    let before = settled(&scene);
    let (_, owner) = scene.elsewhere(&[1, 2, 3]);
    let capture = scene.lab.capture(&Target::Router, Some("sub1")).unwrap();
    scene.lab.node(owner).kill_agent(true).unwrap();
    scene.succeeded(owner);
    std::thread::sleep(6_000 * MS);
    let others: Vec<u32> = scene.nodes().into_iter().filter(|node| *node != owner).collect();
    let after: BTreeMap<IpAddr, String> =
        scene.owners(&others).into_iter().map(|(_, owner, at)| (at.ip(), owner)).collect();
    let packets = capture.stop().unwrap();
    let moved: Vec<IpAddr> = before.iter().filter(|(_, of)| *of == format!("n{owner}")).map(|(ip, _)| *ip).collect();
    for ip in &moved {
        let mac = mac_of_name(&after[ip]);
        let mut told: BTreeMap<Form, Vec<u64>> = BTreeMap::new();
        for packet in &packets {
            if let Some(form) = form(&packet.data, *ip, mac) {
                told.entry(form).or_default().push(packet.at);
            }
        }
        let counts: BTreeMap<Form, usize> = told.iter().map(|(form, all)| (*form, all.len())).collect();
        println!("{ip} at {}: {counts:?}", after[ip]);
        let forms = if ip.is_ipv4() { vec![Form::ArpRequest, Form::ArpReply] } else { vec![Form::Advertisement] };
        assert_eq!(told.keys().copied().collect::<Vec<_>>(), forms, "{ip}");
        for all in told.values() {
            let lasted = Duration::from_nanos(all.last().unwrap() - all[0]);
            assert!((4..=12).contains(&all.len()) && lasted > 4_500 * MS, "{ip}: {counts:?} in {lasted:?}");
        }
    }
    assert!(moved.iter().any(IpAddr::is_ipv4) && moved.iter().any(IpAddr::is_ipv6), "{moved:?}");
}

#[test]
fn a_router_that_forgot_is_answered_in_both_families() {
    let Some(scene) = Scene::of(dual("t-balancers-forgot")) else { return };
    let before = settled(&scene);
    let (addresses, _) = scene.elsewhere(&[1, 2, 3]);
    let router = Router::at_the_middle(&scene.lab);
    let known = || {
        let neighbour = |ip: &IpAddr| {
            let shown = router.ip(&format!("neigh show {ip} dev sub1"));
            shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
        };
        addresses.iter().map(|at| neighbour(&at.ip())).collect::<BTreeSet<_>>()
    };
    let owners = addresses.iter().map(|at| before.iter().find(|(ip, _)| *ip == at.ip()).unwrap().1.clone());
    let macs: BTreeSet<Option<String>> = owners.map(|owner| Some(mac_of_name(&owner).to_string())).collect();
    let flows = scene.flows(&addresses);
    std::thread::sleep(300 * MS);
    for _ in 0..5 {
        router.ip("-4 neigh flush dev sub1");
        router.ip("-6 neigh flush dev sub1");
        std::thread::sleep(300 * MS);
        assert_eq!(known(), macs);
    }
    judge("a router that forgets", flows, |ran| ran.lost() == 0);
}
