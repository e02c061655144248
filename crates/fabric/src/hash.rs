//! A hash that is the same on every build and machine: names and hardware addresses are derived from it.

use ripstop_types::Fnv1a as _;

/// FNV-1a, 64 bits, over parts separated by a zero byte, then mixed so that all bits differ.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut h = u64::of(parts.iter().flat_map(|part| part.bytes().chain([0])));
    // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// A locally administered hardware address made of a hash.
pub(crate) fn mac(parts: &[&str]) -> ripstop_types::Mac {
    let [_, _, _, tail @ ..] = hash(parts).to_be_bytes();
    ripstop_types::Mac::local(tail)
}

/// So many letters and digits of a hash, five bits each.
pub(crate) fn letters(parts: &[&str], count: usize) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let h = hash(parts);
    (0..count).map(|place| char::from(ALPHABET[usize::try_from((h >> (5 * place)) & 31).unwrap_or(0)])).collect()
}
