//! Bytes from anywhere.

use std::sync::LazyLock;

use proptest::prelude::*;
use ripstop_nft::decode::{Answers, Message, Observation, messages};
use ripstop_nft::encode::Batch;
use ripstop_nft::model::{ElementKey, Table};

use crate::fixture::{actions, elements, matches, others};

static SAMPLE: LazyLock<Vec<u8>> = LazyLock::new(sample);

/// What we send has the shape of what the kernel dumps, so it serves as a dump.
fn sample() -> Vec<u8> {
    let mut batch = Batch::new();
    let mut tables = others();
    tables.extend([matches(), actions()]);
    let known =
        |key: &ElementKey, tables: &[Table]| tables.iter().any(|t| t.family == key.family && t.name == key.table);
    let all = elements();
    for table in &tables {
        batch.add_table(table).unwrap();
    }
    batch.add_elements(all.iter().filter(|(key, _)| known(key, &tables))).unwrap();
    batch.finish(1).bytes
}

fn observe(bytes: &[u8]) -> usize {
    let Ok(all) = messages(bytes) else { return 0 };
    let mut seen = Observation::new();
    for one in all {
        seen.take(one.message);
    }
    seen.tables().iter().map(|table| table.elements.len() + table.differences(&matches()).len()).sum()
}

#[test]
fn what_we_write_is_read_back_without_a_kernel() {
    let all = messages(&SAMPLE).unwrap();
    let tables = all.iter().filter(|one| matches!(one.message, Message::Table(_))).count();
    assert_eq!(tables, others().len() + 2);
    let mut seen = Observation::new();
    all.into_iter().for_each(|one| seen.take(one.message));
    let mut found = 0;
    for table in seen.tables() {
        assert!(table.intact, "{}", table.name);
        found += table.elements.len();
    }
    assert_eq!(found, elements().len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn mutated_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40), cut in any::<prop::sample::Index>()) {
        let mut bytes = SAMPLE.clone();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        observe(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        observe(&bytes);
    }

    #[test]
    fn mutated_attributes_never_panic(from in any::<prop::sample::Index>(), lengths in prop::collection::vec((0usize..40, any::<u16>()), 1..8)) {
        // Past the headers, where a whole message still parses.
        let mut bytes = SAMPLE.clone();
        let start = from.index(bytes.len() - 256);
        for (step, value) in lengths {
            bytes[start + step * 4..][..2].copy_from_slice(&value.to_ne_bytes());
        }
        observe(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), seq in any::<u32>()) {
        observe(&bytes);
        let mut batch = Batch::new();
        batch.add_table(&matches()).unwrap();
        let encoded = batch.finish(seq);
        let mut answers = Answers::to(&encoded);
        let _ = answers.take(&bytes);
        let _ = answers.result(&encoded);
    }

    #[test]
    fn refusals_with_random_tails_never_panic(kind in 2u16..4, flags in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(2u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        let mut batch = Batch::new();
        batch.add_table(&matches()).unwrap();
        let encoded = batch.finish(1);
        let mut answers = Answers::to(&encoded);
        answers.take(&bytes).unwrap();
        if let Err(failure) = answers.result(&encoded) {
            prop_assert!(failure.to_string().contains("table inet ripstop"), "{failure}");
        }
    }
}
