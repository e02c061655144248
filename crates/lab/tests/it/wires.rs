//! What an agent would do, by hand: pods attached by routes, nodes that know each other's pods.

use std::net::IpAddr;

use ripstop_lab::{Endpoint, Lab, PodSpec, Target, ip_batch, settings, settle};

/// A pod with an address `10.244.NODE.LAST`, and its side of a pair.
pub fn attach(lab: &Lab, pod: &str, node: u32, last: u32) -> Endpoint {
    lab.pod_add(&PodSpec::new(pod, node)).unwrap();
    let netns = lab.netns_of(&Target::Pod(pod.into())).unwrap();
    let name = netns.file_name().unwrap().to_str().unwrap();
    let ip = format!("10.244.{node}.{last}");
    let host = format!("p{last}");
    ip_batch(
        &lab.node(node).netns(),
        &format!(
            "link add {host} address 02:00:00:00:00:{last:02x} type veth peer name eth0 netns {name}\n\
             link set {host} up\n\
             route add {ip}/32 dev {host}\n"
        ),
    )
    .unwrap();
    ip_batch(
        &netns,
        &format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {ip}/32 dev eth0\n\
             route add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1 src {ip}\n\
             neigh add 169.254.1.1 lladdr 02:00:00:00:00:{last:02x} dev eth0 nud permanent\n"
        ),
    )
    .unwrap();
    settle(&lab.node(node).netns(), &host).unwrap();
    Endpoint { name: pod.into(), netns, ips: vec![ip.parse::<IpAddr>().unwrap()], pod: true }
}

/// Makes every node forward, and know the pods of all others in its subnet.
pub fn connect(lab: &Lab) {
    let state = lab.state().unwrap();
    for (number, _) in state.nodes() {
        let node = lab.node(number);
        settings(&node.netns(), &[("net/ipv4/ip_forward", "1")]).unwrap();
        let others = state.nodes().filter(|(other, _)| *other != number);
        let script: String =
            others.map(|(other, at)| format!("route add 10.244.{other}.0/24 via {}\n", at.v4.unwrap())).collect();
        ip_batch(&node.netns(), &script).unwrap();
    }
}
