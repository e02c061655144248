//! What one pod costs in the kernel: prints the times of adding and removing pods by [`Applier`] alone.
//!
//! Needs root. Works in network namespaces of its own, which end with it.
//!
//! ```text
//! cargo run --release -p ripstop-kernel --example add_floor [PODS]
//! ```

#![allow(clippy::print_stdout)]

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_kernel::{Applier, BootFiles, OnError};
use ripstop_netmodel::*;
use ripstop_nft::model::{Chain, ElementBody, ElementKey, Hook, Key as ElementValue, KeyPart, Name, Rule, Set, Table};
use ripstop_nft::model::{TableFamily, Type, Value, build, priority};
use ripstop_plan::{Action, Step};
use ripstop_types::{IfName, Mac, Owner, Prefix};
use rustix::thread::{UnshareFlags, unshare_unsafe};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let count = std::env::args().nth(1).map_or(Ok(200), |text| text.parse())?;
    match std::thread::spawn(move || measure(count)).join() {
        Ok(result) => result,
        Err(_) => Err("the measuring thread panicked".into()),
    }
}

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn measure(count: u32) -> Fallible<()> {
    new_namespace()?;
    let root = std::env::temp_dir().join(format!("ripstop-add-floor-{}", std::process::id()));
    let result = in_namespace(count, &mut BootFiles::new(&root));
    let _ = std::fs::remove_dir_all(root);
    result
}

fn in_namespace(count: u32, files: &mut BootFiles) -> Fallible<()> {
    let mut applier = Applier::open()?;
    let table = Table::new(TableFamily::Inet, NFT_TABLE).set("pods", Set::of([Type::IfName, Type::Ipv4Addr])).chain(
        "forward",
        Chain::filter(Hook::Forward, priority::FILTER).rule(Rule::new([
            build::concat((build::meta::iifname(), build::ip::saddr())).not_in_set("pods"),
            build::drop(),
        ])),
    );
    execute(&mut applier, files, &[step(Action::Create, &NftTable { table }.into())])?;
    println!("what                                     p50        p99        all");
    for (what, whole) in [("link, addresses, neighbours, routes", false), ("with record and nft element", true)] {
        let pods = (0..count).map(|_| Ok(open_namespace()?)).collect::<Fallible<Vec<File>>>()?;
        let objects: Vec<Vec<Object>> =
            (0..count).zip(&pods).map(|(i, ns)| pod(i, ns, whole)).collect::<Fallible<_>>()?;
        let mut times = Vec::new();
        for objects in &objects {
            let steps: Vec<Step> = objects.iter().map(|object| step(Action::Create, object)).collect();
            times.push(execute(&mut applier, files, &steps)?);
        }
        report(&format!("ADD {what}"), &mut times);
        let removals = |objects: &[Object]| -> Vec<Step> {
            let kept = objects.iter().rev().filter(|object| object.key().ns().is_none_or(|ns| *ns == Ns::Host));
            let kept = kept.filter(|object| object.key().kind() != Kind::Neighbour);
            kept.map(|object| step(Action::Delete, object)).collect()
        };
        let (one_by_one, together) = objects.split_at(objects.len() / 2);
        let mut times = Vec::new();
        for objects in one_by_one {
            times.push(execute(&mut applier, files, &removals(objects))?);
        }
        report("  DEL, one by one", &mut times);
        let mut steps: Vec<Step> = together.iter().flat_map(|objects| removals(objects)).collect();
        steps.sort_by(|a, b| b.key.cmp(&a.key));
        let start = Instant::now();
        let answered = execute(&mut applier, files, &steps)?;
        applier.flush();
        println!("  DEL of {} at once: answered in {answered:?}, over after {:?}", together.len(), start.elapsed());
    }
    Ok(())
}

fn execute(applier: &mut Applier, files: &mut BootFiles, steps: &[Step]) -> Fallible<Duration> {
    let start = Instant::now();
    for outcome in applier.run(steps, OnError::Stop, files) {
        outcome.result?;
    }
    Ok(start.elapsed())
}

fn report(what: &str, times: &mut [Duration]) {
    let all: Duration = times.iter().sum();
    times.sort();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    println!("{what:<40} {:>8.1?} {:>8.1?} {all:>10.1?}", at(50), at(99));
}

fn step(action: Action, object: &Object) -> Step {
    let entry = Some(Arc::new(Entry { object: object.clone(), owner: Some(Owner::agent()) }));
    let (before, after) = if action == Action::Delete { (entry, None) } else { (None, entry) };
    Step { action, key: object.key(), after, before, owner: Owner::agent(), reason: "measured".into() }
}

/// The objects of a pod with routed wiring, in the order of their keys.
fn pod(i: u32, ns: &File, whole: bool) -> Fallible<Vec<Object>> {
    let pod = Ns::Path(format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd()).into());
    let [_, _, c, d] = (i + 1).to_be_bytes();
    let ip = IpAddr::V4(Ipv4Addr::new(10, 244, c, d));
    let router = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
    let (host, eth): (IfName, IfName) = (format!("rip{i}").parse()?, "eth0".parse()?);
    let (near, far) = (Mac([0x0a, 1, 0, 0, c, d]), Mac([0x0a, 2, 0, 0, c, d]));
    let [outer, inner, loopback] = links(i, &pod, (&host, near), (&eth, far))?;
    let route =
        |ns: &Ns, dst, target| Route { ns: ns.clone(), table: 254, dst, metric: 0, target, src: None, mtu: None };
    let everything = Prefix::default_route(ripstop_types::Family::V4);
    let gateway = RouteTarget::Via { link: eth.clone(), gateway: router, onlink: false };
    let mut objects: Vec<Object> = vec![
        outer.into(),
        inner.into(),
        loopback.into(),
        Address { ns: pod.clone(), link: eth.clone(), ip, len: 32, scope: Scope::Global }.into(),
        Neighbour { ns: Ns::Host, link: host.clone(), ip, mac: far }.into(),
        Neighbour { ns: pod.clone(), link: eth.clone(), ip: router, mac: near }.into(),
        route(&Ns::Host, Prefix::host(ip), RouteTarget::Link(host.clone())).into(),
        route(&pod, Prefix::host(router), RouteTarget::Link(eth)).into(),
        route(&pod, everything, gateway).into(),
    ];
    if whole {
        let key = ElementKey {
            family: TableFamily::Inet,
            table: Name::from(NFT_TABLE),
            set: Name::from("pods"),
            key: ElementValue::new(false, [KeyPart::from(Value::from(host)), KeyPart::from(ip)]),
        };
        objects.push(NftElement { key, body: ElementBody::comment(&Owner::agent()) }.into());
        let (scope, key) = (RecordScope::Boot("leases".into()), format!("pod-{i}/eth0").into());
        objects.push(Record { scope, key, value: "{}".into(), guard: RecordGuard::Any }.into());
    }
    objects.sort_by_key(Resource::key);
    Ok(objects)
}

/// A pair into a pod, and the pod's loopback.
fn links(i: u32, pod: &Ns, near: (&IfName, Mac), far: (&IfName, Mac)) -> Fallible<[Link; 3]> {
    let ((host, near), (eth, far)) = (near, far);
    let outer = Link {
        ns: Ns::Host,
        name: host.clone(),
        kind: LinkKind::Veth(Veth { ns: pod.clone(), name: eth.clone(), mac: far }),
        mtu: Some(1450),
        mac: Some(near),
        up: true,
        master: None,
        altname: Some(format!("ripstop.pod.default.pod-{i}.eth0.{host}").into()),
        port: None,
        no_link_local: true,
        tx_checksum: None,
    };
    let inner = Link {
        ns: pod.clone(),
        name: eth.clone(),
        kind: LinkKind::VethPeer,
        mac: Some(far),
        altname: None,
        ..outer.clone()
    };
    let loopback = Link {
        name: "lo".parse()?,
        kind: LinkKind::Loopback,
        mtu: None,
        mac: None,
        no_link_local: false,
        tx_checksum: None,
        ..inner.clone()
    };
    Ok([outer, inner, loopback])
}

fn new_namespace() -> std::io::Result<()> {
    // SAFETY: only the network namespace of the calling thread changes, and it opens its sockets after that.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

fn open_namespace() -> std::io::Result<File> {
    let open = || new_namespace().and_then(|()| File::open("/proc/thread-self/ns/net"));
    std::thread::spawn(open).join().unwrap_or_else(|_| Err(std::io::Error::other("the thread panicked")))
}
