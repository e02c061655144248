//! From a TUN packet to frames: what the kernel left to an offload is done here.
//!
//! A long TCP or UDP packet becomes segments. Each gets a header of its own; its payload stays where it is, so nothing but
//! headers is copied. A packet that is not cut gets its checksum completed in place.

use super::checksum::{add, pseudo, put, sum, word};
use super::packet::{TCP, UDP};
use super::vnet::{self, Vnet};
use super::{Ip, Malformed};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is one frame, complete, as long as its IP header says.
    Whole,
    /// It is several. Header `n` lies in the headers' buffer, `header` bytes a segment; its payload is the packet's bytes
    /// from `header + n * size` on, `size` of them or what is left.
    Segments {
        /// Length of each header.
        header: usize,
        /// Payload bytes of a segment.
        size: usize,
        /// How many.
        count: usize,
    },
}

/// Prepares a packet read from TUN; headers of segments are appended to `heads`.
///
/// # Errors
/// Where the packet and its [`Vnet`] header do not fit each other; `heads` is then as it was.
pub fn split(vnet: &Vnet, packet: &mut [u8], heads: &mut Vec<u8>) -> Result<Cut, Malformed> {
    let ip = Ip::read(packet)?;
    let kind = vnet.gso_type & !vnet::GSO_ECN;
    if kind == vnet::GSO_NONE {
        if vnet.flags & vnet::NEEDS_CSUM != 0 {
            complete(vnet, &mut packet[..ip.total])?;
        }
        return Ok(Cut::Whole);
    }
    let plan = Plan::of(vnet, kind, &ip, packet)?;
    if plan.count == 1 {
        plan.whole(packet);
        return Ok(Cut::Whole);
    }
    plan.cut(packet, heads);
    Ok(Cut::Segments { header: plan.header, size: plan.size, count: plan.count })
}

/// Completes a partial checksum: its field holds the pseudo-header's sum already.
fn complete(vnet: &Vnet, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > packet.len() {
        return Err(Malformed("the checksum's field is outside"));
    }
    let checksum = !sum(&packet[start..]);
    // Over UDP zero means "none"; its other form is as good for every protocol.
    put(packet, field, if checksum == 0 { 0xffff } else { checksum });
    Ok(())
}

/// How a long packet is cut.
struct Plan {
    ip: Ip,
    protocol: u8,
    /// Where TCP or UDP begins: behind extension headers too.
    transport: usize,
    header: usize,
    size: usize,
    end: usize,
    count: usize,
}

impl Plan {
    fn of(vnet: &Vnet, kind: u8, ip: &Ip, packet: &[u8]) -> Result<Self, Malformed> {
        let (protocol, fits) = match kind {
            vnet::GSO_TCPV4 => (TCP, ip.v4),
            vnet::GSO_TCPV6 => (TCP, !ip.v4),
            vnet::GSO_UDP_L4 => (UDP, true),
            _ => return Err(Malformed("a kind of segmentation that was not offered")),
        };
        if !fits || ip.fragment {
            return Err(Malformed("segmentation of another kind of packet"));
        }
        let transport = if vnet.flags & vnet::NEEDS_CSUM != 0 { usize::from(vnet.csum_start) } else { ip.header };
        let fixed = if protocol == TCP { 20 } else { 8 };
        if transport < ip.header || transport + fixed > ip.total {
            return Err(Malformed("no room for the transport header"));
        }
        let length = if protocol == TCP { usize::from(packet[transport + 12] >> 4) * 4 } else { 8 };
        let header = transport + length;
        let size = usize::from(vnet.gso_size);
        if length < fixed || header > ip.total || size == 0 {
            return Err(Malformed("the transport header or the segment size does not fit"));
        }
        let count = (ip.total - header).div_ceil(size).max(1);
        Ok(Self { ip: *ip, protocol, transport, header, size, end: ip.total, count })
    }

    /// The only segment: everything stands, but for the checksum.
    fn whole(&self, packet: &mut [u8]) {
        if self.protocol == UDP {
            let length = self.end - self.transport;
            put(packet, self.transport + 4, u16::try_from(length).unwrap_or(u16::MAX));
        }
        let payload = sum(&packet[self.header..self.end]);
        let length = self.end - self.transport;
        self.checksum(&mut packet[..self.header], length, payload);
    }

    fn cut(&self, packet: &[u8], heads: &mut Vec<u8>) {
        let template = &packet[..self.header];
        let first_id = word(template, 4);
        let first_seq = template
            .get(self.transport + 4..self.transport + 8)
            .map_or(0, |seq| u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]));
        heads.reserve(self.count * self.header);
        for (number, payload) in packet[self.header..self.end].chunks(self.size).enumerate() {
            let at = heads.len();
            heads.extend_from_slice(template);
            let head = &mut heads[at..];
            #[allow(clippy::cast_possible_truncation, reason = "ids and sequence numbers count modulo their width")]
            self.ip_header(head, payload.len(), first_id.wrapping_add(number as u16));
            if self.protocol == TCP {
                #[allow(clippy::cast_possible_truncation, reason = "a packet has less than 64 KB")]
                let seq = first_seq.wrapping_add((number * self.size) as u32);
                head[self.transport + 4..self.transport + 8].copy_from_slice(&seq.to_be_bytes());
                let flags = &mut head[self.transport + 13];
                // The last tells the end and the push, the first that the window was reduced.
                if number + 1 < self.count {
                    *flags &= !(FIN | PSH);
                }
                if number > 0 {
                    *flags &= !CWR;
                }
            } else {
                put(head, self.transport + 4, u16::try_from(8 + payload.len()).unwrap_or(u16::MAX));
            }
            self.checksum(head, self.header - self.transport + payload.len(), sum(payload));
        }
    }

    /// Length, id and header checksum.
    fn ip_header(&self, head: &mut [u8], payload: usize, id: u16) {
        let total = self.header + payload;
        if !self.ip.v4 {
            put(head, 4, u16::try_from(total - 40).unwrap_or(u16::MAX));
            return;
        }
        put(head, 2, u16::try_from(total).unwrap_or(u16::MAX));
        put(head, 4, id);
        put(head, 10, 0);
        let checksum = !sum(&head[..self.ip.header]);
        put(head, 10, checksum);
    }

    /// The transport checksum; `length` is that of transport header and payload.
    fn checksum(&self, head: &mut [u8], length: usize, payload: u16) {
        let field = self.transport + if self.protocol == TCP { 16 } else { 6 };
        put(head, field, 0);
        let pseudo = pseudo(&head[self.ip.addresses()], self.protocol, length);
        let checksum = !add(add(pseudo, sum(&head[self.transport..])), payload);
        put(head, field, if checksum == 0 && self.protocol == UDP { 0xffff } else { checksum });
    }
}
