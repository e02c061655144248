//! DEL: it removes what ADD made, it succeeds however little is left, and it removes nothing else.

use serde_json::{Value, json};

use super::add::asks_for;
use super::kernel::{foreign_interface, link_of};
use super::{ABSENT, eventually, on_versions};
use crate::call::Call;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::process::tool;
use crate::result::Attached;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Del};

pub const CASES: &[Case] = &[
    case("del.removes-the-interface", &spec::DEL_DELETE, |s| {
        let attached = s.attach()?;
        s.del(&attached).done()?;
        gone(&attached)
    }),
    case("del.in-every-version", &spec::DEL_DELETE, |s| {
        on_versions(s, Del, |version| {
            let attached = s.attach_in(version)?;
            s.del(&attached).done()?;
            gone(&attached)
        })
    }),
    case("del.removes-the-host-interfaces", &spec::DEL_UNDO, removes_host_interfaces),
    case("del.removes-the-routes-on-the-host", &spec::DEL_UNDO, removes_host_routes),
    case("del.with-the-result-of-add", &spec::DEL_PREV, |s| {
        let attached = s.attach()?;
        s.call(Del, &attached.pod)?.prev(&attached.result).done()
    }),
    case("del.without-previous-result", &spec::DEL_PREV_EMPTY, |s| spoiled(s, |call| call.without("prevResult"))),
    case("del.with-an-empty-previous-result", &spec::DEL_PREV_EMPTY, |s| {
        spoiled(s, |call| call.conf("prevResult", json!({})))
    }),
    case("del.with-null-for-previous-result", &spec::DEL_PREV_EMPTY, |s| {
        spoiled(s, |call| call.conf("prevResult", Value::Null))
    }),
    case("del.with-a-previous-result-of-others", &spec::DEL_BEST_EFFORT, |s| {
        let version = s.newest(Del)?.to_string();
        spoiled(s, |call| call.conf("prevResult", json!({ "cniVersion": version, "interfaces": [], "routes": [] })))
    }),
    case("del.without-netns-variable", &spec::DEL_OPTIONAL, |s| {
        let attached = s.attach()?;
        s.del(&attached).unset("CNI_NETNS").done()
    }),
    case("del.with-empty-netns", &spec::DEL_OPTIONAL, |s| {
        let attached = s.attach()?;
        s.del(&attached).env("CNI_NETNS", "").done()
    }),
    case("del.without-netns-removes-the-host-interfaces", &spec::DEL_OWN, without_netns_host),
    case("del.without-netns-frees-the-address", &spec::DEL_RELEASE, |s| {
        frees(s, |s, attached| s.del(attached).unset("CNI_NETNS").done())
    }),
    case("del.after-the-netns-vanished", &spec::DEL_BEST_EFFORT, |s| vanished(s).map(drop)),
    case("del.after-the-netns-vanished-again", &spec::DELS, |s| {
        let (call, _) = vanished(s)?;
        call.done()
    }),
    case("del.after-the-netns-vanished-leaves-nothing", &spec::DEL_OWN, vanished_leaves_nothing),
    case("del.after-the-netns-vanished-frees-the-address", &spec::DEL_RELEASE, vanished_frees),
    case("del.of-a-netns-that-is-no-netns", &spec::DEL_BEST_EFFORT, |s| {
        // What is left of its path after a reboot: the file that the namespace was mounted on.
        let attached = s.attach()?;
        let del = s.del(&attached);
        let _file = attached.pod.hollow();
        del.done()
    }),
    case("del.after-the-interface-vanished", &spec::DEL_AGAIN, |s| {
        let attached = s.attach()?;
        tool(attached.pod.place(), "ip", &["link", "del", &attached.ifname], "")?;
        s.del(&attached).done()
    }),
    case("del.after-the-interface-was-renamed", &spec::DEL_BEST_EFFORT, |s| {
        let attached = s.attach()?;
        let lines = format!("link set {0} down\nlink set {0} name other0\n", attached.ifname);
        tool(attached.pod.place(), "ip", &["-batch", "-"], &lines)?;
        s.del(&attached).done()
    }),
    case("del.after-the-address-was-removed", &spec::DEL_BEST_EFFORT, |s| {
        let attached = s.attach()?;
        tool(attached.pod.place(), "ip", &["addr", "flush", "dev", &attached.ifname], "")?;
        s.del(&attached).done()?;
        gone(&attached)
    }),
    case("del.while-the-interface-is-down", &spec::DEL_BEST_EFFORT, |s| {
        let attached = s.attach()?;
        tool(attached.pod.place(), "ip", &["link", "set", &attached.ifname, "down"], "")?;
        s.del(&attached).done()?;
        gone(&attached)
    }),
    case("del.twice", &spec::DEL_AGAIN, |s| {
        let attached = s.attach()?;
        s.del(&attached).done()?;
        s.del(&attached).done()
    }),
    case("del.three-times-in-every-version", &spec::DELS, |s| {
        on_versions(s, Del, |version| {
            let attached = s.attach_in(version)?;
            (0..3).try_for_each(|_| s.del(&attached).done())
        })
    }),
    case("del.of-what-was-never-added", &spec::DEL_AGAIN, |s| s.call(Del, &s.pod()?)?.done()),
    case("del.of-an-interface-that-never-was", &spec::DEL_AGAIN, |s| {
        let attached = s.attach()?;
        s.call(Del, &attached.pod)?.ifname(ABSENT).done()
    }),
    case("del.before-any-add", &spec::DEL_BEST_EFFORT, |s| {
        s.plain(Del)?.env("CNI_CONTAINERID", "never-added").ifname("eth0").done()
    }),
    case("del.after-a-refused-add", &spec::DEL_AFTER_FAILED_ADD, |s| {
        let pod = s.pod()?;
        s.call(Add, &pod)?.env("CNI_NETNS", "/no/such/netns").refused("CNI_NETNS does not exist")?;
        s.call(Del, &pod)?.env("CNI_NETNS", "/no/such/netns").done()
    }),
    case("del.frees-the-address", &spec::DEL_UNDO, |s| frees(s, |s, attached| s.del(attached).done())),
    case("del.leaves-an-interface-of-others", &spec::ATTACHMENT, |s| {
        let attached = s.attach()?;
        foreign_interface(&attached.pod, "other0", "198.51.100.7/24")?;
        s.del(&attached).done()?;
        need!(look::find(attached.pod.place(), "other0")?.is_some(), "DEL removed an interface of others");
        Ok(())
    }),
    case("del.leaves-other-containers", &spec::ATTACHMENT, |s| {
        let (one, two) = (s.attach()?, s.attach()?);
        let before = link_of(&two)?;
        s.del(&one).done()?;
        let after = link_of(&two)?;
        need!(
            (before.index, &before.addresses) == (after.index, &after.addresses),
            "it was {before:?}, it is {after:?}"
        );
        Ok(())
    }),
    case("del.of-an-unknown-container-leaves-this-one", &spec::ATTACHMENT, |s| {
        let attached = s.attach()?;
        s.call(Del, &s.pod()?)?.done()?;
        link_of(&attached).map(drop)
    }),
    case("del.leaves-the-netns", &spec::NETNS_CLEANUP, |s| {
        let attached = s.attach()?;
        s.del(&attached).done()?;
        need!(std::path::Path::new(&attached.pod.netns()).exists(), "DEL removed the container's namespace");
        need!(look::find(attached.pod.place(), "lo")?.is_some(), "the container lost lo");
        Ok(())
    }),
];

fn gone(attached: &Attached) -> Verdict {
    let left = look::find(attached.pod.place(), &attached.ifname)?;
    need!(left.is_none(), "DEL succeeded, and the container still has {}", attached.ifname);
    Ok(())
}

/// A DEL with something missing or strange must succeed and remove the interface.
fn spoiled<'a>(scene: &'a Scene<'a>, change: impl FnOnce(Call<'a>) -> Call<'a>) -> Verdict {
    let attached = scene.attach()?;
    change(scene.del(&attached)).done()?;
    gone(&attached)
}

/// The names of the host's interfaces that only the second of two attachments has.
fn own_host_links(scene: &Scene<'_>) -> Verdict<(Attached, Vec<String>)> {
    let first = scene.attach()?;
    let before: Vec<String> = look::links(scene.place())?.into_iter().map(|link| link.name).collect();
    let second = scene.attach()?;
    let links = look::links(scene.place())?.into_iter().map(|link| link.name);
    let own: Vec<String> = links.filter(|name| !before.contains(name)).collect();
    scene.del(&first).done()?;
    if own.is_empty() {
        return skip("an attachment has no interface of its own on the host");
    }
    Ok((second, own))
}

fn none_left(scene: &Scene<'_>, own: &[String]) -> Verdict {
    eventually(|| {
        let links = look::links(scene.place())?;
        let left: Vec<&String> = own.iter().filter(|name| links.iter().any(|link| link.name == **name)).collect();
        need!(left.is_empty(), "DEL left on the host: {left:?}");
        Ok(())
    })
}

fn removes_host_interfaces(scene: &Scene<'_>) -> Verdict {
    let (attached, own) = own_host_links(scene)?;
    scene.del(&attached).done()?;
    none_left(scene, &own)
}

fn without_netns_host(scene: &Scene<'_>) -> Verdict {
    let (attached, own) = own_host_links(scene)?;
    scene.del(&attached).unset("CNI_NETNS").done()?;
    // The namespace is the runtime's to remove, and with it go the interfaces in it.
    drop(attached);
    none_left(scene, &own)
}

fn removes_host_routes(scene: &Scene<'_>) -> Verdict {
    let attached = scene.addressed()?;
    let ips = attached.ips()?;
    // A route of the whole range may begin with the same address.
    let host = |route: &look::Route| route.dst.1 == if route.dst.0.is_ipv4() { 32 } else { 128 };
    let towards = |route: &look::Route| host(route) && ips.iter().any(|ip| ip.addr == route.dst.0);
    scene.del(&attached).done()?;
    eventually(|| {
        let left: Vec<look::Route> = look::routes(scene.place())?.into_iter().filter(towards).collect();
        need!(left.is_empty(), "routes to the container are left on the host: {left:?}");
        Ok(())
    })
}

/// A DEL after its container's namespace is gone, which succeeded.
fn vanished<'a>(scene: &'a Scene<'a>) -> Verdict<(Call<'a>, Vec<String>)> {
    let attached = scene.attach()?;
    let ips = attached.ips()?.iter().map(|ip| ip.addr.to_string()).collect();
    let call = scene.del(&attached);
    let gone = attached.pod.vanish();
    let call = call.env("CNI_NETNS", &gone.netns).env("CNI_CONTAINERID", &gone.container);
    call.done()?;
    Ok((call, ips))
}

fn vanished_leaves_nothing(scene: &Scene<'_>) -> Verdict {
    let warm = scene.attach()?;
    scene.del(&warm).done()?;
    let before = eventually(|| look::snapshot(scene.place()))?;
    vanished(scene)?;
    eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "DEL left on the host: {left:?}");
        Ok(())
    })
}

fn vanished_frees(scene: &Scene<'_>) -> Verdict {
    can_ask(scene)?;
    let (_, ips) = vanished(scene)?;
    gets(scene, &ips)
}

/// After the DEL, another container that asks for the address must get it.
fn frees<'a>(scene: &'a Scene<'a>, del: impl FnOnce(&'a Scene<'a>, &Attached) -> Verdict) -> Verdict {
    can_ask(scene)?;
    let attached = scene.addressed()?;
    let ips: Vec<String> = attached.ips()?.iter().map(|ip| ip.addr.to_string()).collect();
    del(scene, &attached)?;
    drop(attached);
    gets(scene, &ips)
}

/// Whether `IP=` in `CNI_ARGS` is understood: only then can one see from outside whether an address is free. Whoever
/// understands refuses an address that is taken.
pub fn can_ask(scene: &Scene<'_>) -> Verdict {
    let holder = scene.addressed()?;
    let pod = scene.pod()?;
    let given = asks_for(scene, &pod, &holder.ip()?.to_string())?;
    scene.call(Del, &pod)?.run()?;
    match given {
        None => Ok(()),
        Some(_) => skip("the plugin takes no wish for an address (IP= in CNI_ARGS)"),
    }
}

pub fn gets(scene: &Scene<'_>, ips: &[String]) -> Verdict {
    for ip in ips {
        let pod = scene.pod()?;
        let got = eventually(|| match asks_for(scene, &pod, ip)? {
            Some(got) => Ok(got),
            None => crate::case::fail(format!("{ip} is still taken after the DEL of its container")),
        })?;
        need!(got == *ip, "{ip} is still taken after the DEL of its container: asked for it, one gets {got}");
        scene.call(Del, &pod)?.done()?;
    }
    Ok(())
}
