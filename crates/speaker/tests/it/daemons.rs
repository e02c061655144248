//! BIRD and FRR on the other end.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_bfd::{Diagnostic, SessionConfig, State, Timers};

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
    let id = end.add(SessionConfig::single_hop(101, ip("192.0.2.1"), ip("192.0.2.2"), timers));
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
    let conf = "log stderr all;\nrouter id 192.0.2.2;\nprotocol device { }\nprotocol bfd {\n  interface \"two0\" { min rx interval 80 ms; min tx interval 70 ms; \
                multiplier 5; };\n  neighbor 192.0.2.1 dev \"two0\" local 192.0.2.2;\n}\n";
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
    let conf = "bfd\n peer 192.0.2.1 local-address 192.0.2.2 interface two0\n  detect-multiplier 5\n  receive-interval 80\n  \
                transmit-interval 70\n  no shutdown\n exit\nexit\n";
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
