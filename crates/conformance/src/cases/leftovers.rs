//! What is left when everything was detached: nothing, on the host and in the container.
//!
//! The first attachment may make what all share (a bridge, its address), so a case begins with one that came and went.

use std::collections::BTreeSet;

use super::eventually;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::scene::{Pod, Scene};
use crate::space;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del};

/// How many addresses a pool may have to be seen through by using it up.
const POOL: usize = 70;

pub const CASES: &[Case] = &[
    case("leftovers.none-after-add-and-del", &spec::DEL_UNDO, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            s.del(&attached).done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-del-without-result", &spec::DEL_PREV_EMPTY, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            s.call(Del, &attached.pod)?.done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-every-version", &spec::DEL_UNDO, |s| {
        none(s, |s| {
            let versions = s.versions(Add)?.into_iter();
            let up_and_down = versions.map(|version| {
                let attached = s.attach_in(version)?;
                s.del(&attached).done()?;
                Ok(attached.pod)
            });
            up_and_down.collect()
        })
    }),
    case("leftovers.none-after-check", &spec::CHECK_PROBE, |s| {
        s.newest(Check)?;
        none(s, |s| {
            let attached = s.attach()?;
            s.check(&attached)?.done()?;
            s.del(&attached).done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-two-interfaces", &spec::ADD_MANY, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            s.call(Add, &attached.pod)?.ifname("net1").result()?;
            s.call(Del, &attached.pod)?.ifname("net1").done()?;
            s.del(&attached).done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-two-interfaces-backwards", &spec::ATTACHMENT, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            s.call(Add, &attached.pod)?.ifname("net1").result()?;
            s.del(&attached).done()?;
            s.call(Del, &attached.pod)?.ifname("net1").done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-a-refused-second-add", &spec::ADD_EXISTS, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            s.call(Add, &attached.pod)?.refused("the interface exists")?;
            s.del(&attached).done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-after-add-without-netns", &spec::DEL_AFTER_FAILED_ADD, |s| {
        none(s, |s| {
            let pod = s.pod()?;
            s.call(Add, &pod)?.env("CNI_NETNS", "/no/such/netns").refused("CNI_NETNS does not exist")?;
            s.call(Del, &pod)?.unset("CNI_NETNS").done()?;
            Ok(vec![pod])
        })
    }),
    case("leftovers.none-after-the-interface-vanished", &spec::DEL_OWN, |s| {
        none(s, |s| {
            let attached = s.attach()?;
            crate::process::tool(attached.pod.place(), "ip", &["link", "del", &attached.ifname], "")?;
            s.del(&attached).done()?;
            Ok(vec![attached.pod])
        })
    }),
    case("leftovers.none-in-the-container", &spec::DEL_DELETE, |s| {
        let pod = s.pod()?;
        let before = look::snapshot(pod.place())?;
        let result = s.call(Add, &pod)?.result()?;
        s.call(Del, &pod)?.prev(&result).done()?;
        let after = look::snapshot(pod.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "left in the container: {left:?}");
        Ok(())
    }),
    case("leftovers.no-program-stays-in-the-container", &spec::DEL_UNDO, |s| {
        let attached = s.attach()?;
        s.del(&attached).done()?;
        let inodes: Vec<u64> = attached.pod.place().inode().into_iter().collect();
        need!(space::programs_in(&inodes) == 0, "a program runs in the container's namespace");
        Ok(())
    }),
    case("leftovers.addresses-do-not-run-out", &spec::DEL_RELEASE, |s| {
        rounds(s, |s| {
            let attached = s.attach()?;
            s.del(&attached).done()
        })
    }),
    case("leftovers.addresses-do-not-run-out-without-netns", &spec::DEL_BEST_EFFORT, |s| {
        rounds(s, |s| {
            let attached = s.attach()?;
            let del = s.del(&attached).unset("CNI_NETNS");
            attached.pod.vanish();
            del.done()
        })
    }),
    case("leftovers.addresses-do-not-run-out-by-refused-adds", &spec::DEL_AFTER_FAILED_ADD, |s| {
        rounds(s, |s| {
            let pod = s.pod()?;
            s.call(Add, &pod)?.env("CNI_NETNS", "/no/such/netns").refused("CNI_NETNS does not exist")?;
            s.call(Del, &pod)?.unset("CNI_NETNS").done()
        })
    }),
    case("leftovers.all-addresses-can-be-used", &spec::ASSIGN, all_used),
];

/// The work gives its containers, so that nothing goes because a namespace goes: a runtime removes it after DEL.
fn none<'a>(scene: &'a Scene<'a>, work: impl FnOnce(&'a Scene<'a>) -> Verdict<Vec<Pod>>) -> Verdict {
    let warm = scene.attach()?;
    scene.del(&warm).done()?;
    drop(warm);
    let before = settled(scene)?;
    let _pods = work(scene)?;
    eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "left on the host: {left:?}");
        let missing: Vec<&String> = before.difference(&after).collect();
        need!(missing.is_empty(), "gone from the host: {missing:?}");
        Ok(())
    })
}

/// The host when it has stopped changing.
fn settled(scene: &Scene<'_>) -> Verdict<BTreeSet<String>> {
    let mut last = BTreeSet::new();
    eventually(|| {
        let now = look::snapshot(scene.place())?;
        let same = now == last;
        last.clone_from(&now);
        need!(same, "the host goes on changing");
        Ok(now)
    })
}

/// How many addresses the pool has: as its prefix tells, or as many as can be used.
fn pool(scene: &Scene<'_>) -> Verdict<usize> {
    let attached = scene.addressed()?;
    let four = attached.ips()?.into_iter().find(|ip| ip.addr.is_ipv4() && (20..=30).contains(&ip.length));
    scene.del(&attached).done()?;
    match four.map(|ip| 1_usize << (32 - u32::from(ip.length))) {
        Some(size) if size <= POOL => Ok(size),
        Some(_) => skip(format!("the pool has more than {POOL} addresses")),
        None => {
            let pods = used_up(scene)?;
            pods.iter().try_for_each(|pod| scene.call(Del, pod)?.done())?;
            Ok(pods.len())
        }
    }
}

/// More rounds than there are addresses, and ADD works still.
fn rounds(scene: &Scene<'_>, work: impl Fn(&Scene<'_>) -> Verdict) -> Verdict {
    for _ in 0..=pool(scene)? {
        work(scene)?;
    }
    scene.attach().map(drop)
}

/// ADD until it is refused, which it is for want of an address.
fn used_up(scene: &Scene<'_>) -> Verdict<Vec<Pod>> {
    let mut pods = Vec::new();
    while pods.len() <= POOL {
        let pod = scene.pod()?;
        let reply = scene.call(Add, &pod)?.run()?;
        if !reply.succeeded() {
            reply.refused("all addresses are taken")?;
            return Ok(pods);
        }
        pods.push(pod);
    }
    skip(format!("the pool has more than {POOL} addresses"))
}

/// A pool that is used up, wholly.
pub fn fill(scene: &Scene<'_>) -> Verdict<Vec<Pod>> {
    let size = pool(scene)?;
    let pods = used_up(scene)?;
    // Its own, the broadcast, a gateway, and one for the network's own use.
    need!(pods.len() + 4 >= size, "of a pool of {size}, ADD was refused after {} containers", pods.len());
    Ok(pods)
}

/// One DEL makes room for one more.
fn all_used(scene: &Scene<'_>) -> Verdict {
    let pods = fill(scene)?;
    match pods.last() {
        Some(pod) => scene.call(Del, pod)?.done()?,
        None => return skip("no container could be attached"),
    }
    scene.attach().map(drop)
}
