//! BIRD and FRR on the other end.

use std::time::{Duration, Instant};

use ripstop_bfd::{Diagnostic, SessionConfig, SessionId, State, Timers};

use super::bfd::{End, MS, ip};
use super::programs::{CUT, Folder, bird, frr, has_bird, has_frr};
use super::space::{Space, wire};

/// What every daemon is asked: the session comes up with the slower of both wishes, a cut is noticed in time, and who is held down
/// is believed.
fn judge(what: &str, one: &Space, two: &Space, peer_tx: Duration, peer_rx: Duration, multiplier: u8) {
    let end = End::start(one, 7);
    let timers = Timers { desired_min_tx: 100 * MS, required_min_rx: 60 * MS, multiplier: 4 };
    let sessions = [
        ("on a link", SessionConfig::single_hop(101, ip("192.0.2.1"), ip("192.0.2.2"), timers)),
        ("on a link, IPv6", SessionConfig::single_hop(101, ip("2001:db8::1"), ip("2001:db8::2"), timers)),
        // BIRD sends what goes over hops with the system's TTL of 64, FRR with 255.
        ("over hops", SessionConfig::multihop(ip("198.51.100.1"), ip("198.51.100.2"), timers, 64)),
    ];
    for (kind, config) in sessions {
        let what = format!("{what} {kind}");
        let id = end.add(config);
        judge_one(&what, &end, id, two, (peer_tx, peer_rx, multiplier));
        end.speaker.with(move |engine, now| ((), engine.remove(now, id))).unwrap();
    }
}

fn judge_one(what: &str, end: &End, id: SessionId, two: &Space, peer: (Duration, Duration, u8)) {
    let (peer_tx, peer_rx, multiplier) = peer;
    end.reaches(id, State::Up, Duration::from_secs(20));
    // The peer polls when it comes up, too: a moment until both know all.
    std::thread::sleep(Duration::from_secs(3));
    let view = end.view(id);
    assert_eq!(view.state, State::Up, "{what}: {view:?}");
    assert_eq!(view.interval, (100 * MS).max(peer_rx), "{what}");
    let detection = (60 * MS).max(peer_tx) * u32::from(multiplier);
    assert_eq!(view.detection, detection, "{what}");
    // The wire is cut where nobody sees the link go.
    let cut = Instant::now();
    two.run("nft", &[CUT]);
    let (at, why, _) = end.reaches(id, State::Down, Duration::from_secs(10));
    assert_eq!(why, Diagnostic::DETECTION_TIME_EXPIRED, "{what}");
    let took = at - cut;
    println!("{what}: cut noticed after {took:?}, detection time {detection:?}");
    assert!(took <= detection + 250 * MS, "{what}: {took:?}");
    two.run("nft", &["delete table inet cut"]);
    end.reaches(id, State::Up, Duration::from_secs(20));
    // Held down here, the daemon hears it; let go, it comes up again.
    end.speaker.with(move |engine, now| ((), engine.set_admin_down(now, id, true))).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while end.view(id).remote == State::Up {
        assert!(Instant::now() < until, "{what}: the peer stays up: {:?}", end.view(id));
        std::thread::sleep(10 * MS);
    }
    end.speaker.with(move |engine, now| ((), engine.set_admin_down(now, id, false))).unwrap();
    end.reaches(id, State::Up, Duration::from_secs(20));
}

#[test]
fn bird_is_a_neighbour() {
    let Some((one, two)) = wire().filter(|_| has_bird()) else { return };
    let timers = "{ min rx interval 80 ms; min tx interval 70 ms; multiplier 5; }";
    let conf = format!(
        "log stderr all;\nrouter id 192.0.2.2;\nprotocol device {{ }}\nprotocol bfd {{\n  interface \"two0\" {timers};\n  \
         multihop {timers};\n  neighbor 192.0.2.1 dev \"two0\" local 192.0.2.2;\n  \
         neighbor 2001:db8::1 dev \"two0\" local 2001:db8::2;\n  neighbor 198.51.100.1 local 198.51.100.2 multihop;\n}}\n"
    );
    let folder = Folder::new();
    let _bird = bird(&two, &folder, &conf, &[]);
    judge("BIRD", &one, &two, 70 * MS, 80 * MS, 5);
}

#[test]
fn frr_is_a_neighbour() {
    let Some((one, two)) = wire().filter(|_| has_frr()) else { return };
    let folder = Folder::new();
    let peers = [
        "192.0.2.1 local-address 192.0.2.2 interface two0",
        "2001:db8::1 local-address 2001:db8::2 interface two0",
        "198.51.100.1 multihop local-address 198.51.100.2",
    ];
    let timers = "  detect-multiplier 5\n  receive-interval 80\n  transmit-interval 70\n  no shutdown\n exit\n";
    let conf = format!("bfd\n{}exit\n", peers.map(|peer| format!(" peer {peer}\n{timers}")).concat());
    let control = folder.file("bfdd.sock");
    let _frr = frr(&two, &folder, &[("bfdd", &conf, &["--bfdctl", &control])]);
    judge("FRR", &one, &two, 70 * MS, 80 * MS, 5);
}
