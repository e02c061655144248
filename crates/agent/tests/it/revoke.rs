//! Connections that policies do not permit any more end, those of TCP and flows of UDP, and no others.
//!
//! Beside each of them are connections of who is permitted, which say a word every twenty milliseconds and lose none.

use std::collections::{BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ripstop_kernel::Observer;
use ripstop_store::Kind;
use serde_json::{Value, json};

use crate::policies::{CLOSED, Scene, pod_object, policy, scene};
use crate::support::load::{Load, Pace, Servant};
use crate::support::ns::{Ns, is_root};
use crate::support::world::{Plan, at};
use crate::support::{soon, within};

/// Ports of the web by TCP and UDP.
const PORTS: [u16; 2] = [8081, 8082];

/// Who does not answer for so long does not answer.
const SILENCE: Duration = Duration::from_millis(500);

/// A stream and a flow of somebody.
struct Talk {
    tcp: TcpStream,
    udp: UdpSocket,
}

impl Talk {
    /// From an address of a namespace to two ports.
    fn new(ns: &Ns, from: &str, to: [SocketAddr; 2]) -> Self {
        let (mut tcp, udp) = ns.inside(|| {
            let tcp = TcpStream::connect_timeout(&to[0], Duration::from_secs(5)).unwrap();
            let udp = UdpSocket::bind((from.parse::<IpAddr>().unwrap(), 0)).unwrap();
            udp.connect(to[1]).unwrap();
            (tcp, udp)
        });
        tcp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        udp.set_read_timeout(Some(SILENCE)).unwrap();
        // Its letter.
        tcp.read_exact(&mut [0]).unwrap();
        Self { tcp, udp }
    }

    fn answers(&self) -> bool {
        self.udp.send(b"?").and_then(|_| self.udp.recv(&mut [0; 8])).is_ok()
    }

    fn goes_on(&mut self) -> bool {
        let said = self.tcp.write_all(b"a").and_then(|()| self.tcp.read_exact(&mut [0]));
        said.is_ok() && self.answers()
    }

    /// Who waits for a word learns that none comes: how, and how long it took.
    #[track_caller]
    fn stream_ends(&mut self, since: Instant) -> (ErrorKind, Duration) {
        self.tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let how = self.tcp.read(&mut [0; 8]).expect_err("the stream goes on").kind();
        assert!(matches!(how, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted), "{how}");
        (how, since.elapsed())
    }

    /// Who asks gets no answer any more. All end at once, but one after the other.
    #[track_caller]
    fn flow_ends(&self) {
        assert!(within(SILENCE, || !self.answers()), "the flow goes on");
        assert!(!self.answers(), "the flow goes on");
    }
}

impl Scene {
    fn ports(&self) -> [SocketAddr; 2] {
        PORTS.map(|port| self.web.at(port).parse().unwrap())
    }

    fn of_stranger(&self) -> Talk {
        Talk::new(&self.stranger.ns, "0.0.0.0", self.ports())
    }

    /// Connections of who is permitted, among them the node itself.
    fn load(&self, to: [SocketAddr; 2]) -> Load {
        let pace = Pace { rate: 20, staying: 2, ..Pace::default() };
        let load = Load::at(pace, &[("friend", &self.friend.ns), ("node", &self.world.node)], to[0], to[1]);
        load.go_on(4);
        load
    }

    /// Who is not of this node sends and answers from this address.
    fn beyond_is(&self, ip: &str) {
        let range = self.world.own_range(false);
        let node = "172.30.1.11";
        self.world
            .router
            .ips(&format!("route replace {range} via {node} src {ip}\nroute replace {node}/32 dev eth0 src {ip}\n"));
    }

    fn of_beyond(&self, ip: &str) -> Talk {
        self.beyond_is(ip);
        Talk::new(&self.world.router, ip, self.ports())
    }

    fn of_peer(&self) -> Talk {
        self.of_beyond(self.peer())
    }

    fn of_outside(&self) -> Talk {
        self.of_beyond(self.outside())
    }

    /// A policy for the web, and how it becomes so.
    fn open(&self, from: &str) -> String {
        let ingress = format!("[{{from: [{{podSelector: {{matchLabels: {{role: friend}}}}}}, {from}]}}]");
        policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}"))
    }

    fn come_true(&self, manifest: &str) {
        self.world.apply(manifest);
        assert!(soon(|| self.row("open")["realised"] == true), "{}", self.row("open"));
    }
}

/// Each of them ends, and none of the load.
#[track_caller]
fn end(scene: &Scene, what: &str, since: Instant, over: &mut [(&str, Talk)], load: Load) {
    let end = |(who, talk): &mut (&str, Talk)| {
        let (how, took) = talk.stream_ends(since);
        format!("{who}: {how} after {took:.1?}")
    };
    let ends: Vec<String> = over.iter_mut().map(end).collect();
    over.iter().for_each(|(_, talk)| talk.flow_ends());
    println!("{what}: {}", ends.join(", "));
    load.go_on(10);
    assert_eq!(load.end(), Vec::<String>::new(), "{what}: {}", scene.world.agent().log_text());
}

/// What talks until something changes, and not any longer.
#[track_caller]
fn over(scene: &Scene, what: &str, talks: &mut [(&str, Talk)], change: &str) {
    for (who, talk) in &mut *talks {
        assert!(talk.goes_on(), "{what}: {who}");
    }
    let load = scene.load(scene.ports());
    let since = Instant::now();
    scene.world.apply(change);
    end(scene, what, since, talks, load);
}

/// Selects no pod.
const NOBODY: &str = "{podSelector: {matchLabels: {role: nobody}}}";

/// An answer that is on its way when its flow ends begins another one the other way round, which nothing forbids: that ends as well.
#[test]
fn a_flow_that_is_answered_meanwhile_ends_too() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let _servant = Servant::start(&scene.web.ns, PORTS[0], PORTS[1], b'w');
    for round in 0..5 {
        scene.come_true(&scene.open("{ipBlock: {cidr: 192.0.2.0/24}}"));
        let mut talk = scene.of_outside();
        assert!(talk.goes_on());
        let since = Instant::now();
        scene.world.apply(&scene.open(NOBODY));
        let mut answers = 0;
        while since.elapsed() < Duration::from_millis(200) && talk.answers() {
            answers += 1;
        }
        println!("round {round}: {answers} answers until {:.1?}", since.elapsed());
        let is_silent = || !talk.answers() && !talk.answers();
        assert!(within(Duration::from_secs(15), is_silent), "{}", scene.world.agent().log_text());
    }
}

/// The same of a client that has questions open at every moment, whose server takes its time.
#[test]
fn a_flow_that_is_answered_all_the_time_ends_too() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let server = scene.web.ns.inside(|| UdpSocket::bind(("0.0.0.0", PORTS[1])).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let (heard, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    scene.come_true(&scene.open("{ipBlock: {cidr: 192.0.2.0/24}}"));
    scene.beyond_is(scene.outside());
    let from: IpAddr = scene.outside().parse().unwrap();
    let client = scene.world.router.inside(|| UdpSocket::bind((from, 0)).unwrap());
    client.connect(scene.ports()[1]).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut open = VecDeque::new();
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((_, from)) = server.recv_from(&mut [0; 8]) {
                    heard.fetch_add(1, Ordering::Relaxed);
                    open.push_back((Instant::now(), from));
                }
                while let Some((_, to)) = open.pop_front_if(|(since, _)| since.elapsed() > Duration::from_millis(15)) {
                    let _ = server.send_to(b"!", to);
                }
            }
        });
        s.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = client.send(b"?");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let count = || heard.load(Ordering::Relaxed);
        let is_answered = soon(|| count() > 50);
        scene.world.apply(&scene.open(NOBODY));
        let is_silent = || {
            let before = count();
            std::thread::sleep(SILENCE);
            count() == before
        };
        let ends = within(Duration::from_secs(15), is_silent);
        is_over.store(true, Ordering::Relaxed);
        assert!(is_answered && ends, "{} questions: {}", count(), scene.world.agent().log_text());
    });
}

#[test]
fn connections_end_with_what_permitted_them() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    let _servant = Servant::start(&scene.web.ns, PORTS[0], PORTS[1], b'w');
    let talks = &mut [("stranger", scene.of_stranger()), ("peer", scene.of_peer()), ("outside", scene.of_outside())];
    over(&scene, "a policy is there", talks, &scene.open(NOBODY));

    let strangers = "{podSelector: {matchLabels: {role: stranger}}}";
    scene.come_true(&scene.open(strangers));
    let talks = &mut [("stranger", scene.of_stranger())];
    over(&scene, "a pod's label is another", talks, &pod_object("stranger", "other"));
    world.apply(&pod_object("stranger", "stranger"));
    let talks = &mut [("stranger", scene.of_stranger())];
    over(&scene, "a rule is gone", talks, &scene.open(NOBODY));

    let namespace = |team: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: default, labels: {{team: {team}}}}}}}")
    };
    world.apply(&namespace("blue"));
    scene.come_true(&scene.open("{namespaceSelector: {matchLabels: {team: blue}}}"));
    let talks = &mut [("stranger", scene.of_stranger())];
    over(&scene, "a namespace's label is another", talks, &namespace("red"));

    scene.come_true(&scene.open("{ipBlock: {cidr: 192.0.2.0/24}}"));
    let talks = &mut [("outside", scene.of_outside())];
    over(&scene, "a block is narrower", talks, &scene.open("{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.1/32]}}"));

    // A pod of another node.
    let store = world.store.as_ref().unwrap();
    store.put(
        Kind::PodAddresses,
        "n2/default/far",
        &json!({"node": "n2", "pod": "default/far", "ips": [scene.peer()]}),
    );
    let far = |label: &str| pod_object("far", label).replace("nodeName: n1", "nodeName: n2");
    world.apply(&far("stranger"));
    scene.come_true(&scene.open(strangers));
    let talks = &mut [("peer", scene.of_peer())];
    over(&scene, "the label of another node's pod is another", talks, &far("other"));

    world.settle();
}

/// What goes out of a pod: to another one, to another node's, and, from the node's address, beyond.
#[test]
fn connections_that_go_out_end_as_well() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    let _servants = [&scene.web.ns, &world.router].map(|ns| Servant::start(ns, PORTS[0], PORTS[1], b'w'));
    let out = policy("out", "{podSelector: {matchLabels: {role: stranger}}, policyTypes: [Egress]}");
    let mut own = Talk::new(&world.node, "0.0.0.0", scene.ports());
    for beyond in [scene.peer(), scene.outside()] {
        scene.beyond_is(beyond);
        let from = |to| Talk::new(&scene.stranger.ns, "0.0.0.0", to);
        let to = PORTS.map(|port| at(beyond, port).parse().unwrap());
        let talks = &mut [("to the web", from(scene.ports())), ("to the other", from(to))];
        over(&scene, &format!("nothing goes out, not to {beyond}"), talks, &out);
        scene.delete(&out);
        assert!(soon(|| world.rows("/v1/networkpolicies").is_empty()));
        world.settle();
    }
    assert!(own.goes_on(), "its own node is kept out");
}

/// What changed while there was no agent ends when one starts.
#[test]
fn an_agent_that_starts_ends_what_is_not_permitted_any_more() {
    if !is_root() {
        return;
    }
    let mut scene = scene(Plan::default());
    let _servant = Servant::start(&scene.web.ns, PORTS[0], PORTS[1], b'w');
    scene.come_true(&scene.open("{podSelector: {matchLabels: {role: stranger}}}"));
    let mut talk = scene.of_stranger();
    let load = scene.load(scene.ports());
    // Nothing has changed: nothing ends.
    scene.world.restart();
    assert!(soon(|| scene.row("open")["realised"] == true), "{}", scene.row("open"));
    load.go_on(20);
    assert!(talk.goes_on());
    scene.world.kill_agent();
    let store = scene.world.store.as_ref().unwrap();
    let (key, mut value, _) = store.list(Kind::NetworkPolicies).pop().unwrap();
    let from: &mut Value = &mut value["spec"]["ingress"][0]["from"][1];
    assert_eq!(from["podSelector"]["matchLabels"]["role"], "stranger", "{from}");
    from["podSelector"]["matchLabels"]["role"] = "nobody".into();
    store.put(Kind::NetworkPolicies, &key, &value);
    assert!(talk.goes_on(), "nobody is there to end it");
    let since = Instant::now();
    scene.world.start_agent();
    end(&scene, "an agent starts", since, &mut [("stranger", talk)], load);
}

/// By whatever proxy a connection came, the pods are seen that it is between.
#[test]
fn connections_through_a_service_end_as_well() {
    if !is_root() {
        return;
    }
    for (proxy, plan) in Plan::by_each_proxy() {
        let scene = scene(plan);
        let _servant = Servant::start(&scene.web.ns, PORTS[0], PORTS[1], b'w');
        scene.world.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {role: web}, clusterIP: 10.96.0.9,\n\
             ports: [{name: t, port: 80, targetPort: 8081}, {name: u, port: 80, targetPort: 8082, protocol: UDP}]}}",
        );
        let are_served = || {
            let rows = scene.world.rows("/v1/endpoints");
            rows.len() >= 2 && rows.iter().all(|row| row["realised"] == true)
        };
        assert!(soon(are_served));
        let vip = ["10.96.0.9:80".parse().unwrap(); 2];
        let mut talk = Talk::new(&scene.stranger.ns, "0.0.0.0", vip);
        assert!(talk.goes_on(), "{proxy}");
        let load = scene.load(vip);
        let since = Instant::now();
        scene.world.apply(&[policy("closed", CLOSED), scene.open("{ipBlock: {cidr: 203.0.113.0/24}}")].concat());
        end(&scene, proxy, since, &mut [("stranger", talk)], load);
    }
}

/// Flows that a pod began, without an answer.
fn flows_of(scene: &Scene, ip: &str) -> BTreeSet<SocketAddr> {
    let from: BTreeSet<IpAddr> = [ip.parse().unwrap()].into();
    let found = scene.world.node.inside(|| Observer::open().unwrap().connections(&from, &BTreeSet::new()).unwrap());
    found.iter().filter(|one| one.protocol == 17).map(|one| one.source).collect()
}

/// Prints how long a thousand streams go on that are not permitted any more, among fifty thousand connections that are.
#[test]
fn figures() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    let most = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap();
    let all = 49_000.min(most.trim().parse::<usize>().unwrap() / 2);
    // They stay for as long as a slow machine takes to make them.
    let longer = || std::fs::write("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", "600");
    world.node.inside(longer).unwrap();
    let _servant = Servant::start(&scene.web.ns, PORTS[0], PORTS[1], b'w');
    let listener = scene.web.ns.inside(|| TcpListener::bind(("0.0.0.0", 8083)).unwrap());
    let to: SocketAddr = scene.web.at(8083).parse().unwrap();
    let mut streams = Vec::new();
    let mut accepted = Vec::new();
    for _ in 0..20 {
        let more = scene.stranger.ns.inside(|| (0..50).map(|_| TcpStream::connect(to).unwrap()).collect::<Vec<_>>());
        streams.extend(more);
        accepted.extend((0..50).map(|_| listener.accept().unwrap().0));
    }
    scene.friend.ns.inside(|| {
        // Each from a port of its own, as clients do.
        for port in 10_000..10_000 + u16::try_from(all).unwrap() {
            let _ = UdpSocket::bind(("0.0.0.0", port)).and_then(|socket| socket.send_to(b"x", to));
        }
    });
    let load = scene.load(scene.ports());
    let before = flows_of(&scene, &scene.friend.ip());
    for stream in &streams {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    }
    let since = Instant::now();
    world.apply(&scene.open(NOBODY));
    let applied = since.elapsed();
    for mut stream in streams {
        let how = stream.read(&mut [0]).expect_err("a stream goes on").kind();
        assert!(matches!(how, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted), "{how}");
    }
    let took = since.elapsed();
    let after = flows_of(&scene, &scene.friend.ip());
    let lost = before.difference(&after).count();
    let log = world.agent().log_text();
    log.lines().filter(|line| line.contains("connections")).for_each(|line| println!("{line}"));
    println!(
        "a thousand streams among {} flows: the policy is kept after {applied:.1?}, the last one ends after {took:.1?}",
        before.len()
    );
    load.go_on(10);
    assert_eq!(load.end(), Vec::<String>::new());
    assert!(before.len() > all * 9 / 10, "{} flows", before.len());
    assert_eq!(lost, 0, "flows that are permitted are gone");
}
