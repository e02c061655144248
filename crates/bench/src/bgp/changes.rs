//! Configuration that changes all the time: how soon a peer hears what follows, and whether a session ends.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ripstop_lab::{http, ip_batch};
use ripstop_store::Kind;
use serde_json::{Value, json};

use super::stub::Stub;
use super::{Part, apply, goal};
use crate::cpu::ms;
use crate::records::Records;
use crate::report::Table;
use crate::scene::{NODES, Programs, Scene};
use crate::stat::{Spread, quantile};

const CHANGES: u32 = 500;
/// Between two of them.
const PACE: Duration = Duration::from_millis(120);
const PEER_AS: u32 = 65_001;
const LIMIT: Duration = Duration::from_secs(20);

/// Measures it.
pub fn changes(programs: &Programs) -> Result<Part> {
    let mut scene = Scene::new("bgp-changes", programs)?;
    let (near, far) = scene.machines("near", "far")?;
    let others: Vec<_> = (0..10).map(|n| std::net::Ipv4Addr::new(172, 30, 0, 10 + n)).collect();
    ip_batch(&far, &others.iter().map(|other| format!("addr add {other}/16 dev eth0\n")).collect::<String>())?;
    let spec = json!({ "ranges": ["10.244.0.0/16"], "backend": { "type": "bgp" } });
    let agent = scene.agent("n1", &near, &spec)?;
    agent.wait_ready()?;
    let peers = others.iter().map(|other| {
        format!(
            "---\napiVersion: ripstop.io/v1alpha1\nkind: BgpPeer\nmetadata: {{name: p{}}}\nspec: {{peerIP: {other}, asNumber: {PEER_AS}, \
             passive: true}}\n",
            other.octets()[3]
        )
    });
    apply(&scene, "n1", &peers.collect::<String>())?;
    let records = Records::connect(&scene.store()?)?;
    let mut stub = connected(&far, &others)?;
    let begun = Instant::now();
    let (mut taken, mut written) = (Vec::new(), Vec::new());
    for change in 1..=CHANGES {
        let told = Instant::now();
        records.put(&(Kind::BgpConfigurations, "default".into(), configuration(change)))?;
        written.push(ms(told.elapsed()));
        let words = (64_512u32 << 16 | change).to_be_bytes();
        let has = |bytes: &[u8]| bytes.windows(4).any(|four| four == words);
        let heard = stub.until("a change", LIMIT, |peers| peers.iter().all(|peer| has(&peer.last)))?;
        taken.push(ms(heard - told));
        let next = begun + PACE * change;
        stub.until("the next change", LIMIT, |_| Instant::now() >= next)?;
    }
    let whole = begun.elapsed().as_secs_f64();
    let flaps = flaps(&scene)?;
    ensure!(flaps.0 == others.len(), "{} of {} sessions stand", flaps.0, others.len());
    let mut table = Table::new(&["500 changes of BgpConfiguration, 10 peers", "measured"]);
    table.row(&["from the store's write to the last peer, ms: p50".into(), format!("{:.1}", quantile(&taken, 0.5))]);
    table.row(&["p99".into(), format!("{:.1}", quantile(&taken, 0.99))]);
    table.row(&["min / median / max".into(), Spread::of(&taken).text(1)]);
    table.row(&["of it until the store has it, min / median / max".into(), Spread::of(&written).text(1)]);
    let p99 = quantile(&taken, 0.99);
    let ours = format!("{} flaps; p99 {p99:.1} ms, p50 {:.1}", flaps.1, quantile(&taken, 0.5));
    let what = format!("500 configuration changes in {whole:.0} s, each on the wire");
    let good = flaps.1 == 0 && p99 <= 10.0;
    Ok((vec![goal(&what, "0 flaps, p99 ≤ 10 ms", ours, "–".into(), "–".into(), good)], vec![table]))
}

/// Sessions of stubs with an agent, which lets peers in some time after it was told of them.
fn connected(far: &std::path::Path, others: &[std::net::Ipv4Addr]) -> Result<Stub> {
    let begun = Instant::now();
    loop {
        let mut stub = Stub::new();
        stub.connect(far, others, PEER_AS, NODES[0])?;
        match stub.until("routes", Duration::from_secs(5), |peers| peers.iter().all(|peer| peer.announced > 0)) {
            Ok(_) => return Ok(stub),
            Err(error) if begun.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
        }
    }
}

fn configuration(change: u32) -> Value {
    json!({
        "apiVersion": "ripstop.io/v1alpha1", "kind": "BgpConfiguration", "metadata": { "name": "default" },
        "spec": { "prefixAdvertisements": [{ "cidr": "10.244.0.0/16", "communities": [format!("64512:{change}")] }] },
    })
}

/// How many sessions stand, and how often one ended.
fn flaps(scene: &Scene) -> Result<(usize, u64)> {
    let socket = scene.run().join("n1/agent.sock");
    let answer = http::get(&socket, "/v1/bgp/peers", Duration::from_secs(5))?;
    let rows: Vec<Value> = serde_json::from_slice(&answer.body)?;
    let up = rows.iter().filter(|row| row["state"] == "established").count();
    Ok((up, rows.iter().filter_map(|row| row["flaps"].as_u64()).sum()))
}
