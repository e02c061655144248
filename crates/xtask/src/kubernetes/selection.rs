//! Which of Kubernetes' end-to-end tests of networks run, in which set, and why the others do not.
//!
//! A test is known by its whole name, as ginkgo prints it. Invariant: each test of [`GROUP`] is in one set or is excluded
//! with a reason; ginkgo is told the same by [`Set::arguments`].

/// What the names of tests of networks hold.
const GROUP: &str = "[sig-network]";
const CONFORMANCE: &str = "[Conformance]";
const DUAL: &str = "[Feature:IPv6DualStack]";
const POLICIES: &str = "[Feature:NetworkPolicy]";
const BALANCERS: &str = "[Feature:LoadBalancer]";
/// Some of them want three zones with two nodes each; a lab's nodes are of three zones by turns.
const ZONES: &str = "Traffic Distribution";

/// Tests that run one after another on the same cluster.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// As `--set` names it.
    pub name: &'static str,
    /// Its heading on the page.
    pub title: &'static str,
    /// `--family` of the cluster.
    pub family: &'static str,
    /// `--nodes` of the cluster.
    pub nodes: &'static str,
    /// Words of the names, besides the group's.
    with: Option<&'static str>,
    /// Words that the names do not have.
    without: &'static [&'static str],
    /// Whether the plugins that the product is compared with can do what it is about.
    is_compared: bool,
    /// What they need in the cluster.
    pub objects: Option<&'static str>,
}

/// Addresses on the segment of the nodes.
const POOL: &str = "\
apiVersion: ripstop.io/v1alpha1
kind: AddressPool
metadata: {name: conformance}
spec: {addresses: [172.30.1.200-172.30.1.250]}
";

/// All sets. Neighbours of the same kind share a cluster.
pub const SETS: [Set; 6] = [
    Set {
        name: "conformance",
        title: "Tests of conformance",
        family: "4",
        nodes: "3",
        with: Some(CONFORMANCE),
        without: &[],
        is_compared: true,
        objects: None,
    },
    Set {
        name: "network",
        title: "Further tests of networks",
        family: "4",
        nodes: "3",
        with: None,
        without: &[CONFORMANCE, ZONES, DUAL, POLICIES, BALANCERS],
        is_compared: true,
        objects: None,
    },
    Set {
        name: "policies",
        title: "Tests of policies",
        family: "4",
        nodes: "3",
        with: Some(POLICIES),
        without: &[],
        is_compared: false,
        objects: None,
    },
    Set {
        name: "load-balancers",
        title: "Tests of load balancers",
        family: "4",
        nodes: "3",
        with: Some(BALANCERS),
        without: &[],
        is_compared: false,
        objects: Some(POOL),
    },
    Set {
        name: "zones",
        title: "Tests of zones",
        family: "4",
        nodes: "6",
        with: Some(ZONES),
        without: &[],
        is_compared: true,
        objects: None,
    },
    Set {
        name: "dual-stack",
        title: "Tests of dual stack",
        family: "dual",
        nodes: "3",
        with: Some(DUAL),
        without: &[],
        is_compared: true,
        objects: None,
    },
];

/// Words of names of tests that do not run, with the reason; the first that fits counts.
const EXCLUDED: [(&str, &str); 11] = [
    ("[Feature:SCTPConnectivity]", SCTP),
    ("SCTP HostPort", SCTP),
    ("basic SCTP service", SCTP),
    (
        "load balancer cleanup finalizer",
        "asks for the finalizer of a cloud's controller; pools give addresses back without one",
    ),
    (
        "switch session affinity for LoadBalancer service with Local traffic policy",
        "wants connections of one client at several nodes: by ARP one node answers, and with the policy Local its own pods alone",
    ),
    ("[Disruptive]", "restarts the cluster's own programs, by SSH or as kubeadm lays them out"),
    ("Internet connection", "nothing is beyond the cluster"),
    ("[Feature:Networking-Performance]", "measures throughput, and the tests beside it would tell in that"),
    ("[Feature:PerformanceDNS]", "measures the name server with 10,000 Services"),
    ("[Provider:GCE]", "looks for names of a cloud"),
    ("DNS configMap", "rewrites the configuration of the cluster's name server, which it judges, not the network"),
];

const SCTP: &str = "needs SCTP in the kernel, which many leave out";

/// Where a test belongs.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    Set(&'static Set),
    /// It does not run, for this reason.
    Excluded(&'static str),
}

/// The place of a test of networks; none for others.
pub fn place(name: &str) -> Option<Place> {
    if !name.contains(GROUP) {
        return None;
    }
    if let Some((_, reason)) = EXCLUDED.iter().find(|(word, _)| name.contains(word)) {
        return Some(Place::Excluded(reason));
    }
    let holds = |set: &&Set| {
        set.with.is_none_or(|word| name.contains(word)) && !set.without.iter().any(|word| name.contains(word))
    };
    SETS.iter().find(holds).map(Place::Set)
}

/// A test's name without what all of its set have in common.
pub fn short(name: &str) -> String {
    let words = [GROUP, CONFORMANCE, DUAL, POLICIES, BALANCERS];
    let rest = words.iter().fold(name.to_owned(), |name, word| name.replace(word, ""));
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Set {
    /// Whether what connects the pods and, behind `+`, serves Services can do what it is about.
    pub fn is_for(&self, cni: &str) -> bool {
        self.is_compared || cni.starts_with("ripstop")
    }

    /// The machine that the tests run on: what load balancers are reached from is outside, as one of the nodes' subnet counts as a node.
    pub fn client(&self) -> &'static str {
        if self.objects.is_some() { "outside" } else { "control" }
    }

    /// The kind of cluster.
    pub fn kind(&self) -> (&'static str, &'static str) {
        (self.family, self.nodes)
    }

    /// What makes ginkgo choose these tests.
    pub fn arguments(&self) -> [String; 2] {
        let with: Vec<String> = [GROUP].into_iter().chain(self.with).map(literal).collect();
        let excluded = EXCLUDED.iter().map(|(word, _)| *word);
        let without: Vec<String> = self.without.iter().copied().chain(excluded).map(literal).collect();
        [format!("--focus={}", with.join(".*")), format!("--skip={}", without.join("|"))]
    }
}

/// A regular expression for these very letters.
fn literal(word: &str) -> String {
    word.replace('[', r"\[").replace(']', r"\]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_of_networks_has_one_place() {
        let of = |name: &str| match place(name) {
            Some(Place::Set(set)) => set.name,
            Some(Place::Excluded(_)) => "excluded",
            None => "none",
        };
        let cases = [
            ("[sig-network] DNS should provide DNS for services [Conformance]", "conformance"),
            ("[sig-network] Netpol API should support creating NetworkPolicy API operations", "network"),
            (
                "[sig-network] IngressClass [Feature:Ingress] should set default value on new IngressClass [Serial]",
                "network",
            ),
            ("[sig-network] [Feature:IPv6DualStack] should have at least one dual-stack node", "dual-stack"),
            (
                "[sig-network] [Feature:IPv6DualStack] should function for pod-Service: sctp [Feature:SCTPConnectivity]",
                "excluded",
            ),
            (
                "[sig-network] Netpol NetworkPolicy should not treat 'protocol: SCTP' as TCP [Feature:NetworkPolicy]",
                "policies",
            ),
            ("[sig-network] Netpol [Feature:SCTPConnectivity] NetworkPolicy [Feature:NetworkPolicy]", "excluded"),
            ("[sig-network] Services should work after restarting kube-proxy [Disruptive]", "excluded"),
            ("[sig-network] Traffic Distribution should route traffic to an endpoint in the same zone", "zones"),
            (
                "[sig-network] LoadBalancers [Feature:LoadBalancer] should be able to change the type of a service [Slow]",
                "load-balancers",
            ),
            (
                "[sig-network] LoadBalancers [Feature:LoadBalancer] should handle load balancer cleanup finalizer for service [Slow]",
                "excluded",
            ),
            (
                "[sig-network] LoadBalancers [Feature:LoadBalancer] should be able to switch session affinity for LoadBalancer service with Local traffic policy [Slow]",
                "excluded",
            ),
            ("[sig-storage] Volumes [Conformance]", "none"),
        ];
        for (name, expected) in cases {
            assert_eq!(of(name), expected, "{name}");
        }
    }

    #[test]
    fn each_set_is_for_those_who_can() {
        let of = |name: &str| {
            let set = SETS.iter().find(|set| set.name == name).unwrap();
            ["ripstop", "ripstop+nftables", "reference"].map(|cni| set.is_for(cni))
        };
        assert_eq!((of("network"), of("policies")), ([true; 3], [true, true, false]));
        assert_eq!(of("load-balancers"), [true, true, false]);
    }

    #[test]
    fn ginkgo_is_told_the_same() {
        let [focus, skip] = SETS[1].arguments();
        assert_eq!(focus, r"--focus=\[sig-network\]");
        assert!(
            skip.starts_with(
                r"--skip=\[Conformance\]|Traffic Distribution|\[Feature:IPv6DualStack\]|\[Feature:NetworkPolicy\]|"
            ),
            "{skip}"
        );
        assert_eq!(SETS[0].arguments()[0], r"--focus=\[sig-network\].*\[Conformance\]");
    }
}
