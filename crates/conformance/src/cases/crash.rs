//! A plugin that is killed in the middle of a call, and the calls of the runtime behind it.

use std::time::Duration;

use super::eventually;
use super::kernel::link_of;
use super::packet::reaches;
use crate::case::{Case, Verdict, case, need};
use crate::look;
use crate::result::Attached;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del};

/// When the plugin is killed: spread over what calls take.
const AFTER: [Duration; 6] = [
    Duration::from_micros(500),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(12),
    Duration::from_millis(25),
    Duration::from_millis(50),
];

pub const CASES: &[Case] = &[
    case("crash.del-after-a-killed-add", &spec::DEL_AFTER_FAILED_ADD, |s| {
        for after in AFTER {
            let pod = s.pod()?;
            s.call(Add, &pod)?.killed_after(after).run()?;
            s.call(Del, &pod)?.done()?;
            let left = look::find(pod.place(), &s.subject().ifname)?;
            need!(left.is_none(), "killed after {after:?}, deleted, and the interface is there");
        }
        Ok(())
    }),
    case("crash.add-after-a-killed-add-and-del", &spec::DEL_FOLLOWS, |s| {
        for after in AFTER {
            let pod = s.pod()?;
            s.call(Add, &pod)?.killed_after(after).run()?;
            s.call(Del, &pod)?.done()?;
            s.call(Add, &pod)?.result()?;
            s.call(Del, &pod)?.done()?;
        }
        Ok(())
    }),
    case("crash.killed-add-and-del-leave-nothing", &spec::DEL_UNDO, leave_nothing),
    case("crash.killed-add-leaves-no-address-twice", &spec::LOCKING, no_address_twice),
    case("crash.del-after-a-killed-del", &spec::DEL_AGAIN, |s| {
        for after in AFTER {
            let attached = s.attach()?;
            s.del(&attached).killed_after(after).run()?;
            s.del(&attached).done()?;
            let left = look::find(attached.pod.place(), &attached.ifname)?;
            need!(left.is_none(), "killed after {after:?}, deleted again, and the interface is there");
        }
        Ok(())
    }),
    case("crash.add-after-a-killed-del-and-del", &spec::DELS, |s| {
        for after in AFTER {
            let attached = s.attach()?;
            s.del(&attached).killed_after(after).run()?;
            s.del(&attached).done()?;
            s.call(Add, &attached.pod)?.result()?;
            link_of(&attached)?;
        }
        Ok(())
    }),
    case("crash.check-after-a-killed-check", &spec::CHECK_PROBE, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        for after in AFTER {
            s.check(&attached)?.killed_after(after).run()?;
        }
        s.check(&attached)?.done()
    }),
    case("crash.others-go-on", &spec::CONCURRENT, |s| {
        let (one, two) = (s.addressed()?, s.addressed()?);
        for after in AFTER {
            let pod = s.pod()?;
            s.call(Add, &pod)?.killed_after(after).run()?;
            s.call(Del, &pod)?.done()?;
        }
        reaches(&one, &two)
    }),
    case("crash.add-of-another-after-a-killed-add", &spec::CONCURRENT, |s| {
        for after in AFTER {
            s.call(Add, &s.pod()?)?.killed_after(after).run()?;
            s.attach()?;
        }
        Ok(())
    }),
];

fn leave_nothing(scene: &Scene<'_>) -> Verdict {
    let warm = scene.attach()?;
    scene.del(&warm).done()?;
    let before = eventually(|| look::snapshot(scene.place()))?;
    let mut pods = Vec::new();
    for after in AFTER {
        let pod = scene.pod()?;
        scene.call(Add, &pod)?.killed_after(after).run()?;
        scene.call(Del, &pod)?.done()?;
        pods.push(pod);
    }
    eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "left on the host: {left:?}");
        Ok(())
    })
}

fn no_address_twice(scene: &Scene<'_>) -> Verdict {
    let kept: Vec<Attached> = (0..3).map(|_| scene.addressed()).collect::<Verdict<_>>()?;
    for after in AFTER {
        let pod = scene.pod()?;
        scene.call(Add, &pod)?.killed_after(after).run()?;
        scene.call(Del, &pod)?.done()?;
    }
    let new: Vec<Attached> = (0..3).map(|_| scene.addressed()).collect::<Verdict<_>>()?;
    let mut seen = std::collections::BTreeSet::new();
    for attached in kept.iter().chain(&new) {
        for ip in attached.ips()? {
            need!(seen.insert(ip.addr), "{} was given to two containers", ip.addr);
        }
    }
    Ok(())
}
