//! What the kernel shows: links, addresses, routes and rules of a namespace, read with iproute2 and nft.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::case::{Stop, Verdict};
use crate::process::tool;
use crate::result::{Prefix, prefix, text};
use crate::space::Place;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u64,
    pub name: String,
    pub mac: String,
    pub mtu: u64,
    /// Administratively up, and with a carrier.
    pub up: bool,
    pub kind: String,
    pub master: String,
    pub addresses: Vec<Address>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    pub length: u8,
    pub scope: String,
    /// Duplicate address detection has not ended well, or not yet.
    pub tentative: bool,
}

/// A route that is not one of the kernel's own table of local addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub dst: Prefix,
    pub gateway: Option<IpAddr>,
    pub dev: String,
    pub kind: String,
    pub table: String,
}

/// All interfaces of a namespace.
pub fn links(place: &Place) -> Verdict<Vec<Link>> {
    let rows = json(&tool(place, "ip", &["-j", "-d", "addr", "show"], "")?)?;
    Ok(rows.iter().map(link).collect())
}

/// One interface, if it is there.
pub fn find(place: &Place, name: &str) -> Verdict<Option<Link>> {
    Ok(links(place)?.into_iter().find(|link| link.name == name))
}

/// All routes of a namespace, except those of the table `local`.
pub fn routes(place: &Place) -> Verdict<Vec<Route>> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        for row in json(&tool(place, "ip", &["-j", family, "route", "show", "table", "all"], "")?)? {
            if row["table"] != "local" {
                routes.extend(route(&row, family == "-6"));
            }
        }
    }
    Ok(routes)
}

/// Everything a plugin could leave on a host: one line an object, without what changes by itself.
pub fn snapshot(place: &Place) -> Verdict<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    for link in links(place)? {
        lines.insert(format!("link {} ({}) of {:?}", link.name, link.kind, link.master));
        let global = link.addresses.iter().filter(|address| address.scope != "link");
        lines.extend(global.map(|address| format!("address {}/{} on {}", address.ip, address.length, link.name)));
    }
    for route in routes(place)?.iter().filter(|route| !is_link_local(route.dst) && !route.dst.0.is_multicast()) {
        let (ip, length) = route.dst;
        let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        lines.insert(format!("route {ip}/{length}{gateway} dev {} table {}", route.dev, route.table));
    }
    for rule in json(&tool(place, "ip", &["-j", "rule"], "")?)? {
        lines.insert(format!("policy rule {rule}"));
    }
    match tool(place, "nft", &["-s", "list", "ruleset"], "") {
        Ok(rules) => {
            let mut table = "";
            for line in rules.lines().map(str::trim).filter(|line| line.len() > 1) {
                if line.starts_with("table ") {
                    table = line;
                }
                lines.insert(format!("rule in {table}: {line}"));
            }
        }
        Err(Stop::Skip(_)) => {}
        Err(other) => return Err(other),
    }
    Ok(lines)
}

fn is_link_local((ip, length): Prefix) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local() && length >= 10)
}

fn json(text: &str) -> Verdict<Vec<Value>> {
    // iproute2 prints nothing at all, or a bracket too few, where there is nothing.
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str::<Vec<Value>>(text)
        .map_err(|error| Stop::Skip(format!("`ip -j` printed what is not a JSON list: {error}")))
}

fn link(row: &Value) -> Link {
    let flag = |name: &str| row["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == name));
    let addresses = row["addr_info"].as_array().into_iter().flatten().filter_map(address);
    Link {
        index: row["ifindex"].as_u64().unwrap_or_default(),
        name: text(&row["ifname"]),
        mac: text(&row["address"]),
        mtu: row["mtu"].as_u64().unwrap_or_default(),
        up: flag("UP") && flag("LOWER_UP"),
        kind: text(&row["linkinfo"]["info_kind"]),
        master: text(&row["master"]),
        addresses: addresses.collect(),
    }
}

fn address(row: &Value) -> Option<Address> {
    Some(Address {
        ip: row["local"].as_str()?.parse().ok()?,
        length: u8::try_from(row["prefixlen"].as_u64()?).ok()?,
        scope: text(&row["scope"]),
        tentative: row["tentative"] == true || row["dadfailed"] == true,
    })
}

fn route(row: &Value, six: bool) -> Option<Route> {
    let dst = match row["dst"].as_str()? {
        "default" if six => prefix("::/0")?,
        "default" => prefix("0.0.0.0/0")?,
        host if !host.contains('/') => prefix(&format!("{host}/{}", if six { 128 } else { 32 }))?,
        other => prefix(other)?,
    };
    let gateway = row["gateway"].as_str().or_else(|| row["via"]["host"].as_str());
    Some(Route {
        dst,
        gateway: gateway.and_then(|gateway| gateway.parse().ok()),
        dev: text(&row["dev"]),
        kind: row["type"].as_str().unwrap_or("unicast").to_owned(),
        table: row["table"].as_str().unwrap_or("main").to_owned(),
    })
}
