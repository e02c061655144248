//! An agent that serves Services by IPVS, where the kernel has it: switched to live and away again, and repaired.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use ripstop_kernel::{Applier, BootFiles, Observer, OnError};
use ripstop_netmodel::{Entry, Key, Kind, LOCAL_TABLE, Model};

use crate::support::load::{Load, Pace, Servant};
use crate::support::ns::is_root;
use crate::support::world::{Plan, Pod, World};
use crate::support::{cni, slowness, soon, within};

const TCP: &str = "10.96.0.50:80";
const UDP: &str = "10.96.0.50:53";

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, clusterIP: 10.96.0.50,\n\
    ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, protocol: UDP, port: 53, targetPort: 8053}]}}\n";

/// The machine may be emulated: few connections, and time for each.
const PACE: Pace = Pace { rate: 5, staying: 2, patience: Duration::from_secs(60) };

/// An agent looks at IPVS, which tells of no change, every ten seconds.
const LOOK: Duration = Duration::from_secs(60);

/// Whether it can be; says why not.
fn is_possible() -> bool {
    if !is_root() {
        return false;
    }
    let found = ripstop_kernel::has_ipvs();
    if !found {
        println!("SKIPPED: this kernel has no IPVS, or its module ip_vs is not loaded");
    }
    found
}

/// A node with two endpoints of a Service and a pod that asks them.
struct Scene {
    _servants: [Servant; 2],
    _pods: [Pod; 2],
    client: Pod,
    world: World,
}

impl Scene {
    fn start(proxy: &str) -> Self {
        let config = format!("services: {{proxy: {proxy}, iptablesBackend: nft, serviceCIDRs: [10.96.0.0/16]}}");
        let world = World::start(Plan { config: vec![config], ..Plan::default() });
        let [a, b, client] = ["a", "b", "client"].map(|name| world.pod(name));
        let servants = [(&a, b'a'), (&b, b'b')].map(|(pod, letter)| Servant::start(&pod.ns, 8080, 8053, letter));
        let pod = |name| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{nodeName: n1}}}}\n"
            )
        };
        let answer = world.ask("POST", "/v1/apply", &[WEB, &pod("a"), &pod("b")].concat()).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let scene = Self { _servants: servants, _pods: [a, b], client, world };
        assert!(soon(|| scene.endpoints() == 4), "{:#?}", scene.world.rows("/v1/endpoints"));
        scene.world.settle();
        assert!(soon(|| scene.is_served()), "{:#?}", scene.world.rows("/v1/services"));
        scene
    }

    fn endpoints(&self) -> usize {
        self.world.rows("/v1/endpoints").len()
    }

    /// Whether a connection comes to an endpoint.
    fn is_served(&self) -> bool {
        let to: SocketAddr = TCP.parse().unwrap();
        self.client.ns.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).is_ok()
    }

    /// `ripstop migrate proxy`, until it says that it is done; then nothing of another is left.
    fn migrate(&self, proxy: &str) {
        let mut command = Command::new(cni::command());
        command.args(["migrate", "proxy", proxy, "--timeout", "10m", "--socket"]);
        let output = command.arg(self.world.run_dir().join("agent.sock")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said, format!("Services are served by {proxy}\n"));
        self.world.settle();
        let tables = self.world.node.run("nft", &["list", "tables"]);
        let found = [
            ("nftables", tables.contains("ripstop-services")),
            ("ipvs", tables.contains("ripstop-ipvs")),
            ("ipvs", !self.servers().is_empty()),
            ("iptables", self.world.node.run("iptables-nft-save", &["-t", "nat"]).contains("RIPSTOP-")),
        ];
        for (of, is_there) in found {
            assert_eq!(is_there, of == proxy, "{proxy}: of {of}\n{tables}{:?}", self.servers());
        }
    }

    /// What of IPVS is ours, and the routes that make its addresses local.
    fn servers(&self) -> BTreeSet<Key> {
        self.observed().keys().filter(|key| is_of_ipvs(key)).cloned().collect()
    }

    fn observed(&self) -> Model {
        let asked = |kind| matches!(kind, Kind::Route | Kind::IpvsService | Kind::IpvsDestination);
        self.world.node.inside(|| Observer::open().unwrap().kinds(asked, &Model::new()).unwrap())
    }

    /// Another hand removes some of it.
    fn remove(&self, victims: &BTreeSet<Key>) {
        let before = self.observed();
        let mut after = before.clone();
        after.retain(|key, _| !victims.contains(key));
        let plan = ripstop_plan::diff_all(&before, &after, &|_: &Key, _: &Entry| Ok(()));
        assert!(!plan.steps.is_empty());
        let files = self.world.dir.path().join("none");
        let run = || Applier::open().unwrap().run(&plan.steps, OnError::Stop, &mut BootFiles::new(files));
        let failed: Vec<_> = self.world.node.inside(run).into_iter().filter_map(|done| done.result.err()).collect();
        assert!(failed.is_empty(), "{failed:?}");
    }
}

fn is_of_ipvs(key: &Key) -> bool {
    match key {
        Key::Route { table, .. } => *table == LOCAL_TABLE,
        _ => matches!(key.kind(), Kind::IpvsService | Kind::IpvsDestination),
    }
}

#[test]
fn no_connection_fails_while_a_node_is_switched_to_it_and_on() {
    if !is_possible() {
        return;
    }
    let scene = Scene::start("nftables");
    let clients = [("pod", &scene.client.ns), ("node", &scene.world.node)];
    let load = Load::at(PACE, &clients, TCP.parse().unwrap(), UDP.parse().unwrap());
    load.go_on(10);
    for proxy in ["ipvs", "iptables", "nftables", "ipvs"] {
        scene.migrate(proxy);
        load.go_on(10);
    }
    assert_eq!(load.end(), Vec::<String>::new());
}

#[test]
fn what_another_hand_removes_comes_back() {
    if !is_possible() {
        return;
    }
    let scene = Scene::start("ipvs");
    let right = scene.servers();
    let first = |kind: Kind| right.iter().find(|key| key.kind() == kind).unwrap().clone();
    let (server, route) = (first(Kind::IpvsService), first(Kind::Route));
    let led: BTreeSet<Key> = right.iter().filter(|key| key.parent().as_ref() == Some(&server)).cloned().collect();
    assert_eq!(led.len(), 2, "{right:#?}");
    let with_all = led.iter().cloned().chain([server]).collect();
    let destination = BTreeSet::from([led.first().unwrap().clone()]);
    let everything = right.clone();
    for victims in [destination, with_all, BTreeSet::from([route]), everything] {
        scene.remove(&victims);
        let is_back = within(LOOK * slowness(), || scene.servers() == right);
        assert!(is_back, "without {victims:#?}:\n{:#?}\n{}", scene.servers(), scene.world.agent().log_text());
        scene.world.settle();
        assert!(scene.is_served());
        println!("{} came back", victims.len());
    }
}
