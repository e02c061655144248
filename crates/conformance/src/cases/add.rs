//! ADD once more, ADD again, and ADD that must not succeed.

use super::kernel::{foreign_interface, link_of};
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::scene::{Pod, Scene};
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Del};

pub const CASES: &[Case] = &[
    case("add.interface-exists", &spec::ADD_EXISTS, |s| {
        let attached = s.attach()?;
        s.call(Add, &attached.pod)?.refused("the interface exists").map(drop)
    }),
    case("add.interface-of-others-exists", &spec::ADD_EXISTS, |s| {
        let pod = s.pod()?;
        foreign_interface(&pod, &s.subject().ifname, "198.51.100.7/24")?;
        s.call(Add, &pod)?.refused("an interface of this name exists").map(drop)
    }),
    case("add.interface-is-loopback", &spec::ADD_EXISTS, |s| {
        s.call(Add, &s.pod()?)?.ifname("lo").refused("lo exists in every container").map(drop)
    }),
    case("add.refused-again-keeps-the-interface", &spec::ADD_TWICE, keeps_interface),
    case("add.refused-again-keeps-the-address", &spec::ADD_TWICE, keeps_address),
    case("add.refused-keeps-an-interface-of-others", &spec::ADD_EXISTS, keeps_foreign),
    case("add.refused-leaves-no-host-interface", &spec::ADD_EXISTS, leaves_no_host_interface),
    case("add.again-after-del", &spec::ADD_TWICE, |s| {
        let attached = s.attach()?;
        s.del(&attached).done()?;
        s.call(Add, &attached.pod)?.result()?;
        link_of(&attached).map(drop)
    }),
    case("add.again-after-a-refused-add", &spec::DEL_AFTER_FAILED_ADD, |s| {
        let pod = s.pod()?;
        s.call(Add, &pod)?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?;
        s.call(Del, &pod)?.done()?;
        s.call(Add, &pod)?.result().map(drop)
    }),
    case("add.again-without-del-after-a-refused-add", &spec::EXIT, |s| {
        let pod = s.pod()?;
        s.call(Add, &pod)?.ifname("a/b").refused("CNI_IFNAME is invalid")?;
        s.call(Add, &pod)?.result().map(drop)
    }),
    case("add.first-has-no-previous-result", &spec::FIRST_HAS_NO_PREV, |s| {
        s.call(Add, &s.pod()?)?.without("prevResult").result().map(drop)
    }),
    case("add.ten-times-up-and-down", &spec::DEL_FOLLOWS, |s| {
        let pod = s.pod()?;
        for round in 1..=10 {
            let result = s.call(Add, &pod)?.result()?;
            s.call(Del, &pod)?.prev(&result).done()?;
            let left = look::find(pod.place(), &s.subject().ifname)?;
            need!(left.is_none(), "round {round}: the interface outlives its DEL");
        }
        Ok(())
    }),
];

fn keeps_interface(scene: &Scene<'_>) -> Verdict {
    let attached = scene.attach()?;
    let before = link_of(&attached)?;
    scene.call(Add, &attached.pod)?.refused("the interface exists")?;
    let after = link_of(&attached)?;
    let same = (before.index, &before.mac, &before.addresses) == (after.index, &after.mac, &after.addresses);
    need!(same, "the refused ADD changed the interface: {before:?}, then {after:?}");
    Ok(())
}

/// The refused ADD must not have freed the address: another container that asks for it gets another or an error.
fn keeps_address(scene: &Scene<'_>) -> Verdict {
    let attached = scene.addressed()?;
    scene.call(Add, &attached.pod)?.refused("the interface exists")?;
    let taken = attached.ip()?;
    for other in [scene.pod()?, scene.pod()?, scene.pod()?] {
        if let Some(address) = asks_for(scene, &other, &taken.to_string())? {
            need!(address != taken.to_string(), "{taken} was given to a second container");
        }
    }
    Ok(())
}

/// ADD of a container that asks for an address by `CNI_ARGS`; what it got, if it was not refused.
pub fn asks_for(scene: &Scene<'_>, pod: &Pod, address: &str) -> Verdict<Option<String>> {
    let reply = scene.call(Add, pod)?.env("CNI_ARGS", format!("IgnoreUnknown=1;IP={address}")).run()?;
    if !reply.succeeded() {
        reply.refused("the address is taken")?;
        return Ok(None);
    }
    let result = reply.result()?;
    let addresses: Vec<String> = result["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| Some(ip["address"].as_str()?.split('/').next()?.to_owned()))
        .collect();
    // Where the wish was not understood, the address is another.
    let wished = addresses.iter().find(|got| *got == address).or(addresses.first());
    match wished {
        Some(got) => Ok(Some(got.clone())),
        None => skip("the configuration yields no addresses"),
    }
}

fn keeps_foreign(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let name = &scene.subject().ifname;
    let before = foreign_interface(&pod, name, "198.51.100.7/24")?;
    scene.call(Add, &pod)?.refused("an interface of this name exists")?;
    let after = look::find(pod.place(), name)?;
    need!(after.as_ref().is_some_and(|after| after.index == before.index), "an interface of others is gone");
    need!(after.as_ref() == Some(&before), "an interface of others was {before:?} and is {after:?}");
    Ok(())
}

fn leaves_no_host_interface(scene: &Scene<'_>) -> Verdict {
    let attached = scene.attach()?;
    let before = look::snapshot(scene.place())?;
    scene.call(Add, &attached.pod)?.refused("the interface exists")?;
    super::eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "the refused ADD left on the host: {left:?}");
        Ok(())
    })
}
