//! Pods whose file cannot be read: what the file's name and the kernel tell of them is enough to leave them be.
//!
//! Such a pod keeps its interface and addresses, and its addresses are nobody else's, until DEL. What only the file knew
//! is gone: CHECK finds another namespace, and GC passes it over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_fabric::wiring;
use ripstop_ipam::Attachment;
use ripstop_netmodel::{Key, Link, Model, NFT_TABLE, NftElement, Ns, Object, link_table};
use ripstop_nft::model::{Data, KeyPart, TableFamily, Value};
use ripstop_objects::service::Protocol;
use ripstop_objects::{Network, NetworkName, Wiring};
use ripstop_tables::{Bandwidth, HostPort, PodRow, PodState, Shaping, Tables};
use ripstop_types::{IfName, Mac, Millis, PodName};

/// The row of a pod whose file has this name, where its interface stands.
pub(super) fn row(key: &str, tables: &Tables, observed: &Model) -> Option<PodRow> {
    let (attachment, link) = splits(key).find_map(|attachment| {
        let names = (0..3).map(|salt| wiring::pod_link(&attachment, salt));
        let found = names.filter_map(|name| host_link(observed, &name)).next();
        found.map(|link| (attachment, link))
    })?;
    let wiring = if link.master.is_some() { Wiring::Bridge } else { Wiring::Routed };
    let (ips, mac) = addresses(observed, &link.name, wiring);
    let shaped = |link: IfName| match observed.get(&Key::Qdisc { ns: Ns::Host, link }).map(|entry| &entry.object) {
        Some(Object::Qdisc(qdisc)) => Some(Shaping { rate: qdisc.rate, burst: u64::from(qdisc.burst) * 8 }),
        _ => None,
    };
    let bandwidth = Bandwidth { ingress: shaped(link.name.clone()), egress: shaped(wiring::shaper_link(&link.name)) };
    let host_ports = host_ports(observed, &ips);
    Some(PodRow {
        pod: link.altname.as_deref().and_then(|name| pod_name(name, &attachment, &link.name)),
        network: network(tables, link, &ips),
        config_name: "".into(),
        netns: "".into(),
        ips,
        ranges: Vec::new(),
        mac: mac.unwrap_or(Mac::local([0; 5])),
        host_link: link.name.clone(),
        host_mac: link.mac.unwrap_or_else(|| wiring::pod_link_mac(&attachment, wiring)),
        mtu: link.mtu.unwrap_or_default(),
        fixed_mtu: false,
        wiring,
        bandwidth,
        host_ports,
        state: PodState::Ready,
        request: "".into(),
        // Older than all others: whoever else has the address got it wrongly.
        since: Millis::default(),
        boot_id: tables.identity.boot_id.as_str().into(),
        attachment,
    })
}

/// The ports of the host that lead to these addresses, each by itself.
fn host_ports(observed: &Model, ips: &[IpAddr]) -> Vec<HostPort> {
    let elements = observed.iter().filter_map(|(_, entry)| match &entry.object {
        Object::NftElement(element) if element.key.table.as_str() == NFT_TABLE => Some(element),
        _ => None,
    });
    let address = |value: &Value| match value {
        Value::Ipv4(ip) => Some(IpAddr::from(*ip)),
        Value::Ipv6(ip) => Some(IpAddr::from(*ip)),
        _ => None,
    };
    let read = |element: &NftElement| {
        let [at @ .., KeyPart::Value(Value::Proto(proto)), KeyPart::Value(Value::Service(port))] =
            &element.key.key.parts[..]
        else {
            return None;
        };
        let Some(Data::Values(values)) = &element.body.data else { return None };
        let [ip, Value::Service(to)] = &values[..] else { return None };
        let ip = address(ip).filter(|ip| ips.contains(ip))?;
        let all: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = match at {
            [KeyPart::Value(at)] => address(at)?,
            _ => all,
        };
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == *proto)?;
        Some(HostPort { ip: Some(at), protocol, port: *port, to: *to })
    };
    elements.filter_map(read).collect()
}

/// What the log says of it.
pub(super) fn sentence(row: &PodRow) -> String {
    let ips: Vec<String> = row.ips.iter().map(ToString::to_string).collect();
    format!(
        "the file of {} ({}) cannot be read; its interface {} and addresses {} stay as the kernel has them until DEL",
        row.owner(),
        row.attachment,
        row.host_link,
        if ips.is_empty() { "none".into() } else { ips.join(", ") },
    )
}

/// Container and interface of a file's name. Both may have dots: every way to part them.
fn splits(key: &str) -> impl Iterator<Item = Attachment> {
    key.rmatch_indices('.').filter_map(|(place, _)| {
        Some(Attachment { container: key[..place].parse().ok()?, ifname: key[place + 1..].parse().ok()? })
    })
}

fn host_link<'m>(observed: &'m Model, name: &IfName) -> Option<&'m Link> {
    match &observed.get(&Key::Link { ns: Ns::Host, name: name.clone() })?.object {
        Object::Link(link) => Some(link),
        _ => None,
    }
}

/// The pod's addresses and its hardware address: a routed pod's are the link's neighbours, a bridged one's stand in the
/// comment of the link's own table.
fn addresses(observed: &Model, link: &IfName, wiring: Wiring) -> (Vec<IpAddr>, Option<Mac>) {
    let (mut ips, mut mac) = (Vec::new(), None);
    match wiring {
        Wiring::Routed => {
            for (key, entry) in observed.iter() {
                if let (Key::Neighbour { link: of, .. }, Object::Neighbour(neighbour)) = (key, &entry.object)
                    && of == link
                {
                    mac = Some(neighbour.mac);
                    ips.push(neighbour.ip);
                }
            }
        }
        Wiring::Bridge => {
            let table = link_table(link).map(|name| Key::NftTable { family: TableFamily::Netdev, name });
            if let Some(Object::NftTable(found)) = table.and_then(|key| Some(&observed.get(&key)?.object)) {
                let comment = found.table.comment.as_ref().map_or("", |comment| comment.as_str());
                for word in comment.split_once("; ").map_or("", |(_, told)| told).split(' ') {
                    ips.extend(word.parse::<IpAddr>().ok());
                    mac = mac.or(word.parse().ok());
                }
            }
        }
    }
    ips.sort();
    ips.dedup();
    (ips, mac)
}

/// `ripstop.pod.NAMESPACE.NAME.INTERFACE.LINK`, where it was not too long.
fn pod_name(altname: &str, attachment: &Attachment, link: &IfName) -> Option<PodName> {
    let rest = altname.strip_prefix("ripstop.pod.")?.strip_suffix(&format!(".{}.{link}", attachment.ifname))?;
    let (namespace, name) = rest.split_once('.')?;
    format!("{namespace}/{name}").parse().ok()
}

/// By the bridge it is in, otherwise by its addresses.
fn network(tables: &Tables, link: &Link, ips: &[IpAddr]) -> NetworkName {
    let known = tables.networks.values().map(|row| &*row.value).chain(&tables.config.networks);
    let fits = |network: &&Network| match &link.master {
        Some(master) => *master == wiring::node_link(&network.name),
        None => ips.iter().any(|ip| network.spec.contains(*ip)),
    };
    known.into_iter().find(fits).map_or_else(NetworkName::first, |network| network.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_name_is_parted_in_every_way() {
        let found: Vec<String> = splits("a.b.eth0").map(|attachment| attachment.to_string()).collect();
        assert_eq!(found, ["a.b/eth0", "a/b.eth0"]);
        assert_eq!(splits("README").count(), 0);
    }

    #[test]
    fn a_pods_name_is_read_from_its_link() {
        let attachment = Attachment { container: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap() };
        let link: IfName = "ripp0123".parse().unwrap();
        let name = |text: &str| pod_name(text, &attachment, &link).map(|pod| pod.to_string());
        assert_eq!(name("ripstop.pod.default.web.eth0.ripp0123").as_deref(), Some("default/web"));
        assert_eq!(name("ripstop.pod.default.web-1.example.eth0.ripp0123").as_deref(), Some("default/web-1.example"));
        assert_eq!(name("ripstop.container.c1.eth0.ripp0123"), None);
        assert_eq!(name("ripstop.pod.default.web.eth0.ripp9"), None);
    }
}
