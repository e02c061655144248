//! Whom peers without an address are: who tells on their link that it is a router, and whoever connects from there.
//!
//! Not here: what is told and when ([`ripstop_bgp::discovery`]), and whether a session follows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ripstop_bgp::discovery::{Link, Message, Send};
use ripstop_types::{IfName, Millis};

use super::thread::PeerId;
use crate::sockets::{Origin, RouterSocket};
use crate::tcp;

/// Messages taken before others have their turn.
const TURN: usize = 64;

/// How long after it the socket is opened again that could not be.
const AGAIN: u64 = 5_000;

/// Links of peers without an address.
#[derive(Debug, Default)]
pub struct Neighbours {
    socket: Option<RouterSocket>,
    fault: Option<String>,
    again: Option<Millis>,
    watched: BTreeMap<PeerId, Watched>,
}

#[derive(Debug)]
struct Watched {
    name: IfName,
    /// As long as the link is there.
    index: Option<u32>,
    link: Link,
}

impl Neighbours {
    /// Looks at these links and no others. True if the socket is a new one.
    pub fn set_up(&mut self, now: Millis, wanted: &BTreeMap<PeerId, IfName>) -> bool {
        let is_wanted = |id: &PeerId, one: &Watched| wanted.get(id) == Some(&one.name);
        for (_, gone) in self.watched.extract_if(.., |id, one| !is_wanted(id, one)) {
            leave(self.socket.as_ref(), gone.index);
        }
        for (id, name) in wanted {
            let new = || Watched { name: name.clone(), index: None, link: Link::new(now) };
            self.watched.entry(*id).or_insert_with(new);
        }
        if self.watched.is_empty() {
            (self.socket, self.fault, self.again) = (None, None, None);
            return false;
        }
        self.open(now)
    }

    /// Opens the socket if it is not open and should be. True if it is a new one.
    pub fn open(&mut self, now: Millis) -> bool {
        if self.socket.is_some() || self.watched.is_empty() || self.again.is_some_and(|at| at > now) {
            return false;
        }
        match RouterSocket::open() {
            Ok(socket) => (self.socket, self.fault, self.again) = (Some(socket), None, None),
            Err(error) => {
                self.fault = Some(format!("neighbours on links are not found: {error}"));
                self.again = Some(now.plus(AGAIN));
            }
        }
        self.socket.is_some()
    }

    /// The socket.
    pub fn socket(&self) -> Option<&RouterSocket> {
        self.socket.as_ref()
    }

    /// What cannot be done.
    pub fn fault(&self) -> Option<&String> {
        self.fault.as_ref()
    }

    /// When [`Self::tick`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        if self.socket.is_none() {
            return self.again;
        }
        self.watched.values().map(|one| one.link.deadline()).min()
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Millis) {
        let Some(socket) = &self.socket else { return };
        for one in self.watched.values_mut().filter(|one| one.link.deadline() <= now) {
            one.find(socket, now);
            for what in one.link.tick(now) {
                send(socket, one.index, what);
            }
        }
    }

    /// Takes in what has come.
    pub fn hear(&mut self, now: Millis) {
        let Some(socket) = &self.socket else { return };
        let mut bytes = [0; 2_048];
        for _ in 0..TURN {
            let Some((length, origin)) = socket.take(&mut bytes) else { return };
            let Some(Origin { arrival }) = origin else { continue };
            let IpAddr::V6(source) = arrival.source else { continue };
            let message = Message::read(bytes.get(..length).unwrap_or_default(), source, arrival.ttl);
            let of = self.watched.values_mut().find(|one| one.index == Some(arrival.interface));
            let (Ok(message), Some(one)) = (message, of) else { continue };
            if let Some(answer) = one.link.received(now, source, message) {
                send(socket, one.index, answer);
            }
        }
    }

    /// Who connects from a link is there as well: the peer whose link it is, if somebody else is not spoken with.
    pub fn of_link(&self, index: u32) -> Option<PeerId> {
        self.watched.iter().find(|(_, one)| one.index == Some(index)).map(|(id, _)| *id)
    }

    /// Somebody on a peer's link has shown to be there.
    pub fn met(&mut self, now: Millis, id: PeerId, address: Ipv6Addr) {
        if let Some(one) = self.watched.get_mut(&id) {
            one.link.met(now, address);
        }
    }

    /// Of each peer's link who was heard last.
    pub fn latest(&self) -> impl Iterator<Item = (PeerId, Ipv6Addr)> + '_ {
        self.watched.iter().filter_map(|(id, one)| Some((*id, one.link.latest()?)))
    }

    /// Who else than that one was heard lately.
    pub fn others(&self, now: Millis, id: PeerId, than: Ipv6Addr) -> Vec<Ipv6Addr> {
        self.watched.get(&id).map(|one| one.link.others(now, than).collect()).unwrap_or_default()
    }
}

impl Watched {
    /// Sees to it that the link is the one that has the name now.
    fn find(&mut self, socket: &RouterSocket, now: Millis) {
        let index = tcp::index(&self.name).ok();
        if index == self.index {
            return;
        }
        leave(Some(socket), self.index);
        // What cannot be joined is heard as far as others have joined it.
        index.iter().for_each(|index| drop(socket.listen(*index, true)));
        (self.index, self.link) = (index, Link::new(now));
    }
}

/// The kernel has left groups of a link that is gone.
fn leave(socket: Option<&RouterSocket>, index: Option<u32>) {
    if let (Some(socket), Some(index)) = (socket, index) {
        let _ = socket.listen(index, false);
    }
}

/// What cannot be sent, as on a link without an address yet, is sent again in time.
fn send(socket: &RouterSocket, index: Option<u32>, (message, to): Send) {
    if let Some(index) = index {
        let _ = socket.send(to.unwrap_or(message.group()), index, &message.bytes());
    }
}
