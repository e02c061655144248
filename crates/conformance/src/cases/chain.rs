//! ADD as a later plugin of a list: the previous result goes in and comes out.

use serde_json::{Value, json};

use super::kernel::foreign_interface;
use crate::call::Call;
use crate::case::{Case, Verdict, case, need};
use crate::look;
use crate::result::text;
use crate::scene::{Pod, Scene};
use crate::spec;
use crate::version::{Verb, Version};

use Verb::{Add, Check, Del};

/// What a plugin before this one made.
const EARLIER: &str = "earlier0";
const ADDRESS: &str = "198.51.100.7/24";
const ROUTE: &str = "203.0.113.0/24";
const RESOLVER: &str = "198.51.100.53";

pub const CASES: &[Case] = &[
    case("chain.add-succeeds", &spec::NEXT_HAS_PREV, |s| with_prev(s, |_, _| Ok(()))),
    case("chain.interface-is-passed-on", &spec::PREV_IS_OUTPUT, |s| {
        with_prev(s, |_, result| named(result, EARLIER).map(drop))
    }),
    case("chain.address-is-passed-on", &spec::ADD_PREV, |s| {
        with_prev(s, |_, result| {
            let kept = entries(result, "ips").iter().any(|ip| ip["address"] == ADDRESS);
            need!(kept, "prevResult had the address {ADDRESS}, the result has {}", result["ips"]);
            Ok(())
        })
    }),
    case("chain.route-is-passed-on", &spec::PREV_IS_OUTPUT, |s| {
        with_prev(s, |_, result| {
            let kept = entries(result, "routes").iter().any(|route| route["dst"] == ROUTE);
            need!(kept, "prevResult had a route to {ROUTE}, the result has {}", result["routes"]);
            Ok(())
        })
    }),
    case("chain.resolvers-are-passed-on", &spec::PREV_IS_OUTPUT, |s| {
        with_prev(s, |_, result| {
            let kept = result["dns"]["nameservers"].as_array().is_some_and(|list| list.contains(&json!(RESOLVER)));
            need!(kept, "prevResult had the resolver {RESOLVER}, the result has {}", result["dns"]);
            Ok(())
        })
    }),
    case("chain.earlier-address-keeps-its-interface", &spec::R_INTERFACE, |s| {
        with_prev(s, |_, result| {
            let index =
                entries(result, "ips").iter().find(|ip| ip["address"] == ADDRESS).map(|ip| ip["interface"].clone());
            let place = named(result, EARLIER)?;
            need!(index == Some(json!(place)), "{EARLIER} is interface {place}, its address says {index:?}");
            Ok(())
        })
    }),
    case("chain.own-interface-is-added", &spec::R_INTERFACES, |s| {
        with_prev(s, |s, result| named(result, &s.subject().ifname).map(drop))
    }),
    case("chain.own-addresses-point-to-the-own-interface", &spec::R_INTERFACE, own_index),
    case("chain.in-every-version", &spec::R_VERSION, |s| {
        super::on_versions(s, Add, |version| {
            let pod = s.pod()?;
            let result = earlier(s, &pod, version)?.result()?;
            need!(result["cniVersion"] == version.to_string(), "the result's cniVersion is {}", result["cniVersion"]);
            Ok(())
        })
    }),
    case("chain.earlier-interface-is-untouched", &spec::RESPONSIBLE, untouched),
    case("chain.empty-previous-result", &spec::NEXT_HAS_PREV, |s| {
        let version = s.newest(Add)?.to_string();
        s.call(Add, &s.pod()?)?.conf("prevResult", json!({ "cniVersion": version })).result().map(drop)
    }),
    case("chain.previous-result-no-object", &spec::C_MALFORMED, |s| {
        s.call(Add, &s.pod()?)?.conf("prevResult", "eth0").refused("prevResult is a string").map(drop)
    }),
    case("chain.previous-result-with-bad-address", &spec::E7, |s| {
        let prev = json!({ "cniVersion": s.newest(Add)?.to_string(), "ips": [{ "address": "nowhere" }] });
        s.call(Add, &s.pod()?)?.conf("prevResult", prev).refused("prevResult has the address \"nowhere\"").map(drop)
    }),
    case("chain.interface-exists", &spec::ADD_EXISTS, |s| {
        let pod = s.pod()?;
        let name = &s.subject().ifname;
        let link = foreign_interface(&pod, name, ADDRESS)?;
        let version = s.newest(Add)?;
        let prev = previous(&pod, name, &link.mac, version);
        Call::attached(s, Add, version, &pod)
            .prev(&prev)
            .refused("prevResult has the interface, and it exists")
            .map(drop)
    }),
    case("chain.del-leaves-the-earlier-interface", &spec::DEL_PREV_FINAL, del_leaves),
    case("chain.check-with-the-final-result", &spec::CHECK_LATER, check_final),
];

/// The result of a plugin that made an interface with an address.
fn previous(pod: &Pod, name: &str, mac: &str, version: Version) -> Value {
    let mut ip = json!({ "address": ADDRESS, "interface": 0 });
    if version < Version::V1_0_0 {
        ip["version"] = "4".into();
    }
    json!({
        "cniVersion": version.to_string(),
        "interfaces": [{ "name": name, "mac": mac, "sandbox": pod.netns() }],
        "ips": [ip],
        "routes": [{ "dst": ROUTE }],
        "dns": { "nameservers": [RESOLVER] },
    })
}

/// ADD behind such a plugin.
fn earlier<'a>(scene: &'a Scene<'a>, pod: &Pod, version: Version) -> Verdict<Call<'a>> {
    let link = foreign_interface(pod, EARLIER, ADDRESS)?;
    Ok(Call::attached(scene, Add, version, pod).prev(&previous(pod, EARLIER, &link.mac, version)))
}

fn with_prev(scene: &Scene<'_>, judge: impl Fn(&Scene<'_>, &Value) -> Verdict) -> Verdict {
    let pod = scene.pod()?;
    let result = earlier(scene, &pod, scene.newest(Add)?)?.result()?;
    judge(scene, &result)
}

fn entries(result: &Value, key: &str) -> Vec<Value> {
    result[key].as_array().cloned().unwrap_or_default()
}

/// The place of an interface of the container in the result.
fn named(result: &Value, name: &str) -> Verdict<usize> {
    let inside = |entry: &Value| text(&entry["name"]) == name && !text(&entry["sandbox"]).is_empty();
    let place = entries(result, "interfaces").iter().position(inside);
    need!(place.is_some(), "the result does not list {name}: {}", result["interfaces"]);
    Ok(place.unwrap_or_default())
}

fn own_index(scene: &Scene<'_>) -> Verdict {
    with_prev(scene, |scene, result| {
        let place = named(result, &scene.subject().ifname)?;
        let own: Vec<Value> = entries(result, "ips").into_iter().filter(|ip| ip["address"] != ADDRESS).collect();
        let strangers: Vec<&Value> = own.iter().filter(|ip| ip["interface"] != json!(place)).collect();
        need!(strangers.is_empty(), "the own interface is number {place}, and there is {strangers:?}");
        Ok(())
    })
}

fn untouched(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let call = earlier(scene, &pod, scene.newest(Add)?)?;
    let before = look::find(pod.place(), EARLIER)?;
    call.result()?;
    let after = look::find(pod.place(), EARLIER)?;
    let essence = |link: &look::Link| (link.index, link.mac.clone(), link.mtu, link.up);
    need!(before.as_ref().map(essence) == after.as_ref().map(essence), "{EARLIER} was {before:?} and is {after:?}");
    let has = |link: &look::Link| link.addresses.iter().any(|a| ADDRESS.starts_with(&a.ip.to_string()));
    need!(after.as_ref().is_some_and(has), "{EARLIER} lost its address {ADDRESS}");
    Ok(())
}

fn del_leaves(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let result = earlier(scene, &pod, scene.newest(Add)?)?.result()?;
    scene.call(Del, &pod)?.prev(&result).done()?;
    need!(look::find(pod.place(), &scene.subject().ifname)?.is_none(), "the interface outlives its DEL");
    need!(look::find(pod.place(), EARLIER)?.is_some(), "DEL removed the interface of an earlier plugin");
    Ok(())
}

/// The final result as a runtime keeps it has what others made too, whatever this plugin printed.
fn check_final(scene: &Scene<'_>) -> Verdict {
    let version = scene.newest(Check)?;
    let attached = scene.attach_in(version)?;
    let link = foreign_interface(&attached.pod, EARLIER, ADDRESS)?;
    let mut result = attached.result.clone();
    let mut ip = json!({ "address": ADDRESS, "interface": entries(&result, "interfaces").len() });
    if version < Version::V1_0_0 {
        ip["version"] = "4".into();
    }
    if let Some(interfaces) = result["interfaces"].as_array_mut() {
        interfaces.push(json!({ "name": EARLIER, "mac": link.mac, "sandbox": attached.pod.netns() }));
    }
    match result["ips"].as_array_mut() {
        Some(ips) => ips.push(ip),
        None => result["ips"] = json!([ip]),
    }
    scene.check(&attached)?.prev(&result).done()
}
