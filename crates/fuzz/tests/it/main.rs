//! Every committed seed, and small changes of it, on the functions that `make fuzz` runs for longer. An input that once
//! failed is a seed.

#![allow(clippy::unwrap_used, clippy::panic)] // These are tests, helpers included.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ripstop_fuzz::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(fuzz().join("seeds").join(target))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// A sequence of numbers that is the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}

/// The seed with one to four places changed: bytes set, taken out, doubled, or the end cut off.
fn changed(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(8)).min(bytes.len());
        match numbers.below(6) {
            0 if !bytes.is_empty() => bytes[at] = u8::try_from(numbers.below(256)).unwrap(),
            1 => drop(bytes.splice(at..end, [])),
            2 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            3 => bytes.truncate(end),
            4 => drop(bytes.splice(at..end, *b"-1")),
            _ => drop(bytes.splice(at..end, *b"18446744073709551615")),
        }
    }
    bytes
}

fn replay(name: &str, target: fn(&[u8]), changes: usize) {
    let seeds = seeds(name);
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} has no seed");
    let mut numbers = Numbers(0x5269_7073_746f_7021);
    for (path, seed) in &seeds {
        target(seed);
        for change in 0..changes {
            let bytes = changed(seed, &mut numbers);
            if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                panic!("{name}: change {change} of {}: {:?}", path.display(), String::from_utf8_lossy(&bytes));
            }
        }
    }
}

macro_rules! targets {
    ($($name:ident $changes:literal)*) => {
        $(#[test]
        fn $name() {
            let (name, target) = TARGETS.iter().find(|(name, _)| *name == stringify!($name)).unwrap();
            replay(name, *target, $changes);
        })*

        #[test]
        fn every_target_is_replayed_and_has_its_program() {
            let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let folders: BTreeSet<String> = fs::read_dir(fuzz().join("seeds"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            assert_eq!(folders, names.iter().map(|name| (*name).to_owned()).collect());
            let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
            for name in names {
                let source = fs::read_to_string(fuzz().join(format!("fuzz_targets/{name}.rs"))).unwrap();
                assert_eq!(source, PROGRAM.replace("NAME", name));
                assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
            }
        }
    };
}

/// What the program of every target is.
const PROGRAM: &str = "\
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ripstop_fuzz::run(\"NAME\", data));
";

targets! {
    agent_http 100
    bfd 400
    bgp 400
    cni_args 200
    cni_config 200
    cni_list 100
    cni_request 200
    config 200
    election 400
    flannel 200
    kernel 400
    kubeconfig 200
    kubernetes_object 200
    lease 50
    manifest 200
    nft 400
    plugin 50
    probe 200
    recording 20
    snapshot 50
    store_client 200
    store_record 200
    store_server 20
}
