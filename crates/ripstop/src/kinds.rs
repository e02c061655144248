//! The kinds of things that can be listed: what they are called, where the agent has them, how a row is named, and the
//! columns of their table. The columns are the stable fields of `-o json`, in the order people read them.

use clap::ValueEnum;
use clap::builder::PossibleValue;

/// A kind of which there is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Nodes,
    Pods,
    Networks,
    Leases,
    Paths,
    Routes,
    Services,
    Endpoints,
    Namespaces,
    NetworkPolicies,
    ClusterNetworkPolicies,
    Drops,
    AddressPools,
    LoadBalancers,
    BgpPeers,
    BgpConfigurations,
    BgpFilters,
}

/// A column of a table: the field it shows, and whether only `-o wide` has it.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub field: &'static str,
    pub wide: bool,
}

const fn column(field: &'static str) -> Column {
    Column { field, wide: false }
}

const fn wide(field: &'static str) -> Column {
    Column { field, wide: true }
}

const NODES: &[Column] =
    &[column("name"), column("ready"), column("addresses"), column("ranges"), wide("receives"), column("reason")];
const PODS: &[Column] = &[
    column("namespace"),
    column("name"),
    column("node"),
    column("ips"),
    column("network"),
    wide("mac"),
    wide("mtu"),
    wide("interface"),
    wide("netns"),
];
const ADDRESS_POOLS: &[Column] = &[
    column("name"),
    column("addresses"),
    column("auto"),
    column("used"),
    column("free"),
    wide("priority"),
    column("reason"),
];
const LOAD_BALANCERS: &[Column] = &[
    column("namespace"),
    column("name"),
    column("ip"),
    column("pool"),
    column("owner"),
    wide("told"),
    wide("interface"),
    wide("since"),
    column("reason"),
];
const BGP_PEERS: &[Column] = &[
    column("name"),
    column("nodes"),
    column("peer"),
    column("as"),
    column("sessions"),
    column("received"),
    wide("flaps"),
    wide("filters"),
    column("reason"),
];
const BGP_CONFIGURATIONS: &[Column] = &[
    column("name"),
    column("as"),
    column("mesh"),
    column("reflectors"),
    column("sessions"),
    column("received"),
    wide("flaps"),
    wide("port"),
    column("reason"),
];
const BGP_FILTERS: &[Column] = &[column("name"), column("import"), column("export"), column("peers"), column("reason")];
const NETWORKS: &[Column] = &[column("name"), column("ranges"), column("wiring"), column("backend")];
const LEASES: &[Column] = &[column("range"), column("node"), column("holder"), column("alive")];
const PATHS: &[Column] = &[
    column("peer"),
    column("family"),
    column("backend"),
    column("device"),
    column("mtu"),
    column("state"),
    wide("node"),
];
const ROUTES: &[Column] = &[column("dst"), column("via"), column("dev"), column("owner"), wide("node")];

const SERVICES: &[Column] = &[
    column("namespace"),
    column("name"),
    column("type"),
    column("ips"),
    column("ports"),
    column("endpoints"),
    column("realised"),
    wide("proxy"),
    wide("revision"),
    column("reason"),
];
const ENDPOINTS: &[Column] = &[
    column("namespace"),
    column("service"),
    column("frontend"),
    column("ip"),
    column("port"),
    column("realised"),
    wide("scope"),
    wide("revision"),
];

const NETWORK_POLICIES: &[Column] = &[
    column("namespace"),
    column("name"),
    column("directions"),
    column("pods"),
    column("all"),
    column("realised"),
    column("drops"),
    wide("generation"),
    column("reason"),
];

const CLUSTER_NETWORK_POLICIES: &[Column] = &[
    column("name"),
    column("tier"),
    column("priority"),
    column("directions"),
    column("pods"),
    column("all"),
    column("realised"),
    column("drops"),
    wide("generation"),
    column("reason"),
];

const DROPS: &[Column] = &[
    column("kind"),
    column("namespace"),
    column("name"),
    column("direction"),
    column("rule"),
    column("packets"),
    wide("since"),
    column("last"),
    column("source"),
    column("destination"),
    column("port"),
    wide("why"),
];

const NAMESPACES: &[Column] = &[column("name"), column("labels")];

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Nodes,
        Self::Pods,
        Self::Networks,
        Self::Leases,
        Self::Paths,
        Self::Routes,
        Self::Services,
        Self::Endpoints,
        Self::Namespaces,
        Self::NetworkPolicies,
        Self::ClusterNetworkPolicies,
        Self::Drops,
        Self::AddressPools,
        Self::LoadBalancers,
        Self::BgpPeers,
        Self::BgpConfigurations,
        Self::BgpFilters,
    ];

    /// Many of them, as in commands and in the agent's paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Pods => "pods",
            Self::Networks => "networks",
            Self::Leases => "leases",
            Self::Paths => "paths",
            Self::Routes => "routes",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Namespaces => "namespaces",
            Self::NetworkPolicies => "networkpolicies",
            Self::ClusterNetworkPolicies => "clusternetworkpolicies",
            Self::Drops => "drops",
            Self::AddressPools => "addresspools",
            Self::LoadBalancers => "loadbalancers",
            Self::BgpPeers => "bgppeers",
            Self::BgpConfigurations => "bgpconfigurations",
            Self::BgpFilters => "bgpfilters",
        }
    }

    /// One of them.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Nodes => "node",
            Self::Pods => "pod",
            Self::Networks => "network",
            Self::Leases => "lease",
            Self::Paths => "path",
            Self::Routes => "route",
            Self::Services => "service",
            Self::Endpoints => "endpoint",
            Self::Namespaces => "namespace",
            Self::NetworkPolicies => "networkpolicy",
            Self::ClusterNetworkPolicies => "clusternetworkpolicy",
            Self::Drops => "drop",
            Self::AddressPools => "addresspool",
            Self::LoadBalancers => "loadbalancer",
            Self::BgpPeers => "bgppeer",
            Self::BgpConfigurations => "bgpconfiguration",
            Self::BgpFilters => "bgpfilter",
        }
    }

    /// What else it may be called on the command line.
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => &["node", "no"],
            Self::Pods => &["pod", "po"],
            Self::Networks => &["network", "nets", "net"],
            Self::Leases => &["lease"],
            Self::Paths => &["path"],
            Self::Routes => &["route"],
            Self::Services => &["service", "svc"],
            Self::Endpoints => &["endpoint", "ep"],
            Self::Namespaces => &["namespace", "ns"],
            Self::NetworkPolicies => &["networkpolicy", "netpol"],
            Self::ClusterNetworkPolicies => &["clusternetworkpolicy", "cnp"],
            Self::Drops => &["drop"],
            Self::AddressPools => &["addresspool", "pools", "pool"],
            Self::LoadBalancers => &["loadbalancer", "lb"],
            Self::BgpPeers => &["bgppeer"],
            Self::BgpConfigurations => &["bgpconfiguration", "bgpconfigs", "bgpconfig"],
            Self::BgpFilters => &["bgpfilter"],
        }
    }

    /// What it is, in a few words.
    fn help(self) -> &'static str {
        match self {
            Self::Nodes => "Nodes of the cluster, as published in the store",
            Self::Pods => "Pods of the asked node",
            Self::Networks => "Networks of the cluster",
            Self::Leases => "Ranges that nodes own",
            Self::Paths => "How the asked node reaches its peers",
            Self::Routes => "Routes of the asked node that Ripstop made",
            Self::Services => "Services of the cluster, and whether the asked node serves them",
            Self::Endpoints => "Endpoints to which the asked node sends packets of Services",
            Self::Namespaces => "Namespaces that have an object, with their labels",
            Self::NetworkPolicies => "NetworkPolicies of the cluster, and whether the asked node has them in force",
            Self::ClusterNetworkPolicies => "ClusterNetworkPolicies, and whether the asked node has them in force",
            Self::Drops => "Packets that policies refused at the asked node, by policy and rule",
            Self::AddressPools => "Pools of addresses for Services of type LoadBalancer, and how much of them is used",
            Self::LoadBalancers => "Addresses of Services of type LoadBalancer, and which node answers for each",
            Self::BgpPeers => "Peers of BGP that are no nodes, and how the asked node's sessions with them are",
            Self::BgpConfigurations => {
                "What holds for BGP of all nodes, and how the asked node's sessions with others are"
            }
            Self::BgpFilters => "What is taken from peers of BGP and told to them, and which peers name it",
        }
    }

    /// Whether it lies in namespaces.
    pub fn has_namespaces(self) -> bool {
        matches!(
            self,
            Self::Pods | Self::Services | Self::Endpoints | Self::NetworkPolicies | Self::Drops | Self::LoadBalancers
        )
    }

    /// The fields that name a row, joined by `/`.
    pub fn identity(self) -> &'static [&'static str] {
        match self {
            Self::Nodes
            | Self::Networks
            | Self::Namespaces
            | Self::ClusterNetworkPolicies
            | Self::AddressPools
            | Self::BgpPeers
            | Self::BgpConfigurations
            | Self::BgpFilters => &["name"],
            Self::Pods | Self::Services | Self::NetworkPolicies => &["namespace", "name"],
            Self::LoadBalancers => &["namespace", "name", "ip"],
            Self::Endpoints => &["namespace", "service", "frontend", "ip", "port"],
            Self::Drops => &["kind", "namespace", "name", "direction", "rule"],
            Self::Leases => &["range"],
            Self::Paths => &["peer", "family"],
            Self::Routes => &["dst"],
        }
    }

    /// The field by which a row, or several, may be asked for instead.
    pub fn short_identity(self) -> &'static str {
        match self {
            Self::Nodes
            | Self::Networks
            | Self::Namespaces
            | Self::Pods
            | Self::Services
            | Self::NetworkPolicies
            | Self::ClusterNetworkPolicies
            | Self::AddressPools
            | Self::LoadBalancers
            | Self::BgpPeers
            | Self::BgpConfigurations
            | Self::BgpFilters
            | Self::Drops => "name",
            Self::Endpoints => "service",
            Self::Leases => "node",
            Self::Paths => "peer",
            Self::Routes => "dst",
        }
    }

    /// The columns of the table.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Nodes => NODES,
            Self::Pods => PODS,
            Self::Networks => NETWORKS,
            Self::Leases => LEASES,
            Self::Paths => PATHS,
            Self::Routes => ROUTES,
            Self::Services => SERVICES,
            Self::Endpoints => ENDPOINTS,
            Self::Namespaces => NAMESPACES,
            Self::NetworkPolicies => NETWORK_POLICIES,
            Self::ClusterNetworkPolicies => CLUSTER_NETWORK_POLICIES,
            Self::Drops => DROPS,
            Self::AddressPools => ADDRESS_POOLS,
            Self::LoadBalancers => LOAD_BALANCERS,
            Self::BgpPeers => BGP_PEERS,
            Self::BgpConfigurations => BGP_CONFIGURATIONS,
            Self::BgpFilters => BGP_FILTERS,
        }
    }
}

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.plural()).aliases(self.aliases().iter().copied()).help(self.help()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_name_means_two_kinds() {
        let mut seen = BTreeSet::new();
        for kind in Kind::ALL {
            assert!(kind.aliases().contains(&kind.singular()));
            for name in [&[kind.plural()], kind.aliases()].concat() {
                assert!(seen.insert(name), "{name}");
                assert_eq!(Kind::from_str(name, false), Ok(*kind));
            }
        }
    }

    #[test]
    fn what_names_a_row_is_a_column() {
        for kind in Kind::ALL {
            for field in kind.identity().iter().chain(&[kind.short_identity()]) {
                assert!(kind.columns().iter().any(|column| column.field == *field), "{} {field}", kind.plural());
            }
        }
    }

    /// The fields that scripts rely on.
    #[test]
    fn every_stable_field_is_a_column() {
        let stable = [
            (Kind::Pods, "namespace name node ips mac mtu interface netns network"),
            (Kind::Nodes, "name addresses ranges receives ready reason"),
            (Kind::Paths, "node peer family backend device mtu state"),
            (Kind::Leases, "range node holder alive"),
            (Kind::Networks, "name ranges wiring backend"),
            (Kind::Routes, "node dst via dev owner"),
            (Kind::Services, "namespace name type ips ports endpoints realised proxy revision reason"),
            (Kind::Endpoints, "namespace service frontend ip port scope realised revision"),
            (Kind::Namespaces, "name labels"),
            (Kind::NetworkPolicies, "namespace name directions pods all generation realised drops reason"),
            (Kind::ClusterNetworkPolicies, "name tier priority directions pods all generation realised drops reason"),
            (Kind::LoadBalancers, "namespace name ip pool owner told interface since reason"),
            (Kind::AddressPools, "name addresses auto priority used free reason"),
            (Kind::BgpPeers, "name nodes peer as sessions received flaps filters reason"),
            (Kind::BgpConfigurations, "name as mesh reflectors sessions received flaps port reason"),
            (Kind::BgpFilters, "name import export peers reason"),
            (Kind::Drops, "kind namespace name direction rule packets since last source destination port why"),
        ];
        for (kind, fields) in stable {
            let columns: BTreeSet<&str> = kind.columns().iter().map(|column| column.field).collect();
            assert_eq!(columns, fields.split(' ').collect(), "{}", kind.plural());
        }
    }
}
