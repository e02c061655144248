//! BgpConfiguration, BgpPeer and BgpFilter as people write them.

use std::net::{IpAddr, SocketAddr};

use ripstop_objects::bgp::{BgpConfiguration, BgpFilter, BgpPeer, Community, Operation, PeerAs, PeerNodes, PeerPlace};
use ripstop_objects::{ClusterObject, Manifest};

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: ripstop.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

fn read(kind: &str, name: &str, spec: &str) -> ClusterObject {
    let mut manifest = Manifest::decode(&document(kind, name, spec)).unwrap();
    manifest.objects.pop().unwrap().object
}

fn faults(kind: &str, name: &str, spec: &str) -> String {
    Manifest::decode(&document(kind, name, spec)).unwrap_err().to_string()
}

fn peer(spec: &str) -> BgpPeer {
    match read("BgpPeer", "tor", spec) {
        ClusterObject::BgpPeer(peer) => (*peer).clone(),
        other => panic!("{other:?}"),
    }
}

fn filter(spec: &str) -> BgpFilter {
    match read("BgpFilter", "f", spec) {
        ClusterObject::BgpFilter(filter) => (*filter).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_not_said_is_customary() {
    let ClusterObject::BgpConfiguration(read) = read("BgpConfiguration", "default", "{}") else { panic!() };
    assert_eq!(*read, BgpConfiguration::default());
    assert_eq!((read.as_number, read.listen_port, read.mesh, read.hold_time), (64_512, 179, true, 90));
    let tor = peer("{peerIP: 192.0.2.1, asNumber: 64513}");
    let at: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(tor.place, PeerPlace::At(SocketAddr::new(at, 179), None));
    assert_eq!((tor.as_number, tor.allowed_local_as, tor.max_prefixes), (PeerAs::Is(64_513), 0, 1_000_000));
    assert!(matches!(&tor.nodes, PeerNodes::Matching(all) if all.requirements().is_empty()));
}

#[test]
fn all_fields_are_read() {
    let ClusterObject::BgpConfiguration(read) = read(
        "BgpConfiguration",
        "default",
        "{asNumber: 4200000000, listenPort: 1790, nodeToNodeMeshEnabled: false, holdTimeSeconds: 9, \
         routeReflectors: {nodeSelector: {matchLabels: {rr: 'yes'}}, clusterID: 10.0.0.9}, \
         bfd: {transmitIntervalMs: 50, receiveIntervalMs: 60, multiplier: 4}, nodeMeshPassword: {file: /etc/bgp}, \
         communities: [{name: pods, value: '64512:7'}], \
         prefixAdvertisements: [{cidr: 10.244.0.0/16, communities: [pods, '1:2:3', no-export]}]}",
    ) else {
        panic!()
    };
    assert_eq!((read.as_number, read.listen_port, read.mesh, read.hold_time), (4_200_000_000, 1790, false, 9));
    let wanted = [Community::Standard(64_512 << 16 | 7), Community::Standard(0xffff_ff01), Community::Large(1, 2, 3)];
    assert_eq!(read.advertisements[0].communities, wanted);
    let at = peer(
        "{peerIP: '[fe80::1]:1179', interface: eth0, asNumber: external, node: n1, ttlSecurity: 2, filters: [a, b]}",
    );
    assert!(matches!(&at.place, PeerPlace::At(at, Some(link)) if at.port() == 1179 && link.as_str() == "eth0"));
    assert_eq!((at.as_number, at.security_hops, at.filters.len()), (PeerAs::External, Some(2), 2));
    let range = peer("{peerRange: 10.0.0.0/8, peerLimit: 5, asNumber: internal, shutdown: new cables}");
    assert!(matches!(range.place, PeerPlace::Range(_, 5)));
    assert_eq!(range.shutdown.as_deref(), Some("new cables"));
    for (asn, of) in [("external", PeerAs::External), ("internal", PeerAs::Internal), ("7", PeerAs::Is(7))] {
        let on_link = peer(&format!("{{interface: eth1, asNumber: {asn}, bfd: {{}}, ttlSecurity: 1}}"));
        assert_eq!((on_link.place, on_link.as_number), (PeerPlace::OnLink("eth1".parse().unwrap()), of));
    }
    let read = filter(
        "{importV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 16, max: 24}, \
         communities: ['1:2'], asPath: [7], operations: [{setLocalPreference: 50}, {prependASPath: [1, 2]}]}, \
         {action: Reject}], exportV6: [{action: Accept, cidr: 'fd00::/8', matchOperator: NotIn}]}",
    );
    let first = &read.import[0];
    assert_eq!((first.least, first.most, first.others, first.accept), (16, 24, false, true));
    assert_eq!(first.operations, [Operation::LocalPreference(50), Operation::PrependAsPath(vec![1, 2])]);
    assert_eq!((read.import[1].within.to_string().as_str(), read.import[1].most), ("0.0.0.0/0", 32));
    assert!(read.export[0].others && read.export[0].most == 128);
}

#[test]
fn what_cannot_be_is_refused_by_field() {
    for (kind, name, spec, words) in [
        ("BgpConfiguration", "other", "{}", "metadata.name: found other, accepted: default"),
        ("BgpConfiguration", "default", "{asNumber: 0}", "spec.asNumber: found 0"),
        ("BgpConfiguration", "default", "{holdTimeSeconds: 2}", "spec.holdTimeSeconds: found 2"),
        ("BgpConfiguration", "default", "{asNumbr: 7}", "asNumber (the nearest field)"),
        ("BgpConfiguration", "default", "{routeReflectors: {nodeSelector: {}}}", "a selector of all nodes"),
        ("BgpPeer", "p", "{asNumber: 1}", "spec.peerIP: found none of peerIP, peerRange and interface"),
        ("BgpPeer", "p", "{asNumber: 1, peerIP: 192.0.2.1, peerRange: 10.0.0.0/8}", "found peerIP and peerRange"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1}", "spec.asNumber: found nothing"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1:0, asNumber: 1}", "spec.peerIP: found 192.0.2.1:0"),
        ("BgpPeer", "p", "{peerIP: 224.0.0.1, asNumber: 1}", "spec.peerIP: found 224.0.0.1"),
        ("BgpPeer", "p", "{peerIP: 'fe80::1', asNumber: 1}", "the link of a link-local peerIP"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, sourceAddress: 'fd00::1'}", "of the peer's family"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, ttlSecurity: 1, multihop: 2}", "it beside ttlSecurity"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, password: {file: secret}}", "begins with /"),
        (
            "BgpPeer",
            "p",
            "{peerIP: 192.0.2.1, asNumber: 1, password: {file: /k, secretKeyRef: {name: a, key: b}}}",
            "found file and secretKeyRef",
        ),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, password: {secretKeyRef: {name: a}}}", "secretKeyRef.key"),
        (
            "BgpPeer",
            "p",
            "{peerIP: 192.0.2.1, asNumber: 1, password: {secretKeyRef: {name: ../x, key: k}}}",
            "the name of a Secret",
        ),
        (
            "BgpPeer",
            "p",
            "{peerIP: 192.0.2.1, asNumber: 1, password: {secretKeyRef: {name: x, key: a/b}}}",
            "a key of a Secret",
        ),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, node: n1, nodeSelector: {}}", "it beside nodeSelector"),
        ("BgpPeer", "p", "{peerIP: 192.0.2.1, asNumber: 1, bfd: {multiplier: 0}}", "spec.bfd.multiplier: found 0"),
        ("BgpFilter", "f", "{importV4: [{action: Accept, cidr: 'fd00::/8', matchOperator: In}]}", "a range of IPv4"),
        ("BgpFilter", "f", "{importV4: [{action: Accept, cidr: 10.0.0.0/8}]}", "matchOperator: found nothing"),
        ("BgpFilter", "f", "{importV4: [{action: Accept, communities: ['70000:1']}]}", "found 70000:1"),
        ("BgpFilter", "f", "{importV4: [{action: Reject, operations: [{setMED: 1}]}]}", "what is rejected"),
        (
            "BgpFilter",
            "f",
            "{exportV4: [{action: Accept, cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {min: 24, max: 16}}]}",
            "24 to 16",
        ),
    ] {
        let said = faults(kind, name, spec);
        assert!(said.contains(words), "{spec}: {said}");
    }
}

#[test]
fn a_peer_on_a_link_has_nothing_that_goes_with_an_address() {
    for (spec, words) in [
        ("{asNumber: 1, peerIP: 192.0.2.1, interface: eth0}", "spec.interface: found it beside a peerIP"),
        ("{asNumber: 1, peerRange: 10.0.0.0/8, interface: eth0}", "found it beside peerRange"),
        ("{asNumber: 1, interface: 'a/b'}", "spec.interface: found a/b"),
        ("{asNumber: 1, interface: eth0, peerLimit: 3}", "found it without peerRange"),
        ("{asNumber: 1, interface: eth0, multihop: 3}", "spec.multihop: found it beside an interface"),
        ("{asNumber: 1, interface: eth0, sourceAddress: 'fe80::1'}", "spec.sourceAddress: found it beside"),
    ] {
        let said = faults("BgpPeer", "p", spec);
        assert!(said.contains(words), "{spec}: {said}");
    }
}

#[test]
fn an_object_of_bgp_survives_being_written_and_read() {
    let object = read("BgpPeer", "tor", "{peerIP: 192.0.2.1, asNumber: 64513, bfd: {}}");
    let text = serde_json::to_string(&object).unwrap();
    assert_eq!(serde_json::from_str::<ClusterObject>(&text).unwrap(), object);
}
