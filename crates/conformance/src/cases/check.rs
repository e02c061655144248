//! CHECK: quiet where all is as ADD said, and loud where it is not.

use serde_json::{Value, json};

use super::kernel::foreign_interface;
use super::on_versions;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::process::tool;
use crate::result::{Attached, text};
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check};

pub const CASES: &[Case] = &[
    case("check.right-after-add", &spec::CHECK_AFTER_ADD, |s| good(s, |_| Ok(()))),
    case("check.in-every-version", &spec::CHECK_PROBE, |s| {
        on_versions(s, Check, |version| {
            let attached = s.attach_in(version)?;
            s.check(&attached)?.done()
        })
    }),
    case("check.five-times", &spec::CHECK_UNTIL_DEL, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        (0..5).try_for_each(|_| s.check(&attached)?.done())
    }),
    case("check.changes-nothing", &spec::CHECK_PROBE, changes_nothing),
    case("check.without-previous-result", &spec::CHECK_RUNTIME_PREV, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        s.check(&attached)?.without("prevResult").refused("there is no prevResult").map(drop)
    }),
    case("check.previous-result-no-object", &spec::CHECK_RUNTIME_PREV, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        s.check(&attached)?.conf("prevResult", "eth0").refused("prevResult is a string").map(drop)
    }),
    case("check.of-what-was-never-added", &spec::CHECK_NOT_ADDED, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        let stranger = s.pod()?;
        s.call(Check, &stranger)?.prev(&moved(&attached, &stranger.netns())).refused("it was never added").map(drop)
    }),
    case("check.after-del", &spec::CHECK_NOT_ADDED, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        s.del(&attached).done()?;
        s.check(&attached)?.refused("it was deleted").map(drop)
    }),
    case("check.interface-missing", &spec::CHECK_MISSING, |s| {
        bad(s, "the interface is gone", |a| ip(a, "link del DEV"))
    }),
    case("check.interface-down", &spec::CHECK_UNREACHABLE, |s| {
        bad(s, "the interface is down", |a| ip(a, "link set DEV down"))
    }),
    case("check.interface-replaced", &spec::CHECK_PREV, |s| {
        bad(s, "another interface has its name", |a| {
            ip(a, "link del DEV")?;
            foreign_interface(&a.pod, &a.ifname, "198.51.100.7/24").map(drop)
        })
    }),
    case("check.address-missing", &spec::CHECK_MISSING, |s| {
        addressed(s)?;
        bad(s, "its address is gone", |a| ip(a, &format!("addr del {} dev DEV", cidr(a)?)))
    }),
    case("check.all-addresses-missing", &spec::CHECK_PERMANENT, |s| {
        addressed(s)?;
        bad(s, "its addresses are gone", |a| ip(a, "addr flush dev DEV scope global"))
    }),
    case("check.address-of-another-length", &spec::CHECK_MISSING, |s| {
        addressed(s)?;
        bad(s, "its address has another length", |a| {
            let (address, length) =
                cidr(a)?.split_once('/').map(|(a, l)| (a.to_owned(), l.to_owned())).unwrap_or_default();
            let other = if length == "25" { 26 } else { 25 };
            ip(a, &format!("addr del {address}/{length} dev DEV"))?;
            ip(a, &format!("addr add {address}/{other} dev DEV"))
        })
    }),
    case("check.default-route-missing", &spec::CHECK_MISSING, |s| {
        route(s, |a, dst| ip(a, &format!("route del {dst}")))
    }),
    case("check.default-route-leads-elsewhere", &spec::CHECK_UNREACHABLE, |s| {
        route(s, |a, dst| {
            foreign_interface(&a.pod, "other0", "198.51.100.7/24")?;
            ip(a, &format!("route replace {dst} via 198.51.100.1 dev other0"))
        })
    }),
    case("check.host-interface-missing", &spec::CHECK_MISSING, host_interface_missing),
    case("check.host-interface-down", &spec::CHECK_UNREACHABLE, host_interface_down),
    case("check.host-route-missing", &spec::CHECK_UNTRACKED, host_route_missing),
    case("check.previous-result-has-another-address", &spec::CHECK_PREV, |s| {
        addressed(s)?;
        with_result(s, "prevResult has another address", |result| {
            let four = text(&result["ips"][0]["address"]).contains('.');
            result["ips"][0]["address"] = if four { json!("203.0.113.9/24") } else { json!("2001:db8:9::9/64") };
        })
    }),
    case("check.previous-result-has-another-mac", &spec::CHECK_PREV, |s| {
        let name = s.subject().ifname.clone();
        with_result(s, "prevResult has another MAC", |result| {
            each_inside(result, &name, |entry| entry["mac"] = json!("02:00:00:00:00:01"));
        })
    }),
    case("check.previous-result-has-another-netns", &spec::CHECK_PARAMETERS, |s| {
        let name = s.subject().ifname.clone();
        with_result(s, "prevResult has another sandbox", |result| {
            each_inside(result, &name, |entry| entry["sandbox"] = json!("/run/netns/another"));
        })
    }),
    case("check.previous-result-has-another-interface", &spec::CHECK_PREV, |s| {
        let name = s.subject().ifname.clone();
        with_result(s, "prevResult has an interface of another name", |result| {
            each_inside(result, &name, |entry| entry["name"] = json!(super::ABSENT));
        })
    }),
    case("check.another-netns", &spec::CHECK_PARAMETERS, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        s.check(&attached)?.env("CNI_NETNS", s.pod()?.netns()).refused("CNI_NETNS is of another container").map(drop)
    }),
    case("check.later-plugin-added-a-route", &spec::CHECK_LATER, |s| {
        good(s, |a| {
            foreign_interface(&a.pod, "other0", "198.51.100.7/24")?;
            ip(a, "route add 203.0.113.0/24 via 198.51.100.1")
        })
    }),
    case("check.later-plugin-added-an-address", &spec::CHECK_LATER, |s| {
        good(s, |a| ip(a, "addr add 198.51.100.9/32 dev DEV"))
    }),
    case("check.later-plugin-added-an-interface", &spec::CHECK_LATER, |s| {
        good(s, |a| foreign_interface(&a.pod, "other0", "198.51.100.7/24").map(drop))
    }),
    case("check.of-one-after-del-of-another", &spec::ATTACHMENT, |s| {
        s.newest(Check)?;
        let (one, two) = (s.attach()?, s.attach()?);
        s.del(&two).done()?;
        s.check(&one)?.done()
    }),
];

/// CHECK succeeds after something that is no fault.
fn good(scene: &Scene<'_>, change: impl FnOnce(&Attached) -> Verdict) -> Verdict {
    scene.newest(Check)?;
    let attached = scene.attach()?;
    change(&attached)?;
    scene.check(&attached)?.done()
}

/// CHECK is refused after something was broken.
fn bad(scene: &Scene<'_>, what: &str, harm: impl FnOnce(&Attached) -> Verdict) -> Verdict {
    scene.newest(Check)?;
    let attached = scene.attach()?;
    scene.check(&attached)?.done()?;
    harm(&attached)?;
    scene.check(&attached)?.refused(what).map(drop)
}

/// iproute2 in the container; `DEV` is its interface.
fn ip(attached: &Attached, words: &str) -> Verdict {
    let line = words.replace("DEV", &attached.ifname);
    tool(attached.pod.place(), "ip", &line.split(' ').collect::<Vec<_>>(), "").map(drop)
}

fn addressed(scene: &Scene<'_>) -> Verdict {
    scene.newest(Check)?;
    scene.addressed().map(drop)
}

/// The first address as the kernel has it.
fn cidr(attached: &Attached) -> Verdict<String> {
    let address = attached.ip()?;
    let link = super::kernel::link_of(attached)?;
    let found = link.addresses.iter().find(|a| a.ip == address).map(|a| format!("{address}/{}", a.length));
    found.map_or_else(|| crate::case::fail(format!("{address} is not on the interface")), Ok)
}

/// CHECK is refused after the default route of IPv4 was spoiled, if there is one.
fn route(scene: &Scene<'_>, harm: impl FnOnce(&Attached, &str) -> Verdict) -> Verdict {
    scene.newest(Check)?;
    let attached = scene.attach()?;
    if !attached.routes()?.iter().any(|((dst, length), _)| *length == 0 && dst.is_ipv4()) {
        return skip("the configuration yields no default route of IPv4");
    }
    scene.check(&attached)?.done()?;
    harm(&attached, "0.0.0.0/0")?;
    scene.check(&attached)?.refused("its default route is not as ADD said").map(drop)
}

/// The host's end that only this attachment has.
fn own_end(scene: &Scene<'_>) -> Verdict<(Attached, String)> {
    scene.newest(Check)?;
    let first = scene.attach()?;
    let shared: Vec<String> = first.host_interfaces().into_iter().map(|(name, _)| name).collect();
    let attached = scene.attach()?;
    scene.check(&attached)?.done()?;
    let own = attached.host_interfaces().into_iter().map(|(name, _)| name).find(|name| !shared.contains(name));
    match own {
        Some(name) => Ok((attached, name)),
        None => skip("an attachment has no interface of its own on the host"),
    }
}

fn host_interface_missing(scene: &Scene<'_>) -> Verdict {
    let (attached, end) = own_end(scene)?;
    tool(scene.place(), "ip", &["link", "del", &end], "")?;
    scene.check(&attached)?.refused("the host's end is gone").map(drop)
}

fn host_interface_down(scene: &Scene<'_>) -> Verdict {
    let (attached, end) = own_end(scene)?;
    tool(scene.place(), "ip", &["link", "set", &end, "down"], "")?;
    let reply = scene.check(&attached)?.run()?;
    // Who watches its interfaces may have mended it before it was asked.
    if reply.succeeded() && tool(scene.place(), "ip", &["-j", "link", "show", &end], "")?.contains("\"UP\"") {
        return skip("the host's end was set up again before CHECK looked");
    }
    reply.refused("the host's end is down").map(drop)
}

fn host_route_missing(scene: &Scene<'_>) -> Verdict {
    scene.newest(Check)?;
    let attached = scene.addressed()?;
    let ips = attached.ips()?;
    let route = look::routes(scene.place())?
        .into_iter()
        .find(|route| ips.iter().any(|ip| ip.addr == route.dst.0 && ip.addr.is_ipv4()) && route.kind == "unicast");
    let Some(route) = route else { return skip("the host has no route of the container's own") };
    let (dst, length) = route.dst;
    tool(scene.place(), "ip", &["route", "del", &format!("{dst}/{length}"), "dev", &route.dev], "")?;
    let checked = scene.check(&attached)?.refused("the host has no route to the container").map(drop);
    // Whoever keeps the host in order may have put it back before it was asked.
    let is_back = look::routes(scene.place())?.iter().any(|there| there.dst == route.dst && there.dev == route.dev);
    if is_back { Ok(()) } else { checked }
}

/// CHECK is refused with another result than that of ADD.
fn with_result(scene: &Scene<'_>, what: &str, change: impl FnOnce(&mut Value)) -> Verdict {
    scene.newest(Check)?;
    let attached = scene.attach()?;
    let mut result = attached.result.clone();
    change(&mut result);
    need!(result != attached.result, "the result of ADD lists nothing to compare with");
    scene.check(&attached)?.prev(&result).refused(what).map(drop)
}

fn each_inside(result: &mut Value, name: &str, change: impl Fn(&mut Value)) {
    let interfaces = result["interfaces"].as_array_mut().into_iter().flatten();
    interfaces.filter(|entry| entry["name"] == name && !text(&entry["sandbox"]).is_empty()).for_each(change);
}

/// The result of one container as if it were another's.
fn moved(attached: &Attached, netns: &str) -> Value {
    let mut result = attached.result.clone();
    each_inside(&mut result, &attached.ifname, |entry| entry["sandbox"] = json!(netns));
    result
}

fn changes_nothing(scene: &Scene<'_>) -> Verdict {
    scene.newest(Check)?;
    let pod = scene.pod()?;
    let result = scene.call(Add, &pod)?.result()?;
    let seen = || -> Verdict<_> {
        Ok((look::snapshot(scene.place())?, look::links(pod.place())?, look::routes(pod.place())?))
    };
    let before = seen()?;
    scene.call(Check, &pod)?.prev(&result).done()?;
    let after = seen()?;
    need!(before.0 == after.0, "the host changed: {:?}", after.0.symmetric_difference(&before.0).collect::<Vec<_>>());
    need!((&before.1, &before.2) == (&after.1, &after.2), "the container changed");
    Ok(())
}
