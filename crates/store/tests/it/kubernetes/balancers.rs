//! Addresses of Services of type LoadBalancer: what an agent, with what the manifest allows it, reads and writes for them.

use ripstop_objects::pool::AddressPool;
use ripstop_store::{Expect, Kind, Kubernetes, Store, StoreError};
use serde_json::{Value, json};

use super::options;
use super::server::{AGENT, ApiServer, Setup, is_here};

const SERVICE: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}, spec: {type: LoadBalancer, ports: [{port: 80}]}}\n";

#[tokio::test]
async fn pools_claims_and_services() {
    if !is_here("addresses of Services in the store kubernetes") {
        return;
    }
    let server = ApiServer::start(Setup::default());
    let agent = Kubernetes::lazy(options(server.kubeconfig(AGENT)));
    a_status_is_written_at_the_revision_that_was_read(&server, &agent).await;
    a_claim_is_its_address(&server, &agent).await;
    the_definition_of_pools_refuses_what_agents_would(&server);
    server.kubectl(&["delete", "crd", "addressclaims.ripstop.io"]);
    let gone = async {
        while agent.list(Kind::AddressClaims).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone)
        .await
        .expect("what is not defined nobody has claimed");
}

async fn a_status_is_written_at_the_revision_that_was_read(server: &ApiServer, agent: &Kubernetes) {
    assert_eq!(agent.get(Kind::Services, "default/web").await.unwrap(), None);
    server.apply(SERVICE);
    let read = agent.get(Kind::Services, "default/web").await.unwrap().unwrap();
    assert_eq!(read.value["spec"]["type"], "LoadBalancer");
    let status = |ip: &str| json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
    let written = agent.put_status(Kind::Services, "default/web", &status("192.0.2.1"), read.revision).await.unwrap();
    assert!(written > read.revision);
    // Who read before does not know of it.
    let late = agent.put_status(Kind::Services, "default/web", &status("192.0.2.2"), read.revision).await;
    let Err(StoreError::Conflict { current: Some(current), .. }) = late else { panic!("{late:?}") };
    assert_eq!((current.revision, &current.value["status"]), (written, &status("192.0.2.1")));
    let none = agent.put_status(Kind::Services, "default/none", &status("192.0.2.2"), read.revision).await;
    assert!(matches!(none, Err(StoreError::Conflict { current: None, .. })), "{none:?}");
    let empty = json!({"loadBalancer": {"ingress": []}});
    agent.put_status(Kind::Services, "default/web", &empty, written).await.unwrap();
    assert_eq!(server.kubectl(&["get", "service", "web", "-o", "jsonpath={.status.loadBalancer.ingress}"]), "");
    let other = agent.put_status(Kind::Nodes, "n1", &empty, written).await.unwrap_err().to_string();
    assert!(other.contains("services"), "{other}");
}

async fn a_claim_is_its_address(server: &ApiServer, agent: &Kubernetes) {
    let claim = json!({"holders": [{"service": "default/web", "revision": 7, "sharing": "k", "ports": [["TCP", 80]]}]});
    for (key, name) in [("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001-db8-0-0-0-0-0-1")] {
        let at = agent.put_if(Kind::AddressClaims, key, &claim, Expect::Absent).await.unwrap();
        let again = agent.put_if(Kind::AddressClaims, key, &claim, Expect::Absent).await;
        assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
        let listed = agent.list(Kind::AddressClaims).await.unwrap();
        assert_eq!((listed.len(), listed[0].key.as_str(), &listed[0].value), (1, key, &claim));
        let shown = server.kubectl(&["get", "addressclaims", "--no-headers"]);
        let words: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(words[..2], [name, "default/web"]);
        let changed =
            agent.put_if(Kind::AddressClaims, key, &json!({"holders": []}), Expect::Revision(at)).await.unwrap();
        let late = agent.delete_if(Kind::AddressClaims, key, Expect::Revision(at)).await;
        assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
        assert!(agent.delete_if(Kind::AddressClaims, key, Expect::Revision(changed)).await.unwrap().is_some());
    }
}

/// The definition and the agents agree on each of these.
fn the_definition_of_pools_refuses_what_agents_would(server: &ApiServer) {
    let full = json!({"addresses": ["192.0.2.0/28", "198.51.100.7 - 198.51.100.9", "2001:db8::1", "2001:db8::10-2001:db8::20"],
        "leaveOut": "zero-and-255", "autoAssign": false, "priority": 3, "namespaces": ["a"],
        "namespaceSelectors": [{"matchLabels": {"t": "a"}}], "serviceSelectors": [{"matchExpressions": [{"key": "k", "operator": "Exists"}]}],
        "ipMode": "Proxy", "announce": [{"by": "l2", "interfaces": ["eth1"], "nodeSelectors": [{}]},
            {"by": "bgp", "aggregationLength": 28, "aggregationLengthV6": 120, "communities": ["64512:1"], "peers": ["tor"]}]});
    let mut cases = vec![(full, None), (json!({"addresses": ["192.0.2.7"]}), None)];
    let bad_range = "a range as 192.0.2.0/24";
    for range in ["192.0.2.1/24", "192.0.2.1-", "1-2-3", "192.0.2.300", "", "192.0.2.0/33"] {
        cases.push((json!({"addresses": [range]}), Some(bad_range)));
    }
    let with = |field: &str, value: Value| {
        let mut spec = json!({"addresses": ["192.0.2.7"]});
        spec[field] = value;
        spec
    };
    cases.extend([
        (json!({}), Some("spec.addresses")),
        (json!({"addresses": []}), Some("spec.addresses")),
        (with("priority", json!(65_536)), Some("spec.priority")),
        (with("leaveOut", json!("some")), Some("spec.leaveOut")),
        (with("ipMode", json!("Vip")), Some("spec.ipMode")),
        (with("auto", json!(true)), Some("spec.auto")),
        (with("announce", json!([{"by": "l2", "peers": ["tor"]}])), Some("only bgp has")),
        (with("announce", json!([{"by": "bgp", "interfaces": ["eth0"]}])), Some("only l2 has")),
        (with("announce", json!([{"by": "bgp", "aggregationLength": 0}])), Some("aggregationLength")),
        (with("announce", json!([{}])), Some("by")),
    ]);
    for (spec, word) in cases {
        let object = json!({"apiVersion": "ripstop.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": "p"}, "spec": spec});
        let read = AddressPool::decode(&object.to_string()).unwrap().0;
        let output =
            server.kubectl_with(&["create", "--dry-run=server", "--validate=strict", "-f", "-"], &object.to_string());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            (output.status.success(), read.refused.is_empty()),
            (word.is_none(), word.is_none()),
            "{object}: {said} {:?}",
            read.refused
        );
        assert!(word.is_none_or(|word| said.contains(word)), "{object}: {said}");
    }
}
