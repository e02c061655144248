//! From frames to TUN packets: consecutive segments of one flow become one long packet, as a network card's or the
//! kernel's receive offload has it, to be cut again by the kernel where that is needed.
//!
//! Joined are TCP segments that differ in nothing but sequence number, IPv4 id, checksum and PSH, and UDP datagrams of one
//! size. Never joined: what has SYN, FIN, RST, URG or CWR, no payload, IPv4 options, extension headers or a wrong
//! checksum; what is a fragment; what does not follow directly. A segment with PSH, or shorter than the others, is the last.
//!
//! Invariants: packets of one flow leave in the order in which they came. Cutting a joined packet gives the frames of which
//! it was made, but for the ids of IPv4 packets that may not be fragmented, which mean nothing (RFC 6864). A packet
//! that stands alone leaves as it came, whatever its checksums.

use std::ops::Range;

use super::checksum::{add, pseudo, put, sum, word};
use super::packet::{TCP, UDP};
use super::vnet::{self, Vnet};
use super::{Ip, Malformed};

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// FIN, SYN, RST, URG, CWR.
const LONELY: u8 = 0x01 | 0x02 | 0x04 | 0x20 | 0x80;

/// A packet's greatest length.
const MOST: usize = 65_535;
/// Datagrams in one UDP packet: what every kernel that can cut them takes.
const MOST_DATAGRAMS: usize = 64;
/// Segments in one TCP packet: its pieces must fit one system call (`IOV_MAX`).
const MOST_SEGMENTS: usize = 512;
/// Flows looked at when a frame comes; of more, the oldest is closed.
const MOST_OPEN: usize = 8;

/// What the kernel takes in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offloads {
    /// Long UDP packets (`TUN_F_USO4`, `TUN_F_USO6`).
    pub udp: bool,
}

/// One packet for TUN: its first frame, and the payloads of the frames joined to it. All are ranges of the arena.
#[derive(Debug, Default)]
pub struct Item {
    /// What stands before it.
    pub vnet: Vnet,
    /// The first frame.
    pub first: Range<usize>,
    /// Further payloads, in order.
    pub rest: Vec<Range<usize>>,
    flow: Option<Flow>,
}

/// A packet to which a frame may be joined.
#[derive(Debug, Clone, Copy)]
struct Flow {
    ip: Ip,
    /// IP and transport header.
    header: usize,
    /// Payload bytes of the first frame: of all but the last.
    size: usize,
    total: usize,
    frames: usize,
    next_seq: u32,
    next_id: u16,
    push: bool,
    /// The first frame's checksums were looked at, and are right.
    verified: bool,
}

/// Joins the frames of one batch. Its memory is used again by the next.
#[derive(Debug, Default)]
pub struct Joiner {
    items: Vec<Item>,
    used: usize,
    open: Vec<usize>,
}

impl Joiner {
    /// Begins a batch.
    pub fn clear(&mut self) {
        for item in &mut self.items[..self.used] {
            item.rest.clear();
        }
        self.used = 0;
        self.open.clear();
    }

    /// Takes the frame at `at` in the arena. `ip` is what [`Ip::read`] said of it.
    pub fn push(&mut self, arena: &[u8], at: Range<usize>, ip: &Ip, offloads: Offloads) {
        let frame = at.start..at.start + ip.total;
        let fresh = Flow::of(&arena[frame.clone()], ip, offloads);
        let Some(mut fresh) = fresh else {
            self.close_same(arena, &frame, ip);
            self.add(frame, None);
            return;
        };
        let same = self.open.iter().position(|&number| {
            let item = &self.items[number];
            item.flow.is_some_and(|flow| flow.is_same(&arena[item.first.clone()], &fresh, &arena[frame.clone()]))
        });
        if let Some(place) = same {
            let number = self.open[place];
            match self.join(arena, number, &fresh, &frame) {
                Joined::Open => return,
                Joined::Last => {
                    self.open.remove(place);
                    return;
                }
                Joined::No { verified } => {
                    self.open.remove(place);
                    fresh.verified = verified;
                }
                Joined::Wrong => {
                    self.open.remove(place);
                    self.add(frame, None);
                    return;
                }
            }
        }
        let last = fresh.push;
        let number = self.add(frame, Some(fresh));
        if !last {
            if self.open.len() == MOST_OPEN {
                self.open.remove(0);
            }
            self.open.push(number);
        }
    }

    /// Ends the batch: writes the headers of what was joined.
    pub fn finish(&mut self, arena: &mut [u8]) {
        for item in &mut self.items[..self.used] {
            item.vnet = match item.flow {
                Some(flow) if !item.rest.is_empty() => flow.seal(&mut arena[item.first.clone()]),
                _ => Vnet::default(),
            };
        }
    }

    /// The packets of the batch, in order.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items[..self.used]
    }

    fn add(&mut self, first: Range<usize>, flow: Option<Flow>) -> usize {
        if self.used == self.items.len() {
            self.items.push(Item::default());
        }
        let item = &mut self.items[self.used];
        (item.first, item.flow) = (first, flow);
        self.used += 1;
        self.used - 1
    }

    /// A frame that joins nothing closes the flow that it belongs to, so that the flow's later frames stay behind it.
    fn close_same(&mut self, arena: &[u8], frame: &Range<usize>, ip: &Ip) {
        let items = &self.items;
        self.open.retain(|&number| {
            let item = &items[number];
            !item.flow.is_some_and(|flow| flow.same_hosts(&arena[item.first.clone()], ip, &arena[frame.clone()]))
        });
    }

    fn join(&mut self, arena: &[u8], number: usize, fresh: &Flow, frame: &Range<usize>) -> Joined {
        let item = &mut self.items[number];
        let Some(flow) = &mut item.flow else { return Joined::No { verified: false } };
        let (first, new) = (&arena[item.first.clone()], &arena[frame.clone()]);
        if !flow.takes(first, fresh, new) {
            return Joined::No { verified: false };
        }
        if !flow.verified {
            if !flow.ip.is_right(first, flow.header) {
                return Joined::No { verified: false };
            }
            flow.verified = true;
        }
        if !fresh.ip.is_right(new, fresh.header) {
            return Joined::Wrong;
        }
        item.rest.push(frame.start + fresh.header..frame.end);
        flow.total += fresh.size;
        flow.frames += 1;
        #[allow(clippy::cast_possible_truncation, reason = "sequence numbers count modulo 2^32")]
        {
            flow.next_seq = flow.next_seq.wrapping_add(fresh.size as u32);
        }
        flow.next_id = flow.next_id.wrapping_add(1);
        flow.push |= fresh.push;
        let most = if flow.ip.protocol == UDP { MOST_DATAGRAMS } else { MOST_SEGMENTS };
        let full = flow.total + flow.size > MOST || flow.frames == most;
        if flow.push || fresh.size < flow.size || full { Joined::Last } else { Joined::Open }
    }
}

/// What came of trying to join a frame to a flow.
enum Joined {
    /// Joined, and more may follow.
    Open,
    /// Joined, and nothing may follow.
    Last,
    /// Not joined: the frame may begin anew.
    No { verified: bool },
    /// Not joined: the frame's checksums are wrong.
    Wrong,
}

impl Flow {
    /// The flow that a frame may begin or go on with; `None` for a frame that stands alone.
    fn of(frame: &[u8], ip: &Ip, offloads: Offloads) -> Option<Self> {
        if ip.fragment || ip.v4 && ip.header != 20 {
            return None;
        }
        let (header, push) = match ip.protocol {
            TCP => {
                let transport = frame.get(ip.header..ip.header + 20)?;
                let length = usize::from(transport[12] >> 4) * 4;
                let flags = transport[13];
                if length < 20 || flags & LONELY != 0 || flags & ACK == 0 {
                    return None;
                }
                (ip.header + length, flags & PSH != 0)
            }
            UDP if offloads.udp => {
                let transport = frame.get(ip.header..ip.header + 8)?;
                let length = usize::from(word(transport, 4));
                if length != ip.total - ip.header || word(transport, 6) == 0 {
                    return None;
                }
                (ip.header + 8, false)
            }
            _ => return None,
        };
        let size = ip.total.checked_sub(header).filter(|size| *size > 0)?;
        let seq = frame.get(ip.header + 4..ip.header + 8)?;
        let seq = u32::from_be_bytes([seq[0], seq[1], seq[2], seq[3]]);
        #[allow(clippy::cast_possible_truncation, reason = "a packet has less than 64 KB")]
        let next_seq = seq.wrapping_add(size as u32);
        let next_id = word(frame, 4).wrapping_add(1);
        Some(Self { ip: *ip, header, size, total: ip.total, frames: 1, next_seq, next_id, push, verified: false })
    }

    /// Both frames have the same addresses, protocol and ports.
    fn is_same(&self, mine: &[u8], other: &Self, frame: &[u8]) -> bool {
        let at = self.ip.header;
        self.same_hosts(mine, &other.ip, frame) && at == other.ip.header && mine[at..at + 4] == frame[at..at + 4]
    }

    /// Both have the same addresses; a frame that is not looked into belongs to every flow of its hosts.
    fn same_hosts(&self, mine: &[u8], ip: &Ip, frame: &[u8]) -> bool {
        self.ip.v4 == ip.v4 && self.ip.protocol == ip.protocol && mine[ip.addresses()] == frame[ip.addresses()]
    }

    /// Whether a frame of this flow follows directly, and differs in nothing that would be lost.
    fn takes(&self, first: &[u8], fresh: &Self, frame: &[u8]) -> bool {
        if fresh.size > self.size || self.total + fresh.size > MOST || self.header != fresh.header {
            return false;
        }
        let ip_same = if self.ip.v4 {
            // Type of service, flags, time to live. The id of what may be fragmented must go on counting.
            let counted = self.ip.dont_fragment || word(frame, 4) == self.next_id;
            first[1] == frame[1] && first[6..9] == frame[6..9] && counted
        } else {
            // Traffic class and flow label, hop limit.
            first[..4] == frame[..4] && first[7] == frame[7]
        };
        let at = self.ip.header;
        if self.ip.protocol == UDP {
            return ip_same;
        }
        // Acknowledgement, header length, flags but PSH, window, options.
        ip_same
            && frame[at + 4..at + 8] == self.next_seq.to_be_bytes()
            && first[at + 8..at + 13] == frame[at + 8..at + 13]
            && (first[at + 13] ^ frame[at + 13]) & !PSH == 0
            && first[at + 14..at + 16] == frame[at + 14..at + 16]
            && first[at + 20..self.header] == frame[at + 20..self.header]
    }

    /// Writes the header of the long packet into the first frame.
    fn seal(&self, first: &mut [u8]) -> Vnet {
        let at = self.ip.header;
        let length = self.total - at;
        if self.ip.v4 {
            put(first, 2, u16::try_from(self.total).unwrap_or(u16::MAX));
            put(first, 10, 0);
            let checksum = !sum(&first[..at]);
            put(first, 10, checksum);
        } else {
            put(first, 4, u16::try_from(length).unwrap_or(u16::MAX));
        }
        let offset = if self.ip.protocol == TCP { 16 } else { 6 };
        if self.ip.protocol == TCP {
            if self.push {
                first[at + 13] |= PSH;
            }
        } else {
            put(first, at + 4, u16::try_from(length).unwrap_or(u16::MAX));
        }
        let partial = pseudo(&first[self.ip.addresses()], self.ip.protocol, length);
        put(first, at + offset, partial);
        let small = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        Vnet {
            flags: vnet::NEEDS_CSUM,
            gso_type: match (self.ip.protocol, self.ip.v4) {
                (UDP, _) => vnet::GSO_UDP_L4,
                (_, true) => vnet::GSO_TCPV4,
                (_, false) => vnet::GSO_TCPV6,
            },
            hdr_len: small(self.header),
            gso_size: small(self.size),
            csum_start: small(at),
            csum_offset: small(offset),
        }
    }
}

impl Ip {
    /// Whether the checksums of a frame's IP and transport headers are right.
    fn is_right(&self, frame: &[u8], header: usize) -> bool {
        if header > frame.len() || self.v4 && sum(&frame[..self.header]) != 0xffff {
            return false;
        }
        let pseudo = pseudo(&frame[self.addresses()], self.protocol, frame.len() - self.header);
        add(pseudo, sum(&frame[self.header..])) == 0xffff
    }
}

/// Reads the frame in a datagram and puts the tunnel's congestion mark on it.
///
/// # Errors
/// Where the datagram holds no packet.
pub fn unwrap(datagram: &mut [u8], outer_tos: u8) -> Result<Option<Ip>, Malformed> {
    let mut ip = Ip::read(datagram)?;
    let Some(bits) = super::ecn::inner(outer_tos, ip.tos) else { return Ok(None) };
    if bits != ip.tos & super::ecn::MASK {
        super::ecn::mark(datagram, &ip, bits);
        ip.tos = ip.tos & !super::ecn::MASK | bits;
    }
    Ok(Some(ip))
}
