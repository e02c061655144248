//! Measures what a store costs on this machine: `cargo run --release -p ripstop-store --example cost -- DIRECTORY`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ripstop_store::{Embedded, Event, Expect, Kind, Remote, Server, Store};
use serde_json::json;

/// Resident memory of this process in KiB (proc_pid_statm(5), pages of 4 KiB).
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}

async fn puts(store: &Arc<dyn Store>, tasks: usize, each: usize) -> (Duration, Duration) {
    let value = json!({"name": "node", "text": "x".repeat(900)});
    let begun = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let (store, value) = (store.clone(), value.clone());
        writers.spawn(async move {
            let mut took = Vec::new();
            for n in 0..each {
                let begun = Instant::now();
                let key = format!("n{}", (task * each + n) % 1000);
                store.put_if(Kind::Nodes, &key, &value, Expect::Any).await.unwrap();
                took.push(begun.elapsed());
            }
            took
        });
    }
    let mut took: Vec<Duration> = writers.join_all().await.into_iter().flatten().collect();
    took.sort();
    (took[took.len() / 2], begun.elapsed() / (tasks * each) as u32)
}

async fn report(what: &str, store: &Arc<dyn Store>) {
    for tasks in [1, 32, 256] {
        let (median, each) = puts(store, tasks, 2048 / tasks).await;
        println!("{what}: {tasks:3} writers: median {median:9.1?} a put, {each:9.1?} of the store's time each");
    }
    let begun = Instant::now();
    let listed = store.list(Kind::Nodes).await.unwrap().len();
    println!("{what}: list of {listed}: {:.1?}", begun.elapsed());
    let (begun, before) = (Instant::now(), resident());
    let mut watch = store.watch(&Kind::ALL);
    let mut count = 0;
    while let Some(event) = watch.recv().await {
        match event {
            Event::Put(_) => count += 1,
            Event::Synced { kind: Kind::Alive, .. } => break,
            _ => {}
        }
    }
    let grown = resident().saturating_sub(before);
    println!("{what}: watch of {count}: {:.1?}, {grown} KiB more resident", begun.elapsed());
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let dir = std::env::args().nth(1).expect("a directory for the store");
    let path = std::path::Path::new(&dir).join("cost.redb");
    println!("{} KiB resident at the start", resident());
    let embedded: Arc<dyn Store> = Arc::new(Embedded::in_memory().unwrap());
    report("in memory", &embedded).await;
    drop(embedded);
    let store = Arc::new(Embedded::open(&path).unwrap());
    let embedded: Arc<dyn Store> = store.clone();
    report("in a file", &embedded).await;
    let socket = std::path::Path::new(&dir).join("cost.sock");
    let server = Server::bind(store, &socket).unwrap();
    let serving = tokio::spawn(server.run(std::future::pending()));
    let remote: Arc<dyn Store> = Arc::new(Remote::connect(&socket).await.unwrap());
    report("over a socket", &remote).await;
    println!("{} KiB resident at the end", resident());
    drop((remote, embedded));
    serving.abort();
    let _ = serving.await;
    let begun = Instant::now();
    let store = Embedded::open(&path);
    println!("open: {:.1?}, {} KiB in the file", begun.elapsed(), std::fs::metadata(&path).unwrap().len() / 1024);
    drop(store);
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&socket).unwrap();
}
