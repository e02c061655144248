//! Flannel's layout: read beside ours, taken over, and never overrun.

use ripstop_store::suite::Mirror;
use ripstop_store::{Etcd, EtcdOptions, Event, Expect, FlannelOptions, Kind, Store, StoreError};
use ripstop_types::Revision;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::server::{Servers, Setup, is_here};

const SUBNETS: &str = "/coreos.com/network/subnets";

fn record(ip: &str) -> String {
    let data = json!({"VNI": 1, "VtepMAC": "56:23:a1:00:00:01"});
    json!({"PublicIP": ip, "PublicIPv6": null, "BackendType": "vxlan", "BackendData": data}).to_string()
}

async fn client(servers: &Servers, node: u8) -> Etcd {
    let flannel = FlannelOptions {
        prefix: "/coreos.com/network".into(),
        network: "default".parse().unwrap(),
        node: format!("n{node}").parse().unwrap(),
        machine: format!("m{node}"),
        addresses: vec![[172, 30, 1, 10 + node].into()],
    };
    Etcd::connect(EtcdOptions { flannel: Some(flannel), ..EtcdOptions::new(servers.endpoints()) }).await.unwrap()
}

fn claim(node: u8, range: &str, state: &str) -> Value {
    json!({"network": "default", "range": range, "node": format!("n{node}"), "machine": format!("m{node}"),
        "boot": "b", "run": 1, "state": state})
}

fn node(node: u8, mac: &str) -> Value {
    let ip = format!("172.30.1.{}", 10 + node);
    json!({"name": format!("n{node}"), "identity": {"machineId": format!("m{node}"), "bootId": "b"},
        "addresses": [{"ip": ip, "prefix": "172.30.1.0/24"}],
        "receives": [{"type": "vxlan", "vni": 1, "port": 8472, "mac": mac, "outerV4": ip}],
        "prefers": [], "networks": {}, "version": "1", "labels": {}})
}

fn stored(servers: &Servers, key: &str) -> Value {
    serde_json::from_str(servers.ctl(&["get", &format!("{SUBNETS}/{key}"), "--print-value-only"]).trim())
        .unwrap_or(Value::Null)
}

fn keys(mirror: &Mirror, kind: Kind) -> Vec<String> {
    mirror.records(kind).into_iter().map(|record| record.key).collect()
}

async fn follow(mirror: &mut Mirror, watch: &mut Receiver<Event>, done: impl Fn(&Mirror) -> bool) {
    let all = async {
        while !(mirror.is_synced() && done(mirror)) {
            mirror.take(watch.recv().await.expect("an event")).unwrap();
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), all).await.expect("what must come");
}

#[tokio::test]
async fn flannels_nodes_come_and_go_and_renewals_mean_nothing() {
    if !is_here("flannel's layout") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let conf = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
    servers.ctl(&["put", "/coreos.com/network/config", conf]);
    let put = |subnet: &str, ip: &str| servers.ctl(&["put", &format!("{SUBNETS}/{subnet}"), &record(ip)]);
    put("10.244.1.0-24", "172.30.1.21");
    let etcd = client(&servers, 1).await;
    etcd.put_if(Kind::Nodes, "a-node", &json!(1), Expect::Absent).await.unwrap();
    etcd.put_if(Kind::Nodes, "zz", &json!(1), Expect::Absent).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, |_| true).await;
    assert_eq!(keys(&mirror, Kind::Networks), ["default"]);
    assert_eq!(keys(&mirror, Kind::Nodes), ["a-node", "flannel-10-244-1-0-24", "zz"]);
    assert_eq!(keys(&mirror, Kind::Claims), ["default/10.244.1.0_24"]);
    for kind in Kind::ALL {
        assert_eq!(etcd.list(kind).await.unwrap(), mirror.records(kind));
    }
    let found = etcd.get(Kind::Claims, "default/10.244.1.0_24").await.unwrap().unwrap();
    assert_eq!(found.value["node"], "flannel-10-244-1-0-24");
    // A renewal and an unreadable key mean nothing; a change of ours behind them comes alone.
    put("10.244.1.0-24", "172.30.1.21");
    servers.ctl(&["put", &format!("{SUBNETS}/10.244.9.0-24"), "nonsense"]);
    let given = etcd.put_if(Kind::Alive, "n1", &json!(1), Expect::Any).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
    assert_eq!(mirror.resets(), 0);
    put("10.244.2.0-24", "172.30.1.22");
    follow(&mut mirror, &mut watch, |mirror| keys(mirror, Kind::Claims).len() == 2).await;
    servers.ctl(&["del", &format!("{SUBNETS}/10.244.1.0-24")]);
    follow(&mut mirror, &mut watch, |mirror| keys(mirror, Kind::Claims) == ["default/10.244.2.0_24"]).await;
    assert_eq!(keys(&mirror, Kind::Nodes), ["a-node", "flannel-10-244-2-0-24", "zz"]);
    assert_eq!(servers.ctl(&["get", &format!("{SUBNETS}/10.244.9.0-24"), "--print-value-only"]).trim(), "nonsense");
}

#[tokio::test]
async fn no_subnet_has_two_owners() {
    if !is_here("flannel's layout") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let etcd = client(&servers, 1).await;
    let key = |n: u8| format!("default/10.244.{n}.0_24");
    // flanneld was first.
    servers.ctl(&["put", &format!("{SUBNETS}/10.244.1.0-24"), &record("172.30.1.21")]);
    match etcd.put_if(Kind::Claims, &key(1), &claim(1, "10.244.1.0/24", "tentative"), Expect::Absent).await {
        Err(StoreError::Conflict { current: Some(held), .. }) => {
            assert_eq!(held.value["node"], "flannel-10-244-1-0-24");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stored(&servers, "10.244.1.0-24")["PublicIP"], "172.30.1.21");
    // We were first: flanneld creates a key only where there is none.
    let tentative = claim(1, "10.244.3.0/24", "tentative");
    let given = etcd.put_if(Kind::Claims, &key(3), &tentative, Expect::Absent).await.unwrap();
    assert_eq!(
        stored(&servers, "10.244.3.0-24"),
        json!({"PublicIP": "172.30.1.11", "PublicIPv6": null, "Ripstop": "n1"})
    );
    etcd.put_if(Kind::Nodes, "n1", &node(1, "02:00:00:00:00:01"), Expect::Absent).await.unwrap();
    let told = stored(&servers, "10.244.3.0-24");
    assert_eq!((&told["BackendType"], &told["BackendData"]["VtepMAC"]), (&json!("vxlan"), &json!("02:00:00:00:00:01")));
    let held = claim(1, "10.244.3.0/24", "held");
    let given = etcd.put_if(Kind::Claims, &key(3), &held, Expect::Revision(given)).await.unwrap();
    assert_eq!(stored(&servers, "10.244.3.0-24"), told);
    // A peer of ours sees one node and one claim, not two of each.
    let peer = client(&servers, 2).await;
    assert_eq!(peer.list(Kind::Nodes).await.unwrap().len(), 2);
    assert_eq!(peer.list(Kind::Claims).await.unwrap().len(), 2);
    let other = peer.put_if(Kind::Claims, &key(3), &claim(2, "10.244.3.0/24", "tentative"), Expect::Absent).await;
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
    // Given back, it is given back to both; what is flanneld's stays.
    let stale = etcd.delete_if(Kind::Claims, &key(3), Expect::Revision(Revision(1))).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    etcd.delete_if(Kind::Claims, &key(3), Expect::Revision(given)).await.unwrap().unwrap();
    assert_eq!(stored(&servers, "10.244.3.0-24"), Value::Null);
    assert_eq!(etcd.delete_if(Kind::Claims, &key(1), Expect::Any).await, Ok(None));
    assert_eq!(stored(&servers, "10.244.1.0-24")["PublicIP"], "172.30.1.21");
}

#[tokio::test]
async fn a_subnet_of_the_flanneld_that_ran_here_is_taken_over_in_one_step() {
    if !is_here("flannel's layout") {
        return;
    }
    let servers = Servers::start(Setup::default());
    servers.ctl(&["put", &format!("{SUBNETS}/10.244.7.0-24"), &record("172.30.1.11")]);
    let (etcd, peer) = (client(&servers, 1).await, client(&servers, 2).await);
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), peer.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, |_| true).await;
    assert_eq!(keys(&mirror, Kind::Nodes), ["flannel-10-244-7-0-24"]);
    // To its own host it is a claim of an earlier run, to be written anew at its revision.
    let left = etcd.get(Kind::Claims, "default/10.244.7.0_24").await.unwrap().unwrap();
    assert_eq!((&left.value["node"], &left.value["machine"]), (&json!("n1"), &json!("m1")));
    assert!(etcd.list(Kind::Nodes).await.unwrap().is_empty());
    etcd.put_if(Kind::Nodes, "n1", &node(1, "02:00:00:00:00:01"), Expect::Absent).await.unwrap();
    let held = claim(1, "10.244.7.0/24", "held");
    let early = etcd.put_if(Kind::Claims, &left.key, &held, Expect::Revision(Revision(left.revision.0 - 1))).await;
    assert!(matches!(early, Err(StoreError::Conflict { .. })), "{early:?}");
    etcd.put_if(Kind::Claims, &left.key, &held, Expect::Revision(left.revision)).await.unwrap();
    let now = stored(&servers, "10.244.7.0-24");
    assert_eq!((&now["Ripstop"], &now["BackendData"]["VtepMAC"]), (&json!("n1"), &json!("02:00:00:00:00:01")));
    follow(&mut mirror, &mut watch, |mirror| keys(mirror, Kind::Nodes) == ["n1"]).await;
    assert_eq!(mirror.records(Kind::Claims)[0].value, held);
}
