//! What tests are made of: namespaces, an agent, a store, calls, packets.

pub mod agent;
pub mod cni;
pub mod load;
pub mod ns;
pub mod packets;
pub mod store;
pub mod web;
pub mod world;

use std::time::{Duration, Instant};

/// Whether a thing becomes so within a time that is far more than it should take.
pub fn soon(mut so: impl FnMut() -> bool) -> bool {
    within(Duration::from_secs(20) * slowness(), &mut so)
}

/// How many times slower than others this machine is, as who emulates it says.
pub fn slowness() -> u32 {
    std::env::var("RIPSTOP_TEST_SLOWNESS").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

/// Whether tests are to be run whole, however long they take.
pub fn is_long() -> bool {
    std::env::var("RIPSTOP_TEST_TIER").is_ok_and(|tier| tier == "long")
}

/// Whether a thing becomes so within this time.
pub fn within(time: Duration, mut so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if so() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A deterministic stream of numbers (SplitMix64; Steele, Lea, Flood 2014).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
