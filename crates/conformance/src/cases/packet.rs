//! Real packets: what an attachment is for.
//!
//! Where the gateway of a result is nobody's on the host, the network behind the uplink has it: the suite gives it to
//! the outside, and routes of the outside lead back to the containers.

use std::net::IpAddr;
use std::time::Duration;

use super::kernel::link_of;
use super::works;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::packets;
use crate::process::tool;
use crate::result::{Attached, Ip};
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

pub const CASES: &[Case] = &[
    case("packet.to-the-gateway", &spec::R_GATEWAY, to_gateway),
    case("packet.host-to-container", &spec::CONNECTIVITY, host_to_container),
    case("packet.container-to-outside", &spec::R_GW_UNSET, to_outside),
    case("packet.echo-between-containers", &spec::NETWORK, |s| {
        between(s, |one, _, _, to| works(format!("echo to {to}"), packets::ping(one.pod.place(), to, 56)))
    }),
    case("packet.datagrams-between-containers", &spec::NETWORK, |s| {
        between(s, |one, two, _, to| {
            works(format!("a datagram to {to}"), packets::datagram(one.pod.place(), to, two.pod.place(), 512)).map(drop)
        })
    }),
    case("packet.streams-between-containers", &spec::NETWORK, |s| {
        between(s, |one, two, _, to| {
            works(format!("a stream to {to}"), packets::stream(one.pod.place(), to, two.pod.place()))
        })
    }),
    case("packet.containers-see-each-others-address", &spec::NETWORK, |s| {
        between(s, |one, two, from, to| {
            let seen =
                works(format!("a datagram to {to}"), packets::datagram(one.pod.place(), to, two.pod.place(), 64))?;
            need!(seen == from, "a datagram of {from} arrived as one of {seen}");
            Ok(())
        })
    }),
    case("packet.full-size-between-containers", &spec::R_MTU, |s| {
        between(s, |one, two, _, to| {
            let mtu = link_of(one)?.mtu;
            let headers = if to.is_ipv4() { 28 } else { 48 };
            let size = usize::try_from(mtu).unwrap_or(1500).min(9000) - headers;
            let sent = packets::datagram(one.pod.place(), to, two.pod.place(), size);
            works(format!("a packet of {mtu} bytes to {to}"), sent).map(drop)
        })
    }),
    case("packet.another-containers-del-disturbs-nothing", &spec::ATTACHMENT, after_other_del),
    case("packet.nothing-answers-after-del", &spec::DEL_UNDO, nothing_after_del),
    case("packet.a-refused-second-add-disturbs-nothing", &spec::ADD_EXISTS, after_second_add),
    case("packet.a-new-add-after-del-works", &spec::DEL_FOLLOWS, after_new_add),
    case("packet.check-disturbs-nothing", &spec::CHECK_PROBE, after_check),
    case("packet.six-containers-all-pairs", &spec::NETWORK, all_pairs),
];

/// Gives each gateway that no interface of the host has to the outside, and the outside ways back. The gateways that
/// the host has.
fn lay_network(scene: &Scene<'_>, attached: &Attached) -> Verdict<Vec<IpAddr>> {
    let links = look::links(scene.place())?;
    let on_host = |ip: IpAddr| links.iter().any(|link| link.addresses.iter().any(|address| address.ip == ip));
    let mut here = Vec::new();
    for Ip { addr, length, gateway, .. } in attached.ips()? {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        match gateway {
            Some(gateway) if on_host(gateway) => here.push(gateway),
            Some(gateway) if length < bits => {
                let line = format!("addr replace {gateway}/{length} dev eth0\n");
                tool(&scene.world().outside()?, "ip", &["-batch", "-"], &line)?;
                continue;
            }
            _ => {}
        }
        if let Ok(outside) = scene.world().outside() {
            let back = if addr.is_ipv4() { "192.0.2.2" } else { "2001:db8::2" };
            tool(&outside, "ip", &["-batch", "-"], &format!("route replace {addr}/{bits} via {back}\n"))?;
        }
    }
    Ok(here)
}

fn to_gateway(scene: &Scene<'_>) -> Verdict {
    let attached = scene.addressed()?;
    let here = lay_network(scene, &attached)?;
    let mut tried = 0;
    for ip in attached.ips()? {
        // A gateway that is nobody's address only gives the next hop its name.
        let bits = if ip.addr.is_ipv4() { 32 } else { 128 };
        let Some(gateway) = ip.gateway.filter(|gateway| here.contains(gateway) || ip.length < bits) else { continue };
        tried += 1;
        works(format!("echo to the gateway {gateway}"), packets::ping(attached.pod.place(), gateway, 56))?;
    }
    if tried == 0 { skip("no gateway is somebody's address") } else { Ok(()) }
}

fn host_to_container(scene: &Scene<'_>) -> Verdict {
    let attached = scene.addressed()?;
    let here = lay_network(scene, &attached)?;
    for ip in attached.ips()? {
        let bits = if ip.addr.is_ipv4() { 32 } else { 128 };
        if ip.length < bits && ip.gateway.is_none_or(|gateway| !here.contains(&gateway)) {
            return skip("the network is not the host's: its gateway lies behind the uplink");
        }
        works(format!("echo from the host to {}", ip.addr), packets::ping(scene.place(), ip.addr, 56))?;
    }
    Ok(())
}

fn to_outside(scene: &Scene<'_>) -> Verdict {
    scene.world().outside()?;
    let attached = scene.addressed()?;
    lay_network(scene, &attached)?;
    let defaults: Vec<bool> =
        attached.routes()?.iter().filter(|((_, length), _)| *length == 0).map(|((dst, _), _)| dst.is_ipv4()).collect();
    if defaults.is_empty() {
        return skip("the configuration yields no default route");
    }
    for four in defaults {
        let outside: IpAddr = if four { [192, 0, 2, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
        works(format!("echo to {outside} behind the uplink"), packets::ping(attached.pod.place(), outside, 56))?;
    }
    Ok(())
}

/// Two containers, each address of the first with the one of the same family of the second.
fn between(scene: &Scene<'_>, exchange: impl Fn(&Attached, &Attached, IpAddr, IpAddr) -> Verdict) -> Verdict {
    let (one, two) = (scene.addressed()?, scene.addressed()?);
    pair(&one, &two, exchange)
}

fn pair(one: &Attached, two: &Attached, exchange: impl Fn(&Attached, &Attached, IpAddr, IpAddr) -> Verdict) -> Verdict {
    for from in one.ips()? {
        let same = |to: &Ip| to.addr.is_ipv4() == from.addr.is_ipv4();
        if let Some(to) = two.ips()?.into_iter().find(same) {
            exchange(one, two, from.addr, to.addr)?;
        }
    }
    Ok(())
}

/// Echoes from one container to another, each family.
pub fn reaches(one: &Attached, two: &Attached) -> Verdict {
    pair(one, two, |one, _, _, to| works(format!("echo to {to}"), packets::ping(one.pod.place(), to, 56)))
}

fn after_other_del(scene: &Scene<'_>) -> Verdict {
    let (one, two, three) = (scene.addressed()?, scene.addressed()?, scene.addressed()?);
    scene.del(&three).done()?;
    reaches(&one, &two)
}

fn nothing_after_del(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (scene.addressed()?, scene.addressed()?);
    reaches(&one, &two)?;
    scene.del(&two).done()?;
    pair(&one, &two, |one, _, _, to| {
        let still = packets::ping_within(one.pod.place(), to, 56, Duration::from_millis(600));
        need!(still.is_err(), "{to} answers although its container was deleted");
        Ok(())
    })
}

fn after_second_add(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (scene.addressed()?, scene.addressed()?);
    scene.call(Verb::Add, &two.pod)?.refused("the interface exists")?;
    reaches(&one, &two)
}

fn after_new_add(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (scene.addressed()?, scene.addressed()?);
    scene.del(&two).done()?;
    let result = scene.call(Verb::Add, &two.pod)?.result()?;
    reaches(&one, &Attached { result, ..two })
}

fn after_check(scene: &Scene<'_>) -> Verdict {
    let (one, two) = (scene.addressed()?, scene.addressed()?);
    scene.check(&one)?.done()?;
    scene.check(&two)?.done()?;
    reaches(&one, &two)
}

fn all_pairs(scene: &Scene<'_>) -> Verdict {
    let pods: Vec<Attached> = (0..6).map(|_| scene.addressed()).collect::<Verdict<_>>()?;
    for one in &pods {
        pods.iter().filter(|two| two.pod.container() != one.pod.container()).try_for_each(|two| reaches(one, two))?;
    }
    Ok(())
}
