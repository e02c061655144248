//! Explicit congestion notification through a tunnel (RFC 6040).

use super::Ip;
use super::checksum::{put, update, word};

/// The bits of the type of service that are ECN.
pub const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The outer bits for an inner packet: normal mode copies them (RFC 6040, section 4.1).
#[must_use]
pub fn outer(inner_tos: u8) -> u8 {
    inner_tos & MASK
}

/// The inner bits after the tunnel (RFC 6040, figure 4). `None`: the network marked congestion on a packet that cannot
/// carry the mark, and it must be dropped.
#[must_use]
pub fn inner(outer: u8, inner: u8) -> Option<u8> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (same, _) => Some(same),
    }
}

/// Puts the bits into a packet's header.
pub fn mark(packet: &mut [u8], ip: &Ip, bits: u8) {
    if ip.tos & MASK == bits & MASK {
        return;
    }
    let old = word(packet, 0);
    let shift = if ip.v4 { 0 } else { 4 };
    let new = (old & !(u16::from(MASK) << shift)) | (u16::from(bits & MASK) << shift);
    put(packet, 0, new);
    if ip.v4 {
        let field = update(word(packet, 10), old, new);
        put(packet, 10, field);
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::sum;
    use super::*;

    #[test]
    fn the_table_of_rfc_6040_holds() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (from, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(inner(outer, from), expected, "inner {from:02b}, outer {outer:02b}");
            }
        }
    }

    #[test]
    fn a_mark_keeps_the_rest_and_the_checksum() {
        let mut packet = [0u8; 20];
        packet[..4].copy_from_slice(&[0x45, 0xb8 | ECT_0, 0, 20]);
        let checksum = !sum(&packet);
        put(&mut packet, 10, checksum);
        let ip = Ip::read(&packet).unwrap();
        mark(&mut packet, &ip, CE);
        assert_eq!((packet[1], sum(&packet)), (0xb8 | CE, 0xffff));
        let mut six = [0u8; 40];
        six[..2].copy_from_slice(&[0x6b, 0xa7]);
        let ip = Ip::read(&six).unwrap();
        mark(&mut six, &ip, CE);
        assert_eq!(six[..2], [0x6b, 0xb7]);
    }
}
