//! "Too big", told to the sender of an inner packet that the way to a peer cannot carry.

use std::net::IpAddr;

use super::checksum::{pseudo, put, sum};
use super::{Ip, Malformed};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TTL: u8 = 64;
/// An ICMPv6 error fits the least MTU of IPv6 (RFC 4443, section 2.4 c); of IPv4 576 bytes (RFC 1812, section 4.3.2.3).
const MOST_V6: usize = 1280;
const MOST_V4: usize = 576;

/// The message for a packet that is longer than `mtu`: "fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443).
/// `quoted` is the packet, or as much of it as is at hand. It is sent in the name of the destination, whose way back is
/// the one that the sender's filters know.
///
/// # Errors
/// Where nothing may be answered: it is no packet, it is itself an error message, or its sender is not one host.
pub fn too_big(ip: &Ip, quoted: &[u8], mtu: u16) -> Result<Vec<u8>, Malformed> {
    let none = || Malformed("a packet that no error may answer");
    let one_host = match ip.source {
        IpAddr::V4(source) => !(source.is_unspecified() || source.is_broadcast() || source.is_multicast()),
        IpAddr::V6(source) => !(source.is_unspecified() || source.is_multicast()),
    };
    let multicast = ip.destination.is_multicast();
    let error = match (ip.v4, ip.protocol, quoted.get(ip.header)) {
        // Echo, timestamp and their answers are questions; everything else may be an error (RFC 1122, section 3.2.2).
        (true, ICMP, kind) => !matches!(kind, Some(0 | 8 | 13 | 14)),
        (false, ICMPV6, kind) => kind.is_none_or(|kind| *kind < 128),
        _ => false,
    };
    if !one_host || multicast || error || ip.fragment && ip.v4 {
        return Err(none());
    }
    Ok(if ip.v4 { v4(quoted, mtu) } else { v6(quoted, mtu) })
}

fn v4(quoted: &[u8], mtu: u16) -> Vec<u8> {
    let quote = &quoted[..quoted.len().min(MOST_V4 - 28)];
    let mut answer = vec![0; 28];
    answer[0] = 0x45;
    put(&mut answer, 2, u16::try_from(28 + quote.len()).unwrap_or(u16::MAX));
    (answer[8], answer[9]) = (TTL, ICMP);
    answer[12..16].copy_from_slice(&quoted[16..20]);
    answer[16..20].copy_from_slice(&quoted[12..16]);
    let header = !sum(&answer[..20]);
    put(&mut answer, 10, header);
    (answer[20], answer[21]) = (3, 4);
    put(&mut answer, 26, mtu);
    answer.extend_from_slice(quote);
    let checksum = !sum(&answer[20..]);
    put(&mut answer, 22, checksum);
    answer
}

fn v6(quoted: &[u8], mtu: u16) -> Vec<u8> {
    let quote = &quoted[..quoted.len().min(MOST_V6 - 48)];
    let mut answer = vec![0; 48];
    answer[0] = 0x60;
    put(&mut answer, 4, u16::try_from(8 + quote.len()).unwrap_or(u16::MAX));
    (answer[6], answer[7]) = (ICMPV6, TTL);
    answer[8..24].copy_from_slice(&quoted[24..40]);
    answer[24..40].copy_from_slice(&quoted[8..24]);
    answer[40] = 2;
    put(&mut answer, 46, mtu);
    answer.extend_from_slice(quote);
    let rest = answer.len() - 40;
    let checksum = !super::checksum::add(pseudo(&answer[8..40], ICMPV6, rest), sum(&answer[40..]));
    put(&mut answer, 42, checksum);
    answer
}

#[cfg(test)]
mod tests {
    use super::super::tests::Spec;
    use super::*;

    #[test]
    fn the_sender_is_told_the_mtu_with_what_it_sent() {
        for v4 in [true, false] {
            let packet = Spec { v4, ..Spec::default() }.packet(&[7; 1400]);
            let ip = Ip::read(&packet).unwrap();
            let answer = too_big(&ip, &packet, 1300).unwrap();
            let told = Ip::read(&answer).unwrap();
            assert_eq!((told.source, told.destination, told.total), (ip.destination, ip.source, answer.len()));
            let (kind, code, mtu) = (answer[told.header], answer[told.header + 1], told.header + 6);
            assert_eq!((kind, code), if v4 { (3, 4) } else { (2, 0) });
            assert_eq!(answer[mtu..mtu + 2], 1300u16.to_be_bytes());
            assert_eq!(answer[told.header + 8..], packet[..answer.len() - told.header - 8]);
            assert_eq!(answer.len(), if v4 { MOST_V4 } else { MOST_V6 });
            if v4 {
                assert_eq!((sum(&answer[..20]), sum(&answer[20..])), (0xffff, 0xffff));
            } else {
                let all =
                    super::super::checksum::add(pseudo(&answer[8..40], 58, answer.len() - 40), sum(&answer[40..]));
                assert_eq!(all, 0xffff);
            }
        }
    }

    #[test]
    fn errors_groups_and_fragments_are_not_answered() {
        let mut error = vec![0u8; 60];
        (error[0], error[3], error[9], error[12], error[16], error[20]) = (0x45, 60, 1, 10, 10, 3);
        assert!(too_big(&Ip::read(&error).unwrap(), &error, 1300).is_err());
        error[20] = 8;
        assert!(too_big(&Ip::read(&error).unwrap(), &error, 1300).is_ok(), "an echo request");
        error[16] = 224;
        assert!(too_big(&Ip::read(&error).unwrap(), &error, 1300).is_err(), "to a group");
        (error[16], error[7]) = (10, 9);
        assert!(too_big(&Ip::read(&error).unwrap(), &error, 1300).is_err(), "a later fragment");
    }
}
