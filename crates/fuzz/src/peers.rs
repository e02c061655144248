//! What other processes, the kernel and other nodes say: both ends of the store's socket, netlink, probes.

use ripstop_kernel::untrusted::kernel_messages;
use ripstop_nft::decode::{Answers, Observation, messages};
use ripstop_nft::encode::Batch;
use ripstop_nft::model::{Chain, Hook, Table, TableFamily};
use ripstop_probe::{Engine, wire};
use ripstop_store::untrusted::{to_client, to_server};
use ripstop_types::Millis;

use crate::agent::wait;

/// The kernel's answers and notifications about links, addresses, routes and what hangs on them.
pub fn kernel(data: &[u8]) {
    assert!(kernel_messages(data) <= data.len() / 16);
}

/// What comes to the port on which probes are answered.
pub fn probe(data: &[u8]) {
    if let Some(answer) = wire::answer_to(data) {
        assert!(answer.len() <= data.len(), "an answer is never longer than its probe");
        let read = wire::read_answer(&answer);
        assert!(read.is_some_and(|read| usize::from(read.length) == data.len()), "an answer tells the length");
    }
    let engine = &mut Engine::new(1, 100, Millis(0));
    if let Some(answer) = wire::read_answer(data) {
        assert!(engine.answered(Millis(1), [192, 0, 2, 1].into(), &answer).is_empty(), "nobody asked");
    }
}

/// The kernel's answers about nftables.
pub fn nft(data: &[u8]) {
    let Ok(all) = messages(data) else { return };
    let table = Table::new(TableFamily::Inet, "ripstop").chain("c", Chain::filter(Hook::Input, 0));
    let mut seen = Observation::new();
    for one in all {
        seen.take(one.message);
    }
    for found in seen.tables() {
        let _ = (seen.sets(found.family, &found.name), found.differences(&table));
    }
    let mut batch = Batch::new();
    if batch.add_table(&table).is_ok() {
        let batch = batch.finish(1);
        let mut answers = Answers::to(&batch);
        if answers.take(data).is_ok() {
            let _ = answers.result(&batch).map_err(|failure| failure.to_string());
        }
    }
}

/// What a client says to a store.
pub fn store_server(data: &[u8]) {
    match wait(to_server(data)) {
        Ok(answers) => assert!(answers.is_empty() || answers.ends_with(b"\n"), "an answer is cut short"),
        Err(fault) => panic!("no store could be made: {fault}"),
    }
}

/// What a store says to a client.
pub fn store_client(data: &[u8]) {
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    assert!(wait(to_client(data)) <= lines);
}
