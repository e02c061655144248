//! GC: it removes what is not listed and nothing that is.

use serde_json::json;

use super::del::{can_ask, gets};
use super::eventually;
use super::kernel::link_of;
use super::packet::reaches;
use crate::case::{Case, Verdict, case, fail, need};
use crate::look;
use crate::result::Attached;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Del, Gc};

pub const CASES: &[Case] = &[
    case("gc.without-attachments", &spec::GC_WAY, |s| s.gc(&[])?.done()),
    case("gc.prints-nothing", &spec::GC_OUTPUT, |s| {
        let reply = s.gc(&[])?.run()?;
        reply.done()?;
        need!(reply.ended.stdout.trim_ascii().is_empty(), "GC printed {}", reply.printed());
        Ok(())
    }),
    case("gc.needs-no-attachment", &spec::GC_REQUIRED, |s| {
        s.gc(&[])?.unset("CNI_CONTAINERID").unset("CNI_NETNS").unset("CNI_IFNAME").done()
    }),
    case("gc.twice", &spec::GC_NO_ERROR, |s| {
        let attached = kept(s)?;
        drop(attached);
        s.gc(&[])?.done()?;
        s.gc(&[])?.done()
    }),
    case("gc.keeps-what-is-listed", &spec::GC_KEY, keeps_listed),
    case("gc.changes-nothing-where-all-is-listed", &spec::GC_REMOVE, changes_nothing),
    case("gc.disturbs-no-packet-of-the-listed", &spec::GC_KEY, |s| {
        s.newest(Gc)?;
        let (one, two, stale) = (s.addressed()?, s.addressed()?, s.addressed()?);
        stale.pod.vanish();
        s.gc(&[(one.pod.container(), &one.ifname), (two.pod.container(), &two.ifname)])?.done()?;
        reaches(&one, &two)
    }),
    case("gc.listed-pass-check", &spec::GC_KEY, |s| {
        s.newest(Gc)?;
        let (one, stale) = (s.attach()?, s.attach()?);
        stale.pod.vanish();
        s.gc(&[(one.pod.container(), &one.ifname)])?.done()?;
        s.check(&one)?.done()
    }),
    case("gc.tells-containers-apart", &spec::GC_CONTAINER, |s| {
        s.newest(Gc)?;
        let (one, two) = (s.attach()?, s.attach()?);
        s.gc(&[(two.pod.container(), &two.ifname)])?.done()?;
        drop(one);
        link_of(&two).map(drop)
    }),
    case("gc.tells-interfaces-apart", &spec::GC_IFNAME, |s| {
        s.newest(Gc)?;
        let one = s.attach()?;
        s.call(Add, &one.pod)?.ifname("net1").result()?;
        s.gc(&[(one.pod.container(), &one.ifname)])?.done()?;
        s.check(&one)?.done()
    }),
    case("gc.removes-the-rest", &spec::GC_AS_MANY, removes_rest),
    case("gc.frees-addresses", &spec::GC_IPAM, frees),
    case("gc.after-the-netns-vanished", &spec::GC_NETNS_GONE, |s| {
        s.newest(Gc)?;
        s.attach()?.pod.vanish();
        s.gc(&[])?.done()
    }),
    case("gc.before-del", &spec::GC_NOT_DEL, |s| {
        s.newest(Gc)?;
        let attached = s.attach()?;
        s.gc(&[])?.done()?;
        s.del(&attached).done()
    }),
    case("gc.before-a-new-add", &spec::GC_REMOVE, |s| {
        s.newest(Gc)?;
        let attached = s.attach()?;
        s.gc(&[])?.done()?;
        s.del(&attached).done()?;
        s.call(Add, &attached.pod)?.result().map(drop)
    }),
    case("gc.lists-what-nobody-knows", &spec::GC_KEY, |s| s.gc(&[("nobody-knows", "eth0")])?.done()),
    case("gc.a-long-list", &spec::GC_KEY, |s| {
        s.newest(Gc)?;
        let one = s.attach()?;
        let others: Vec<String> = (0..2000).map(|n| format!("nobody-knows-{n}")).collect();
        let mut list: Vec<(&str, &str)> = others.iter().map(|other| (other.as_str(), "eth0")).collect();
        list.push((one.pod.container(), &one.ifname));
        s.gc(&list)?.done()?;
        link_of(&one).map(drop)
    }),
    case("gc.list-is-no-list", &spec::GC_CONTINUE, |s| {
        let attached = kept(s)?;
        s.gc(&[])?.conf("cni.dev/valid-attachments", "all").refused("the list of attachments is a string")?;
        link_of(&attached).map(drop)
    }),
    case("gc.entry-without-interface", &spec::GC_IFNAME, |s| {
        let attached = kept(s)?;
        let list = json!([{ "containerID": attached.pod.container() }]);
        s.gc(&[])?.conf("cni.dev/valid-attachments", list).refused("an entry names no interface")?;
        link_of(&attached).map(drop)
    }),
    case("gc.keeps-attachments-of-other-networks", &spec::GC_WAY, other_networks),
    case("gc.of-an-interface-that-stands", &spec::GC_NO_ERROR, |s| {
        let attached = kept(s)?;
        s.gc(&[])?.done()?;
        s.del(&attached).done()?;
        need!(look::find(attached.pod.place(), &attached.ifname)?.is_none(), "the interface outlives GC and DEL");
        Ok(())
    }),
];

/// An attachment, where GC is claimed.
fn kept<'a>(scene: &'a Scene<'a>) -> Verdict<Attached> {
    scene.newest(Gc)?;
    scene.attach()
}

fn keeps_listed(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (kept(scene)?, scene.attach()?);
    let before = (link_of(&one)?, link_of(&two)?);
    scene.gc(&[(one.pod.container(), &one.ifname), (two.pod.container(), &two.ifname)])?.done()?;
    let after = (link_of(&one)?, link_of(&two)?);
    need!(before == after, "listed attachments were {before:?} and are {after:?}");
    Ok(())
}

fn changes_nothing(scene: &Scene<'_>) -> Verdict {
    let one = kept(scene)?;
    let before = look::snapshot(scene.place())?;
    scene.gc(&[(one.pod.container(), &one.ifname)])?.done()?;
    let after = look::snapshot(scene.place())?;
    let other: Vec<&String> = after.symmetric_difference(&before).collect();
    need!(other.is_empty(), "the host changed: {other:?}");
    Ok(())
}

fn removes_rest(scene: &Scene<'_>) -> Verdict {
    let one = kept(scene)?;
    let before = look::snapshot(scene.place())?;
    let stale = [scene.attach()?, scene.attach()?];
    for attached in stale {
        attached.pod.vanish();
    }
    scene.gc(&[(one.pod.container(), &one.ifname)])?.done()?;
    eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "GC left on the host: {left:?}");
        Ok(())
    })
}

fn frees(scene: &Scene<'_>) -> Verdict {
    scene.newest(Gc)?;
    can_ask(scene)?;
    let attached = scene.addressed()?;
    let ips: Vec<String> = attached.ips()?.iter().map(|ip| ip.addr.to_string()).collect();
    attached.pod.vanish();
    scene.gc(&[])?.done()?;
    gets(scene, &ips)
}

fn other_networks(scene: &Scene<'_>) -> Verdict {
    scene.newest(Gc)?;
    let attached = scene.attach_as(scene.newest(Add)?, |call| call.conf("name", "another-network"))?;
    let before = link_of(&attached)?;
    scene.gc(&[])?.done()?;
    let Some(after) = look::find(attached.pod.place(), &attached.ifname)? else {
        return fail("GC of one network removed an attachment of another");
    };
    need!(before == after, "an attachment of another network was {before:?} and is {after:?}");
    scene.call(Del, &attached.pod)?.conf("name", "another-network").prev(&attached.result).done()
}
