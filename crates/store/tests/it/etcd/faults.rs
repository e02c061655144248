//! What a cluster goes through: forgotten revisions, lost leaders, full disks, strangers' keys.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_store::suite::Mirror;
use ripstop_store::{Etcd, EtcdOptions, Event, Expect, Kind, Store, StoreError};
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::gate::{Gate, Passing};
use super::server::{Servers, Setup, is_here};

async fn follow(mirror: &mut Mirror, watch: &mut Receiver<Event>, mut done: impl FnMut(&Mirror) -> bool) {
    let all = async {
        while !done(mirror) {
            let event = watch.recv().await.expect("an event");
            mirror.take(event).unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("an event that must come");
}

#[tokio::test]
async fn a_watch_behind_what_was_forgotten_begins_anew_and_misses_nothing() {
    if !is_here("compaction") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let gate = Gate::start(servers.client(0)).await;
    let there = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    for key in ["stays", "goes", "changes"] {
        there.put_if(Kind::Claims, key, &json!({"n": 1}), Expect::Absent).await.unwrap();
    }
    let cut_off = Etcd::connect(EtcdOptions::new([format!("http://{}", gate.address)])).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), cut_off.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, Mirror::is_synced).await;
    gate.pass(Passing::None);
    follow(&mut mirror, &mut watch, Mirror::is_away).await;
    there.delete_if(Kind::Claims, "goes", Expect::Any).await.unwrap();
    there.put_if(Kind::Claims, "comes", &json!({"n": 2}), Expect::Absent).await.unwrap();
    let last = there.put_if(Kind::Claims, "changes", &json!({"n": 3}), Expect::Any).await.unwrap();
    servers.compact(&[]);
    gate.pass(Passing::All);
    // Until the new list is complete, what was known stays: nothing is gone that is still there.
    let mut seen = BTreeSet::new();
    let stays = |mirror: &Mirror| mirror.records(Kind::Claims).iter().any(|record| record.key == "stays");
    follow(&mut mirror, &mut watch, |mirror| {
        assert!(stays(mirror), "a record that stays was taken for gone");
        seen.extend(mirror.records(Kind::Claims).into_iter().map(|record| record.key));
        mirror.has(last)
    })
    .await;
    assert_eq!(mirror.resets(), Kind::ALL.len(), "the watch did not begin anew");
    assert_eq!(mirror.records(Kind::Claims), there.list(Kind::Claims).await.unwrap());
    assert!(seen.contains("goes") && seen.contains("comes"), "{seen:?}");
    // A change after it comes as a change.
    let next = there.put_if(Kind::Nodes, "n1", &json!(1), Expect::Any).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(next)).await;
}

#[tokio::test]
async fn a_watch_that_is_not_behind_goes_on_over_a_compaction() {
    if !is_here("compaction") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    for n in 0..5 {
        let given = etcd.put_if(Kind::Alive, "n1", &json!(n), Expect::Any).await.unwrap();
        follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
        servers.compact(&[]);
    }
    assert_eq!((mirror.resets(), mirror.absences()), (0, 0));
    assert_eq!(etcd.list(Kind::Alive).await.unwrap().len(), 1);
}

/// Whoever fills a store may do so in one transaction: all of it has one revision, and may come in several pieces, which etcd makes of what
/// is longer than a request may be.
#[tokio::test]
async fn a_thousand_records_of_one_transaction_all_arrive() {
    if !is_here("large transactions") {
        return;
    }
    let limits = ["--max-txn-ops=1000", "--max-request-bytes=2000000"].map(str::to_owned);
    let servers = Servers::start(Setup { args: limits.into(), ..Setup::default() });
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let mut watch = etcd.watch(&[Kind::Nodes]);
    let next = async |watch: &mut Receiver<Event>| tokio::time::timeout(Duration::from_secs(60), watch.recv()).await;
    assert!(matches!(next(&mut watch).await, Ok(Some(Event::Synced { .. }))));
    // Just below the limit: with what etcd says of each besides it is above.
    let value = format!("[{}1]", "1,".repeat(976));
    servers.put_at_once((0..1_000).map(|n| (format!("/ripstop/nodes/n{n:03}"), value.clone())));
    let mut records = Vec::new();
    while records.len() < 1_000 {
        match next(&mut watch).await {
            Ok(Some(Event::Put(record))) => records.push(record),
            other => panic!("{} records, then {other:?}", records.len()),
        }
    }
    assert!(records.iter().all(|record| record.revision == records[0].revision && record.value.is_array()));
    assert_eq!(records, etcd.list(Kind::Nodes).await.unwrap());
}

/// A member at a time ends, the leader first; writes go on, and a watch sees each once.
#[tokio::test]
async fn a_cluster_of_three_loses_its_leader_and_no_answered_write() {
    if !is_here("a cluster of three") {
        return;
    }
    let mut servers = Servers::start(Setup { members: 3, ..Setup::default() });
    let endpoints = servers.endpoints();
    let etcd = Arc::new(Etcd::connect(EtcdOptions::new(endpoints.clone())).await.unwrap());
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, Mirror::is_synced).await;
    let (mut answered, mut worst, mut n) = (BTreeSet::new(), Duration::ZERO, 0);
    for _ in 0..2 {
        let leader = servers.leader();
        servers.kill(leader);
        let until = n + 20;
        let mut last = Instant::now();
        while n < until {
            match etcd.put_if(Kind::Nodes, &format!("k{n:03}"), &json!(n), Expect::Any).await {
                Ok(revision) => {
                    assert!(answered.insert(revision));
                    worst = worst.max(last.elapsed());
                    (last, n) = (Instant::now(), n + 1);
                }
                Err(StoreError::Away { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(other) => panic!("{other}"),
            }
        }
        servers.restart(leader);
    }
    let end = *answered.last().unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(end)).await;
    assert_eq!(mirror.records(Kind::Nodes).len(), n as usize);
    assert_eq!(mirror.resets(), 0, "the watch was begun anew though nothing was forgotten");
    let seen: BTreeSet<_> = mirror.changes().iter().copied().collect();
    assert!(answered.is_subset(&seen), "not seen: {:?}", answered.difference(&seen).collect::<Vec<_>>());
    println!("longest time without a write over the loss of a leader: {worst:?}");
}

#[tokio::test]
async fn a_member_without_its_leader_is_left_and_a_cluster_without_majority_is_away() {
    if !is_here("a cluster of three") {
        return;
    }
    let mut servers = Servers::start(Setup { members: 3, ..Setup::default() });
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, Mirror::is_synced).await;
    servers.kill(1);
    servers.kill(2);
    // The member that is left accepts connections, and knows nothing.
    let fault = etcd.put_if(Kind::Nodes, "n1", &json!(1), Expect::Any).await.unwrap_err();
    assert!(matches!(fault, StoreError::Away { .. }), "{fault:?}");
    follow(&mut mirror, &mut watch, Mirror::is_away).await;
    servers.restart(1);
    while etcd.get(Kind::Nodes, "n1").await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let given = etcd.put_if(Kind::Nodes, "n2", &json!(1), Expect::Any).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
    assert_eq!(mirror.resets(), 0);
}

#[tokio::test]
async fn a_full_database_takes_no_writes_is_read_and_recovers() {
    if !is_here("a full database") {
        return;
    }
    let quota = (4 << 20).to_string();
    let servers = Servers::start(Setup { args: vec!["--quota-backend-bytes".into(), quota], ..Setup::default() });
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    etcd.put_if(Kind::Claims, "c", &json!({"node": "n1"}), Expect::Absent).await.unwrap();
    let value = json!("x".repeat(200_000));
    let mut written = 0;
    let fault = loop {
        match etcd.put_if(Kind::Nodes, "filler", &value, Expect::Any).await {
            Ok(_) => written += 1,
            Err(fault) => break fault,
        }
        assert!(written < 200, "4 MB took {written} values");
    };
    let text = fault.to_string();
    assert!(matches!(fault, StoreError::NoSpace { .. }) && fault.is_passing() && !fault.maybe_applied(), "{fault:?}");
    assert!(text.contains("is full and takes no writes") && text.contains("alarm disarm"), "{text}");
    assert!(text.contains(&servers.endpoint(0)) && text.contains("nodes/filler"), "{text}");
    // Conditional writes are refused alike, and reads and watches go on.
    let again = etcd.put_if(Kind::Claims, "d", &json!({"node": "n1"}), Expect::Absent).await.unwrap_err();
    assert!(matches!(again, StoreError::NoSpace { .. }), "{again:?}");
    assert_eq!(etcd.list(Kind::Claims).await.unwrap().len(), 1);
    let listed = etcd.list(Kind::Nodes).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.is_synced() && mirror.records(Kind::Nodes) == listed).await;
    assert_eq!(mirror.absences(), 0, "a full server is not away");
    // What the message says helps.
    servers.compact(&[]);
    servers.ctl(&["defrag"]);
    servers.ctl(&["alarm", "disarm"]);
    let given = etcd.put_if(Kind::Claims, "d", &json!({"node": "n1"}), Expect::Absent).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
}

#[tokio::test]
async fn strangers_keys_are_passed_over_and_left() {
    if !is_here("foreign keys") {
        return;
    }
    let servers = Servers::start(Setup::default());
    servers.ctl(&["put", "/ripstop/nodes/broken", "{no json"]);
    for key in ["/ripstop/pods/p", "/ripstop/nodes/a b", "/ripstop/README", "/ripsto", "/ripstop0"] {
        servers.ctl(&["put", key, "hands off"]);
    }
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let given = etcd.put_if(Kind::Nodes, "n1", &json!({"a": 1}), Expect::Absent).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, |mirror| mirror.is_synced()).await;
    let records = mirror.records(Kind::Nodes);
    let found: Vec<_> = records.iter().map(|record| (record.key.as_str(), record.value.clone())).collect();
    assert_eq!(found, [("broken", json!("{no json")), ("n1", json!({"a": 1}))]);
    assert_eq!(etcd.list(Kind::Nodes).await.unwrap(), records);
    // A record that becomes none is shown as it is, and its key is taken.
    servers.ctl(&["put", "/ripstop/nodes/n1", "\u{1}"]);
    servers.ctl(&["put", "/ripstop/nodes/c d", "x"]);
    servers.ctl(&["del", "/ripstop/nodes/a b"]);
    let next = etcd.put_if(Kind::Nodes, "n2", &json!(2), Expect::Absent).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(next)).await;
    assert_eq!(mirror.records(Kind::Nodes)[1].value, json!("\u{1}"));
    match etcd.put_if(Kind::Nodes, "n1", &json!(1), Expect::Revision(given)).await {
        Err(StoreError::Conflict { current: Some(record), .. }) => assert_eq!(record.value, json!("\u{1}")),
        other => panic!("{other:?}"),
    }
    for key in ["/ripstop/pods/p", "/ripstop/README", "/ripsto", "/ripstop0"] {
        assert_eq!(servers.ctl(&["get", key, "--print-value-only"]).trim(), "hands off", "{key}");
    }
}

/// Nothing is asked but what a caller asks: an idle watch costs no request.
#[tokio::test]
async fn an_idle_node_asks_nothing_beside_its_sign_of_life() {
    if !is_here("requests of an idle node") {
        return;
    }
    let servers = Servers::start(Setup::default());
    let etcd = Etcd::connect(EtcdOptions::new(servers.endpoints())).await.unwrap();
    let (mut mirror, mut watch) = (Mirror::new(&Kind::ALL), etcd.watch(&Kind::ALL));
    follow(&mut mirror, &mut watch, Mirror::is_synced).await;
    let node = "n1".parse().unwrap();
    // The watch itself is open once it has brought a change.
    let first = etcd.alive(&node, &json!({"sequence": 0})).await.unwrap();
    follow(&mut mirror, &mut watch, |mirror| mirror.has(first)).await;
    let before = servers.requests(0);
    for sequence in 1..5 {
        let given = etcd.alive(&node, &json!({"sequence": sequence})).await.unwrap();
        follow(&mut mirror, &mut watch, |mirror| mirror.has(given)).await;
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let mut expected = before.clone();
    *expected.entry("Put".into()).or_default() += 4;
    assert_eq!(servers.requests(0), expected);
    println!("requests of a node with its lists: {before:?}; then nothing but 4 signs of life in 2.8 s");
}

#[tokio::test]
async fn options_that_can_never_work_are_refused() {
    let good = EtcdOptions::new(["http://127.0.0.1:1"]);
    let bad = [
        (EtcdOptions::new(Vec::<String>::new()), "at least one"),
        (EtcdOptions::new(["127.0.0.1:2379"]), "http://ADDRESS:PORT"),
        (EtcdOptions { prefix: "/ripstop".into(), ..good.clone() }, "ends with '/'"),
        (EtcdOptions { tls: ripstop_store::EtcdTls { cert: Some("/c".into()), ..Default::default() }, ..good }, "both"),
    ];
    for (options, words) in bad {
        let fault = Etcd::lazy(options).err().expect("a fault");
        assert!(fault.to_string().contains(words), "{fault}");
    }
}
