//! First packets of connections as bytes, answers to them, and what of them comes back.
//!
//! Each packet carries a token where no translation touches it: the sequence number of TCP, the payload of UDP, the initiate tag of SCTP.
//! Sources: RFC 791, 8200, 9293, 768, 9260, 792, 4443, 4861.
//!
//! - `ends`: where packets are put on a wire and taken from it.

pub mod ends;

use std::net::{IpAddr, SocketAddr};

use ripstop_objects::service::Protocol;

/// A packet with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub carries: Carries,
    pub token: u32,
    /// It is the answer to one with this token.
    pub is_answer: bool,
}

/// What it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// The first segment, datagram or chunk between these ports.
    Ports(Protocol, u16, u16),
    /// TCP with SYN and FIN: connection tracking takes it for INVALID.
    Invalid(u16, u16),
    /// An echo request of ICMP, with its identifier.
    Echo(u16),
    /// A solicitation of neighbour discovery.
    Solicitation,
    /// Another protocol.
    Other(u8),
}

/// What a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// It is one of ours.
    Message(Message),
    /// Its sender is told that it will not be taken. It is one of these tokens.
    Refusal(Reason, [u32; 2]),
}

/// Why a packet is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody is there: a reset, an abort, port unreachable.
    Nobody,
    /// Something else is unreachable, or prohibited.
    Other,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const SYN: u8 = 2;
const RST: u8 = 4;
const SYN_ACK: u8 = 0x12;
const SYN_FIN: u8 = 3;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SOLICITATION: u8 = 135;
/// Destination unreachable, its code for ports, echo request and reply.
const ECHO: [[u8; 4]; 2] = [[3, 3, 8, 0], [1, 4, 128, 129]];

impl Message {
    /// What the one that got it answers.
    #[must_use]
    pub fn answer(&self) -> Self {
        let carries = match self.carries {
            Carries::Ports(protocol, from, to) => Carries::Ports(protocol, to, from),
            Carries::Invalid(from, to) => Carries::Invalid(to, from),
            other => other,
        };
        Self { source: self.destination, destination: self.source, carries, is_answer: true, ..*self }
    }

    /// Destination address and port; where there are none, port 0.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        let port = match self.carries {
            Carries::Ports(_, _, to) | Carries::Invalid(_, to) => to,
            _ => 0,
        };
        SocketAddr::new(self.destination, port)
    }

    /// The packet from its IP header on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = self.body();
        match self.protocol() {
            6 => put(&mut body, 16, self.transport_sum()),
            17 => put(&mut body, 6, self.transport_sum()),
            132 => {
                let sum = crc32c(&body);
                body[8..12].copy_from_slice(&sum.to_le_bytes());
            }
            ICMP => put(&mut body, 2, |body| !fold(sum_of(body))),
            ICMPV6 => put(&mut body, 2, self.transport_sum()),
            _ => {}
        }
        let mut whole = self.header(body.len());
        whole.extend(body);
        whole
    }

    fn protocol(&self) -> u8 {
        match self.carries {
            Carries::Ports(protocol, ..) => protocol.number(),
            Carries::Invalid(..) => 6,
            Carries::Echo(_) if self.source.is_ipv4() => ICMP,
            Carries::Echo(_) | Carries::Solicitation => ICMPV6,
            Carries::Other(number) => number,
        }
    }

    /// All behind the IP header, without checksums.
    fn body(&self) -> Vec<u8> {
        let (token, answers) = (self.token.to_be_bytes(), [0, 0, 0, u8::from(self.is_answer)]);
        let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes()].concat();
        match self.carries {
            Carries::Ports(Protocol::Tcp, from, to) | Carries::Invalid(from, to) => {
                let acknowledged = if self.is_answer { self.token.wrapping_add(1) } else { 0 };
                let flags = match (self.carries, self.is_answer) {
                    (Carries::Invalid(..), _) => SYN_FIN,
                    (_, true) => SYN_ACK,
                    (_, false) => SYN,
                };
                [&ports(from, to)[..], &token, &acknowledged.to_be_bytes(), &[5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]]
                    .concat()
            }
            Carries::Ports(Protocol::Udp, from, to) => {
                [&ports(from, to)[..], &[0, 16, 0, 0], &token, &answers].concat()
            }
            Carries::Ports(Protocol::Sctp, from, to) => {
                let (tag, chunk) = if self.is_answer { (token, INIT_ACK) } else { ([0; 4], INIT) };
                let streams = [0, 0, 0xff, 0xff, 0, 1, 0, 1];
                [&ports(from, to)[..], &tag, &[0; 4], &[chunk, 0, 0, 20], &token, &streams, &token].concat()
            }
            Carries::Echo(id) => {
                let [.., request, reply] = ECHO[usize::from(!self.source.is_ipv4())];
                let kind = if self.is_answer { reply } else { request };
                [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1], &token].concat()
            }
            Carries::Solicitation => [&[SOLICITATION, 0, 0, 0][..], &token, &octets(self.destination)].concat(),
            // Zeros are a header of GRE as well.
            Carries::Other(_) => [&[0; 4][..], &token, &answers].concat(),
        }
    }

    fn header(&self, length: usize) -> Vec<u8> {
        let short = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let ends = [octets(self.source), octets(self.destination)].concat();
        if self.source.is_ipv4() {
            let [high, low] = short(20 + length);
            let mut head = [&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, self.protocol(), 0, 0][..], &ends].concat();
            put(&mut head, 10, |head| !fold(sum_of(head)));
            return head;
        }
        let [high, low] = short(length);
        [&[0x60, 0, 0, 0, high, low, self.protocol(), 64][..], &ends].concat()
    }

    /// The checksum of a transport with its pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
    fn transport_sum(&self) -> impl Fn(&[u8]) -> u16 + use<> {
        let (addresses, protocol) = ([octets(self.source), octets(self.destination)].concat(), self.protocol());
        move |body: &[u8]| {
            let length = u64::try_from(body.len()).unwrap_or_default();
            !fold(sum_of(&addresses) + u64::from(protocol) + length + sum_of(body))
        }
    }
}

/// What a packet from its IP header on says.
#[must_use]
pub fn read(data: &[u8]) -> Option<Read> {
    let (source, destination, protocol, body) = split(data)?;
    read_of(source, destination, protocol, body)
}

/// The same of a packet whose IP header somebody else has read.
#[must_use]
pub fn read_of(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Option<Read> {
    let message = |carries, token, is_answer| Read::Message(Message { source, destination, carries, token, is_answer });
    let (first, second) = (short(body, 0)?, short(body, 2)?);
    match protocol {
        ICMP | ICMPV6 => control(source, destination, protocol, body),
        6 => match *body.get(13)? {
            flags if flags & RST != 0 => {
                // A reset counts a SYN and a FIN.
                Some(Read::Refusal(
                    Reason::Nobody,
                    [1, 2].map(|counted| long(body, 8).unwrap_or_default().wrapping_sub(counted)),
                ))
            }
            SYN_FIN => Some(message(Carries::Invalid(first, second), long(body, 4)?, false)),
            SYN_ACK => {
                Some(message(Carries::Ports(Protocol::Tcp, first, second), long(body, 8)?.wrapping_sub(1), true))
            }
            _ => Some(message(Carries::Ports(Protocol::Tcp, first, second), long(body, 4)?, false)),
        },
        17 => Some(message(Carries::Ports(Protocol::Udp, first, second), long(body, 8)?, body.get(15) == Some(&1))),
        132 => match *body.get(12)? {
            ABORT => Some(Read::Refusal(Reason::Nobody, [long(body, 4)?; 2])),
            INIT_ACK => Some(message(Carries::Ports(Protocol::Sctp, first, second), long(body, 4)?, true)),
            _ => Some(message(Carries::Ports(Protocol::Sctp, first, second), long(body, 16)?, false)),
        },
        other => Some(message(Carries::Other(other), long(body, 4)?, body.get(11) == Some(&1))),
    }
}

/// ICMP of either version.
fn control(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8]) -> Option<Read> {
    let message = |carries, token, is_answer| Read::Message(Message { source, destination, carries, token, is_answer });
    let [unreachable, port, request, reply] = ECHO[usize::from(protocol == ICMPV6)];
    let kind = *body.first()?;
    if kind == unreachable {
        let (source, destination, protocol, quoted) = split(body.get(8..)?)?;
        let Read::Message(Message { token, .. }) = read_of(source, destination, protocol, quoted)? else { return None };
        let reason = if body.get(1) == Some(&port) { Reason::Nobody } else { Reason::Other };
        return Some(Read::Refusal(reason, [token; 2]));
    }
    match kind {
        SOLICITATION if protocol == ICMPV6 => Some(message(Carries::Solicitation, long(body, 4)?, false)),
        kind if kind == request || kind == reply => {
            Some(message(Carries::Echo(short(body, 4)?), long(body, 8)?, kind == reply))
        }
        _ => None,
    }
}

fn short(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn long(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

fn put(body: &mut [u8], at: usize, sum: impl Fn(&[u8]) -> u16) {
    let sum = sum(body);
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
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
    use super::*;

    const ENDS: [(&str, &str, u8, [u8; 2]); 2] =
        [("10.0.0.1", "10.0.0.2", ICMP, [3, 3]), ("fd00::1", "fd00::2", ICMPV6, [1, 4])];

    fn sample(carries: Carries, source: &str, destination: &str) -> Message {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Message { source, destination, carries, token: 77, is_answer: false }
    }

    #[test]
    fn a_packet_its_answer_and_its_refusal_are_read_as_they_were_meant() {
        for (source, destination, control, [kind, port]) in ENDS {
            let ports = Protocol::ALL.map(|protocol| Carries::Ports(protocol, 4000, 80));
            for carries in ports.into_iter().chain([Carries::Echo(9), Carries::Other(47), Carries::Invalid(4000, 80)]) {
                let sample = sample(carries, source, destination);
                let bytes = sample.bytes();
                assert_eq!(read(&bytes), Some(Read::Message(sample)));
                let refused = |code| {
                    let quote = [&[kind, code, 0, 0, 0, 0, 0, 0][..], &bytes].concat();
                    read_of(sample.destination, sample.source, control, &quote)
                };
                assert_eq!(refused(port), Some(Read::Refusal(Reason::Nobody, [77; 2])));
                assert_eq!(refused(0), Some(Read::Refusal(Reason::Other, [77; 2])));
                if !matches!(carries, Carries::Invalid(..)) {
                    assert_eq!(read(&sample.answer().bytes()), Some(Read::Message(sample.answer())));
                }
            }
        }
        let asked = sample(Carries::Solicitation, "fd00::1", "fd00::2");
        assert_eq!(read(&asked.bytes()), Some(Read::Message(asked)));
    }

    #[test]
    fn checksums_are_as_receivers_want_them() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let sample = sample(Carries::Ports(Protocol::Tcp, 4000, 80), "10.0.0.1", "10.0.0.2");
        let bytes = sample.bytes();
        assert_eq!(fold(sum_of(&bytes[..20])), 0xffff);
        assert_eq!(sample.transport_sum()(&bytes[20..]), 0);
    }
}
