//! First packets of connections as bytes, and what of them comes back.
//!
//! Each packet carries a token where no translation touches it: the sequence number of TCP, the payload of UDP, the initiate tag of SCTP.
//! Sources: RFC 791, 8200, 9293, 768, 9260, 792, 4443.

use std::net::{IpAddr, SocketAddr};

use ripstop_objects::service::Protocol;
use ripstop_oracle::services::{Packet, State};

/// What a packet with a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is here.
    Here { source: IpAddr, destination: SocketAddr },
    /// Its sender is told that nobody is there.
    Refused,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SYN: u8 = 2;
const RST: u8 = 4;
/// SYN with FIN: connection tracking takes it for INVALID.
const SYN_FIN: u8 = 3;

/// A packet from its IP header on.
pub fn packet(packet: &Packet, from_port: u16, token: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from_port.to_be_bytes());
    body.extend(packet.port.to_be_bytes());
    match packet.protocol {
        Protocol::Tcp => {
            body.extend(token.to_be_bytes());
            body.extend([0; 4]);
            body.extend([5 << 4, if packet.state == State::Invalid { SYN_FIN } else { SYN }, 0xff, 0xff]);
            body.extend([0; 4]);
        }
        Protocol::Udp => {
            body.extend(16_u16.to_be_bytes());
            body.extend([0; 2]);
            body.extend(token.to_be_bytes());
            body.extend([0; 4]);
        }
        Protocol::Sctp => {
            body.extend([0; 8]);
            body.extend([1, 0, 0, 20]);
            body.extend(token.to_be_bytes());
            body.extend([0, 0, 0xff, 0xff, 0, 1, 0, 1]);
            body.extend(token.to_be_bytes());
        }
    }
    let number = packet.protocol.number();
    match packet.protocol {
        Protocol::Tcp => put(&mut body, 16, transport_sum(packet, number)),
        Protocol::Udp => put(&mut body, 6, transport_sum(packet, number)),
        Protocol::Sctp => {
            let sum = crc32c(&body);
            body[8..12].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let mut whole = header(packet, number, body.len());
    whole.extend(body);
    whole
}

fn put(body: &mut [u8], at: usize, sum: impl Fn(&[u8]) -> u16) {
    let sum = sum(body);
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn header(packet: &Packet, protocol: u8, length: usize) -> Vec<u8> {
    let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut head = vec![0x45, 0];
            head.extend(short(20 + length));
            head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            head.extend(source.octets());
            head.extend(destination.octets());
            put(&mut head, 10, |head| !fold(sum_of(head)));
            head
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut head = vec![0x60, 0, 0, 0];
            head.extend(short(length));
            head.extend([protocol, 64]);
            head.extend(source.octets());
            head.extend(destination.octets());
            head
        }
        _ => Vec::new(),
    }
}

/// The checksum of a transport with its pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
fn transport_sum(packet: &Packet, protocol: u8) -> impl Fn(&[u8]) -> u16 + use<> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => std::net::Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => std::net::Ipv6Addr::octets(&ip).to_vec(),
    };
    let addresses = [octets(packet.source), octets(packet.destination)].concat();
    move |body: &[u8]| {
        let length = u64::try_from(body.len()).unwrap_or_default();
        !fold(sum_of(&addresses) + u64::from(protocol) + length + sum_of(body))
    }
}

fn sum_of(data: &[u8]) -> u64 {
    data.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

/// RFC 9260, appendix A.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
        crc
    })
}

/// What a packet from its IP header on says of a token.
pub fn sign(data: &[u8], token: u32) -> Option<Sign> {
    let (source, destination, protocol, body) = split(data)?;
    sign_of(source, destination, protocol, body, token)
}

/// The same of a packet whose IP header somebody else has read.
pub fn sign_of(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8], token: u32) -> Option<Sign> {
    if matches!(protocol, ICMP | ICMPV6) {
        // Port unreachable, of either version.
        let unreachable = if protocol == ICMP { [3, 3] } else { [1, 4] };
        let quoted = split(body.get(8..)?)?;
        let ours = body.starts_with(&unreachable) && first(quoted.2, quoted.3)?.1 == token;
        return ours.then_some(Sign::Refused);
    }
    let (port, found, refused) = first(protocol, body)?;
    if refused.is_some_and(|tokens| tokens.contains(&token)) {
        return Some(Sign::Refused);
    }
    (found == token).then(|| Sign::Here { source, destination: SocketAddr::new(destination, port) })
}

/// Destination port and token; and the token that the packet has which it refuses: a reset counts a SYN and a FIN.
fn first(protocol: u8, body: &[u8]) -> Option<(u16, u32, Option<[u32; 2]>)> {
    let long = |at: usize| Some(u32::from_be_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let port = u16::from_be_bytes(body.get(2..4)?.try_into().ok()?);
    match Protocol::ALL.into_iter().find(|known| known.number() == protocol)? {
        Protocol::Tcp => {
            let reset = body.get(13).is_some_and(|flags| flags & RST != 0);
            let refused = [1, 2].map(|counted| long(8).unwrap_or_default().wrapping_sub(counted));
            Some((port, long(4)?, reset.then_some(refused)))
        }
        Protocol::Udp => Some((port, long(8)?, None)),
        // INIT, and ABORT with the tag of whom it is for.
        Protocol::Sctp if body.get(12) == Some(&6) => Some((port, 0, Some([long(4)?; 2]))),
        Protocol::Sctp => Some((port, long(16)?, None)),
    }
}

/// Source, destination, protocol and body.
fn split(data: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let four = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(data.get(at..at + 4)?).ok()?));
    let six = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(data.get(at..at + 16)?).ok()?));
    match data.first()? >> 4 {
        4 => Some((four(12)?, four(16)?, *data.get(9)?, data.get(usize::from(data[0] & 15) * 4..)?)),
        6 => Some((six(8)?, six(24)?, *data.get(6)?, data.get(40..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ripstop_oracle::services::Origin;

    use super::*;

    fn sample(protocol: Protocol, source: &str, destination: &str) -> Packet {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Packet { origin: Origin::Pod, source, destination, port: 80, protocol, state: State::New }
    }

    #[test]
    fn a_packet_is_found_by_its_token_and_so_is_its_refusal() {
        for protocol in Protocol::ALL {
            for (source, destination, unreachable) in [("10.0.0.1", "10.0.0.2", [3, 3]), ("fd00::1", "fd00::2", [1, 4])]
            {
                let sample = sample(protocol, source, destination);
                let bytes = packet(&sample, 4000, 77);
                let to = SocketAddr::new(sample.destination, 80);
                assert_eq!(sign(&bytes, 77), Some(Sign::Here { source: sample.source, destination: to }));
                assert_eq!(sign(&bytes, 78), None);
                let number = if sample.source.is_ipv4() { ICMP } else { ICMPV6 };
                let quote = [&unreachable[..], &[0; 6], &bytes].concat();
                assert_eq!(sign_of(sample.destination, sample.source, number, &quote, 77), Some(Sign::Refused));
                let other = [&[3, 1][..], &[0; 6], &bytes].concat();
                assert_eq!(sign_of(sample.destination, sample.source, number, &other, 77), None);
            }
        }
    }

    #[test]
    fn checksums_are_as_receivers_want_them() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let sample = sample(Protocol::Tcp, "10.0.0.1", "10.0.0.2");
        let bytes = packet(&sample, 4000, 77);
        assert_eq!(fold(sum_of(&bytes[..20])), 0xffff);
        assert_eq!(transport_sum(&sample, 6)(&bytes[20..]), 0);
    }
}
