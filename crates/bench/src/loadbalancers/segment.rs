//! What a machine on a segment sees of an address: it asks for it all the time, and every frame that tells who has it counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ripstop_election::neighbour;
use ripstop_lab::capture::Packet;
use ripstop_lab::space;
use ripstop_speaker::l2::{FrameSocket, Frames};
use ripstop_types::Mac;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

/// Between two questions about an address.
const PAUSE: Duration = Duration::from_millis(5);
/// Owners that change so soon after each other are two at the same time: with one alone, a change is one.
const TOGETHER: u64 = 50_000_000;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    pub mac: Mac,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// Questions under way. They end with this value.
pub struct Asking {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
    /// Asks for addresses from a namespace, by its `eth0`.
    pub fn start(netns: &Path, who: Asker, addresses: &[IpAddr]) -> Result<Self> {
        let sender = space::in_netns(netns, || -> Result<FrameSocket> {
            let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            Ok(FrameSocket::open(name_to_index(&any, "eth0")?, Frames::Arp)?)
        })??;
        let questions: Vec<Vec<u8>> = addresses.iter().map(|address| who.question(*address)).collect();
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        let ask = move || {
            while !over.load(Ordering::Relaxed) {
                for question in &questions {
                    // One that is lost comes again at once.
                    let _ = sender.send(question);
                }
                thread::sleep(PAUSE);
            }
        };
        let thread = thread::Builder::new().name("asks".into()).spawn(ask).context("start a thread")?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Asker {
    /// A broadcast that asks who has an address, as a machine with an address asks.
    fn question(&self, address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(ip) => {
                let head = [&[0xff; 6][..], &self.mac.0, &[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
                let body = [&self.mac.0[..], &self.v4.octets(), &[0; 6], &ip.octets()].concat();
                [head, body, vec![0; 18]].concat()
            }
            IpAddr::V6(ip) => self.solicitation(ip),
        }
    }

    /// RFC 4861, section 4.3.
    fn solicitation(&self, ip: Ipv6Addr) -> Vec<u8> {
        let [.., a, b, c] = ip.octets();
        let to = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
        let message = |sum: u16| {
            let head = [&[135, 0][..], &sum.to_be_bytes(), &[0; 4]].concat();
            [&head[..], &ip.octets(), &[1, 1], &self.mac.0].concat()
        };
        let pseudo = [&self.v6.octets()[..], &to.octets(), &[0, 0, 0, 32, 0, 0, 0, 58], &message(0)].concat();
        let ethernet = [&[0x33, 0x33, 0xff, a, b, c][..], &self.mac.0, &[0x86, 0xdd]].concat();
        let header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &self.v6.octets(), &to.octets()].concat();
        [ethernet, header, message(checksum(&pseudo))].concat()
    }
}

/// The Internet's checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// Who was told to have an address, and when: nanoseconds since 1970.
#[derive(Debug, Clone)]
pub struct Told(Vec<(u64, Mac)>);

impl Told {
    /// Of an address, in frames from a moment on.
    pub fn of(address: IpAddr, since: u64, packets: &[Packet]) -> Self {
        let said = packets.iter().filter(|packet| packet.at >= since).filter_map(|packet| {
            let (of, mac) = neighbour::read(&packet.data)?.holds?;
            (of == address).then_some((packet.at, mac))
        });
        Self(said.collect())
    }

    /// When another than this one was told first.
    pub fn other_than(&self, mac: Mac) -> Option<u64> {
        self.0.iter().find(|(_, told)| *told != mac).map(|(at, _)| *at)
    }

    /// The longest time in which two were told by turns, in nanoseconds.
    pub fn two_owners(&self) -> u64 {
        let changes = self.0.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| pair[1].0);
        let (mut longest, mut first, mut last) = (0, None, 0);
        for at in changes {
            let began = first.filter(|_| at - last < TOGETHER).unwrap_or(at);
            (first, last) = (Some(began), at);
            longest = longest.max(at - began);
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: Asker = Asker {
        mac: Mac([2, 0, 0, 0, 0, 9]),
        v4: Ipv4Addr::new(172, 30, 1, 2),
        v6: Ipv6Addr::new(0xfd00, 0x30, 1, 0, 0, 0, 0, 2),
    };

    #[test]
    fn questions_are_as_the_standards_want_them() {
        for (address, own) in [("172.30.1.200", IpAddr::V4(ASKER.v4)), ("fd00:30:1::200", ASKER.v6.into())] {
            let address = address.parse().unwrap();
            let heard = neighbour::read(&ASKER.question(address)).unwrap();
            let asks = heard.asks.unwrap();
            assert_eq!((asks.address, asks.mac, asks.from), (address, ASKER.mac, Some(own)));
        }
    }

    #[test]
    fn a_change_is_no_time_with_two_owners_and_turns_are() {
        let [a, b] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
        let ms = 1_000_000;
        let change = Told(vec![(0, a), (5 * ms, a), (90 * ms, b), (95 * ms, b), (900 * ms, a)]);
        assert_eq!((change.two_owners(), change.other_than(a)), (0, Some(90 * ms)));
        let turns =
            Told(vec![(0, a), (5 * ms, b), (10 * ms, a), (15 * ms, b), (50 * ms, a), (55 * ms, b), (200 * ms, a)]);
        assert_eq!(turns.two_owners(), 50 * ms);
        assert_eq!(change.other_than(Mac([2, 0, 0, 0, 0, 3])), Some(0));
    }
}
