//! The addresses of a lab's cluster: pure arithmetic, by the families of the lab.

use std::net::IpAddr;

use crate::layout::{self, Layout};
use crate::options::Families;
use crate::state::Machine;

/// Where pods have their addresses: IPv4, IPv6. The same as without Kubernetes.
const PODS: (&str, &str) = ("10.244.0.0/16", "fd00:244::/48");
/// Where Services have theirs.
const SERVICES: (&str, &str) = ("10.96.0.0/16", "fd00:96::/112");
/// The API's own Service, the first address of them.
const API: (&str, &str) = ("10.96.0.1", "fd00:96::1");
/// The cluster's name server.
const DNS: (&str, &str) = ("10.96.0.10", "fd00:96::a");
/// The port of the API.
pub const API_PORT: u16 = 6443;

/// The families of a cluster and what follows from them.
#[derive(Debug, Clone, Copy)]
pub struct Network(pub Families);

impl Network {
    /// The ranges of pods, separated by commas.
    pub fn pods(self) -> String {
        self.of(PODS).join(",")
    }

    /// The ranges of Services, separated by commas.
    pub fn services(self) -> String {
        self.of(SERVICES).join(",")
    }

    /// The addresses of the API as a Service.
    pub fn api(self) -> Vec<String> {
        self.of(API)
    }

    /// The addresses of the name server, the primary family's first.
    pub fn dns(self) -> Vec<String> {
        self.of(DNS)
    }

    /// The API's address in the control plane's machine.
    pub fn control(self) -> IpAddr {
        let (v4, v6) = layout::control_addresses();
        if self.0.v4() { v4.into() } else { v6.into() }
    }

    /// Where clients reach the API.
    pub fn server(self) -> String {
        match self.control() {
            IpAddr::V4(ip) => format!("https://{ip}:{API_PORT}"),
            IpAddr::V6(ip) => format!("https://[{ip}]:{API_PORT}"),
        }
    }

    /// An address that stands for all.
    pub fn anywhere(self) -> &'static str {
        if self.0.v4() { "0.0.0.0" } else { "::" }
    }

    fn of(self, (v4, v6): (&str, &str)) -> Vec<String> {
        let both = [(self.0.v4(), v4), (self.0.v6(), v6)];
        both.into_iter().filter(|(wanted, _)| *wanted).map(|(_, text)| text.to_owned()).collect()
    }
}

/// A machine's addresses, separated by commas.
pub fn addresses(machine: &Machine) -> String {
    machine.addresses().map(|ip| ip.to_string()).collect::<Vec<_>>().join(",")
}

/// The way from a machine to a pod range of another one: an address of it where both share a subnet, else the router's.
/// The router itself is in all subnets.
pub fn gateway(from: Option<&Machine>, to: &Machine, v4: bool) -> Option<IpAddr> {
    let own = to.addresses().find(|ip| ip.is_ipv4() == v4);
    match from {
        Some(from) if from.subnet != to.subnet => {
            let (router4, router6) = layout::router_addresses(from.subnet);
            own.map(|_| if v4 { router4.into() } else { router6.into() })
        }
        _ => own,
    }
}

/// The folder of a cluster's own files.
pub fn folder(layout: &Layout) -> std::path::PathBuf {
    layout.dir().join("kubernetes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn families_choose_ranges_and_the_apis_address() {
        let of = |families| Network(families);
        assert_eq!(of(Families::Dual).pods(), "10.244.0.0/16,fd00:244::/48");
        assert_eq!(of(Families::V6).services(), "fd00:96::/112");
        assert_eq!(of(Families::V4).server(), "https://172.30.1.5:6443");
        assert_eq!(of(Families::V6).server(), "https://[fd00:30:1::5]:6443");
    }

    #[test]
    fn another_subnet_is_reached_by_the_router() {
        let options = Options { nodes: 3, subnets: 2, families: Families::Dual, ..Options::named("x") };
        let [one, two, three] = [1, 2, 3].map(|node| Machine::node(node, &options));
        let text = |from: Option<&Machine>, to, v4| gateway(from, to, v4).unwrap().to_string();
        assert_eq!(text(Some(&one), &three, true), "172.30.1.13");
        assert_eq!(text(Some(&one), &two, true), "172.30.1.1");
        assert_eq!(text(Some(&two), &one, false), "fd00:30:2::1");
        assert_eq!(text(None, &two, true), "172.30.2.12");
    }
}
