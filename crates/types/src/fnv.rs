//! FNV-1a (draft-eastlake-fnv): a hash that is the same on every build and machine, unlike the standard library's hasher.
//!
//! Names, ids and places are derived from it, and digests by which things are recognised; so its results never change.
//! Not here: anything that an adversary chooses the input of.

/// A width of the hash: `u32`, `u64` or `u128`.
pub trait Fnv1a: Sized {
    /// The hash of nothing.
    const BASIS: Self;

    /// This hash, with more bytes behind those it is of.
    #[must_use]
    fn and(self, bytes: impl IntoIterator<Item = u8>) -> Self;

    /// The hash of bytes.
    fn of(bytes: impl IntoIterator<Item = u8>) -> Self {
        Self::BASIS.and(bytes)
    }
}

macro_rules! widths {
    ($($width:ty: $basis:literal, $prime:literal;)+) => {$(
        impl Fnv1a for $width {
            const BASIS: Self = $basis;

            fn and(self, bytes: impl IntoIterator<Item = u8>) -> Self {
                bytes.into_iter().fold(self, |hash, byte| (hash ^ Self::from(byte)).wrapping_mul($prime))
            }
        }
    )+};
}

widths! {
    u32: 0x811c_9dc5, 0x0100_0193;
    u64: 0xcbf2_9ce4_8422_2325, 0x0000_0100_0000_01b3;
    u128: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, 0x0000_0000_0100_0000_0000_0000_0000_013b;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The draft's own test vectors (appendix C), and for 128 bits the empty one.
    #[test]
    fn the_results_are_the_drafts() {
        for (text, short, long) in [
            ("", 0x811c_9dc5, 0xcbf2_9ce4_8422_2325),
            ("a", 0xe40c_292c, 0xaf63_dc4c_8601_ec8c),
            ("foobar", 0xbf9c_f968, 0x8594_4171_f739_67e8),
        ] {
            assert_eq!(u32::of(text.bytes()), short, "{text:?}");
            assert_eq!(u64::of(text.bytes()), long, "{text:?}");
        }
        assert_eq!(u128::of("a".bytes()), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(u64::of("foo".bytes()).and("bar".bytes()), u64::of("foobar".bytes()));
    }
}
