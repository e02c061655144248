//! The agent's configuration.

use ripstop_objects::{AgentConfig, LogFormat, LogLevel, ProbingConfig, StoreConfig};

use crate::lines;

fn decode(text: &str) -> AgentConfig {
    AgentConfig::decode(text).unwrap_or_else(|faults| panic!("{faults}")).0
}

fn faults(text: &str) -> Vec<String> {
    lines(&AgentConfig::decode(text).unwrap_err())
}

#[test]
fn nothing_is_a_complete_configuration() {
    for text in ["", "# only a comment\n", "{}", "---\n", "node: null\n"] {
        assert_eq!(decode(text), AgentConfig::default(), "{text:?}");
    }
    let config = AgentConfig::default();
    assert_eq!(config.store, StoreConfig::Embedded { path: "/var/lib/ripstop/store.redb".into() });
    assert_eq!((config.timings.alive_interval, config.timings.stale_after), (2_000, 10_000));
}

#[test]
fn every_field_is_read() {
    let config = decode(
        "
node: n1
labels: {zone: a}
store: {embedded: {socket: /run/store.sock}}
uplink: {interface: eth0, addresses: [192.0.2.1, '2001:db8::1']}
podCIDRs: [10.244.1.0/24, 'fd00:10:244:1::/64']
networks:
- apiVersion: ripstop.io/v1alpha1
  kind: Network
  metadata: {name: default}
  spec: {ranges: [10.244.0.0/16, 'fd00:10:244::/48'], rangeMode: pod-cidr}
metricsListen: '[::]:9467'
log: {format: json, level: debug}
timings: {aliveInterval: 500ms, staleAfter: 5s, orphanInterval: 1s, sweepInterval: 1h}
probing: {mtu: false, checksum: true, interval: 5s, port: 9999}
runDir: /tmp/run
cniConfDir: /tmp/net.d
stateDir: /tmp/state
",
    );
    assert_eq!(config.node.unwrap().as_str(), "n1");
    assert_eq!(config.store, StoreConfig::EmbeddedSocket { socket: "/run/store.sock".into() });
    assert_eq!(config.uplink.interface.unwrap().as_str(), "eth0");
    assert_eq!(config.uplink.addresses.len(), 2);
    assert_eq!(config.pod_cidrs.len(), 2);
    assert_eq!(config.networks.len(), 1);
    assert_eq!(config.metrics_listen.unwrap().to_string(), "[::]:9467");
    assert_eq!((config.log.format, config.log.level), (LogFormat::Json, LogLevel::Debug));
    assert_eq!(config.timings.alive_interval, 500);
    assert_eq!(config.timings.sweep_interval, 3_600_000);
    let probing = ProbingConfig { mtu: false, checksum: true, interval: 5_000, port: 9999 };
    assert_eq!(config.probing, probing);
    assert_eq!(decode("probing: {}").probing, ProbingConfig { mtu: true, checksum: true, interval: 3_000, port: 9468 });
    assert_eq!(config.run_dir.to_str(), Some("/tmp/run"));
    assert_eq!(config.cni_conf_dir.to_str(), Some("/tmp/net.d"));
}

#[test]
fn services_are_served_where_that_is_said() {
    use ripstop_objects::{DetectLocal, IptablesChoice, NodePortAddresses, Proxy, ServicesConfig};
    assert_eq!(decode("services: {}").services, ServicesConfig::default());
    let text = "services: {proxy: nftables, nodePortAddresses: [192.0.2.0/24, fd00::/64], externalIPs: true, masqueradeAll: true,
        serviceCIDRs: [10.96.0.0/16], proxyName: ours}";
    let services = decode(text).services;
    assert_eq!((services.proxy, services.external_ips, services.masquerade_all), (Proxy::Nftables, true, true));
    let within = &services.node_port_addresses;
    assert!(!within.primary && !within.all && !within.localhost && within.ranges.len() == 2);
    assert_eq!((services.service_cidrs.len(), services.proxy_name.as_deref()), (1, Some("ours")));
    let all = decode("services: {nodePortAddresses: all}").services.node_port_addresses;
    assert!(all.all && !all.primary);
    let several = "services: {nodePortAddresses: [primary, localhost, 10.0.0.0/8]}";
    let several = decode(several).services.node_port_addresses;
    assert_eq!(several, NodePortAddresses { localhost: true, ranges: several.ranges.clone(), ..Default::default() });
    let text = "services: {healthzListen: 127.0.0.1:10300, conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 2h, udpTimeout: 0s}}";
    let services = decode(text).services;
    assert_eq!(services.healthz_listen, ["127.0.0.1:10300".parse().unwrap()]);
    assert_eq!((services.conntrack.max_per_core, services.conntrack.tcp_established_timeout), (0, 7_200_000));
    assert_eq!(services.conntrack.tcp_close_wait_timeout, 3_600_000);
    assert_eq!(decode("services: {}").services.healthz_listen.len(), 2);
    assert_eq!(decode("services: {healthzListen: []}").services.healthz_listen, []);
    assert_eq!(services.status_listen, ["127.0.0.1:10249".parse().unwrap()]);
    assert_eq!(decode("services: {statusListen: []}").services.status_listen, []);
    let local = |text: &str| decode(&format!("services: {{detectLocal: {text}}}")).services.detect_local;
    assert_eq!(local("nodeRanges"), DetectLocal::NodeRanges);
    assert_eq!(local("{bridge: cni0}"), DetectLocal::Bridge("cni0".parse().unwrap()));
    assert_eq!(local("{interfacePrefix: veth}"), DetectLocal::InterfacePrefix("veth".parse().unwrap()));
    assert!(matches!(local("{clusterCIDR: [10.0.0.0/8]}"), DetectLocal::ClusterCidr(ranges) if ranges.len() == 1));
    let services = decode("services: {proxy: iptables, iptablesBackend: legacy}").services;
    assert_eq!((services.proxy, services.iptables_backend), (Proxy::Iptables, IptablesChoice::Legacy));
    assert_eq!(decode("services: {}").services.iptables_backend, IptablesChoice::Auto);
    let by_ipvs = decode("services: {proxy: ipvs, ipvs: {scheduler: mh, strictARP: true}}").services;
    assert_eq!((by_ipvs.proxy, by_ipvs.ipvs.scheduler.as_str(), by_ipvs.ipvs.strict_arp), (Proxy::Ipvs, "mh", true));
    assert_eq!(decode("services: {proxy: ipvs}").services.ipvs.scheduler.as_str(), "rr");
    for (bad, named) in [
        ("proxy: ebpf", "services.proxy: found ebpf, accepted: none, nftables, iptables, ipvs"),
        (
            "proxy: ipvs, nodePortAddresses: [primary, localhost]",
            "services.nodePortAddresses: found localhost, accepted: with ipvs",
        ),
        ("ipvs: {scheduler: dh}", "services.ipvs.scheduler: found dh, accepted: rr, wrr, lc, sh, mh"),
        ("ipvs: {strictArp: true}", "services.ipvs.strictArp: found an unknown field"),
        ("proxy: nft", "services.proxy: found nft"),
        ("iptablesBackend: xtables", "services.iptablesBackend: found xtables, accepted: auto, legacy, nft"),
        (
            "nodePortAddresses: some",
            "services.nodePortAddresses: found some, accepted: primary, all, localhost, or an address range",
        ),
        ("detectLocal: pods", "services.detectLocal: found pods, accepted: nodeRanges, {clusterCIDR"),
        ("detectLocal: {bridge: a, clusterCIDR: []}", "services.detectLocal: found"),
        ("healthzListen: 10256", "services.healthzListen: found 10256 without quotes"),
        ("conntrack: {udpTimeout: 3}", "services.conntrack.udpTimeout: found 3"),
        ("serviceCIDRs: [10.96.0.1/16]", "services.serviceCIDRs[0]: found 10.96.0.1/16"),
        ("proxyName: 'a b'", "services.proxyName: found"),
        ("proxies: 1", "services.proxies: found an unknown field"),
    ] {
        let faults = AgentConfig::decode(&format!("services: {{{bad}}}")).unwrap_err().to_string();
        assert!(faults.contains(named), "{faults}");
    }
}

#[test]
fn the_store_file_follows_the_state_directory() {
    assert_eq!(decode("stateDir: /data").store, StoreConfig::Embedded { path: "/data/store.redb".into() });
}

#[test]
fn etcd_is_told_in_full_or_by_its_endpoints_alone() {
    let etcd = |text: &str| match decode(text).store {
        StoreConfig::Etcd(etcd) => *etcd,
        other => panic!("{other:?}"),
    };
    let least = etcd("store: {etcd: {endpoints: ['http://10.0.0.1:2379']}}");
    assert_eq!((least.prefix.as_str(), least.timeout, least.flannel), ("/ripstop/", 5_000, None));
    let full = etcd(
        "store:
  etcd:
    endpoints: ['https://etcd-1.example:2379', 'https://[fd00::1]:2379']
    prefix: /cluster-a/
    tls: {ca: /etc/e/ca.pem, cert: /etc/e/n.pem, key: /etc/e/n.key, serverName: etcd.example}
    user: agent
    passwordFile: /etc/e/password
    timeout: 3s
    flannel: {}
",
    );
    assert_eq!(full.endpoints.len(), 2);
    assert_eq!(full.tls.server_name.as_deref(), Some("etcd.example"));
    assert_eq!((full.user.as_deref(), full.timeout), (Some("agent"), 3_000));
    let flannel = full.flannel.unwrap();
    assert_eq!((flannel.prefix.as_str(), flannel.network.as_str()), ("/coreos.com/network", "default"));
}

#[test]
fn what_etcd_cannot_be_told_is_named() {
    let good = "endpoints: ['https://10.0.0.1:2379']";
    for (etcd, start) in [
        ("{}", "store.etcd.endpoints: found nothing"),
        ("{endpoints: []}", "store.etcd.endpoints: found no endpoint"),
        ("{endpoints: ['10.0.0.1:2379']}", "store.etcd.endpoints[0]: found"),
        ("{endpoints: ['http://10.0.0.1:2379/v3']}", "store.etcd.endpoints[0]: found"),
        ("{endpoints: ['http://10.0.0.1:0']}", "store.etcd.endpoints[0]: found"),
        ("{endpoints: ['http://a:1', 'http://a:1']}", "store.etcd.endpoints[1]: found http://a:1, which stands before"),
        ("{endpoints: ['http://a:1'], tls: {ca: /ca}}", "store.etcd.tls: found certificates, and no endpoint with"),
        (&format!("{{{good}, prefix: /ripstop}}"), "store.etcd.prefix: found"),
        (&format!("{{{good}, prefix: ripstop/}}"), "store.etcd.prefix: found"),
        (&format!("{{{good}, tls: {{cert: /c}}}}"), "store.etcd.tls.key: found cert without key"),
        (&format!("{{{good}, passwordFile: /p}}"), "store.etcd.passwordFile: found passwordFile without user"),
        (&format!("{{{good}, password: secret}}"), "store.etcd.password: found an unknown field"),
        (&format!("{{{good}, flannel: {{prefix: /a/}}}}"), "store.etcd.flannel.prefix: found"),
        (&format!("{{{good}, flannel: {{network: No}}}}"), "store.etcd.flannel.network: found"),
    ] {
        let faults = faults(&format!("store: {{etcd: {etcd}}}"));
        assert_eq!(faults.len(), 1, "{etcd}: {faults:?}");
        assert!(faults[0].starts_with(&format!("config: {start}")), "{etcd}: {faults:?}");
    }
    assert!(
        faults(&format!("store: {{embedded: {{path: /a}}, etcd: {{{good}}}}}"))[0].contains("both embedded and etcd")
    );
}

#[test]
fn kubernetes_is_a_kubeconfig_or_the_pods_own_account() {
    let store = |text: &str| match AgentConfig::decode(text).unwrap().0.store {
        StoreConfig::Kubernetes(kubernetes) => *kubernetes,
        other => panic!("{other:?}"),
    };
    for text in ["store: {kubernetes: {}}", "store: {kubernetes: }"] {
        let config = store(text);
        assert_eq!((config.kubeconfig, config.namespace.as_str(), config.timeout), (None, "ripstop", 10_000));
    }
    let config = store("store: {kubernetes: {kubeconfig: /k, namespace: net, timeout: 3s}}");
    assert_eq!((config.kubeconfig, config.namespace.as_str(), config.timeout), (Some("/k".into()), "net", 3_000));
    // Every node sees every sign of life: in a cluster they come seldom, unless somebody says otherwise.
    let timings = |text: &str| AgentConfig::decode(text).unwrap().0.timings;
    assert_eq!(timings("store: {kubernetes: {}}").alive_interval, 30_000);
    assert_eq!(timings("{store: {kubernetes: {}}, timings: {aliveInterval: 1s}}").alive_interval, 1_000);
    assert_eq!(timings("store: {kubernetes: {}}").stale_after, 120_000);
    for (kubernetes, start) in [
        ("{kubeconfig: k}", "store.kubernetes.kubeconfig: found k"),
        ("{namespace: A_b}", "store.kubernetes.namespace: found A_b"),
        ("{token: secret}", "store.kubernetes.token: found an unknown field"),
        ("[]", "store.kubernetes: found a list"),
    ] {
        let faults = faults(&format!("store: {{kubernetes: {kubernetes}}}"));
        assert!(faults.len() == 1 && faults[0].starts_with(&format!("config: {start}")), "{kubernetes}: {faults:?}");
    }
    assert!(faults("store: {kubernetes: {}, etcd: {}}")[0].contains("both etcd and kubernetes"));
}

#[test]
fn embedded_is_a_file_or_a_socket() {
    assert!(faults("store: {embedded: {}}")[0].contains("neither path nor socket"));
    assert!(faults("store: {embedded: {path: /a, socket: /b}}")[0].contains("both path and socket"));
    assert!(faults("store: {embeded: {path: /a}}").iter().any(|f| f.contains("embedded (the nearest field)")));
    assert!(
        faults(&format!("store: {{embedded: {{socket: /{}}}}}", "s".repeat(110)))[0]
            .contains("found a path of 111 bytes")
    );
}

#[test]
fn all_faults_come_at_once() {
    let text = "
node: Node_1
uplink: {interface: a-name-too-long-by-far, addresses: [192.0.2.1, 192.0.2.2, 127.0.0.1, 'fe80::1', x]}
podCIDRs: [10.244.1.0/24, 10.244.1.128/25, 10.244.2.1/24, 10.0.0.0/31]
metricsListen: ':9467'
log: {format: xml, level: loud}
timings: {aliveInterval: 2, staleAfter: 1s, sweepInterval: 5 s}
probing: {mtu: maybe, interval: 10ms, port: 0, mut: true}
stateDir: var/lib
runDir: /run/../etc
nod: x
";
    let faults = faults(text);
    let paths: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
    assert_eq!(
        paths,
        [
            "log.format",
            "log.level",
            "metricsListen",
            "nod",
            "node",
            "podCIDRs[1]",
            "podCIDRs[2]",
            "podCIDRs[3]",
            "probing.interval",
            "probing.mtu",
            "probing.mut",
            "probing.port",
            "runDir",
            "stateDir",
            "timings.aliveInterval",
            "timings.staleAfter",
            "timings.sweepInterval",
            "uplink.addresses[1]",
            "uplink.addresses[2]",
            "uplink.addresses[2]",
            "uplink.addresses[3]",
            "uplink.addresses[4]",
            "uplink.interface",
        ],
        "{faults:#?}"
    );
}

#[test]
fn networks_are_checked_with_the_configuration() {
    let network = |name: &str, range: &str| {
        format!(
            "- {{apiVersion: ripstop.io/v1alpha1, kind: Network, metadata: {{name: {name}}}, spec: {{ranges: [{range}]}}}}\n"
        )
    };
    let text = format!("networks:\n{}{}", network("a", "10.0.0.0/8"), network("b", "10.1.0.0/16"));
    assert_eq!(
        faults(&text),
        [
            "network/b: spec.ranges[0]: found 10.1.0.0/16, which overlaps 10.0.0.0/8 of network/a, accepted: a range of which no other network has addresses"
        ]
    );
    let text = format!("networks:\n{}", network("a", "10.0.0.1/8"));
    assert_eq!(
        faults(&text),
        ["config: networks[0].spec.ranges[0]: found 10.0.0.1/8, accepted: no bits behind the prefix: 10.0.0.0/8"]
    );
}

#[test]
fn flannels_network_is_one() {
    let text = "networks: [{Network: 10.244.0.0/16, EnableNFTables: true, Backend: {Type: vxlan}}]";
    let (config, notes) = AgentConfig::decode(text).unwrap();
    assert_eq!(config.networks[0].name.as_str(), "default");
    assert_eq!(notes[0].path, "networks[0].EnableNFTables");
}

#[test]
fn text_that_is_not_yaml_has_its_place_named() {
    let faults = faults("node: n1\nstore: {embedded: [\n");
    assert_eq!(faults.len(), 1);
    assert!(
        faults[0].starts_with("config: found text that is not YAML (") && faults[0].contains("line "),
        "{faults:?}"
    );
    let json = lines(&AgentConfig::decode("{\"node\": \"n1\",}\n}").unwrap_err());
    assert!(json[0].contains("found text that is not JSON (") && json[0].contains("line 1"), "{json:?}");
}

#[test]
fn version_and_kind_may_stand_before_the_configuration_and_be_left_out_of_its_networks() {
    let text = "apiVersion: ripstop.io/v1alpha1\nkind: AgentConfig\nnode: n1\nnetworks:\n\
                - {metadata: {name: default}, spec: {ranges: [10.244.0.0/16]}}\n";
    let (config, _) = AgentConfig::decode(text).unwrap();
    assert_eq!(config.networks.len(), 1);
    let faults = AgentConfig::decode(&text.replace("AgentConfig", "Network")).unwrap_err();
    assert!(faults.to_string().contains("kind"), "{faults}");
}
