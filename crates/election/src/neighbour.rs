//! ARP (RFC 826, 5227) and neighbour discovery (RFC 4861, 4862) as Ethernet frames: to ask who has an address, to answer, and to
//! tell unasked.
//!
//! What is read obeys the rules that the standards make for a receiver; everything else is nothing. Frames without VLAN tag.
//!
//! Not here: whether to answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::Mac;

const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHERNET: usize = 14;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Shortest frame without its checksum.
const SHORTEST: usize = 60;

/// Ethernet and IPv4, with lengths of their addresses.
const ARP_HEAD: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;

/// Somebody asks who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// The address.
    pub address: IpAddr,
    /// Who asks.
    pub mac: Mac,
    /// The address that it asks from; none in a probe.
    pub from: Option<IpAddr>,
}

/// What a frame says. One may both tell and ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Somebody has this address.
    pub holds: Option<(IpAddr, Mac)>,
    /// Somebody asks.
    pub asks: Option<Question>,
}

/// Reads a frame of ARP or neighbour discovery; none if it is neither, or not as it must be.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Heard> {
    let source = mac(frame.get(6..12)?)?;
    let payload = frame.get(ETHERNET..)?;
    match *frame.get(12..ETHERNET)?.first_chunk()? {
        ETHERTYPE_ARP => read_arp(payload),
        ETHERTYPE_IPV6 => read_ndp(payload, source),
        _ => None,
    }
}

/// Asks who has an address, without an address to ask from: nobody learns anything from it.
#[must_use]
pub fn probe(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => arp(mac, BROADCAST, ARP_REQUEST, Ipv4Addr::UNSPECIFIED, Mac([0; 6]), ip),
        IpAddr::V6(ip) => ndp(mac, Ipv6Addr::UNSPECIFIED, solicited_node(ip), None, SOLICITATION, 0, ip, None),
    }
}

/// Tells everybody unasked that this address is at this hardware address: in ARP as a request and as a reply, since there are those that heed
/// only one of them.
#[must_use]
pub fn announcements(mac: Mac, address: IpAddr) -> Vec<Vec<u8>> {
    match address {
        IpAddr::V4(ip) => vec![
            arp(mac, BROADCAST, ARP_REQUEST, ip, Mac([0; 6]), ip),
            arp(mac, BROADCAST, ARP_REPLY, ip, BROADCAST, ip),
        ],
        IpAddr::V6(ip) => vec![ndp(mac, ip, ALL_NODES, None, ADVERTISEMENT, OVERRIDE, ip, Some(TARGET_LINK))],
    }
}

/// Answers a question: the address is at this hardware address.
#[must_use]
pub fn answer(mac: Mac, question: &Question) -> Vec<u8> {
    match (question.address, question.from) {
        (IpAddr::V4(ip), from) => {
            let to = from.and_then(v4).unwrap_or(Ipv4Addr::UNSPECIFIED);
            arp(mac, question.mac, ARP_REPLY, ip, question.mac, to)
        }
        (IpAddr::V6(ip), Some(IpAddr::V6(to))) => {
            let flags = SOLICITED | OVERRIDE;
            ndp(mac, ip, to, Some(question.mac), ADVERTISEMENT, flags, ip, Some(TARGET_LINK))
        }
        // Who has no address is told by telling all.
        (IpAddr::V6(ip), _) => ndp(mac, ip, ALL_NODES, None, ADVERTISEMENT, OVERRIDE, ip, Some(TARGET_LINK)),
    }
}

fn v4(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

fn read_arp(payload: &[u8]) -> Option<Heard> {
    let packet: &[u8; 28] = payload.first_chunk()?;
    if packet[..6] != ARP_HEAD || packet[6] != 0 {
        return None;
    }
    let ip = |at: usize| packet.get(at..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
    let (sender, from, asked) = (mac(packet.get(8..14)?)?, ip(14)?, ip(24)?);
    let said = (!from.is_unspecified()).then_some(IpAddr::V4(from));
    let holds = said.map(|ip| (ip, sender));
    match packet[7] {
        // A request about the own address is an announcement, and one about none asks nothing.
        ARP_REQUEST => {
            let asks = (from != asked && !asked.is_unspecified()).then(|| Question {
                address: asked.into(),
                mac: sender,
                from: said,
            });
            (holds.is_some() || asks.is_some()).then_some(Heard { holds, asks })
        }
        ARP_REPLY => Some(Heard { holds, asks: None }).filter(|heard| heard.holds.is_some()),
        _ => None,
    }
}

fn read_ndp(packet: &[u8], link: Mac) -> Option<Heard> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let ip = |bytes: &[u8]| bytes.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes));
    let (source, destination) = (ip(header.get(8..)?)?, ip(header.get(24..)?)?);
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    // From further away nobody may speak here: hop limit 255.
    if header[0] >> 4 != 6 || header[6] != ICMPV6 || header[7] != 255 || source.is_multicast() {
        return None;
    }
    let message = packet.get(40..40 + length)?;
    let head: &[u8; 24] = message.first_chunk()?;
    let target = ip(head.get(8..)?)?;
    if head[1] != 0 || target.is_multicast() || target.is_unspecified() || checksum(source, destination, message) != 0 {
        return None;
    }
    let options = options(message.get(24..)?)?;
    let unspecified = source.is_unspecified();
    match head[0] {
        SOLICITATION if unspecified => {
            let fits = destination == solicited_node(target) && options.source.is_none();
            let question = Question { address: target.into(), mac: link, from: None };
            fits.then_some(Heard { holds: None, asks: Some(question) })
        }
        SOLICITATION => {
            let sender = options.source.unwrap_or(link);
            let question = Question { address: target.into(), mac: sender, from: Some(source.into()) };
            Some(Heard { holds: Some((source.into(), sender)), asks: Some(question) })
        }
        ADVERTISEMENT if unspecified || (destination.is_multicast() && head[4] & SOLICITED != 0) => None,
        ADVERTISEMENT => {
            let holder = options.target.unwrap_or(link);
            Some(Heard { holds: Some((target.into(), holder)), asks: None })
        }
        _ => None,
    }
}

/// Hardware addresses that options tell.
#[derive(Default)]
struct Options {
    source: Option<Mac>,
    target: Option<Mac>,
}

/// None if one of them has no length, or more than there is.
fn options(mut bytes: &[u8]) -> Option<Options> {
    let mut found = Options::default();
    while let [kind, units, ..] = *bytes {
        let length = 8 * usize::from(units);
        let option = bytes.get(..length).filter(|option| !option.is_empty())?;
        let place = match kind {
            SOURCE_LINK => Some(&mut found.source),
            TARGET_LINK => Some(&mut found.target),
            _ => None,
        };
        if let Some(place) = place {
            *place = Some(mac(option.get(2..8)?)?);
        }
        bytes = bytes.get(length..)?;
    }
    bytes.is_empty().then_some(found)
}

/// The hardware address of one station.
fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.first_chunk().map(|bytes| Mac(*bytes)).filter(Mac::is_unicast)
}

fn frame(to: Mac, from: Mac, ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to.0[..], &from.0, &ethertype, payload].concat();
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

fn arp(from: Mac, to: Mac, operation: u8, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let parts = [&ARP_HEAD[..], &[0, operation], &from.0, &sender.octets(), &target_mac.0, &target.octets()];
    frame(to, from, ETHERTYPE_ARP, &parts.concat())
}

#[allow(clippy::too_many_arguments, reason = "each is a field of the packet")]
fn ndp(
    from: Mac,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    to: Option<Mac>,
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<u8>,
) -> Vec<u8> {
    let mut message = [&[kind, 0, 0, 0, flags, 0, 0, 0][..], &target.octets()].concat();
    if let Some(option) = option {
        message.extend([option, 1]);
        message.extend(from.0);
    }
    let sum = checksum(source, destination, &message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], ICMPV6, 255];
    let packet = [&header[..], &source.octets(), &destination.octets(), &message].concat();
    let [.., a, b, c, d] = destination.octets();
    frame(to.unwrap_or(Mac([0x33, 0x33, a, b, c, d])), from, ETHERTYPE_IPV6, &packet)
}

/// The group in which the owner of an address listens for questions about it.
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

/// The checksum of an ICMPv6 message; zero for one that has it in place.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    let words = |bytes: &[u8]| -> u32 {
        let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        bytes.chunks(2).map(word).sum()
    };
    // At most 65,575 bytes: the sum of their words has no more than 32 bits.
    let mut sum = words(&pseudo) + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
