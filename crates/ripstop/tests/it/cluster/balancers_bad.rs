//! What is on a segment beside candidates: frames and datagrams that are not what they look like, and another cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ripstop_election::{Message, Timing, neighbour};
use ripstop_lab::{Families, Options, Target};
use ripstop_speaker::l2::PORT;
use ripstop_types::{Mac, NodeName};

use super::balancers::Scene;
use super::routers::Router;
use super::segment::{Candidate, Witness, frames, mac_of, mac_of_name, overlap, settled};
use super::{apply, inside, patiently};

const MS: Duration = Duration::from_millis(1);

/// Offsets in a frame of Ethernet.
const ARP: usize = 14;
const IP: usize = 14;
const ICMPV6: usize = IP + 40;
const UDP: usize = IP + 20;
const DATA: usize = UDP + 8;

/// The sum of 16-bit words, as checksums have it.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum = words.fold(0, |sum, word| (sum + word) % 0xffff);
    !u16::try_from(sum).unwrap()
}

/// A frame with other bytes.
fn with(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    changes.iter().for_each(|(at, byte)| frame[*at] = *byte);
    frame
}

/// A message of neighbour discovery with other bytes and the checksum that they need.
fn summed(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = with(frame, changes);
    (frame[ICMPV6 + 2], frame[ICMPV6 + 3]) = (0, 0);
    let message = &frame[ICMPV6..];
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    let sum = sum(&[&frame[IP + 8..ICMPV6], &[0, 0, length[0], length[1], 0, 0, 0, 58], message].concat());
    [frame[ICMPV6 + 2], frame[ICMPV6 + 3]] = sum.to_be_bytes();
    frame
}

/// Frames of ARP that say that a machine has an address, and are none.
fn bad_arp(good: &[u8]) -> Vec<Vec<u8>> {
    let fields = [(ARP, 1), (ARP + 1, 6), (ARP + 2, 0x86), (ARP + 4, 8), (ARP + 4, 0), (ARP + 5, 16), (ARP + 5, 0)];
    let operations = [0, 3, 4, 9, 255].map(|operation| (ARP + 7, operation));
    let senders = [(ARP + 8, 0xff), (ARP + 8, 0x01), (6, 0x01)];
    let changed = [&fields[..], &operations, &senders].concat();
    let changed = changed.into_iter().map(|change| with(good, &[change]));
    let nobody = (0..6).map(|byte| (ARP + 8 + byte, 0)).collect::<Vec<_>>();
    changed.chain([with(good, &nobody)]).chain((ARP..ARP + 28).map(|length| good[..length].to_vec())).collect()
}

/// The same of neighbour discovery.
fn bad_ndp(good: &[u8]) -> Vec<Vec<u8>> {
    let plain = [(IP, 0x50), (IP + 5, 200), (IP + 6, 17), (IP + 7, 64), (IP + 7, 254), (ICMPV6 + 2, !good[ICMPV6 + 2])];
    let plain = plain.into_iter().map(|change| with(good, &[change]));
    let option = ICMPV6 + 24;
    let unspecified: Vec<(usize, u8)> = (0..16).map(|byte| (IP + 8 + byte, 0)).collect();
    let no_target: Vec<(usize, u8)> = (0..16).map(|byte| (ICMPV6 + 8 + byte, 0)).collect();
    let counted = [
        &[(ICMPV6 + 1, 1)][..],
        &[(option + 1, 0)],
        &[(option + 1, 2)],
        &[(option + 1, 255)],
        &[(option + 2, 0x01)],
        &[(ICMPV6 + 8, 0xff)],
        &[(ICMPV6 + 4, 0x60)],
        &[(IP + 8, 0xff)],
        &unspecified,
        &no_target,
    ];
    let counted = counted.into_iter().map(|changes| summed(good, changes));
    plain.chain(counted).chain((IP..good.len()).map(|length| good[..length].to_vec())).collect()
}

/// A datagram of a candidate in a frame that a stranger sends.
fn datagram(seen: &[u8], from: Ipv4Addr, hops: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = seen[..DATA].to_vec();
    let length = u16::try_from(data.len() + 8).unwrap();
    frame[IP + 2..IP + 4].copy_from_slice(&(length + 20).to_be_bytes());
    (frame[IP + 8], frame[IP + 10], frame[IP + 11]) = (hops, 0, 0);
    frame[IP + 12..IP + 16].copy_from_slice(&from.octets());
    let head = sum(&frame[IP..UDP]).to_be_bytes();
    frame[IP + 10..IP + 12].copy_from_slice(&head);
    frame[UDP + 4..UDP + 6].copy_from_slice(&length.to_be_bytes());
    // None.
    frame[UDP + 6..UDP + 8].fill(0);
    frame.extend(data);
    frame
}

/// A candidate's datagrams to a node that are none, and one that would be one from the candidate's own address.
fn bad_datagrams(seen: &[u8], stranger: Ipv4Addr) -> (Vec<Vec<u8>>, Vec<u8>) {
    let from = Ipv4Addr::from(*seen[IP + 12..].first_chunk().unwrap());
    let good = &seen[DATA..];
    let cut = (0..good.len()).map(|length| good[..length].to_vec());
    let bytes = [(6, b'x'), (10, 0x7f), (11, 0xff), (12, 0xff), (14, 0), (14, 0xff), (15, 0xff)];
    let changed = bytes.into_iter().map(|change| with(good, &[change]));
    let longer = [[good, &[0]].concat(), [good, good].concat(), vec![0xff; 1_400]];
    let mut frames: Vec<Vec<u8>> =
        cut.chain(changed).chain(longer).map(|data| datagram(seen, from, 255, &data)).collect();
    // What it says is well said: from a router's other side, from a stranger, in another's name.
    let message = Message::read(&good[6..]).unwrap();
    let leaves = Message { seq: message.seq + 1_000_000, leaves: true, ..message };
    let data = |message: &Message| [&good[..6], &message.bytes().unwrap()].concat();
    frames.push(datagram(seen, from, 254, &data(&leaves)));
    frames.push(datagram(seen, stranger, 255, &data(&leaves)));
    let other: NodeName = if leaves.from.as_str() == "n1" { "n2" } else { "n1" }.parse().unwrap();
    frames.push(datagram(seen, from, 255, &data(&Message { from: other, ..leaves.clone() })));
    (frames, datagram(seen, from, 255, &data(&leaves)))
}

/// A datagram of one candidate to another, as it was received.
fn seen_datagram(scene: &Scene, node: u32, from: u32) -> Vec<u8> {
    let mut found = None;
    patiently("a candidate's datagram comes", || {
        let capture = scene.lab.capture(&Target::Node(node), Some("eth0")).unwrap();
        std::thread::sleep(50 * MS);
        let packets = capture.stop().unwrap();
        let is_one = |data: &[u8]| {
            data.get(6..12) == Some(&mac_of(from).0[..])
                && data.get(12..14) == Some(&[8, 0])
                && data.get(UDP + 2..UDP + 4) == Some(&PORT.to_be_bytes()[..])
                && Message::read(&data[DATA + 6..]).is_some()
        };
        found = packets.into_iter().map(|packet| packet.data).find(|data| is_one(data));
        found.is_some()
    });
    found.unwrap()
}

/// Warnings and worse in the logs of all agents.
fn complaints(scene: &Scene) -> Vec<String> {
    let logs =
        scene.nodes().into_iter().map(|node| std::fs::read_to_string(scene.lab.layout().agent_log(node)).unwrap());
    let all: Vec<String> = logs.flat_map(|log| log.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    all.into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR") || line.contains("panic")).collect()
}

fn processes(scene: &Scene) -> Vec<Option<i32>> {
    scene.nodes().into_iter().map(|node| scene.lab.node(node).agent().unwrap().map(|process| process.pid)).collect()
}

#[test]
fn frames_and_datagrams_that_are_not_as_they_must_be_change_nothing() {
    let Some(scene) = Scene::of(Options { families: Families::Dual, ..Options::named("t-balancers-bad") }) else {
        return;
    };
    let before = settled(&scene);
    let (said, ran) = (complaints(&scene), processes(&scene));
    let stranger = Router::beside(&scene.lab, "stranger", "172.30.1.2");
    let mac = stranger.mac();
    let target = |v4: bool| before.iter().find(|(ip, owner)| ip.is_ipv4() == v4 && owner != "n3").unwrap().clone();
    let [(four, owner), (six, _)] = [true, false].map(target);
    let arp = neighbour::announcements(mac, four).into_iter().flat_map(|frame| bad_arp(&frame));
    let ndp = neighbour::announcements(mac, six).into_iter().flat_map(|frame| bad_ndp(&frame));
    let seen = seen_datagram(&scene, 3, owner[1..].parse().unwrap());
    let (datagrams, good) = bad_datagrams(&seen, "172.30.1.2".parse().unwrap());
    let bad: Vec<Vec<u8>> = arp.chain(ndp).chain(datagrams).collect();
    let witness = Witness::start(&scene.lab, before.iter().map(|(ip, _)| *ip));
    let send = |all: Vec<Vec<u8>>| {
        let netns = scene.lab.layout().netns_path("stranger");
        inside(&netns, move || {
            let [socket, _] = frames("eth0");
            for frame in &all {
                // What is shorter than a head is refused here.
                let _ = socket.send(frame);
                std::thread::sleep(MS);
            }
            all.len()
        })
        .join()
        .unwrap()
    };
    let count = send(bad);
    patiently("owners are as they were", || settled(&scene) == before);
    let heard = witness.stop();
    let of_nodes = |mac: Mac| scene.nodes().into_iter().any(|node| mac_of(node) == mac);
    let mut of_services = heard.iter().filter(|one| before.iter().any(|(ip, _)| *ip == one.address));
    assert!(of_services.all(|one| of_nodes(one.mac)), "nobody else answered");
    let news: Vec<String> = complaints(&scene).into_iter().filter(|line| !said.contains(line)).collect();
    println!("{count} frames; two answered for {:?}; said of it: {news:?}", overlap(&heard));
    assert!(news.len() <= 1, "{news:#?}");
    assert_eq!(processes(&scene), ran, "no agent began anew");

    // The same that are as they must be are heard: each of the first was close to one.
    let row = |ip: IpAddr| scene.rows(3).into_iter().find(|row| row["ip"] == ip.to_string()).unwrap_or_default();
    send(vec![good]);
    patiently("a candidate's word that it leaves", || row(four)["owner"] != owner.as_str());
    send([four, six].into_iter().flat_map(|ip| neighbour::announcements(mac, ip)).collect());
    let told = |ip: IpAddr| {
        scene.nodes().into_iter().flat_map(|node| scene.rows(node)).any(|row| {
            row["ip"] == ip.to_string() && row["reason"].as_str().is_some_and(|why| why.contains(&mac.to_string()))
        })
    };
    patiently("a foreign machine's word that it has an address", || told(six));
}

#[test]
fn two_clusters_on_one_segment_do_not_count_each_others_votes_nor_fight_over_an_address() {
    let Some(scene) = Scene::of(Options::named("t-balancers-two")) else { return };
    let before = settled(&scene);
    let (ours, owner) = before.iter().find(|(_, owner)| owner != "n3").unwrap().clone();
    let theirs: IpAddr = "172.30.1.240".parse().unwrap();
    let mut foreign = [1, 2].map(|number| Candidate::beside(&scene.lab, number, Timing::of(60 * MS)));
    let witness = Witness::start(&scene.lab, before.iter().map(|(ip, _)| *ip).chain([theirs]));
    // The third node that the other cluster knows is not there: at that address is one of the lab's. Two of three are a majority.
    let nodes = [("n1", "172.30.1.31"), ("n2", "172.30.1.32"), ("n3", "172.30.1.13")];
    foreign.iter().for_each(|one| one.wants(nodes, &[ours, theirs]));
    patiently("the other cluster's address has one owner", || {
        foreign.iter_mut().filter_map(|one| one.look(theirs).0.then_some(())).count() == 1
    });
    patiently("the other cluster says that somebody has the address of a Service here", || {
        foreign.iter_mut().any(|one| one.look(ours).1 == Some(mac_of_name(&owner)))
    });
    patiently("owners are as they were", || settled(&scene) == before);
    assert!(before.iter().all(|(ip, _)| foreign.iter_mut().all(|one| !one.look(*ip).0)), "nothing that is in use here");
    let said = witness.stop();
    let of = |address: IpAddr, mac: Mac| said.iter().any(|one| one.address == address && one.mac == mac);
    assert!(scene.nodes().into_iter().all(|node| !of(theirs, mac_of(node))));
    assert!(foreign.iter().all(|one| !of(ours, one.mac)));
}

#[test]
fn a_machine_that_has_an_address_already_keeps_it() {
    let Some(scene) = Scene::of(Options::named("t-balancers-has")) else { return };
    let address: IpAddr = "172.30.1.215".parse().unwrap();
    let foreign = Router::beside(&scene.lab, "foreign", "172.30.1.2");
    foreign.ip(&format!("addr add {address}/32 dev eth0"));
    let mac = foreign.mac();
    let witness = Witness::start(&scene.lab, [address]);
    let service = "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {type: LoadBalancer, loadBalancerIP: 172.30.1.215, \
                   selector: {app: web}, ports: [{port: 7007, protocol: UDP}]}}\n";
    apply(&scene.lab, 1, service);
    let says = |node: u32| scene.row(node, "late")["reason"].as_str().is_some_and(|why| why.contains(&mac.to_string()));
    patiently("a node says that another machine has it", || scene.nodes().into_iter().any(says));
    let others = witness.stop().into_iter().filter(|one| one.address == address && one.mac != mac).count();
    assert_eq!(others, 0, "no node answered for it or told that it has it");
}
