//! Policies of an agent: manifests in its store, real connections between pods, the node, a peer and the outside.
//!
//! A connection that policies keep from happening has to time out, and beside it one that they allow is made.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use ripstop_store::Kind;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use serde_json::{Value, json};

use crate::kubernetes::{is_possible, node_object, with_server};
use crate::services::Named;
use crate::support::ns::{Ns, is_root};
use crate::support::world::{Families, NODE, OUTSIDE, Plan, Pod, StoreAt, World, at};
use crate::support::{Numbers, is_long, soon};

/// A denied connection is one that nobody answers for so long.
const DENIED: Duration = Duration::from_millis(500);

/// Whether a connection is made, or nobody answers. A refusal is neither.
#[track_caller]
fn connects_from(ns: &Ns, from: Option<&str>, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let try_it = || {
        let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(DENIED))?;
        if let Some(from) = from {
            bind(&socket, &SocketAddr::new(from.parse().unwrap(), 0))?;
        }
        connect(&socket, &to)
    };
    match ns.inside(try_it) {
        Ok(()) => true,
        Err(Errno::INPROGRESS | Errno::TIMEDOUT) => false,
        Err(fault) => panic!("{to}: {fault}"),
    }
}

#[track_caller]
pub fn connects(ns: &Ns, to: &str) -> bool {
    connects_from(ns, None, to)
}

/// A node with three pods that answer at 8080 and 9090, and a peer with one.
pub struct Scene {
    _servers: Vec<Named>,
    pub web: Pod,
    pub friend: Pod,
    pub stranger: Pod,
    pub world: World,
}

pub fn pod_object(name: &str, label: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{role: {label}}}}},\n\
         spec: {{nodeName: n1, containers: [{{name: c, image: i, ports: [{{name: http, containerPort: 8080}}]}}]}}}}\n"
    )
}

pub fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

pub const CLOSED: &str = "{podSelector: {matchLabels: {role: web}}, policyTypes: [Ingress]}";

pub fn scene(plan: Plan) -> Scene {
    let world = World::start(Plan { store: StoreAt::Here, ..plan });
    world.add_peer();
    let six = !world.plan.families.four();
    world.router.ip(&format!("route add {} via {}", world.own_range(six), NODE[usize::from(six)]));
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| world.pod(name));
    let any = if world.plan.families.four() { "0.0.0.0" } else { "[::]" };
    let mut servers = Vec::new();
    for pod in [&web, &friend, &stranger] {
        servers.extend([8080, 9090].map(|port| Named::start(&pod.ns, &format!("{any}:{port}"), "pod")));
    }
    servers.push(Named::start(&world.node, &format!("{any}:7070"), "node"));
    servers.push(Named::start(&world.router, &format!("{any}:7070"), "router"));
    let objects = [pod_object("web", "web"), pod_object("friend", "friend"), pod_object("stranger", "stranger")];
    world.apply(&objects.concat());
    Scene { _servers: servers, web, friend, stranger, world }
}

impl Scene {
    pub fn outside(&self) -> &'static str {
        OUTSIDE[usize::from(!self.world.plan.families.four())]
    }

    pub fn peer(&self) -> &'static str {
        if self.world.plan.families.four() { "10.244.200.10" } else { "fd00:244:0:c8::10" }
    }

    /// Who reaches the web at a port: the friend, the stranger, the peer's pod, somebody outside. The node always does.
    #[track_caller]
    pub fn reach(&self, port: u16) -> String {
        let to = self.web.at(port);
        assert!(connects(&self.world.node, &to), "its own node is kept out");
        let (router, by) = (&self.world.router, |from| Some(from));
        std::thread::scope(|s| {
            let all = [
                ("friend", s.spawn(|| connects(&self.friend.ns, &to))),
                ("stranger", s.spawn(|| connects(&self.stranger.ns, &to))),
                ("peer", s.spawn(|| connects_from(router, by(self.peer()), &to))),
                ("outside", s.spawn(|| connects_from(router, by(self.outside()), &to))),
            ];
            let passed = all.map(|(name, try_it)| (name, try_it.join().unwrap()));
            passed.iter().filter(|(_, passes)| *passes).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        })
    }

    #[track_caller]
    pub fn expect(&self, port: u16, who: &str) {
        let came = soon(|| self.reach(port) == who);
        assert!(
            came,
            "{port}: {} instead of {who}\n{}\n{}",
            self.reach(port),
            self.tables(),
            self.world.agent().log_text()
        );
    }

    pub fn tables(&self) -> String {
        let families = ["ip", "ip6"].map(|family| {
            let text = self.world.node.tried("nft", &["-a", "list", "table", family, "ripstop-policy"]).1;
            let mut lines: Vec<String> =
                text.split(['\n', ',']).map(|line| line.replace("elements = {", "").trim().to_owned()).collect();
            // The kernel's order of elements is its own, and packets fill sets with what they are counted by.
            lines.retain(|line| !line.is_empty() && !line.contains("counter packets"));
            lines.sort();
            lines.join("\n")
        });
        families.concat()
    }

    pub fn row(&self, name: &str) -> Value {
        let rows = self.world.rows("/v1/networkpolicies");
        rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
    }

    pub fn delete(&self, manifest: &str) {
        let gone = self.world.ask("POST", "/v1/delete", manifest).unwrap();
        assert_eq!(gone.json()["results"][0]["action"], "deleted", "{}", gone.body);
    }
}

const EVERYBODY: &str = "friend stranger peer outside";

fn policies_are_in_force(plan: Plan) {
    let scene = scene(plan);
    let world = &scene.world;
    let is_there = || world.node.run("nft", &["list", "tables"]).contains("ripstop-policy");
    assert_eq!(scene.reach(8080), EVERYBODY);
    assert!(!is_there());

    world.apply(&policy("closed", CLOSED));
    scene.expect(8080, "");
    assert!(connects(&scene.web.ns, &scene.friend.at(8080)), "it is closed for what comes in alone");
    let row = || scene.row("closed");
    assert!(soon(|| row()["realised"] == true), "{}", row());
    assert_eq!((&row()["pods"], &row()["directions"]), (&json!(1), &json!(["ingress"])));

    // By label and by the name of a port, additively.
    let from = "[{podSelector: {matchLabels: {role: friend}}}]";
    let ingress = format!("[{{from: {from}, ports: [{{port: http}}]}}]");
    let open = format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}");
    world.apply(&policy("open", &open));
    scene.expect(8080, "friend");
    assert_eq!(scene.reach(9090), "");

    // Labels are followed.
    world.apply(&[pod_object("friend", "stranger"), pod_object("stranger", "friend")].concat());
    scene.expect(8080, "stranger");
    world.apply(&[pod_object("friend", "friend"), pod_object("stranger", "stranger")].concat());
    scene.expect(8080, "friend");

    // A pod of another node, of which that node says the address.
    let store = world.store.as_ref().unwrap();
    let said = json!({"node": "n2", "pod": "default/far", "ips": [scene.peer()]});
    store.put(Kind::PodAddresses, "n2/default/far", &said);
    world.apply(&pod_object("far", "friend").replace("nodeName: n1", "nodeName: n2"));
    scene.expect(8080, "friend peer");
    world.apply(&pod_object("far", "other").replace("nodeName: n1", "nodeName: n2"));
    scene.expect(8080, "friend");

    // Namespaces by their labels: this one has none, and then has.
    let of_namespace = "[{namespaceSelector: {matchLabels: {team: blue}}}]";
    world.apply(&policy("open", &open.replace(from, of_namespace)));
    scene.expect(8080, "");
    world.apply("{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {team: blue}}}");
    scene.expect(8080, "friend stranger peer");

    // Addresses, with an exception.
    let all = if world.plan.families.four() { "0.0.0.0/0" } else { "::/0" };
    let bits = if world.plan.families.four() { 32 } else { 128 };
    let block = format!("[{{ipBlock: {{cidr: \"{all}\", except: [\"{}/{bits}\"]}}}}]", scene.outside());
    world.apply(&policy("open", &open.replace(from, &block)));
    scene.expect(8080, "friend stranger peer");

    // What goes out: to the web's port alone. Its own node is always reached.
    scene.delete(&policy("open", &open));
    scene.delete(&policy("closed", CLOSED));
    scene.expect(8080, EVERYBODY);
    assert!(soon(|| !is_there()), "a table that nobody needs");
    let out = "{podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress],\n\
               egress: [{to: [{podSelector: {matchLabels: {role: web}}}], ports: [{port: http}]}]}";
    world.apply(&policy("out", out));
    let to_other = || connects(&scene.friend.ns, &scene.stranger.at(8080));
    assert!(soon(|| !to_other()), "{}", scene.tables());
    assert!(connects(&scene.friend.ns, &scene.web.at(8080)));
    assert!(!connects(&scene.friend.ns, &scene.web.at(9090)));
    assert!(!connects(&scene.friend.ns, &at(scene.outside(), 7070)));
    assert!(connects(&scene.stranger.ns, &scene.friend.at(8080)), "what comes in is not its affair");
    let six = !world.plan.families.four();
    assert!(connects(&scene.friend.ns, &at(&world.own_ip(six), 7070)), "its own node is kept out");
    world.settle();
}

#[test]
fn policies_are_in_force_routed() {
    if is_root() {
        policies_are_in_force(Plan::default());
    }
}

#[test]
fn policies_are_in_force_bridged() {
    if is_root() {
        policies_are_in_force(Plan { wiring: "bridge", ..Plan::default() });
    }
}

#[test]
fn policies_are_in_force_by_ipv6() {
    if is_root() {
        policies_are_in_force(Plan { families: Families::V6, ..Plan::default() });
    }
}

/// A policy of the cluster decides before those of namespaces, and beneath them.
#[test]
fn policies_of_the_cluster_have_tiers() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    let of_cluster = |name: &str, tier: &str, priority: u16, action: &str, from: &str| {
        format!(
            "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}},\n\
             spec: {{tier: {tier}, priority: {priority}, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{role: web}}}}}}}},\n\
             ingress: [{{action: {action}, from: [{{pods: {{namespaceSelector: {{}}, podSelector: {from}}}}}]}}]}}}}\n"
        )
    };
    world.apply(&of_cluster("base", "Baseline", 10, "Deny", "{}"));
    scene.expect(8080, "peer outside");
    let open = "{podSelector: {matchLabels: {role: web}}, ingress: [{from: [{podSelector: {}}]}]}";
    world.apply(&policy("open", open));
    scene.expect(8080, "friend stranger");
    world.apply(&of_cluster("guard", "Admin", 10, "Deny", "{matchLabels: {role: stranger}}"));
    scene.expect(8080, "friend");
    world.apply(&of_cluster("first", "Admin", 5, "Pass", "{matchLabels: {role: stranger}}"));
    scene.expect(8080, "friend stranger");
    let rows = world.rows("/v1/clusternetworkpolicies");
    assert!(rows.iter().all(|row| row["realised"] == true && row["pods"] == 1), "{rows:#?}");
}

/// By the time that an ADD is answered, the policies about the pod are in force, those that let it be reached as well.
#[test]
fn a_new_pod_is_isolated_before_its_add_returns() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    world.apply(&policy("closed", "{podSelector: {matchLabels: {role: new}}, policyTypes: [Ingress, Egress]}"));
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}]}]";
    world.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: new}}}}, ingress: {ingress}}}")));
    let objects: Vec<String> = (0..12).map(|n| pod_object(&format!("new-{n}"), "new")).collect();
    world.apply(&objects.concat());
    assert!(soon(|| scene.row("open")["realised"] == true), "{}", scene.row("open"));
    for n in 0..12 {
        // Others change policies meanwhile, so that more is on its way to the kernel.
        world.apply(&policy(
            "beside",
            &format!("{{podSelector: {{}}, ingress: [{{}}, {{ports: [{{port: {}}}]}}]}}", 100 + n),
        ));
        let pod = world.pod(&format!("new-{n}"));
        let _server = Named::start(&pod.ns, "0.0.0.0:8080", "new");
        assert!(connects(&scene.friend.ns, &pod.at(8080)), "pod {n} is kept from whom policies let in");
        world.del(&pod);
    }
    scene.delete(&policy("beside", "{podSelector: {}}"));
    for n in 0..6 {
        let pod = world.pod(&format!("new-{n}"));
        let _server = Named::start(&pod.ns, "0.0.0.0:8080", "new");
        std::thread::scope(|s| {
            let denied = [
                s.spawn(|| connects(&scene.stranger.ns, &pod.at(8080))),
                s.spawn(|| connects(&pod.ns, &scene.web.at(8080))),
            ];
            assert!(connects(&scene.friend.ns, &pod.at(8080)), "pod {n} is kept from whom policies let in");
            assert!(denied.into_iter().all(|denied| !denied.join().unwrap()), "pod {n} is open");
        });
        world.del(&pod);
    }
}

/// What policies permit passes while they change, each datagram of it: none is answered, so each is judged.
#[test]
fn changes_of_policies_lose_nothing_that_both_permit() {
    if !is_root() {
        return;
    }
    const CHANGES: u16 = 200;
    let scene = scene(Plan::default());
    let of_web = |ingress: &str| format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: [{ingress}]}}");
    let friends = "{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 8080, protocol: UDP}]}";
    scene.world.apply(&policy("open", &of_web(friends)));
    let is_realised = |name: &str| soon(|| scene.row(name)["realised"] == true);
    assert!(is_realised("open"), "{}", scene.row("open"));
    let to: SocketAddr = scene.web.at(8080).parse().unwrap();
    let outbox = scene.friend.ns.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let inbox = scene.web.ns.inside(|| UdpSocket::bind(to).unwrap());
    set_socket_recv_buffer_size_force(&inbox, 64 << 20).unwrap();
    inbox.set_read_timeout(Some(DENIED)).unwrap();
    let is_over = AtomicBool::new(false);
    let (sent, arrived) = std::thread::scope(|s| {
        let sender = s.spawn(|| {
            let mut sent = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                sent += u32::try_from(outbox.send_to(b"?", to).unwrap()).unwrap();
                (0..500).for_each(|_| std::hint::spin_loop());
            }
            sent
        });
        let receiver = s.spawn(|| {
            let mut arrived = 0_u32;
            while inbox.recv(&mut [0; 8]).is_ok() {
                arrived += 1;
            }
            arrived
        });
        for change in 0..CHANGES {
            scene.world.apply(&policy("beside", &of_web(&format!("{{ports: [{{port: {}}}]}}", 10_000 + change))));
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_last_realised = is_realised("beside");
        is_over.store(true, Ordering::Relaxed);
        assert!(is_last_realised, "{}", scene.row("beside"));
        (sender.join().unwrap(), receiver.join().unwrap())
    });
    println!("{CHANGES} changes: {arrived} of {sent} arrived");
    assert!(sent > 10_000 && arrived == sent, "{arrived} of {sent} arrived");
}

/// Packets while something happens: connections of the friend, which are all to be made, and datagrams of the stranger, a thousand a second,
/// of which none is to arrive.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    /// Connections that were made, those that were not, and datagrams that arrived.
    counts: Arc<[AtomicU32; 3]>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    pub fn start(scene: &Scene) -> Self {
        let mut this = Self { stop: Arc::default(), counts: Arc::default(), threads: Vec::new() };
        let to: SocketAddr = scene.web.at(8080).parse().unwrap();
        let friend = ripstop_kernel::Netns::open(&scene.friend.ns.path).unwrap();
        this.repeat(move || {
            std::thread::sleep(Duration::from_millis(2));
            let made = friend.run(|| TcpStream::connect_timeout(&to, DENIED).is_ok()).unwrap();
            Some(usize::from(!made))
        });
        let outbox = scene.stranger.ns.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        this.repeat(move || {
            std::thread::sleep(Duration::from_millis(1));
            outbox.send_to(b"?", to).unwrap();
            None
        });
        let inbox = scene.web.ns.inside(|| UdpSocket::bind(to).unwrap());
        inbox.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        this.repeat(move || inbox.recv(&mut [0; 16]).is_ok().then_some(2));
        this
    }

    /// Does it over and over on a thread of its own, and counts what comes of it.
    fn repeat(&mut self, work: impl Fn() -> Option<usize> + Send + 'static) {
        let (stop, counts) = (self.stop.clone(), self.counts.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(place) = work() {
                    counts[place].fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }

    /// Connections made, connections lost, datagrams leaked.
    fn counts(&self) -> [u32; 3] {
        std::array::from_fn(|place| self.counts[place].load(Ordering::Relaxed))
    }

    pub fn made(&self) -> u32 {
        self.counts()[0]
    }

    /// What came of it, once it is known that a datagram is heard where none keeps it out.
    pub fn end(self, open: impl FnOnce()) -> [u32; 3] {
        let counts = self.counts();
        open();
        assert!(soon(|| self.counts()[2] > counts[2]), "no datagram arrives, whatever policies say");
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        counts
    }
}

/// A node whose agent ends goes on as it is, and one that starts finds its own.
#[test]
fn an_agents_death_opens_nothing_and_its_start_writes_nothing() {
    if !is_root() {
        return;
    }
    let mut scene = scene(Plan::default());
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]";
    scene.world.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}")));
    scene.expect(8080, "friend");
    scene.world.settle();
    let before = scene.tables();
    let traffic = Traffic::start(&scene);
    for run in 1..=5 {
        scene.world.restart();
        let row = || scene.row("open");
        assert!(soon(|| row()["realised"] == true), "{}", row());
        assert!(soon(|| traffic.made() > 30 * run), "{} made", traffic.made());
    }
    scene.world.settle();
    assert_eq!(scene.tables(), before, "something was written anew");
    let [made, lost, leaked] = traffic.end(|| scene.delete(&policy("open", "{podSelector: {}}")));
    assert!(made > 150 && (lost, leaked) == (0, 0), "{made} made, {lost} lost, {leaked} leaked");
}

/// An agent is killed at any moment while policies change, under connections that are allowed and that are not: none that is not is made,
/// and none that is gets lost.
#[test]
fn an_agent_killed_under_traffic_leaks_and_loses_nothing() {
    if !is_root() {
        return;
    }
    let kills = if is_long() { 1_000 } else { 20 };
    let mut scene = scene(Plan::default());
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]";
    let spec = format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}");
    scene.world.apply(&policy("open", &spec));
    scene.expect(8080, "friend");
    // The web's tables change with each, and what they say of its port does not.
    let beside = |number: u64| {
        policy(
            "beside",
            &format!(
                "{{podSelector: {{matchLabels: {{role: web}}}}, ingress: [{{ports: [{{port: {}}}]}}]}}",
                10_000 + number
            ),
        )
    };
    let traffic = Traffic::start(&scene);
    let mut numbers = Numbers(7);
    for kill in 1..=kills {
        // An agent is ready before it has the store again.
        let apply = || scene.world.ask("POST", "/v1/apply", &beside(u64::from(kill)));
        assert!(soon(|| apply().is_some_and(|answer| answer.status == 200)));
        std::thread::sleep(Duration::from_micros(numbers.below(30_000)));
        scene.world.restart();
        // Not always does it come so far that it has written what changed.
        if kill % 2 == 0 {
            assert!(soon(|| scene.row("beside")["realised"] == true), "{}", scene.row("beside"));
        }
        assert!(soon(|| traffic.made() > 10 * kill), "{} made", traffic.made());
    }
    scene.delete(&beside(0));
    scene.expect(8080, "friend");
    let [made, lost, leaked] = traffic.end(|| scene.delete(&policy("open", "{podSelector: {}}")));
    println!("{kills} kills: {made} made, {lost} lost, {leaked} leaked");
    assert!(made > 10 * kills && (lost, leaked) == (0, 0), "{made} made, {lost} lost, {leaked} leaked");
    scene.world.settle();
}

#[test]
fn what_another_hand_changes_of_policies_comes_back() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}, {ipBlock: {cidr: 192.0.2.0/28}}], ports: [{port: http}]}]";
    scene.world.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}")));
    scene.expect(8080, "friend outside");
    scene.world.settle();
    let without_numbers = || {
        let text = scene.tables();
        let lines = text.lines().map(|line| line.split(" # handle").next().unwrap_or_default().to_owned());
        lines.collect::<Vec<_>>()
    };
    let before = without_numbers();
    let names = scene.world.node.run("nft", &["list", "table", "ip", "ripstop-policy"]);
    let part = |kind: &str| {
        let line = names.lines().find(|line| line.contains(&format!("chain {kind}/"))).unwrap();
        line.trim().split(' ').nth(1).unwrap().to_owned()
    };
    let (ports, peers) = (part("ports"), part("peers"));
    for by_hand in [
        "delete table ip ripstop-policy".to_owned(),
        "flush chain ip ripstop-policy forward".to_owned(),
        "flush map ip ripstop-policy ingress".to_owned(),
        format!("flush chain ip ripstop-policy {ports}"),
        format!("flush chain ip ripstop-policy {peers}"),
        format!("flush map ip ripstop-policy {ports}/ports"),
        format!("flush map ip ripstop-policy {peers}/single"),
        format!("flush map ip ripstop-policy {peers}/blocks"),
        format!("add element ip ripstop-policy {peers}/single {{ {} : return }}", scene.stranger.ip()),
    ] {
        scene.world.node.run("nft", &[&by_hand]);
        assert!(soon(|| without_numbers() == before), "after {by_hand}:\n{}", scene.tables());
        assert_eq!(scene.reach(8080), "friend outside", "after {by_hand}");
    }
}

/// Policies see the pods that a Service's connection is between.
#[test]
fn policies_see_pods_behind_a_service() {
    if !is_root() {
        return;
    }
    for (proxy, plan) in Plan::by_each_proxy() {
        let scene = scene(plan);
        let world = &scene.world;
        world.apply(
            "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {role: web}, clusterIP: 10.96.0.9,\n\
             ports: [{name: http, port: 80, targetPort: http}]}}",
        );
        let vip = "10.96.0.9:80";
        assert!(soon(|| scene.world.rows("/v1/endpoints").iter().any(|row| row["realised"] == true)));
        assert!(soon(|| connects(&scene.stranger.ns, vip)), "{proxy}");
        let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: 8080}]}]";
        world.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}")));
        assert!(soon(|| !connects(&scene.stranger.ns, vip)), "{proxy}");
        assert!(connects(&scene.friend.ns, vip), "{proxy}");
        assert!(connects(&scene.web.ns, vip), "{proxy}: a pod is kept from itself");
        assert!(connects(&world.node, vip), "{proxy}: its node is kept out");
    }
}

/// Policies that an API server has, which knows no ClusterNetworkPolicy, and a pod of which it does not know.
#[test]
fn an_api_server_says_which_policies_there_are() {
    if !is_possible("policies of an API server") {
        return;
    }
    let (mut world, server) = with_server(&["rangeMode: pod-cidr"]);
    server.apply(&node_object("{podCIDR: 10.244.7.0/24, podCIDRs: [10.244.7.0/24]}"));
    world.start_agent();
    world.wait_ready();
    let objects = [pod_object("web", "web"), pod_object("friend", "friend"), pod_object("stranger", "stranger")];
    server.apply(&objects.concat());
    // Without a policy nobody waits for a pod's object.
    let [web, friend, stranger] = ["web", "friend", "stranger"].map(|name| world.pod(name));
    let _servers = [&web, &friend].map(|pod| Named::start(&pod.ns, "0.0.0.0:8080", "pod"));
    assert!(connects(&stranger.ns, &web.at(8080)));
    let ingress = "[{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]";
    server.apply(&policy("open", &format!("{{podSelector: {{matchLabels: {{role: web}}}}, ingress: {ingress}}}")));
    assert!(soon(|| !connects(&stranger.ns, &web.at(8080))), "{}", world.agent().log_text());
    assert!(connects(&friend.ns, &web.at(8080)));
    let row = || world.rows("/v1/networkpolicies").into_iter().next().unwrap_or_default();
    assert!(soon(|| row()["realised"] == true && row()["generation"] == 1), "{}", row());

    let (ns, container) = (Ns::new(), world.fresh("late"));
    let args = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=late";
    let add = || world.call("ADD", &container, &ns.path).env("CNI_ARGS", args);
    let (code, text) = add().timeout(2_000).refused();
    assert!(code == 11 && text.contains("its labels say which policies are about it"), "{code} {text}");
    server.apply(&pod_object("late", "web"));
    assert!(soon(|| add().make().is_ok()), "{}", world.agent().log_text());
    server.kubectl(&["delete", "networkpolicy", "open"]);
    assert!(soon(|| connects(&stranger.ns, &web.at(8080))));
}
