//! The Internet checksum (RFC 1071).
//!
//! A *sum* is the folded ones' complement sum of 16-bit words in network order, not complemented. Sums of parts that begin
//! at even offsets are combined by [`add`].

/// The sum of some bytes; an odd last byte counts as if a zero followed.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum is the same in either byte order, up to the order of its own two bytes (RFC 1071, section 2 B). Halves of words
    // of 64 bits in lanes of 64 cannot overflow below 2^32 words, and compilers make vector instructions of masks and shifts.
    let (mut low, mut high) = (0u64, 0u64);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_ne_bytes(*word);
        low += word & 0xffff_ffff;
        high += word >> 32;
    }
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = u64::from_ne_bytes(last);
    let total = low + high + (last & 0xffff_ffff) + (last >> 32);
    u16::from_be(fold(total))
}

/// The sum of two sums.
#[must_use]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum of the pseudo-header of TCP and UDP: addresses as they stand in the header, protocol, and the length of what
/// follows the IP header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u16 {
    fold(u64::from(sum(addresses)) + u64::from(protocol) + length as u64)
}

/// A checksum field's new value after a word under it changed (RFC 1624, equation 3).
#[must_use]
pub fn update(field: u16, old: u16, new: u16) -> u16 {
    !add(add(!field, !old), new)
}

/// Reads a word in network order; zero where there is none.
#[must_use]
pub fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
}

/// Writes a word in network order, where there is room.
pub fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[allow(clippy::cast_possible_truncation, reason = "folded to 16 bits just before")]
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the RFC says it, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        bytes
            .chunks(2)
            .fold(0, |total, pair| add(total, u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
    }

    #[test]
    fn the_example_of_rfc_1071_has_its_sum() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!((sum(&[]), sum(&[0xab]), sum(&[1, 2, 3])), (0, 0xab00, 0x0402));
    }

    proptest! {
        #[test]
        fn the_fast_sum_is_the_plain_one(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            prop_assert_eq!(sum(&bytes), plain(&bytes));
            let (a, b) = bytes.split_at((cut * 2).min(bytes.len()));
            prop_assert_eq!(add(sum(a), sum(b)), plain(&bytes));
        }

        #[test]
        fn an_updated_field_is_the_field_made_anew(mut header in proptest::collection::vec(any::<u8>(), 20), word_at in 0usize..9, new: u16) {
            // The checksum stands in the last word; zero and 0xffff are the same sum.
            put(&mut header, 18, 0);
            let field = !sum(&header);
            let old = word(&header, word_at * 2);
            put(&mut header, word_at * 2, new);
            let updated = update(field, old, new);
            put(&mut header, 18, updated);
            prop_assert!(matches!(sum(&header), 0xffff | 0));
        }
    }
}
