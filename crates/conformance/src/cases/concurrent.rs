//! Many calls at once, for different containers.

use std::collections::BTreeSet;
use std::thread;

use serde_json::Value;

use super::eventually;
use super::packet::reaches;
use crate::case::{Case, Stop, Verdict, case, need, skip};
use crate::look;
use crate::result::Attached;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del, Gc, Status, Version};

const MANY: usize = 12;

pub const CASES: &[Case] = &[
    case("concurrent.adds-on-a-new-host", &spec::CONCURRENT, |s| many(s).map(drop)),
    case("concurrent.adds-give-different-addresses", &spec::LOCKING, |s| {
        let pods = many(s)?;
        differ(&pods)
    }),
    case("concurrent.adds-give-different-macs", &spec::CONCURRENT, |s| {
        let pods = many(s)?;
        let mut seen = BTreeSet::new();
        for attached in &pods {
            let mac = super::kernel::link_of(attached)?.mac;
            need!(seen.insert(mac.clone()), "{mac} was given to two containers");
        }
        Ok(())
    }),
    case("concurrent.added-containers-reach-each-other", &spec::CONNECTIVITY, |s| {
        s.addressed()?;
        let pods = many(s)?;
        pods.iter().zip(pods.iter().skip(1)).try_for_each(|(one, two)| reaches(one, two))
    }),
    case("concurrent.added-containers-pass-check", &spec::CHECK_AFTER_ADD, |s| {
        s.newest(Check)?;
        let pods = many(s)?;
        at_once(&pods, |attached| s.check(attached)?.done()).map(drop)
    }),
    case("concurrent.dels", &spec::PARALLEL, |s| {
        let pods = many(s)?;
        at_once(&pods, |attached| s.del(attached).done()).map(drop)
    }),
    case("concurrent.dels-leave-nothing", &spec::DEL_UNDO, dels_leave_nothing),
    case("concurrent.adds-and-dels", &spec::PARALLEL, adds_and_dels),
    case("concurrent.up-and-down", &spec::CONCURRENT, up_and_down),
    case("concurrent.interfaces-of-different-containers", &spec::PARALLEL_ATTACHMENTS, |s| {
        let pods = many(s)?;
        at_once(&pods, |attached| s.call(Add, &attached.pod)?.ifname("net1").result()).map(drop)
    }),
    case("concurrent.versions-and-adds", &spec::CONCURRENT, |s| {
        let numbers: Vec<usize> = (0..MANY).collect();
        at_once(&numbers, |n| if n % 2 == 0 { s.plain(Version)?.done() } else { s.attach().map(drop) }).map(drop)
    }),
    case("concurrent.status-and-adds", &spec::STATUS_WAY, |s| {
        s.newest(Status)?;
        let numbers: Vec<usize> = (0..MANY).collect();
        at_once(&numbers, |n| if n % 2 == 0 { s.plain(Status)?.done() } else { s.attach().map(drop) }).map(drop)
    }),
    case("concurrent.refused-and-good-adds", &spec::CONCURRENT, |s| {
        let numbers: Vec<usize> = (0..MANY).collect();
        at_once(&numbers, |n| {
            if n % 2 == 0 {
                s.call(Add, &s.pod()?)?.env("CNI_NETNS", "/no/such/netns").refused("CNI_NETNS does not exist").map(drop)
            } else {
                s.attach().map(drop)
            }
        })
        .map(drop)
    }),
    case("concurrent.gc-after-many", &spec::GC_AS_MANY, |s| {
        s.newest(Gc)?;
        let pods = many(s)?;
        let kept: Vec<(&str, &str)> =
            pods.iter().step_by(2).map(|attached| (attached.pod.container(), attached.ifname.as_str())).collect();
        s.gc(&kept)?.done()?;
        let listed: Vec<&Attached> = pods.iter().step_by(2).collect();
        at_once(&listed, |attached| s.check(attached)?.done()).map(drop)
    }),
];

/// Does something with each at once; what came of it in their order.
fn at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Verdict<R> + Sync) -> Verdict<Vec<R>> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(move || work(item))).collect();
        let lost = || Err(Stop::Fail("a thread of the suite panicked".into()));
        let ended: Vec<Verdict<R>> =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| lost())).collect();
        let failed = ended.iter().filter(|verdict| verdict.is_err()).count();
        ended.into_iter().collect::<Verdict<Vec<R>>>().map_err(|stop| match stop {
            Stop::Fail(why) => Stop::Fail(format!("{failed} of {} at once: {why}", items.len())),
            other => other,
        })
    })
}

fn many<'a>(scene: &'a Scene<'a>) -> Verdict<Vec<Attached>> {
    let pods: Vec<usize> = (0..MANY).collect();
    at_once(&pods, |_| scene.attach())
}

fn differ(pods: &[Attached]) -> Verdict {
    let mut seen = BTreeSet::new();
    for attached in pods {
        for ip in attached.ips()? {
            need!(seen.insert(ip.addr), "{} was given to two containers", ip.addr);
        }
    }
    if seen.is_empty() { skip("the configuration yields no addresses") } else { Ok(()) }
}

fn dels_leave_nothing(scene: &Scene<'_>) -> Verdict {
    let warm = scene.attach()?;
    scene.del(&warm).done()?;
    let before = eventually(|| look::snapshot(scene.place()))?;
    let pods = many(scene)?;
    at_once(&pods, |attached| scene.del(attached).done())?;
    eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "left on the host: {left:?}");
        Ok(())
    })
}

fn adds_and_dels(scene: &Scene<'_>) -> Verdict {
    let old = many(scene)?;
    let work: Vec<(usize, Option<&Attached>)> =
        old.iter().map(Some).chain((0..MANY).map(|_| None)).enumerate().collect();
    let new = at_once(&work, |(_, attached)| match attached {
        Some(attached) => scene.del(attached).done().map(|()| None),
        None => scene.attach().map(Some),
    })?;
    let new: Vec<Attached> = new.into_iter().flatten().collect();
    differ(&new)
}

fn up_and_down(scene: &Scene<'_>) -> Verdict {
    let numbers: Vec<usize> = (0..6).collect();
    at_once(&numbers, |_| {
        let pod = scene.pod()?;
        for _ in 0..4 {
            let result: Value = scene.call(Add, &pod)?.result()?;
            scene.call(Del, &pod)?.prev(&result).done()?;
        }
        Ok(())
    })
    .map(drop)
}
