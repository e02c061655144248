//! Services and EndpointSlices by the thousand, put into an API server's etcd as the API server would put them.
//!
//! By its API it would take minutes. What is changed while something is measured goes by the API, as everything does in a cluster.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ripstop_conformance::services::ask;
use ripstop_lab::space;
use serde_json::{Value, json};

/// What ClusterIPs are given from.
pub const SERVICES: &str = "10.16.0.0/12";
/// Where endpoints are.
pub const ENDPOINTS: &str = "10.192.0.0/10";
/// The port of Services, and of endpoints.
pub const PORT: u16 = 80;
pub const TARGET: u16 = 8080;
const NAMESPACE: &str = "default";
/// Services a request, where nobody hears of them yet.
pub const BATCH: u32 = 500;
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of a Service: its number in the range, behind what the API server's own Service has.
#[must_use]
pub fn address(service: u32) -> SocketAddr {
    (Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 16, 1, 0)) + service), PORT).into()
}

/// A slice of a Service with so many endpoints; each generation has others.
#[must_use]
pub fn slice(service: u32, endpoints: u32, generation: u32) -> Value {
    let base = u32::from(Ipv4Addr::new(10, 192, 0, 0)) + generation * (1 << 20);
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|one| {
            json!({
                "addresses": [Ipv4Addr::from(base + service * endpoints + one).to_string()],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": "n2",
            })
        })
        .collect();
    let name = name(service);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": format!("slice-{name}"), "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "protocol": "TCP", "port": TARGET }],
        "endpoints": endpoints,
    })
}

/// Where the API has a Service's slice.
#[must_use]
pub fn slice_path(service: u32) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{}", name(service))
}

/// Puts Services with so many endpoints each into the etcd of a node's namespace.
///
/// All of one request have one revision, which an API server would never give to two objects: who watches needs a batch of one.
pub fn put(node: &Path, services: std::ops::Range<u32>, endpoints: u32, batch: u32) -> Result<()> {
    let mut first = services.start;
    while first < services.end {
        let last = services.end.min(first + batch);
        let puts: Vec<Value> = (first..last)
            .flat_map(|number| {
                let name = name(number);
                [
                    (format!("/registry/services/specs/{NAMESPACE}/{name}"), service(number)),
                    (format!("/registry/endpointslices/{NAMESPACE}/{name}"), slice(number, endpoints, 0)),
                ]
            })
            .map(|(key, value)| {
                let value = value.to_string();
                json!({ "requestPut": { "key": base64(key.as_bytes()), "value": base64(value.as_bytes()) } })
            })
            .collect();
        let body = json!({ "success": puts }).to_string();
        let reply = space::in_netns(node, || {
            let stream = TcpStream::connect("127.0.0.1:2379")?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(stream, "POST", "/v3/kv/txn", body.as_bytes())
        })?
        .context("etcd")?;
        ensure!(reply.status == 200, "etcd answers {}: {}", reply.status, String::from_utf8_lossy(&reply.body));
        first = last;
    }
    Ok(())
}

fn name(service: u32) -> String {
    format!("s-{service:06}")
}

fn service(number: u32) -> Value {
    let (name, ip) = (name(number), address(number).ip().to_string());
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": format!("service-{name}"),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "ports": [{ "protocol": "TCP", "port": PORT, "targetPort": TARGET }],
        },
        "status": { "loadBalancer": {} },
    })
}

/// RFC 4648, section 4.
fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(data.len().div_ceil(3) * 4);
    for three in data.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        assert_eq!(
            ["", "f", "fo", "foo", "foob"].map(|text| base64(text.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]
        );
    }

    #[test]
    fn generations_share_no_endpoint() {
        let of = |generation| slice(99_999, 10, generation)["endpoints"][9]["addresses"][0].clone();
        assert_eq!((of(0), of(1)), (json!("10.207.66.63"), json!("10.223.66.63")));
    }
}
