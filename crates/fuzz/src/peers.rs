//! What other processes and the kernel say: both ends of the store's socket, netlink.

use ripstop_kernel::untrusted::kernel_messages;
use ripstop_nft::decode::{Answers, Observation, messages};
use ripstop_nft::encode::Batch;
use ripstop_nft::model::{Chain, Hook, Table, TableFamily};
use ripstop_store::untrusted::{to_client, to_server};

use crate::agent::wait;

/// The kernel's answers and notifications about links, addresses, routes and what hangs on them.
pub fn kernel(data: &[u8]) {
    assert!(kernel_messages(data) <= data.len() / 16);
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
