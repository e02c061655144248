//! A thread in a namespace of its own is the node; further namespaces, held open by a descriptor, are its pods.
//! Nothing is mounted or named: everything ends with the test, also when it fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ripstop_kernel::{Applier, BootFiles, Fault, Netns, Observer, OnError, Outcome, StepError};
use ripstop_netmodel::*;
use ripstop_plan::{Action, Step};
use ripstop_types::{IfName, Mac, Owner, Prefix};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs a test on a thread in a new network namespace. `None` and a line where that is not possible.
pub fn on_a_node(test: impl FnOnce(Node) + Send + 'static) {
    let thread = std::thread::spawn(|| {
        if !new_namespace() {
            println!("SKIPPED: no new network namespaces: not root");
            return;
        }
        run("ip", &["link", "set", "lo", "up"]);
        test(Node::new());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn new_namespace() -> bool {
    // SAFETY: only the network namespace of this thread changes, and it opens its sockets after that.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.is_ok()
}

/// A network namespace without a process.
pub struct Pod {
    _ns: File,
    pub path: String,
}

impl Pod {
    pub fn new() -> Self {
        let open = || {
            assert!(new_namespace());
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let ns = std::thread::spawn(open).join().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd());
        Self { _ns: ns, path }
    }

    pub fn ns(&self) -> Ns {
        Ns::Path(self.path.as_str().into())
    }

    /// Runs something inside, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|s| s.spawn(|| Netns::open(&self.path).unwrap().run(work).unwrap()).join().unwrap())
    }

    /// Whether a TCP connection to a listener comes about.
    pub fn reaches(&self, to: &TcpListener) {
        let to = to.local_addr().unwrap();
        let tried = self.inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)));
        assert!(tried.is_ok(), "{to}: {tried:?}");
    }

    /// Listens inside.
    pub fn listen(&self, ip: &str) -> TcpListener {
        let ip = addr(ip);
        self.inside(move || TcpListener::bind((ip, 0)).unwrap())
    }

    /// Runs a command inside and gives what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let net = format!("--net={}", self.path);
        let mut all = vec![net.as_str(), program];
        all.extend(arguments);
        run("nsenter", &all)
    }
}

/// Runs a command in this thread's namespace and gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `ip` and its arguments in one line.
pub fn ip(line: &str) -> String {
    run("ip", &line.split_whitespace().collect::<Vec<_>>())
}

pub struct Node {
    pub applier: Applier,
    pub observer: Observer,
    pub files: BootFiles,
    _root: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let applier = Applier::open().unwrap();
        Self {
            observer: Observer::open().unwrap().with_iptables(applier.iptables()),
            applier,
            files: BootFiles::new(root.path()),
            _root: root,
        }
    }

    pub fn run(&mut self, steps: &[Step]) -> Vec<Outcome> {
        self.applier.run(steps, OnError::Continue, &mut self.files)
    }

    /// Makes objects in the order of their keys; every step must succeed.
    pub fn make(&mut self, objects: &[Object]) {
        let outcomes = self.run(&creations(objects));
        for outcome in outcomes {
            outcome.result.unwrap();
        }
    }

    /// Removes objects against the order of their keys; every step must succeed.
    pub fn remove(&mut self, objects: &[Object]) {
        for outcome in self.run(&removals(objects)) {
            outcome.result.unwrap();
        }
    }

    /// What making one object comes to.
    pub fn try_make(&mut self, object: impl Into<Object>) -> Result<(), StepError> {
        self.run(&creations(&[object.into()])).remove(0).result
    }

    pub fn fault(&mut self, object: impl Into<Object>) -> Fault {
        self.try_make(object).unwrap_err().fault
    }

    pub fn observe(&mut self, objects: &[Object]) -> Model {
        let keys: BTreeSet<Key> = objects.iter().map(Resource::key).collect();
        self.observer.observe_keys(&keys, &model(objects)).unwrap()
    }

    /// Every object must be there, read by key and (in the agent's namespace) by a whole reading.
    pub fn assert_there(&mut self, objects: &[Object]) {
        let by_key = self.observe(objects);
        let whole = self.observer.host(&model(objects)).unwrap();
        for object in objects {
            let key = object.key();
            if matches!(key.kind(), Kind::Record | Kind::ServiceFlows | Kind::FrontendFlows) {
                continue;
            }
            let found = by_key.get(&key).unwrap_or_else(|| panic!("{key} is not there"));
            assert!(object.satisfied_by(&found.object), "wanted {object:#?}\nfound {:#?}", found.object);
            if key.ns() == Some(&Ns::Host) {
                let found = whole.get(&key).unwrap_or_else(|| panic!("{key} is not in the whole"));
                assert!(object.satisfied_by(&found.object), "wanted {object:#?}\nfound {:#?}", found.object);
            }
        }
    }

    /// No object may be there, but for settings, which have no "absent".
    pub fn assert_gone(&mut self, objects: &[Object]) {
        let found = self.observe(objects);
        let left: Vec<String> = found
            .keys()
            .filter(|key| !matches!(key.kind(), Kind::Sysctl | Kind::LinkSysctl))
            .filter(|key| !matches!(key, Key::Link { name, .. } if name.as_str() == "lo"))
            .map(ToString::to_string)
            .collect();
        assert!(left.is_empty(), "still there: {left:?}");
    }
}

pub fn model(objects: &[Object]) -> Model {
    objects.iter().map(|object| Entry { object: object.clone(), owner: None }).collect()
}

pub fn step(action: Action, before: Option<&Object>, after: Option<&Object>) -> Step {
    let entry = |object: &Object| Arc::new(Entry { object: object.clone(), owner: Some(Owner::agent()) });
    let key = after.or(before).unwrap().key();
    Step {
        action,
        key,
        after: after.map(entry),
        before: before.map(entry),
        owner: Owner::agent(),
        reason: "test".into(),
    }
}

pub fn creations(objects: &[Object]) -> Vec<Step> {
    let mut objects: Vec<&Object> = objects.iter().collect();
    objects.sort_by_key(|object| object.key());
    objects.into_iter().map(|object| step(Action::Create, None, Some(object))).collect()
}

pub fn removals(objects: &[Object]) -> Vec<Step> {
    let mut objects: Vec<&Object> = objects.iter().collect();
    objects.sort_by_key(|object| std::cmp::Reverse(object.key()));
    objects.into_iter().map(|object| step(Action::Delete, Some(object), None)).collect()
}

/// Listens in this thread's namespace.
pub fn listen(ip: &str) -> TcpListener {
    TcpListener::bind((addr(ip), 0)).unwrap()
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn mac(last: u8) -> Mac {
    Mac([0x0a, 0x58, 0, 0, 0, last])
}

pub fn addr(text: &str) -> std::net::IpAddr {
    text.parse().unwrap()
}

/// A link of ours that is up, without anything special.
pub fn link(text: &str, kind: LinkKind, last: u8) -> Link {
    Link {
        ns: Ns::Host,
        name: name(text),
        kind,
        mtu: Some(1450),
        mac: Some(mac(last)),
        up: true,
        master: None,
        altname: Some(format!("ripstop.network.{text}").into()),
        port: None,
        no_link_local: true,
        tx_checksum: None,
    }
}

pub fn vxlan(text: &str, vni: u32, local: &str, last: u8) -> Link {
    link(text, LinkKind::Vxlan { vni, port: 8472, local: addr(local) }, last)
}

/// A veth pair into a pod and the pod's end, set up.
pub fn pair(pod: &Pod, host: &str, last: u8) -> [Object; 3] {
    let veth = LinkKind::Veth(Veth { ns: pod.ns(), name: name("eth0"), mac: mac(last + 100) });
    let mut outer = link(host, veth, last);
    outer.altname = Some(format!("ripstop.pod.default.web.eth0.{host}").into());
    let inner = Link {
        ns: pod.ns(),
        name: name("eth0"),
        kind: LinkKind::VethPeer,
        mtu: Some(1450),
        mac: Some(mac(last + 100)),
        altname: None,
        ..outer.clone()
    };
    let loopback = Link {
        name: name("lo"),
        kind: LinkKind::Loopback,
        mtu: None,
        mac: None,
        no_link_local: false,
        tx_checksum: None,
        ..inner.clone()
    };
    [outer.into(), inner.into(), loopback.into()]
}

pub fn address(ns: Ns, link: &str, ip: &str, len: u8, scope: Scope) -> Object {
    Address { ns, link: name(link), ip: addr(ip), len, scope }.into()
}

pub fn neighbour(ns: Ns, link: &str, ip: &str, last: u8) -> Object {
    Neighbour { ns, link: name(link), ip: addr(ip), mac: mac(last) }.into()
}

pub fn route(ns: Ns, dst: &str, target: RouteTarget) -> Route {
    Route { ns, table: 254, dst: prefix(dst), metric: 0, target, src: None, mtu: None }
}

pub fn via(link: &str, gateway: &str, onlink: bool) -> RouteTarget {
    RouteTarget::Via { link: name(link), gateway: addr(gateway), onlink }
}

pub fn to_link(link: &str) -> RouteTarget {
    RouteTarget::Link(name(link))
}

pub fn nexthop(last: u32, link: &str, gateway: &str, onlink: bool) -> Object {
    Nexthop { id: NEXTHOP_IDS.start() + last, link: name(link), gateway: addr(gateway), onlink }.into()
}

/// Those nexthops together.
pub fn group(last: u32, members: &[u32]) -> Object {
    let members = members.iter().map(|last| NEXTHOP_IDS.start() + last).collect();
    NexthopGroup { id: GROUP_IDS.start() + last, members }.into()
}

pub fn sysctl(ns: Ns, link: Option<&str>, path: &str, value: &str) -> Object {
    Sysctl { ns, link: link.map(name), path: path.into(), value: value.into() }.into()
}

/// A link that is not ours, up, with an address of each family.
pub fn uplink() {
    ip("link add up0 type veth peer name up1");
    ip("link set up0 up");
    ip("link set up1 up");
    ip("addr add 192.0.2.1/24 dev up0");
    ip("addr add 2001:db8::1/64 dev up0 nodad");
}
