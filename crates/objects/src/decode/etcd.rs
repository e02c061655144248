//! The part of an agent's configuration that says how etcd is reached.

use std::path::PathBuf;

use super::config::{duration, path};
use super::tree::shown;
use super::{Decoder, Node};
use crate::{EtcdConfig, EtcdTlsConfig, FlannelConfig, NetworkName};

const ENDPOINT: &str = "http://ADDRESS:PORT or https://ADDRESS:PORT, as in https://10.0.0.1:2379";

/// The map behind `store.etcd`.
pub(super) fn etcd(d: &mut Decoder, node: &Node<'_>) -> Option<EtcdConfig> {
    const FIELDS: &[&str] = &["endpoints", "prefix", "tls", "user", "passwordFile", "timeout", "flannel"];
    let fields = d.map(node, FIELDS)?;
    let endpoints = d.required(&fields, "endpoints", "the members' addresses").map(|node| endpoints(d, &node));
    let prefix = match fields.get("prefix") {
        Some(node) => prefix(d, &node, true).unwrap_or_default(),
        None => "/ripstop/".to_owned(),
    };
    let tls = fields.get("tls").and_then(|node| tls(d, &node)).unwrap_or_default();
    let endpoints = endpoints.unwrap_or_default();
    if tls != EtcdTlsConfig::default() && !endpoints.iter().any(|url| url.starts_with("https://")) && d.is_clean() {
        d.fault(
            fields.path("tls"),
            "certificates, and no endpoint with https://",
            "endpoints with https://, or no tls",
        );
    }
    let user = fields.get("user").and_then(|node| d.text(&node, "a user's name").map(str::to_owned));
    let password_file = fields.get("passwordFile").and_then(|node| path(d, &node));
    pair(d, &fields.path("passwordFile"), user.is_some(), password_file.is_some(), ["user", "passwordFile"]);
    Some(EtcdConfig {
        endpoints,
        prefix,
        tls,
        user,
        password_file,
        timeout: fields.get("timeout").and_then(|node| duration(d, &node, 100, 60_000)).unwrap_or(5_000),
        flannel: fields.get("flannel").and_then(|node| flannel(d, &node)),
    })
}

fn endpoints(d: &mut Decoder, node: &Node<'_>) -> Vec<String> {
    let items = d.list(node, "the members' addresses");
    if items.is_empty() && d.is_clean() {
        d.fault(&node.path, "no endpoint", format!("at least one: {ENDPOINT}"));
    }
    let mut endpoints: Vec<String> = Vec::new();
    for item in items {
        let Some(text) = d.text(&item, ENDPOINT) else { continue };
        if !is_endpoint(text) {
            d.fault(&item.path, shown(text), ENDPOINT);
        } else if endpoints.iter().any(|other| other == text) {
            d.fault(&item.path, format!("{text}, which stands before"), "each endpoint once");
        }
        endpoints.push(text.to_owned());
    }
    endpoints
}

/// Whether a text is a scheme, a host and a port, and nothing more.
fn is_endpoint(text: &str) -> bool {
    let Some(authority) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let Some((host, port)) = authority.rsplit_once(':') else { return false };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(name),
    };
    host_ok && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A prefix of keys, with or without a '/' at its end.
fn prefix(d: &mut Decoder, node: &Node<'_>, closed: bool) -> Option<String> {
    let accepted = match closed {
        true => "a prefix of keys that begins and ends with '/', as in /ripstop/",
        false => "a prefix of keys that begins with '/' and does not end so, as in /coreos.com/network",
    };
    let text = d.text(node, accepted)?;
    let ok = text.starts_with('/') && text.ends_with('/') == closed && text.len() <= 128;
    if ok && text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains("//") {
        return Some(text.to_owned());
    }
    d.fault(&node.path, shown(text), accepted);
    None
}

fn tls(d: &mut Decoder, node: &Node<'_>) -> Option<EtcdTlsConfig> {
    let fields = d.map(node, &["ca", "cert", "key", "serverName"])?;
    let mut file = |key: &str| -> Option<PathBuf> { fields.get(key).and_then(|node| path(d, &node)) };
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    pair(d, &fields.path("key"), cert.is_some(), key.is_some(), ["cert", "key"]);
    let server_name = fields.get("serverName").and_then(|node| {
        let name = d.text(&node, "a name in the members' certificates")?;
        Some(name.to_owned())
    });
    Some(EtcdTlsConfig { ca, cert, key, server_name })
}

/// Two fields that are there together or not at all.
fn pair(d: &mut Decoder, path: &str, first: bool, second: bool, names: [&str; 2]) {
    if first != second && d.is_clean() {
        let found = format!("{} without {}", names[usize::from(second)], names[usize::from(first)]);
        d.fault(path, found, format!("both {} and {}, or neither", names[0], names[1]));
    }
}

fn flannel(d: &mut Decoder, node: &Node<'_>) -> Option<FlannelConfig> {
    let fields = d.map(node, &["prefix", "network"])?;
    Some(FlannelConfig {
        prefix: match fields.get("prefix") {
            Some(node) => prefix(d, &node, false)?,
            None => "/coreos.com/network".to_owned(),
        },
        network: match fields.get("network") {
            Some(node) => d.parse(&node, "a network's name")?,
            None => NetworkName::first(),
        },
    })
}
