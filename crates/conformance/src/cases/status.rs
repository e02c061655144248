//! STATUS: whether ADD can be served.

use super::ABSENT;
use super::leftovers::fill;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Status};

pub const CASES: &[Case] = &[
    case("status.ready", &spec::STATUS_READY, |s| s.plain(Status)?.done()),
    case("status.ready-means-add-works", &spec::STATUS_READY, |s| {
        s.plain(Status)?.done()?;
        s.attach().map(drop)
    }),
    case("status.five-times", &spec::STATUS_WAY, |s| {
        let call = s.plain(Status)?;
        (0..5).try_for_each(|_| call.done())
    }),
    case("status.needs-no-attachment", &spec::STATUS_OPTIONAL, |s| {
        s.plain(Status)?.unset("CNI_CONTAINERID").unset("CNI_NETNS").unset("CNI_IFNAME").done()
    }),
    case("status.without-path", &spec::STATUS_OPTIONAL, |s| {
        let call = s.plain(Status)?.unset("CNI_PATH");
        match s.subject().delegate() {
            Some(ipam) => skip(format!("the configuration delegates to {ipam}, which is found by CNI_PATH")),
            None => call.done(),
        }
    }),
    case("status.changes-nothing", &spec::STATUS_INFO, changes_nothing),
    case("status.add-needs-none", &spec::STATUS_RELY, |s| {
        s.newest(Status)?;
        s.attach().map(drop)
    }),
    case("status.while-containers-are-attached", &spec::STATUS_WAY, |s| {
        s.newest(Status)?;
        let _pods = [s.attach()?, s.attach()?];
        s.plain(Status)?.done()
    }),
    case("status.after-del", &spec::STATUS_READY, |s| {
        s.newest(Status)?;
        let attached = s.attach()?;
        s.del(&attached).done()?;
        s.plain(Status)?.done()
    }),
    case("status.add-works-after-a-refused-status", &spec::STATUS_PREVENT, |s| {
        s.plain(Status)?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?;
        s.attach().map(drop)
    }),
    case("status.del-works-after-a-refused-status", &spec::STATUS_EXPECT, |s| {
        s.newest(Status)?;
        let attached = s.attach()?;
        s.plain(Status)?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?;
        s.del(&attached).done()
    }),
    case("status.refused-with-an-object-on-stdout", &spec::STATUS_NOT, |s| {
        s.plain(Status)?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?.object().map(drop)
    }),
    case("status.addresses-used-up", &spec::STATUS_RESOURCES, exhausted),
    case("status.delegate-missing", &spec::STATUS_DELEGATED, |s| {
        let call = s.plain(Status)?;
        if s.subject().delegate().is_none() {
            return skip("the configuration delegates nothing");
        }
        call.ipam(|ipam| drop(ipam.insert("type".into(), ABSENT.into()))).refused("its delegate is missing").map(drop)
    }),
    case("status.right-before-each-add", &spec::STATUS_WAY, |s| {
        for _ in 0..3 {
            s.plain(Status)?.done()?;
            let attached = s.attach()?;
            s.call(Add, &attached.pod)?.refused("the interface exists")?;
            s.del(&attached).done()?;
        }
        Ok(())
    }),
];

/// Without an address left, ADD cannot be served.
fn exhausted(scene: &Scene<'_>) -> Verdict {
    let status = scene.plain(Status)?;
    let _pods = fill(scene)?;
    status.refused("all addresses are taken").map(drop)
}

fn changes_nothing(scene: &Scene<'_>) -> Verdict {
    scene.newest(Status)?;
    let before = look::snapshot(scene.place())?;
    scene.plain(Status)?.done()?;
    let after = look::snapshot(scene.place())?;
    let other: Vec<&String> = after.symmetric_difference(&before).collect();
    need!(other.is_empty(), "the host changed: {other:?}");
    Ok(())
}
