//! Services and EndpointSlices: what is read, and what of a wrong one stands.

use ripstop_objects::service::{EndpointSlice, Protocol, Service, ServiceKind, TrafficPolicy};
use serde_json::{Value, json};

fn service(spec: Value) -> (Service, Vec<String>) {
    let (service, faults) =
        Service::from_value(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})).unwrap();
    (service, faults.iter().map(ToString::to_string).collect())
}

fn slice(body: Value) -> (EndpointSlice, Vec<String>) {
    let mut object =
        json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}});
    object.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let (slice, faults) = EndpointSlice::from_value(object).unwrap();
    (slice, faults.iter().map(ToString::to_string).collect())
}

#[test]
fn a_service_as_the_api_server_shows_it() {
    let text = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "1-web", "uid": "u",
        "labels": {"service.kubernetes.io/service-proxy-name": "other"}, "managedFields": [{}],
        "annotations": {"ripstop.io/on-endpoint-removal": "reset"}},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"], "selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "nodePort": 30080},
                      {"name": "dns", "port": 80, "protocol": "UDP", "nodePort": 0}],
            "externalIPs": ["192.0.2.1", "192.0.2.1"], "loadBalancerSourceRanges": [" 10.1.2.3/8", "fd00::/8"],
            "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP", "healthCheckNodePort": 31000},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1", "ipMode": "Proxy"}, {"hostname": "x"}, {"ip": "198.51.100.2"}]}}}"#;
    let (service, faults) = Service::decode(text).unwrap();
    assert!(faults.is_empty(), "{faults}");
    assert_eq!((service.name.to_string().as_str(), service.kind), ("shop/1-web", ServiceKind::LoadBalancer));
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.ports.len(), 2);
    assert_eq!((service.ports[1].protocol, service.ports[1].node_port), (Protocol::Udp, None));
    assert_eq!(service.external_ips, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(
        service.ingress.iter().map(|at| (at.ip.to_string(), at.is_proxied)).collect::<Vec<_>>(),
        [("198.51.100.1".to_owned(), true), ("198.51.100.2".to_owned(), false)]
    );
    let ranges = service.source_ranges.as_deref().unwrap();
    assert_eq!(ranges.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "fd00::/8"]);
    assert_eq!((service.external_policy, service.internal_policy), (TrafficPolicy::Local, TrafficPolicy::Cluster));
    assert_eq!((service.affinity, service.health_check_node_port), (Some(10_800), Some(31_000)));
    assert_eq!(service.proxy_name.as_deref(), Some("other"));
    assert!(service.reset_on_removal && !service.headless);
    let again = serde_json::to_value(&service).unwrap();
    assert_eq!(serde_json::from_value::<Service>(again).unwrap(), service);
}

#[test]
fn headless_services_are_known_by_address_or_label() {
    assert!(service(json!({"clusterIP": "None", "ports": [{"port": 1}]})).0.headless);
    let labelled = json!({"metadata": {"name": "web", "labels": {"service.kubernetes.io/headless": ""}},
        "spec": {"clusterIP": "10.96.0.1"}});
    let (labelled, _) = Service::from_value(labelled).unwrap();
    assert!(labelled.headless && labelled.name.to_string() == "default/web");
}

#[test]
fn what_is_wrong_in_a_service_is_left_out_and_named() {
    let (read, faults) = service(json!({
        "type": "Magic", "clusterIPs": ["10.96.0.9", "10.96.0.10", "127.0.0.1", "x"],
        "ports": [{"port": 0}, {"port": 65_536}, {"port": 80, "nodePort": 70_000}, {"port": 80}, {"port": 81, "protocol": "ICMP"}],
        "externalIPs": ["0.0.0.0", "169.254.1.1", "224.0.0.1", "192.0.2.7"], "loadBalancerSourceRanges": ["all"],
        "externalTrafficPolicy": "Near", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}},
    }));
    assert_eq!(read.cluster_ips.len(), 1);
    assert_eq!(read.ports.iter().map(|port| (port.port, port.node_port)).collect::<Vec<_>>(), [(80, None)]);
    assert_eq!(read.external_ips.len(), 1);
    assert_eq!(read.source_ranges.as_deref(), Some(&[][..]), "nobody rather than everybody");
    assert_eq!(read.affinity, Some(10_800));
    for named in [
        "service/shop/web: spec.type: found Magic, accepted: ClusterIP, NodePort, LoadBalancer or ExternalName",
        "service/shop/web: spec.clusterIPs[1]: found 10.96.0.10, accepted: one address of each family",
        "service/shop/web: spec.ports[0].port: found 0, accepted: 1 to 65535",
        "service/shop/web: spec.ports[1].port: found 65536, accepted: 1 to 65535",
        "service/shop/web: spec.ports[2].nodePort: found 70000, accepted: 1 to 65535",
        "service/shop/web: spec.ports[3]: found 80/TCP again, accepted: each port and protocol once",
        "service/shop/web: spec.ports[4].protocol: found ICMP, accepted: TCP, UDP or SCTP",
        "service/shop/web: spec.loadBalancerSourceRanges[0]: found all, accepted: a prefix: 192.0.2.0/24",
        "service/shop/web: spec.externalTrafficPolicy: found Near, accepted: Cluster or Local",
        "service/shop/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: found 86401, accepted: 1 to 86400 seconds; 10800 is used",
    ] {
        assert!(faults.iter().any(|fault| fault == named), "{named}\nis not among\n{}", faults.join("\n"));
    }
    assert_eq!(faults.len(), 15, "{}", faults.join("\n"));
    for bad in [json!({}), json!({"metadata": {"name": "A b"}}), json!([])] {
        assert!(Service::from_value(bad).is_err());
    }
}

/// As those of a headless Service are marked: clients find their endpoints by DNS, and no proxy goes by them.
#[test]
fn a_slice_that_is_marked_headless_is_no_services() {
    let labels = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
    let object = json!({"metadata": {"name": "web-1", "labels": labels}, "addressType": "IPv4"});
    let (read, faults) = EndpointSlice::from_value(object).unwrap();
    assert!(faults.is_empty() && read.service.is_none(), "{read:?}");
}

#[test]
fn a_slice_and_what_it_leaves_unsaid() {
    let (read, faults) = slice(json!({"addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}, {"name": "any"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    "endpoints": [
        {"addresses": ["10.244.1.2"], "nodeName": "n1", "zone": "a", "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}},
        {"addresses": ["10.244.1.3", "10.244.1.9"], "conditions": {"ready": false, "terminating": true}},
        {"addresses": ["10.244.1.4"], "conditions": {"ready": false, "serving": true, "terminating": true}},
    ]}));
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!((read.service.as_deref(), read.ports.len()), (Some("web"), 2));
    let said: Vec<_> = read.endpoints.iter().map(|at| (at.ready, at.serving, at.terminating)).collect();
    assert_eq!(said, [(true, true, false), (false, true, true), (false, true, true)]);
    assert!(read.endpoints[0].for_zones.contains("a") && read.endpoints[0].for_nodes.contains("n1"));
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(serde_json::from_value::<EndpointSlice>(again).unwrap(), read);
}

#[test]
fn what_is_wrong_in_a_slice_is_left_out_and_named() {
    let (read, faults) = slice(json!({"addressType": "IPv4", "ports": [{"port": 0}, {"port": 80}],
        "endpoints": [{"addresses": ["fd00::1"]}, {"addresses": ["127.0.0.1"]}, {"addresses": ["10.244.1.2"]}]}));
    assert_eq!((read.ports.len(), read.endpoints.len()), (1, 1));
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert_eq!(
        faults[0],
        "endpointslice/shop/web-1: endpoints[0].addresses[0]: found fd00::1, accepted: an address of the slice's addressType"
    );
    let (read, faults) = slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.b"]}]}));
    assert!(read.family.is_none() && read.endpoints.is_empty() && faults.is_empty());
    assert_eq!(slice(json!({"addressType": "IPX"})).1.len(), 1);
}
