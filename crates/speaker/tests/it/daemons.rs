//! BIRD and FRR on the other end.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_bfd::{Diagnostic, SessionConfig, SessionId, State, Timers};

use super::bfd::{End, MS, ip};
use super::space::{Daemon, Space, wire};

const BIRD: &str = "/usr/sbin/bird";
const FRR: &str = "/usr/lib/frr";

/// Nothing gets in or out, and no link goes down.
const CUT: &str = "add table inet cut; \
    add chain inet cut in { type filter hook input priority 0; policy drop; }; \
    add chain inet cut out { type filter hook output priority 0; policy drop; }";

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
    if !Path::new(BIRD).exists() {
        return println!("SKIPPED: BIRD (package bird2) is not installed");
    }
    let Some((one, two)) = wire() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let timers = "{ min rx interval 80 ms; min tx interval 70 ms; multiplier 5; }";
    let conf = format!(
        "log stderr all;\nrouter id 192.0.2.2;\nprotocol device {{ }}\nprotocol bfd {{\n  interface \"two0\" {timers};\n  \
         multihop {timers};\n  neighbor 192.0.2.1 dev \"two0\" local 192.0.2.2;\n  \
         neighbor 2001:db8::1 dev \"two0\" local 2001:db8::2;\n  neighbor 198.51.100.1 local 198.51.100.2 multihop;\n}}\n"
    );
    std::fs::write(file("bird.conf"), conf).unwrap();
    let log = File::create(file("log")).unwrap();
    let (conf, control, pid) = (file("bird.conf"), file("ctl"), file("pid"));
    let _bird = two.start(BIRD, &["-f", "-c", &conf, "-s", &control, "-P", &pid], log);
    judge("BIRD", &one, &two, 70 * MS, 80 * MS, 5);
}

#[test]
fn frr_is_a_neighbour() {
    if !Path::new(FRR).join("bfdd").exists() {
        return println!("SKIPPED: FRR (package frr) is not installed");
    }
    let Some((one, two)) = wire() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let peers = [
        "192.0.2.1 local-address 192.0.2.2 interface two0",
        "2001:db8::1 local-address 2001:db8::2 interface two0",
        "198.51.100.1 multihop local-address 198.51.100.2",
    ];
    let timers = "  detect-multiplier 5\n  receive-interval 80\n  transmit-interval 70\n  no shutdown\n exit\n";
    let conf = format!("bfd\n{}exit\n", peers.map(|peer| format!(" peer {peer}\n{timers}")).concat());
    std::fs::write(file("zebra.conf"), "").unwrap();
    std::fs::write(file("bfdd.conf"), conf).unwrap();
    // They give up root.
    two.run("chown", &["-R", "frr:frr", dir.path().to_str().unwrap()]);
    // Its daemons find each other by a socket that would be everybody's, so all is named here.
    let (socket, vty) = (file("zserv"), dir.path().to_str().unwrap().to_owned());
    let start = |name: &str, more: &[&str]| -> Daemon {
        let (conf, pid) = (file(&format!("{name}.conf")), file(&format!("{name}.pid")));
        let program = Path::new(FRR).join(name);
        let mut arguments =
            vec!["-f", &conf, "-i", &pid, "-z", &socket, "--vty_socket", &vty, "-u", "frr", "-g", "frr"];
        arguments.extend(["-A", "127.0.0.1", "-P", "0", "--log", "stdout"]);
        arguments.extend(more);
        two.start(program.to_str().unwrap(), &arguments, File::create(file(&format!("{name}.log"))).unwrap())
    };
    let _zebra = start("zebra", &[]);
    let until = Instant::now() + Duration::from_secs(10);
    while !Path::new(&socket).exists() {
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(file("zebra.log")).unwrap());
        std::thread::sleep(50 * MS);
    }
    let control = file("bfdd.sock");
    let _bfdd = start("bfdd", &["--bfdctl", &control]);
    judge("FRR", &one, &two, 70 * MS, 80 * MS, 5);
}
