//! The result of ADD: its shape in every version, key by key.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{on_results, on_versions, shown};
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::result::{Attached, entry_value, prefix, read_ip, same_prefix, text};
use crate::scene::Scene;
use crate::spec;
use crate::version::{Verb, Version};

pub const CASES: &[Case] = &[
    case("result.is-printed", &spec::ADD_RESULT, |s| on_results(s, |_| Ok(()))),
    case("result.is-one-object", &spec::OUTPUT_JSON, |s| {
        on_results(s, |a| match a.result.as_object() {
            Some(object) if object.contains_key("code") && object.contains_key("msg") => {
                crate::case::fail("ADD exited with 0 and printed an error object")
            }
            _ => Ok(()),
        })
    }),
    case("result.has-its-keys", &spec::SUCCESS_KEYS, has_keys),
    case("result.version-as-asked", &spec::R_VERSION, version_as_asked),
    case("result.lists-the-interface", &spec::R_INTERFACES, |s| on_results(s, |a| a.interface().map(drop))),
    case("result.interfaces-have-names", &spec::R_NAME, |s| {
        each(s, "interfaces", |entry, _| {
            let name = entry_value(entry, "name");
            need!(!text(&name).is_empty(), "interfaces: name is {name}");
            Ok(())
        })
    }),
    case("result.macs-are-macs", &spec::R_MAC, |s| each(s, "interfaces", |entry, _| mac_or_nothing(entry))),
    case("result.interface-has-its-mac", &spec::R_MAC, |s| {
        on_results(s, |a| {
            let mac = entry_value(a.interface()?, "mac");
            need!(!text(&mac).is_empty(), "mac of {} is {mac}", a.ifname);
            Ok(())
        })
    }),
    case("result.mtu-is-a-number", &spec::R_MTU, |s| optional_number(s, "interfaces", "mtu")),
    case("result.sandbox-is-the-netns", &spec::R_SANDBOX_NETNS, sandbox_is_netns),
    case("result.sandbox-is-empty-on-the-host", &spec::R_SANDBOX, sandbox_is_text),
    case("result.interfaces-once", &spec::R_INTERFACES, interfaces_once),
    case("result.socket-path-is-absolute", &spec::R_SOCKET, |s| {
        optional(s, "interfaces", "socketPath", |value| text(value).starts_with('/'))
    }),
    case("result.pci-id-is-text", &spec::R_PCI, |s| {
        optional(s, "interfaces", "pciID", |value| !text(value).is_empty())
    }),
    case("result.addresses-are-cidr", &spec::R_ADDRESS, |s| each(s, "ips", |entry, _| read_ip(entry).map(drop))),
    case("result.addresses-once", &spec::R_IPS, addresses_once),
    case("result.addresses-are-hosts", &spec::NETWORK, addresses_are_hosts),
    case("result.gateway-is-an-address", &spec::R_GATEWAY, gateway_is_address),
    case("result.gateway-of-the-same-family", &spec::R_GATEWAY, |s| {
        each(s, "ips", |entry, _| {
            let ip = read_ip(entry)?;
            let same = ip.gateway.is_none_or(|gateway| gateway.is_ipv4() == ip.addr.is_ipv4());
            need!(same, "ips: {} has the gateway {:?}", ip.addr, ip.gateway);
            Ok(())
        })
    }),
    case("result.gateway-is-another", &spec::R_GATEWAY, |s| {
        each(s, "ips", |entry, _| {
            let ip = read_ip(entry)?;
            need!(ip.gateway != Some(ip.addr), "ips: {} is its own gateway", ip.addr);
            Ok(())
        })
    }),
    case("result.gateway-is-in-the-subnet", &spec::R_GATEWAY, |s| {
        each(s, "ips", |entry, _| {
            let ip = read_ip(entry)?;
            let link_local = |gateway: IpAddr| match gateway {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let near = |gateway| link_local(gateway) || same_prefix(gateway, ip.addr, ip.length);
            need!(ip.gateway.is_none_or(near), "ips: {}/{} has the gateway {:?}", ip.addr, ip.length, ip.gateway);
            Ok(())
        })
    }),
    case("result.index-points-to-an-interface", &spec::R_INTERFACE, index_in_range),
    case("result.index-points-into-the-container", &spec::R_INTERFACE, index_in_container),
    case("result.family-named-before-1-0-0", &spec::SEMVER, family_named),
    case("result.family-not-named-since-1-0-0", &spec::REMOVED_VERSION, family_not_named),
    case("result.route-destinations-are-cidr", &spec::R_DST, |s| on_results(s, |a| a.routes().map(drop))),
    case("result.route-destinations-have-no-host-bits", &spec::R_DST, no_host_bits),
    case("result.route-gateways-are-addresses", &spec::R_GW, route_gateways),
    case("result.route-gateways-of-the-same-family", &spec::R_GW, |s| {
        on_results(s, |a| {
            for ((dst, _), gateway) in a.routes()? {
                let same = gateway.is_none_or(|gateway| gateway.is_ipv4() == dst.is_ipv4());
                need!(same, "routes: to {dst} by {gateway:?}");
            }
            Ok(())
        })
    }),
    case("result.route-mtu-is-a-number", &spec::R_ROUTE_MTU, |s| optional_number(s, "routes", "mtu")),
    case("result.route-advmss-is-a-number", &spec::R_ADVMSS, |s| optional_number(s, "routes", "advmss")),
    case("result.route-priority-is-a-number", &spec::R_PRIORITY, |s| optional_number(s, "routes", "priority")),
    case("result.route-table-is-a-number", &spec::R_TABLE, |s| optional_number(s, "routes", "table")),
    case("result.route-scope-is-a-scope", &spec::R_SCOPE, |s| {
        optional(s, "routes", "scope", |value| value.as_u64().is_some_and(|scope| scope < 256))
    }),
    case("result.dns-is-an-object", &spec::R_DNS, |s| {
        on_results(s, |a| {
            let dns = a.result.get("dns");
            need!(dns.is_none_or(Value::is_object), "dns is {}", shown(dns));
            Ok(())
        })
    }),
    case("result.dns-nameservers-are-a-list", &spec::R_NAMESERVERS, |s| dns(s, "nameservers", strings)),
    case("result.dns-nameservers-are-addresses", &spec::R_NAMESERVER, |s| {
        dns(s, "nameservers", |value| list(value).iter().all(|entry| text(entry).parse::<IpAddr>().is_ok()))
    }),
    case("result.dns-domain-is-text", &spec::R_DOMAIN, |s| dns(s, "domain", Value::is_string)),
    case("result.dns-search-is-a-list", &spec::R_SEARCH, |s| dns(s, "search", strings)),
    case("result.dns-options-are-a-list", &spec::R_OPTIONS, |s| dns(s, "options", strings)),
    case("result.no-keys-of-newer-versions", &spec::PLUGIN, no_newer_keys),
    case("result.says-the-same-in-every-version", &spec::SEMVER, same_in_every_version),
];

/// Judges every entry of a list of the result.
fn each(scene: &Scene<'_>, key: &str, judge: impl Fn(&Map<String, Value>, &Attached) -> Verdict) -> Verdict {
    on_results(scene, |attached| attached.list(key).into_iter().try_for_each(|entry| judge(entry, attached)))
}

/// Judges a key wherever it is; skipped where it is nowhere.
fn optional(scene: &Scene<'_>, list: &str, key: &str, good: impl Fn(&Value) -> bool) -> Verdict {
    let mut seen = false;
    on_results(scene, |attached| {
        for value in attached.list(list).into_iter().filter_map(|entry| entry.get(key)) {
            seen = true;
            need!(good(value), "{list}: {key} is {value}");
        }
        Ok(())
    })?;
    if seen { Ok(()) } else { skip(format!("no result has {key} in {list}")) }
}

fn optional_number(scene: &Scene<'_>, list: &str, key: &str) -> Verdict {
    optional(scene, list, key, Value::is_u64)
}

fn has_keys(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let result = &attached.result;
        need!(result["cniVersion"].is_string(), "cniVersion is {}", result["cniVersion"]);
        need!(result["interfaces"].is_array(), "interfaces is {}", result["interfaces"]);
        for key in ["ips", "routes"] {
            let value = result.get(key);
            need!(value.is_none_or(Value::is_array), "{key} is {}", shown(value));
        }
        Ok(())
    })
}

fn version_as_asked(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let printed = &attached.result["cniVersion"];
        need!(*printed == attached.version.to_string(), "the result's cniVersion is {printed}");
        Ok(())
    })
}

fn mac_or_nothing(entry: &Map<String, Value>) -> Verdict {
    let mac = entry_value(entry, "mac");
    let text = text(&mac);
    let byte = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    let good = text.split(':').count() == 6 && text.split(':').all(byte);
    need!(mac.is_null() || text.is_empty() || good, "interfaces: mac is {mac}");
    Ok(())
}

fn sandbox_is_netns(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let sandbox = entry_value(attached.interface()?, "sandbox");
        let netns = attached.pod.netns();
        need!(text(&sandbox) == netns, "sandbox of {} is {sandbox}, CNI_NETNS was {netns}", attached.ifname);
        Ok(())
    })
}

fn sandbox_is_text(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let links = look::links(scene.place())?;
        for entry in attached.list("interfaces") {
            let sandbox = entry_value(entry, "sandbox");
            need!(sandbox.is_null() || sandbox.is_string(), "interfaces: sandbox is {sandbox}");
            let name = text(&entry_value(entry, "name"));
            let there = !text(&sandbox).is_empty() || links.iter().any(|link| link.name == name);
            need!(there, "interfaces: {name} has no sandbox, and the host has no such interface");
        }
        Ok(())
    })
}

fn interfaces_once(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let mut seen = BTreeSet::new();
        for entry in attached.list("interfaces") {
            let key = (text(&entry_value(entry, "sandbox")), text(&entry_value(entry, "name")));
            need!(seen.insert(key.clone()), "interfaces has {} twice", key.1);
        }
        Ok(())
    })
}

fn addresses_once(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        let mut seen = BTreeSet::new();
        for ip in attached.ips()? {
            need!(seen.insert(ip.addr), "ips has {} twice", ip.addr);
        }
        Ok(())
    })
}

fn addresses_are_hosts(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        for ip in attached.ips()? {
            let usable = !ip.addr.is_unspecified() && !ip.addr.is_multicast() && !ip.addr.is_loopback();
            need!(usable, "ips: no interface can have {}", ip.addr);
            if let IpAddr::V4(v4) = ip.addr
                && ip.length < 31
            {
                let host = v4.to_bits() & (u32::MAX >> ip.length);
                let edge = host == 0 || host == u32::MAX >> ip.length;
                need!(!edge, "ips: {v4}/{} is the subnet's own or its broadcast address", ip.length);
            }
        }
        Ok(())
    })
}

fn gateway_is_address(scene: &Scene<'_>) -> Verdict {
    each(scene, "ips", |entry, _| {
        let gateway = entry_value(entry, "gateway");
        let good = gateway.is_null() || text(&gateway).is_empty() || text(&gateway).parse::<IpAddr>().is_ok();
        need!(good, "ips: gateway is {gateway}");
        Ok(())
    })
}

fn index_in_range(scene: &Scene<'_>) -> Verdict {
    each(scene, "ips", |entry, attached| {
        let Some(index) = entry.get("interface").filter(|index| !index.is_null()) else { return Ok(()) };
        let count = attached.list("interfaces").len() as u64;
        let good = index.as_u64().is_some_and(|index| index < count);
        need!(good, "ips: interface is {index}, and there are {count} interfaces");
        Ok(())
    })
}

fn index_in_container(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        if attached.list("ips").is_empty() {
            return skip("the configuration yields no addresses");
        }
        let interfaces = attached.list("interfaces");
        let own = attached.interface()?;
        let to_own = attached.list("ips").into_iter().any(|entry| {
            let index = entry_value(entry, "interface").as_u64().and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| interfaces.get(index)).is_some_and(|entry| *entry == own)
        });
        need!(to_own, "no entry of ips has the index of {}", attached.ifname);
        Ok(())
    })
}

fn family_named(scene: &Scene<'_>) -> Verdict {
    on_versions(scene, Verb::Add, |version| {
        if version >= Version::V1_0_0 {
            return Ok(());
        }
        for entry in scene.attach_in(version)?.list("ips") {
            let ip = read_ip(entry)?;
            let family = if ip.addr.is_ipv4() { "4" } else { "6" };
            let named = entry_value(entry, "version");
            need!(text(&named) == family, "ips: version of {} is {named}, not \"{family}\"", ip.addr);
        }
        Ok(())
    })
}

fn family_not_named(scene: &Scene<'_>) -> Verdict {
    on_versions(scene, Verb::Add, |version| {
        if version < Version::V1_0_0 {
            return Ok(());
        }
        for entry in scene.attach_in(version)?.list("ips") {
            need!(!entry.contains_key("version"), "ips: version is {}", entry_value(entry, "version"));
        }
        Ok(())
    })
}

fn no_host_bits(scene: &Scene<'_>) -> Verdict {
    each(scene, "routes", |entry, _| {
        let dst = text(&entry_value(entry, "dst"));
        let clear = prefix(&dst).is_some_and(|(addr, length)| match addr {
            IpAddr::V4(v4) => v4.to_bits().checked_shl(length.into()).unwrap_or(0) == 0,
            IpAddr::V6(v6) => v6.to_bits().checked_shl(length.into()).unwrap_or(0) == 0,
        });
        need!(clear, "routes: dst {dst:?} has bits behind its prefix");
        Ok(())
    })
}

fn route_gateways(scene: &Scene<'_>) -> Verdict {
    each(scene, "routes", |entry, _| {
        let gateway = entry_value(entry, "gw");
        let good = gateway.is_null() || text(&gateway).is_empty() || text(&gateway).parse::<IpAddr>().is_ok();
        need!(good, "routes: gw is {gateway}");
        Ok(())
    })
}

/// Judges a key of `dns` in the result of a configuration that has all of them; skipped where no result has it.
fn dns(scene: &Scene<'_>, key: &str, good: impl Fn(&Value) -> bool) -> Verdict {
    let conf = json!({
        "nameservers": ["192.0.2.53", "2001:db8::53"],
        "domain": "example.org",
        "search": ["a.example.org", "example.org"],
        "options": ["ndots:2"],
    });
    let mut seen = false;
    on_versions(scene, Verb::Add, |version| {
        let attached = scene.attach_as(version, |call| call.conf("dns", conf.clone()))?;
        let Some(value) = attached.result["dns"].get(key).filter(|value| !value.is_null()) else { return Ok(()) };
        seen = true;
        need!(good(value), "dns: {key} is {value}");
        Ok(())
    })?;
    if seen { Ok(()) } else { skip(format!("no result has {key} in dns")) }
}

fn strings(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn no_newer_keys(scene: &Scene<'_>) -> Verdict {
    on_results(scene, |attached| {
        if attached.version >= Version::V1_1_0 {
            return Ok(());
        }
        let newer: [(&str, &[&str]); 2] = [
            ("interfaces", &["mtu", "socketPath", "pciID"]),
            ("routes", &["mtu", "advmss", "priority", "table", "scope"]),
        ];
        for (list, keys) in newer {
            for entry in attached.list(list) {
                let found = keys.iter().find(|key| entry.contains_key(**key));
                need!(found.is_none(), "{list}: {} came with 1.1.0", found.unwrap_or(&""));
            }
        }
        Ok(())
    })
}

/// As far as it does not depend on the attachment: how many interfaces, addresses of which family, routes to where.
fn same_in_every_version(scene: &Scene<'_>) -> Verdict {
    let mut first: Option<(Version, String)> = None;
    on_results(scene, |attached| {
        let families: Vec<bool> = attached.ips()?.iter().map(|ip| ip.addr.is_ipv4()).collect();
        let routes: BTreeSet<_> = attached.routes()?.into_iter().map(|(dst, _)| dst).collect();
        let said = format!("{} interfaces, {families:?}, {routes:?}", attached.list("interfaces").len());
        match &first {
            None => first = Some((attached.version, said)),
            Some((version, other)) => need!(*other == said, "{said}, but in {version} {other}"),
        }
        Ok(())
    })
}
