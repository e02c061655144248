//! Several interfaces in one container, and several containers.

use std::collections::BTreeSet;

use super::kernel::link_of;
use super::packet::reaches;
use super::works;
use crate::call::Call;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::packets;
use crate::result::Attached;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del};

pub const CASES: &[Case] = &[
    case("multi.second-interface", &spec::ADD_MANY, |s| two(s, |_, _, _| Ok(()))),
    case("multi.interfaces-have-their-own-addresses", &spec::ADD_MANY, |s| {
        two(s, |_, first, second| {
            let taken: BTreeSet<_> = ips(first).into_iter().collect();
            let twice = texts(second).into_iter().find(|ip| taken.contains(ip));
            need!(twice.is_none(), "both interfaces have {}", twice.unwrap_or_default());
            Ok(())
        })
    }),
    case("multi.interfaces-have-their-own-macs", &spec::R_MAC, |s| {
        two(s, |scene, first, _| {
            let macs: BTreeSet<String> = look::links(first.pod.place())?.into_iter().map(|link| link.mac).collect();
            need!(macs.len() >= 3, "{} and net1 have one MAC: {macs:?}", scene.subject().ifname);
            Ok(())
        })
    }),
    case("multi.del-of-the-second-leaves-the-first", &spec::ATTACHMENT, |s| {
        two(s, |scene, first, second| {
            scene.call(Del, &first.pod)?.ifname("net1").prev(second).done()?;
            need!(look::find(first.pod.place(), "net1")?.is_none(), "net1 outlives its DEL");
            link_of(first).map(drop)
        })
    }),
    case("multi.del-of-the-first-leaves-the-second", &spec::ATTACHMENT, |s| {
        two(s, |scene, first, _| {
            scene.del(first).done()?;
            need!(look::find(first.pod.place(), &first.ifname)?.is_none(), "{} outlives its DEL", first.ifname);
            need!(look::find(first.pod.place(), "net1")?.is_some(), "DEL of {} removed net1", first.ifname);
            Ok(())
        })
    }),
    case("multi.first-passes-check-after-del-of-the-second", &spec::ATTACHMENT, |s| {
        s.newest(Check)?;
        two(s, |scene, first, second| {
            scene.call(Del, &first.pod)?.ifname("net1").prev(second).done()?;
            scene.check(first)?.done()
        })
    }),
    case("multi.both-pass-check", &spec::CHECK_UNTIL_DEL, |s| {
        s.newest(Check)?;
        two(s, |scene, first, second| {
            scene.check(first)?.done()?;
            scene.check(first)?.ifname("net1").prev(second).done()
        })
    }),
    case("multi.first-goes-on-working", &spec::ADD_MANY, |s| {
        let other = s.addressed()?;
        two(s, |_, first, _| reaches(&other, first))
    }),
    case("multi.second-answers-too", &spec::CONNECTIVITY, |s| {
        let other = s.addressed()?;
        two(s, |_, _, second| {
            for ip in list(second) {
                works(format!("echo to {ip} of net1"), packets::ping(other.pod.place(), ip, 56))?;
            }
            Ok(())
        })
    }),
    case("multi.same-name-in-two-containers", &spec::ATTACHMENT, |s| {
        let (one, two) = (s.attach()?, s.attach()?);
        link_of(&one)?;
        link_of(&two).map(drop)
    }),
    case("multi.second-again-after-del", &spec::ADD_MANY, |s| {
        two(s, |scene, first, second| {
            let del = scene.call(Del, &first.pod)?.ifname("net1").prev(second);
            del.done()?;
            scene.call(Add, &first.pod)?.ifname("net1").result().map(drop)
        })
    }),
    case("multi.other-network-in-one-container", &spec::INSERTED_NAME, other_network),
    case("multi.sixteen-containers", &spec::NETWORK, sixteen),
];

/// A container with the usual interface and net1.
fn two(scene: &Scene<'_>, judge: impl Fn(&Scene<'_>, &Attached, &serde_json::Value) -> Verdict) -> Verdict {
    let first = scene.attach()?;
    let second = scene.call(Add, &first.pod)?.ifname("net1").result()?;
    need!(look::find(first.pod.place(), "net1")?.is_some(), "ADD succeeded, and there is no net1");
    judge(scene, &first, &second)
}

fn ips(attached: &Attached) -> Vec<String> {
    texts(&attached.result)
}

fn texts(result: &serde_json::Value) -> Vec<String> {
    list(result).iter().map(ToString::to_string).collect()
}

fn list(result: &serde_json::Value) -> Vec<std::net::IpAddr> {
    let entries = result["ips"].as_array().into_iter().flatten();
    entries.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

/// One plugin serves several networks of different names.
fn other_network(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let first = scene.call(Add, &pod)?.result()?;
    let other = |call: Call<'_>| call.conf("name", "another-network").ifname("net1").done();
    other(scene.call(Add, &pod)?)?;
    other(scene.call(Del, &pod)?)?;
    need!(look::find(pod.place(), &scene.subject().ifname)?.is_some(), "DEL of another network removed the interface");
    scene.call(Del, &pod)?.prev(&first).done()
}

fn sixteen(scene: &Scene<'_>) -> Verdict {
    let mut seen = BTreeSet::new();
    let mut pods = Vec::new();
    for _ in 0..16 {
        let attached = scene.attach()?;
        for ip in ips(&attached) {
            need!(seen.insert(ip.clone()), "{ip} was given to two containers");
        }
        pods.push(attached);
    }
    if seen.is_empty() { skip("the configuration yields no addresses") } else { Ok(()) }
}
