//! Services by iptables in the kernel, by either backend: what others did stays, what they undo comes back, and what cannot be done is said.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ripstop_kernel::{Monitor, Observer};
use ripstop_netmodel::{Entry, ForwardJump, IptablesBackend, Key, Kind, Model, Object};
use ripstop_plan::Plan;
use ripstop_types::Family;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use serde_json::json;

use crate::services::{By, CLIENT, SERVERS, Scene, connect_from, datagrams_leave, said, service, slice};
use crate::support::{Node, run};

const BOTH: [IptablesBackend; 2] = IptablesBackend::BOTH;

/// A node whose programs of iptables have a lock of their own: the machine's is not waited for, nor held.
fn on_a_node(test: impl FnOnce(Node) + Send + 'static) {
    crate::support::on_a_node(|node| {
        own_run();
        test(node);
    });
}

/// Gives the thread, and what it starts, an empty folder /run.
fn own_run() {
    // SAFETY: only this thread sees other mounts from here on; no descriptor is closed.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
}

fn program(backend: IptablesBackend, verb: &str) -> String {
    format!("iptables-{}{verb}", backend.as_str())
}

/// All rules, without comments and counts.
fn saved(backend: IptablesBackend) -> String {
    let text = run(&program(backend, "-save"), &[]);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
}

/// Does something with a backend's program.
fn tables(backend: IptablesBackend, line: &str) {
    run(&program(backend, ""), &line.split_whitespace().collect::<Vec<_>>());
}

/// What would be done to come from what an agent that starts finds to what the scene wants; nothing of flows, which have no state.
fn to_do(scene: &Scene) -> Plan {
    let found = Observer::open().unwrap().host(&scene.model).unwrap();
    let mut plan = ripstop_plan::diff_all(&found, &scene.model, &|_: &Key, _: &Entry| Ok(()));
    plan.steps.retain(|step| step.key.kind() == Kind::Iptables);
    plan
}

/// Repairs what an observation shows.
fn repair(scene: &mut Scene) -> usize {
    let found = scene.node.observer.kinds(|kind| kind == Kind::Iptables, &scene.model).unwrap();
    let wanted: Model =
        scene.model.iter().filter(|(key, _)| key.kind() == Kind::Iptables).map(|(_, e)| (**e).clone()).collect();
    let plan = ripstop_plan::diff_all(&found, &wanted, &|_: &Key, _: &Entry| Ok(()));
    for outcome in scene.node.run(&plan.steps) {
        outcome.result.unwrap();
    }
    plan.steps.len()
}

fn everything() -> Option<serde_json::Value> {
    let mut object = service(json!({
        "type": "LoadBalancer", "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
        "loadBalancerSourceRanges": ["10.244.1.0/24", "203.0.113.0/28"],
    }))
    .unwrap();
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
    Some(object)
}

#[test]
fn connections_go_to_endpoints_and_nowhere_else() {
    for backend in BOTH {
        on_a_node(move |node| {
            let mut scene = Scene::by(node, By::Iptables(backend));
            scene.change(service(json!({})), slice(&SERVERS));
            let seen = scene.ask(Some(CLIENT), "10.96.0.10:80");
            assert_eq!(seen, said(SERVERS.map(|ip| format!("{ip} {CLIENT}")).each_ref().map(String::as_str)));
            let own = scene.ask(Some(SERVERS[0]), "10.96.0.10:80");
            let hairpin: Vec<&String> = own.iter().filter(|line| line.starts_with(SERVERS[0])).collect();
            assert!(hairpin.len() == 1 && !hairpin[0].ends_with(SERVERS[0]), "{own:?}");
            for seen in [scene.ask(Some(CLIENT), "192.0.2.1:30080"), scene.ask(None, "10.96.0.10:80")] {
                assert!(seen.len() == 3 && seen.iter().all(|line| !line.ends_with(CLIENT)), "{seen:?}");
            }
            assert_eq!(connect_from(&scene, "10.96.0.10:81"), "refused", "no Service has this port");
            assert_eq!(connect_from(&scene, "10.96.0.11:80"), "nothing", "no Service has this address");
            scene.change(None, slice(&[]));
            assert_eq!(connect_from(&scene, "10.96.0.10:80"), "refused");
            assert_eq!(connect_from(&scene, "192.0.2.1:30080"), "refused");
            // Whose a rule is can be read.
            scene.change(everything(), slice(&SERVERS));
            let text = saved(backend);
            assert!(text.contains("--comment \"ripstop service/default/web\""), "{text}");
            let names = text.lines().filter_map(|line| line.strip_prefix(":RIPSTOP-")?.split(' ').next());
            assert!(names.clone().all(|name| name.len() <= 20), "{:?}", names.collect::<Vec<_>>());
        });
    }
}

#[test]
fn an_agent_that_starts_rewrites_nothing_that_is_right() {
    for backend in BOTH {
        on_a_node(move |node| {
            let mut scene = Scene::by(node, By::Iptables(backend));
            scene.change(everything(), slice(&SERVERS));
            scene.change(None, slice(&SERVERS[..2]));
            let steps = to_do(&scene).steps;
            assert!(steps.is_empty(), "{steps:#?}");
            // A fresh applier reads before it writes, so what it is told again and what it is told anew end the same.
            let before = saved(backend);
            scene.node = Node::new();
            scene.change(None, slice(&SERVERS[..2]));
            scene.change(None, slice(&SERVERS));
            scene.change(None, slice(&SERVERS[..2]));
            assert_eq!(saved(backend), before);
        });
    }
}

#[test]
fn what_others_undo_comes_back_and_what_they_have_stays() {
    for backend in BOTH {
        on_a_node(move |node| {
            let mut scene = Scene::by(node, By::Iptables(backend));
            tables(backend, "-t nat -N OTHERS");
            tables(backend, "-t nat -A PREROUTING -j OTHERS");
            scene.change(everything(), slice(&SERVERS));
            let right = saved(backend);
            let chain = |part: &str| {
                let line = right.lines().find(|line| line.starts_with(&format!(":RIPSTOP-{part}"))).unwrap();
                line.split(' ').next().unwrap()[1..].to_owned()
            };
            let (drawing, leaf) = (chain("ALL-"), chain("FRONTENDS-a0"));
            for line in [
                "-t nat -D PREROUTING 1",
                &format!("-t nat -F {drawing}"),
                &format!("-t nat -F {leaf}"),
                &format!("-t nat -A {leaf} -j ACCEPT"),
                &format!("-t nat -I {drawing} 1 -j ACCEPT"),
                "-t nat -F RIPSTOP-FRONTENDS",
                "-t filter -F FORWARD",
                "-t filter -F RIPSTOP-CLUSTER-IPS",
                "-t nat -F",
                "-t filter -F",
            ] {
                tables(backend, line);
                let had = saved(backend).contains("-A PREROUTING -j OTHERS");
                assert!(repair(&mut scene) > 0, "{line}");
                let now = saved(backend);
                assert_eq!(now.contains("-A PREROUTING -j OTHERS"), had, "{line}: others' rules are theirs");
                let ours = |text: &str| -> BTreeSet<String> {
                    text.lines().filter(|line| line.contains("RIPSTOP")).map(str::to_owned).collect()
                };
                assert_eq!(ours(&now), ours(&right), "{line}");
                assert_eq!(repair(&mut scene), 0, "{line}");
            }
            scene.sticks_to(Some(CLIENT), "10.96.0.10:80");
        });
    }
}

#[test]
fn all_of_ours_goes_and_nothing_of_others() {
    for backend in BOTH {
        on_a_node(move |node| {
            tables(backend, "-t nat -N OTHERS");
            tables(backend, "-t nat -A OTHERS -d 10.96.0.10/32 -j RETURN");
            tables(backend, "-t nat -A PREROUTING -j OTHERS");
            tables(backend, "-t filter -A FORWARD -s 192.0.2.7/32 -j DROP");
            let before = saved(backend);
            let mut scene = Scene::by(node, By::Iptables(backend));
            scene.change(everything(), slice(&SERVERS));
            assert!(saved(backend).contains("RIPSTOP-"));
            scene.follow(Model::new());
            assert_eq!(saved(backend), before);
            // The same where who removes has written nothing, as when a configuration names another proxy.
            scene.change(everything(), slice(&SERVERS));
            scene.node = Node::new();
            let found = scene.node.observer.host(&Model::new()).unwrap();
            let mut plan = ripstop_plan::diff_all(&found, &Model::new(), &|_: &Key, _: &Entry| Ok(()));
            plan.steps.retain(|step| step.key.kind() == Kind::Iptables);
            assert!(scene.node.run(&plan.steps).into_iter().all(|outcome| outcome.result.is_ok()));
            assert_eq!(saved(backend), before);
        });
    }
}

#[test]
fn datagrams_leave_an_endpoint_that_is_gone_at_once_and_no_other() {
    BOTH.into_iter().for_each(|backend| datagrams_leave(By::Iptables(backend)));
}

#[test]
fn while_endpoints_come_and_go_no_connection_fails() {
    for backend in BOTH {
        on_a_node(move |node| {
            let mut scene = Scene::by(node, By::Iptables(backend));
            scene.change(service(json!({})), slice(&SERVERS));
            let mut turn = 0;
            let tried = scene.under_load("10.96.0.10:80", |scene| {
                let end = Instant::now() + Duration::from_secs(2);
                while Instant::now() < end || turn < 8 {
                    let left = [&SERVERS[..], &SERVERS[..2], &SERVERS[1..], &SERVERS[2..]][turn % 4];
                    scene.change(None, slice(left));
                    turn += 1;
                }
            });
            let failed: BTreeSet<&String> = tried.iter().filter(|line| !line.starts_with("10.244.1.")).collect();
            assert!(failed.is_empty(), "{failed:?} of {} connections in {turn} changes", tried.len());
        });
    }
}

/// Holds the lock of iptables until it is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_failure_is_said_and_who_holds_the_lock_is_named() {
    on_a_node(|node| {
        let mut scene = Scene::by(node, By::Iptables(IptablesBackend::Legacy));
        scene.change(service(json!({})), slice(&SERVERS));
        let before = saved(IptablesBackend::Legacy);
        let wait = ["--exclusive", "--no-fork", "/run/xtables.lock", "sleep", "30"];
        let holder = Holder(Command::new("flock").args(wait).stdout(Stdio::null()).spawn().unwrap());
        let is_held = || {
            let tried = Command::new("flock").args(["--nonblock", "/run/xtables.lock", "true"]).status().unwrap();
            !tried.success()
        };
        let until = Instant::now() + Duration::from_secs(10);
        while !is_held() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut rules = scene.model.iter().find_map(|(_, entry)| match &entry.object {
            Object::IptablesRules(rules) if rules.key.chain.starts_with("RIPSTOP-ALL-") => Some(rules.clone()),
            _ => None,
        });
        let rules = rules.as_mut().unwrap();
        rules.rules.truncate(1);
        let fault = scene.node.try_make(rules.clone()).unwrap_err().to_string();
        let expected = format!("the lock of iptables is held by process {} (sleep 30)", holder.0.id());
        assert!(fault.contains(&expected), "{fault}");
        drop(holder);
        assert_eq!(saved(IptablesBackend::Legacy), before, "nothing is half applied");
        // What a program does not take is said with the line, and the rest stays as it was.
        rules.rules = vec!["-p tcp --no-such-thing -j ACCEPT".into()];
        let fault = scene.node.try_make(rules.clone()).unwrap_err().to_string();
        assert!(fault.contains("the line is: -A RIPSTOP-ALL-") && fault.contains("no-such-thing"), "{fault}");
        assert_eq!(saved(IptablesBackend::Legacy), before);
        scene.change(None, slice(&SERVERS[..1]));
    });
}

#[test]
fn others_writes_are_heard_and_ours_are_not() {
    on_a_node(|node| {
        let mut scene = Scene::by(node, By::Iptables(IptablesBackend::Nft));
        scene.change(service(json!({})), slice(&SERVERS));
        let mut monitor = Monitor::open(scene.node.applier.own()).unwrap();
        let hear = |monitor: &mut Monitor| -> BTreeSet<Kind> {
            let mut kinds = BTreeSet::new();
            let silence = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
            loop {
                let mut fds = [PollFd::from_borrowed_fd(monitor.as_fd(), PollFlags::IN)];
                if poll(&mut fds, Some(&silence)).unwrap() == 0 {
                    return kinds;
                }
                kinds.extend(monitor.read().unwrap().kinds);
            }
        };
        hear(&mut monitor);
        scene.change(None, slice(&SERVERS[..1]));
        assert_eq!(hear(&mut monitor), BTreeSet::new());
        tables(IptablesBackend::Nft, "-t nat -D PREROUTING 1");
        assert_eq!(hear(&mut monitor), BTreeSet::from([Kind::Iptables]));
        tables(IptablesBackend::Nft, "-t nat -A PREROUTING -d 192.0.2.9/32 -j RETURN");
        assert_eq!(hear(&mut monitor), BTreeSet::new(), "others' rules are no business of ours");
    });
    on_a_node(|node| {
        let mut scene = Scene::by(node, By::Iptables(IptablesBackend::Legacy));
        let iptables = scene.node.applier.iptables();
        scene.change(service(json!({})), slice(&SERVERS));
        assert!(!iptables.has_legacy_changed());
        scene.change(None, slice(&SERVERS[..1]));
        assert!(!iptables.has_legacy_changed());
        tables(IptablesBackend::Legacy, "-t nat -D PREROUTING 1");
        assert!(iptables.has_legacy_changed());
        assert!(repair(&mut scene) > 0);
        assert!(!iptables.has_legacy_changed());
    });
}

#[test]
fn the_jump_of_services_stands_before_the_one_that_accepts() {
    on_a_node(|node| {
        let mut scene = Scene::by(node, By::Iptables(IptablesBackend::Nft));
        scene.change(service(json!({})), slice(&[]));
        assert_eq!(connect_from(&scene, "10.96.0.10:80"), "refused");
        scene.node.make(&[ForwardJump { family: Family::V4, chain: "FORWARD".into(), whole: true }.into()]);
        let first = || run("iptables-nft", &["-S", "FORWARD"]).lines().nth(1).unwrap().to_owned();
        assert!(first().ends_with("-j RIPSTOP-FORWARD"), "{}", first());
        assert_eq!(repair(&mut scene), 1);
        assert!(first().ends_with("-j RIPSTOP-FORWARDED"), "{}", first());
        assert_eq!(repair(&mut scene), 0);
    });
}

#[test]
fn the_backend_that_kubelet_uses_is_found() {
    let facts = || Observer::open().unwrap().facts().unwrap().iptables;
    on_a_node(move |_| {
        assert_eq!(facts(), None);
        tables(IptablesBackend::Legacy, "-t nat -A PREROUTING -d 192.0.2.9/32 -j RETURN");
        assert_eq!(facts(), Some(IptablesBackend::Legacy), "others' rules");
        tables(IptablesBackend::Nft, "-t nat -A PREROUTING -d 192.0.2.9/32 -j RETURN");
        assert_eq!(facts(), Some(IptablesBackend::Nft));
        tables(IptablesBackend::Legacy, "-t mangle -N KUBE-KUBELET-CANARY");
        assert_eq!(facts(), Some(IptablesBackend::Legacy), "kubelet's");
        tables(IptablesBackend::Nft, "-t mangle -N KUBE-IPTABLES-HINT");
        assert_eq!(facts(), Some(IptablesBackend::Nft));
    });
}
