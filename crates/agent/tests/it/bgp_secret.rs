//! A password of BGP in a Secret of a real API server, with BIRD as the peer.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::kubernetes::{is_possible, with_server};
use crate::support::world::World;
use crate::support::{slowness, within};

const BIRD: &str = "/usr/sbin/bird";

/// BIRD at the router, which ends with this value.
struct Bird(Child);

impl Bird {
    fn start(world: &World, password: &str) -> Self {
        let file = |name: &str| world.dir.path().join(name);
        let conf = format!(
            "log stderr all;\nrouter id 172.30.1.1;\nprotocol device {{}}\n\
             protocol static {{ ipv4; route 203.0.113.0/24 unreachable; }}\n\
             protocol bgp node {{ local 172.30.1.1 as 65000; neighbor 172.30.1.11 as 64512; password \"{password}\";\n  \
             error wait time 1, 2; connect retry time 1; ipv4 {{ import all; export where source = RTS_STATIC; }}; }}\n"
        );
        std::fs::write(file("bird.conf"), conf).unwrap();
        let log = File::options().create(true).append(true).open(file("bird.log")).unwrap();
        let mut command = Command::new(BIRD);
        command
            .arg("-f")
            .arg("-c")
            .arg(file("bird.conf"))
            .arg("-s")
            .arg(file("bird.ctl"))
            .arg("-P")
            .arg(file("bird.pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(world.router.inside(|| command.spawn()).unwrap())
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn session(world: &World) -> Value {
    world.rows("/v1/bgp/peers").into_iter().find(|row| row["peer"] == "172.30.1.1").unwrap_or(Value::Null)
}

/// Secrets are asked for every ten seconds, and BIRD connects again when it likes.
#[track_caller]
fn comes_to(world: &World, what: &str, is: impl Fn(&Value) -> bool) {
    let is_so = within(Duration::from_secs(60) * slowness(), || is(&session(world)));
    assert!(is_so, "not: {what}: {}", session(world));
}

#[test]
fn a_password_is_read_from_a_secret_and_the_session_follows_another_one() {
    if !is_possible("a password of BGP in a Secret") {
        return;
    }
    if !Path::new(BIRD).exists() {
        println!("SKIPPED: BIRD (package bird2) is not installed");
        return;
    }
    let (mut world, server) = with_server(&[]);
    world.start_agent();
    world.wait_ready();
    let bird = Bird::start(&world, "knock-knock");
    let spec = json!({"peerIP": "172.30.1.1", "asNumber": 65_000, "password": {"secretKeyRef": {"name": "bgp", "key": "tor"}}});
    let peer =
        json!({"apiVersion": "ripstop.io/v1alpha1", "kind": "BgpPeer", "metadata": {"name": "tor"}, "spec": spec});
    server.apply(&peer.to_string());
    let says = |words: &'static str| {
        move |row: &Value| {
            row["state"] != "established" && row["reason"].as_str().is_some_and(|why| why.contains(words))
        }
    };
    let stands = |row: &Value| row["state"] == "established";
    comes_to(&world, "that there is no Secret is said", says("there is no Secret bgp with a value tor"));
    let put = |password: &str| {
        let metadata = json!({"name": "bgp", "namespace": "ripstop"});
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"tor": password}});
        server.apply(&secret.to_string());
    };
    put("knock-knock");
    comes_to(&world, "the session stands", stands);
    put("who-is-there");
    comes_to(&world, "the session goes by the other password", says("the password may differ"));
    drop(bird);
    let _bird = Bird::start(&world, "who-is-there");
    comes_to(&world, "the session stands again", stands);
    server.kubectl(&["-n", "ripstop", "delete", "secret", "bgp"]);
    comes_to(&world, "without a Secret it ends", says("there is no Secret bgp with a value tor"));
    let log = std::fs::read_to_string(world.agent().log.clone()).unwrap();
    assert!(!log.contains("who-is-there") && !log.contains("knock-knock"), "no password is in the log");
}
