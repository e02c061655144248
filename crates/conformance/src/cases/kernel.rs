//! What ADD says, beside what the kernel shows in the container and on the host.

use std::collections::BTreeSet;

use super::{eventually, on_results};
use crate::case::{Case, Verdict, case, fail, need, skip};
use crate::look::{self, Link};
use crate::process::tool;
use crate::result::{Attached, entry_value, text};
use crate::scene::{Pod, Scene};
use crate::spec;
use crate::version::Verb;

pub const CASES: &[Case] = &[
    case("kernel.interface-is-there", &spec::ADD_CREATE, |s| inside(s).map(drop)),
    case("kernel.interface-is-up", &spec::CONNECTIVITY, |s| {
        eventually_inside(s, |_, link| {
            need!(link.up, "{} is not up, or has no carrier", link.name);
            Ok(())
        })
    }),
    case("kernel.interface-has-the-mac", &spec::R_MAC, |s| {
        eventually_inside(s, |attached, link| {
            let mac = text(&entry_value(attached.interface()?, "mac"));
            need!(mac.eq_ignore_ascii_case(&link.mac), "the result has the MAC {mac}, the kernel {}", link.mac);
            Ok(())
        })
    }),
    case("kernel.interface-has-the-mtu", &spec::R_MTU, mtu),
    case("kernel.interface-has-the-addresses", &spec::R_IPS, addresses),
    case("kernel.interface-has-no-other-addresses", &spec::R_IPS, no_other_addresses),
    case("kernel.addresses-have-their-length", &spec::R_ADDRESS, lengths),
    case("kernel.addresses-are-not-tentative", &spec::ASSIGN, tentative),
    case("kernel.routes-are-there", &spec::R_ROUTES, routes),
    case("kernel.routes-have-their-gateway", &spec::R_GW_UNSET, route_gateways),
    case("kernel.no-other-routes-by-a-gateway", &spec::R_ROUTES, no_other_routes),
    case("kernel.no-other-interface-in-the-container", &spec::R_INTERFACES, no_other_interface),
    case("kernel.interface-has-the-asked-name", &spec::IFNAME, asked_name),
    case("kernel.host-interfaces-are-there", &spec::R_INTERFACES, |s| host_links(s, |_, _| Ok(()))),
    case("kernel.host-interfaces-have-the-mac", &spec::R_MAC, |s| {
        host_links(s, |link, mac| {
            let same = mac.is_empty() || mac.eq_ignore_ascii_case(&link.mac);
            need!(same, "{}: the result has the MAC {mac}, the kernel {}", link.name, link.mac);
            Ok(())
        })
    }),
    case("kernel.host-interfaces-are-up", &spec::CONNECTIVITY, |s| {
        host_links(s, |link, _| {
            need!(link.up, "{} of the host is not up, or has no carrier", link.name);
            Ok(())
        })
    }),
    case("kernel.new-host-interfaces-are-listed", &spec::R_INTERFACES, new_host_interfaces),
    case("kernel.loopback-is-untouched", &spec::CONTAINER, loopback),
    case("kernel.other-interface-is-untouched", &spec::RESPONSIBLE, other_interface),
    case("kernel.address-is-not-on-the-host", &spec::R_INTERFACE, not_on_host),
    case("kernel.uplink-is-untouched", &spec::DOMAIN, uplink),
    case("kernel.macs-differ", &spec::NETWORK, |s| differ(s, "MAC", |link| vec![link.mac.clone()])),
    case("kernel.macs-are-of-one-station", &spec::R_MAC, |s| {
        eventually_inside(s, |_, link| {
            let first = u8::from_str_radix(link.mac.get(..2).unwrap_or("ff"), 16).unwrap_or(0xff);
            need!(first & 1 == 0 && link.mac != "00:00:00:00:00:00", "{} is no station's MAC", link.mac);
            Ok(())
        })
    }),
    case("kernel.addresses-differ", &spec::NETWORK, |s| {
        differ(s, "address", |link| {
            link.addresses.iter().filter(|a| a.scope == "global").map(|a| a.ip.to_string()).collect()
        })
    }),
];

/// An attached container and its interface.
fn inside<'a>(scene: &'a Scene<'a>) -> Verdict<(Attached, Link)> {
    let attached = scene.attach()?;
    let link = link_of(&attached)?;
    Ok((attached, link))
}

pub fn link_of(attached: &Attached) -> Verdict<Link> {
    let name = &attached.ifname;
    let found = look::find(attached.pod.place(), name)?;
    found.map_or_else(|| fail(format!("the container has no interface {name}")), Ok)
}

/// Carriers come up a moment after ADD.
fn eventually_inside(scene: &Scene<'_>, judge: impl Fn(&Attached, &Link) -> Verdict) -> Verdict {
    let attached = scene.attach()?;
    eventually(|| judge(&attached, &link_of(&attached)?))
}

fn mtu(scene: &Scene<'_>) -> Verdict {
    let (attached, link) = inside(scene)?;
    let Some(mtu) = attached.interface()?.get("mtu").and_then(serde_json::Value::as_u64) else {
        return skip("the result names no MTU");
    };
    need!(mtu == link.mtu, "the result has the MTU {mtu}, the kernel {}", link.mtu);
    Ok(())
}

fn addresses(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let link = link_of(attached)?;
        for ip in attached.ips()? {
            let there = link.addresses.iter().any(|address| address.ip == ip.addr);
            need!(there, "the result has {}, {} has not", ip.addr, link.name);
        }
        Ok(())
    })
}

fn no_other_addresses(scene: &Scene<'_>) -> Verdict {
    let (attached, link) = inside(scene)?;
    let ips = attached.ips()?;
    for address in link.addresses.iter().filter(|address| address.scope == "global") {
        let listed = ips.iter().any(|ip| ip.addr == address.ip);
        need!(listed, "{} has {}, the result has not", link.name, address.ip);
    }
    Ok(())
}

fn lengths(scene: &Scene<'_>) -> Verdict {
    let (attached, link) = inside(scene)?;
    for ip in attached.ips()? {
        let Some(address) = link.addresses.iter().find(|address| address.ip == ip.addr) else { continue };
        let (said, is) = (ip.length, address.length);
        need!(said == is, "{}: the result has the length {said}, the kernel {is}", ip.addr);
    }
    Ok(())
}

fn tentative(scene: &Scene<'_>) -> Verdict {
    let (_, link) = inside(scene)?;
    let not_yet = link.addresses.iter().find(|address| address.scope == "global" && address.tentative);
    need!(not_yet.is_none(), "{:?} is tentative: nothing can be sent from it yet", not_yet.map(|address| address.ip));
    Ok(())
}

fn routes(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let found = look::routes(attached.pod.place())?;
        for ((dst, length), _) in attached.routes()? {
            let there = found.iter().any(|route| route.dst == (dst, length));
            need!(there, "the result has a route to {dst}/{length}, the container has not");
        }
        Ok(())
    })
}

fn route_gateways(scene: &Scene<'_>) -> Verdict {
    let attached = scene.attach()?;
    let found = look::routes(attached.pod.place())?;
    let gateways: Vec<_> = attached.ips()?.iter().filter_map(|ip| ip.gateway).collect();
    for ((dst, length), gateway) in attached.routes()? {
        let fitting = |route: &&look::Route| route.dst == (dst, length) && route.dev == attached.ifname;
        let Some(route) = found.iter().find(fitting) else { continue };
        let good = match (gateway, route.gateway) {
            (Some(said), is) => is == Some(said),
            (None, Some(is)) => gateways.contains(&is),
            (None, None) => true,
        };
        let said = gateway.map_or_else(|| format!("one of {gateways:?}"), |gateway| gateway.to_string());
        need!(good, "the route to {dst}/{length} goes by {:?}, the result says {said}", route.gateway);
    }
    Ok(())
}

fn no_other_routes(scene: &Scene<'_>) -> Verdict {
    let attached = scene.attach()?;
    let listed = attached.routes()?;
    for route in look::routes(attached.pod.place())? {
        let said = route.gateway.is_none() || listed.iter().any(|(dst, _)| *dst == route.dst);
        let (dst, length) = route.dst;
        need!(said, "the container has a route to {dst}/{length} by {:?}, the result has not", route.gateway);
    }
    Ok(())
}

fn no_other_interface(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let before: BTreeSet<String> = look::links(pod.place())?.into_iter().map(|link| link.name).collect();
    let result = scene.call(Verb::Add, &pod)?.result()?;
    let listed = |name: &str| {
        let interfaces = result["interfaces"].as_array().into_iter().flatten();
        interfaces.filter(|entry| !text(&entry["sandbox"]).is_empty()).any(|entry| text(&entry["name"]) == name)
    };
    for link in look::links(pod.place())?.iter().filter(|link| !before.contains(&link.name)) {
        need!(listed(&link.name), "ADD made {} in the container, which the result does not list", link.name);
    }
    Ok(())
}

fn asked_name(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    scene.call(Verb::Add, &pod)?.ifname("net7").result()?;
    need!(look::find(pod.place(), "net7")?.is_some(), "CNI_IFNAME was net7, and there is none");
    Ok(())
}

fn host_links(scene: &Scene<'_>, judge: impl Fn(&Link, &str) -> Verdict) -> Verdict {
    let attached = scene.attach()?;
    eventually(|| {
        let links = look::links(scene.place())?;
        for (name, mac) in attached.host_interfaces() {
            match links.iter().find(|link| link.name == name) {
                Some(link) => judge(link, &mac)?,
                None => return fail(format!("the result lists {name} on the host, where there is none")),
            }
        }
        Ok(())
    })
}

/// Of the first attachment, what is shared comes too; the second has only its own.
fn new_host_interfaces(scene: &Scene<'_>) -> Verdict {
    let first = scene.attach()?;
    let names =
        || -> Verdict<BTreeSet<String>> { Ok(look::links(scene.place())?.into_iter().map(|link| link.name).collect()) };
    let before = names()?;
    let second = scene.attach()?;
    let listed = second.host_interfaces();
    for name in names()?.difference(&before) {
        let said = listed.iter().any(|(listed, _)| listed == name);
        need!(said, "ADD made {name} on the host, which the result does not list");
    }
    drop(first);
    Ok(())
}

fn loopback(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let before = look::find(pod.place(), "lo")?;
    scene.call(Verb::Add, &pod)?.result()?;
    let after = look::find(pod.place(), "lo")?;
    let untouched = before.as_ref().zip(after.as_ref()).is_some_and(|(a, b)| (a.index, a.mtu) == (b.index, b.mtu));
    need!(untouched, "lo was {before:?} and is {after:?}");
    Ok(())
}

/// Makes an interface in a container that is not the plugin's. It has no link-local address, which the kernel would still be
/// trying while the case runs.
pub fn foreign_interface(pod: &Pod, name: &str, address: &str) -> Verdict<Link> {
    let lines = format!(
        "link add {name} type veth peer name {name}p\nlink set {name} addrgenmode none\nlink set {name} up\nlink set {name}p up\naddr add {address} dev {name}\n"
    );
    tool(pod.place(), "ip", &["-batch", "-"], &lines)?;
    look::find(pod.place(), name)?.map_or_else(|| skip("an interface cannot be made in a container"), Ok)
}

fn other_interface(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let before = foreign_interface(&pod, "other0", "198.51.100.7/24")?;
    scene.call(Verb::Add, &pod)?.result()?;
    let after = look::find(pod.place(), "other0")?;
    let kept = |link: &Link| (link.mac == before.mac, link.mtu == before.mtu, link.up) == (true, true, true);
    need!(after.as_ref().is_some_and(kept), "an interface of others was {before:?} and is {after:?}");
    let address = |link: &Link| link.addresses.iter().any(|address| address.ip.to_string() == "198.51.100.7");
    need!(after.as_ref().is_some_and(address), "an interface of others lost its address");
    Ok(())
}

fn not_on_host(scene: &Scene<'_>) -> Verdict {
    let attached = scene.attach()?;
    let links = look::links(scene.place())?;
    for ip in attached.ips()? {
        let twice = links.iter().find(|link| link.addresses.iter().any(|address| address.ip == ip.addr));
        need!(twice.is_none(), "{} is the container's and on {:?} of the host", ip.addr, twice.map(|link| &link.name));
    }
    Ok(())
}

fn uplink(scene: &Scene<'_>) -> Verdict {
    if scene.world().path().is_none() {
        return skip("the host is not the suite's: nothing is known about its uplink");
    }
    // Addresses of the link's own scope come by themselves.
    let seen = || -> Verdict<_> {
        let lines = look::snapshot(scene.place())?.into_iter();
        // As a whole word: a pair's name may end in the same letters.
        let names = |line: &String| line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "eth0");
        let lines: Vec<String> = lines.filter(names).collect();
        Ok((look::find(scene.place(), "eth0")?.map(|link| (link.index, link.mac, link.mtu, link.up)), lines))
    };
    let before = seen()?;
    let _attached = scene.attach()?;
    let after = seen()?;
    need!(before == after, "the host's eth0 was {before:?} and is {after:?}");
    Ok(())
}

fn differ(scene: &Scene<'_>, what: &str, of: impl Fn(&Link) -> Vec<String>) -> Verdict {
    let mut pods = Vec::new();
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let (attached, link) = inside(scene)?;
        for value in of(&link) {
            need!(seen.insert(value.clone()), "two containers have the {what} {value}");
        }
        pods.push(attached);
    }
    Ok(())
}
