//! A synchronous netlink socket.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

use netlink_sys::constants::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket as Raw, SocketAddr};

use crate::error::errno_text;

use super::message::{Attrs, HEADER, Message, Replies, Reply};
use super::uapi::{
    NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, NFNL_SUBSYS_NFTABLES, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED,
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSGERR_ATTR_MSG,
};

/// Bytes one read takes at most: the kernel puts up to 32 KiB of a dump into one buffer.
const READ: usize = 64 * 1024;
/// Bytes that may wait to be read. Thousands of acknowledgements or events of one kernel call must fit.
const RECEIVE_BUFFER: i32 = 8 << 20;
/// Messages and bytes of one `sendmsg`: measured to be past the point where more gains anything.
const CHUNK_MESSAGES: usize = 200;
const CHUNK_BYTES: usize = 128 * 1024;
/// A dump is begun anew so often when the kernel says that what it shows changed meanwhile.
const DUMP_TRIES: usize = 20;
/// Seconds until a silent kernel counts as an error. It answers within the call that asks.
const PATIENCE: libc::time_t = 30;

/// Netlink families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Links, addresses, routes, neighbours, queueing disciplines.
    Route,
    /// nftables.
    Netfilter,
    /// Families with names, IPVS among them.
    Generic,
    /// Sockets.
    SockDiag,
}

/// What the kernel, or the way to it, refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetlinkError {
    /// `errno`, positive.
    pub(crate) errno: i32,
    /// The kernel's own words (extended acknowledgement), where it gives any.
    pub(crate) text: Option<Box<str>>,
}

impl NetlinkError {
    pub(crate) fn from_io(error: &std::io::Error) -> Self {
        Self { errno: error.raw_os_error().unwrap_or(libc::EIO), text: None }
    }

    pub(crate) fn with_text(errno: i32, text: &str) -> Self {
        Self { errno, text: Some(text.into()) }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text} ({})", errno_text(self.errno)),
            None => f.write_str(&errno_text(self.errno)),
        }
    }
}

/// What one message of a batch got.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Done, or why not.
    pub(crate) result: Result<(), NetlinkError>,
    /// What a GET message of the batch asked for.
    pub(crate) replies: Replies,
}

/// A netlink socket of the network namespace in which the thread was when it opened it.
pub(crate) struct Socket {
    raw: Raw,
    port: u32,
    seq: u32,
    buffer: Vec<u8>,
    send: Vec<u8>,
}

/// The multicast groups of a [`Socket`], for another thread than the one that reads it.
pub(crate) struct Membership(Raw);

impl Membership {
    /// As [`Socket::join`].
    pub(crate) fn join(&self, group: u32) -> std::io::Result<()> {
        self.0.add_membership(group)
    }

    /// As [`Socket::leave`].
    pub(crate) fn leave(&self, group: u32) -> std::io::Result<()> {
        self.0.drop_membership(group)
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Membership").field(&self.0.as_raw_fd()).finish()
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.raw`, which the borrow holds.
        unsafe { BorrowedFd::borrow_raw(self.raw.as_raw_fd()) }
    }
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: Protocol) -> std::io::Result<Self> {
        let mut raw = Raw::new(match protocol {
            Protocol::Route => NETLINK_ROUTE,
            Protocol::Netfilter => NETLINK_NETFILTER,
            Protocol::Generic => NETLINK_GENERIC,
            Protocol::SockDiag => NETLINK_SOCK_DIAG,
        })?;
        raw.bind(&SocketAddr::new(0, 0))?;
        let mut address = SocketAddr::new(0, 0);
        raw.get_address(&mut address)?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        if protocol == Protocol::Route {
            raw.set_netlink_get_strict_chk(true)?;
        }
        let socket = Self { raw, port: address.port_number(), seq: 0, buffer: vec![0; READ], send: Vec::new() };
        set_option(socket.as_fd(), libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER)
            .or_else(|_| set_option(socket.as_fd(), libc::SO_RCVBUF, &RECEIVE_BUFFER))?;
        let patience = libc::timeval { tv_sec: PATIENCE, tv_usec: 0 };
        set_option(socket.as_fd(), libc::SO_RCVTIMEO, &patience)?;
        Ok(socket)
    }

    /// The port id, by which the kernel names this socket as the cause of an event.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Receives the events of a multicast group from now on.
    pub(crate) fn join(&self, group: u32) -> std::io::Result<()> {
        self.raw.add_membership(group)
    }

    /// Ends [`Self::join`].
    pub(crate) fn leave(&self, group: u32) -> std::io::Result<()> {
        self.raw.drop_membership(group)
    }

    /// What is needed to join and leave groups while another thread reads.
    pub(crate) fn membership(&self) -> std::io::Result<Membership> {
        let fd = self.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is a netlink socket's, and nobody else's.
        Ok(Membership(unsafe { Raw::from_raw_fd(fd.into_raw_fd()) }))
    }

    /// Sends one message and waits until it is done.
    pub(crate) fn call(&mut self, message: Message) -> Result<Replies, NetlinkError> {
        let answer = self.batch(vec![message]).pop();
        let answer = answer.ok_or_else(|| NetlinkError::with_text(libc::EIO, "no answer to an empty batch"))?;
        answer.result.map(|()| answer.replies)
    }

    /// Sends messages, many in one system call, and waits until all are done. A message that fails does not keep
    /// those behind it from being tried.
    pub(crate) fn batch(&mut self, messages: Vec<Message>) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(messages.len());
        let mut chunk = Vec::new();
        let mut bytes = 0;
        for message in messages {
            if chunk.len() == CHUNK_MESSAGES || (bytes + message.bytes.len() > CHUNK_BYTES && !chunk.is_empty()) {
                answers.extend(self.chunk(std::mem::take(&mut chunk)));
                bytes = 0;
            }
            bytes += message.bytes.len();
            chunk.push(message);
        }
        if !chunk.is_empty() {
            answers.extend(self.chunk(chunk));
        }
        answers
    }

    /// Only the last message asks for an acknowledgement: the kernel handles them in order and reports every failure
    /// anyway, so silence about one whose successor was answered means that it was done.
    fn chunk(&mut self, messages: Vec<Message>) -> Vec<Answer> {
        let count = messages.len();
        let first = self.seq.wrapping_add(1);
        self.send.clear();
        for (i, mut message) in messages.into_iter().enumerate() {
            self.seq = self.seq.wrapping_add(1);
            message.seal(self.seq, if i + 1 == count { NLM_F_ACK } else { 0 });
            self.send.extend_from_slice(&message.bytes);
        }
        let mut answers: Vec<Answer> =
            std::iter::repeat_with(|| Answer { result: Ok(()), replies: Replies::default() }).take(count).collect();
        let sent = send_all(&self.raw, &self.send);
        let outcome = sent.map_err(|e| NetlinkError::from_io(&e)).and_then(|()| self.collect(first, &mut answers));
        if let Err(error) = outcome {
            for answer in answers.iter_mut().filter(|a| a.result.is_ok()) {
                answer.result = Err(error.clone());
            }
        }
        answers
    }

    /// Reads until the last message of a chunk is answered.
    fn collect(&mut self, first: u32, answers: &mut [Answer]) -> Result<(), NetlinkError> {
        let last = answers.len() - 1;
        loop {
            let len = self.read(0)?;
            let mut done = false;
            for (seq, reply) in each_message(&self.buffer[..len]) {
                let index = seq.wrapping_sub(first) as usize;
                let Some(answer) = answers.get_mut(index) else { continue };
                match reply.kind {
                    NLMSG_ERROR => {
                        if let Err(error) = parse_ack(reply) {
                            answer.result = Err(error);
                        }
                        done |= index == last;
                    }
                    NLMSG_DONE => {}
                    _ => answer.replies.push(reply),
                }
            }
            if done {
                return Ok(());
            }
        }
    }

    /// Asks for everything of a kind. Begins anew when the kernel says that it changed while it was shown.
    pub(crate) fn dump(&mut self, message: &Message) -> Result<Replies, NetlinkError> {
        let mut replies = Replies::default();
        for _ in 0..DUMP_TRIES {
            replies.clear();
            if self.dump_once(message.clone(), &mut replies)? {
                return Ok(replies);
            }
        }
        Err(NetlinkError::with_text(libc::EINTR, "what was asked for kept changing while it was shown"))
    }

    /// Whether the dump was whole.
    fn dump_once(&mut self, mut message: Message, replies: &mut Replies) -> Result<bool, NetlinkError> {
        self.seq = self.seq.wrapping_add(1);
        message.seal(self.seq, NLM_F_DUMP);
        send_all(&self.raw, &message.bytes).map_err(|e| NetlinkError::from_io(&e))?;
        let mut whole = true;
        loop {
            let len = match self.read(0) {
                Ok(len) => len,
                // A part was lost; the rest still comes and ends with DONE.
                Err(error) if error.errno == libc::ENOBUFS => {
                    whole = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (seq, reply) in each_message(&self.buffer[..len]) {
                if seq != self.seq {
                    continue;
                }
                whole &= reply.flags & NLM_F_DUMP_INTR == 0;
                match reply.kind {
                    NLMSG_ERROR => return parse_ack(reply).map(|()| whole),
                    NLMSG_DONE => {
                        let code = reply.body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code < 0 {
                            return Err(NetlinkError { errno: code.saturating_neg(), text: ext_ack(&reply.body[4..]) });
                        }
                        return Ok(whole);
                    }
                    _ => replies.push(reply),
                }
            }
        }
    }

    /// Asks for everything of a kind by a request made elsewhere, and gives the answer as it came, headers included.
    pub(crate) fn dump_bytes(&mut self, request: impl Fn(u32) -> Vec<u8>) -> Result<Vec<u8>, NetlinkError> {
        let mut replies = Replies::default();
        for _ in 0..DUMP_TRIES {
            replies.clear();
            let message = Message { bytes: request(self.seq.wrapping_add(1)) };
            if self.dump_once(message, &mut replies)? {
                let mut bytes = Vec::new();
                for reply in replies.iter() {
                    let len = u32::try_from(HEADER + reply.body.len()).unwrap_or(u32::MAX);
                    bytes.extend_from_slice(&len.to_ne_bytes());
                    bytes.extend_from_slice(&reply.kind.to_ne_bytes());
                    bytes.extend_from_slice(&reply.flags.to_ne_bytes());
                    bytes.extend_from_slice(&self.seq.to_ne_bytes());
                    bytes.extend_from_slice(&reply.port.to_ne_bytes());
                    bytes.extend_from_slice(reply.body);
                    bytes.resize(bytes.len().next_multiple_of(4), 0);
                }
                return Ok(bytes);
            }
        }
        Err(NetlinkError::with_text(libc::EINTR, "what was asked for kept changing while it was shown"))
    }

    /// The sequence number the next message may have.
    pub(crate) fn next_seq(&self) -> u32 {
        self.seq.wrapping_add(1)
    }

    /// The last sequence number used by messages made elsewhere.
    pub(crate) fn set_seq(&mut self, seq: u32) {
        self.seq = seq;
    }

    /// Sends bytes that already are whole messages (an nftables batch) as one piece, and hands over what the kernel
    /// answers. It has handled all of it when this returns.
    pub(crate) fn transact(&mut self, bytes: &[u8], mut take: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
        let room = i32::try_from(bytes.len().saturating_mul(2).max(1 << 20)).unwrap_or(i32::MAX);
        set_option(self.as_fd(), libc::SO_SNDBUFFORCE, &room)
            .or_else(|_| set_option(self.as_fd(), libc::SO_SNDBUF, &room))
            .map_err(|e| NetlinkError::from_io(&e))?;
        send_all(&self.raw, bytes).map_err(|e| NetlinkError::from_io(&e))?;
        let mut answered = false;
        loop {
            match self.read(libc::MSG_DONTWAIT) {
                Ok(len) => take(&self.buffer[..len]),
                Err(error) if error.errno == libc::EAGAIN && answered => return Ok(()),
                Err(error) if error.errno == libc::EAGAIN => {
                    return Err(NetlinkError::with_text(libc::EIO, "the kernel gives no answer to a batch"));
                }
                Err(error) => return Err(error),
            }
            answered = true;
        }
    }

    /// Sends nftables messages as one transaction: all of them are done or none.
    pub(crate) fn transact_all(&mut self, messages: Vec<Message>) -> Result<(), NetlinkError> {
        // The batch is of the subsystem named in the header's last field.
        let frame = |kind| {
            let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
            Message::new(kind, 0, &[0, 0, high, low])
        };
        let mut bytes = Vec::new();
        let last = messages.len() + 1;
        let inner = messages.into_iter();
        for (n, mut message) in
            [frame(NFNL_MSG_BATCH_BEGIN)].into_iter().chain(inner).chain([frame(NFNL_MSG_BATCH_END)]).enumerate()
        {
            self.seq = self.seq.wrapping_add(1);
            message.seal(self.seq, if n == 0 || n == last { 0 } else { NLM_F_ACK });
            bytes.extend_from_slice(&message.bytes);
        }
        let mut result = Ok(());
        self.transact(&bytes, |answer| {
            for (_, reply) in each_message(answer) {
                if reply.kind == NLMSG_ERROR && result.is_ok() {
                    result = parse_ack(reply);
                }
            }
        })?;
        result
    }

    /// Reads one buffer of events without waiting; `None` when there is none.
    pub(crate) fn events(&mut self) -> Result<Option<&[u8]>, NetlinkError> {
        match self.read(libc::MSG_DONTWAIT) {
            Ok(len) => Ok(Some(&self.buffer[..len])),
            Err(error) if error.errno == libc::EAGAIN => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&mut self, flags: i32) -> Result<usize, NetlinkError> {
        loop {
            match self.raw.recv(&mut &mut self.buffer[..], flags | libc::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => {
                    return Err(NetlinkError::with_text(libc::EMSGSIZE, "a message of the kernel is over 64 KiB"));
                }
                Ok(len) => return Ok(len),
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) => return Err(NetlinkError::from_io(&error)),
            }
        }
    }
}

/// Every whole message in a buffer, with its sequence number.
pub(crate) fn each_message(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Reply<'_>)> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER>()?;
        let u32_at = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let len = u32_at(0) as usize;
        let body = bytes.get(HEADER..len)?;
        let reply = Reply {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            port: u32_at(12),
            body,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u32_at(8), reply))
    })
}

/// `struct nlmsgerr`: a negative errno or zero, the header of the request, then the kernel's words.
pub(crate) fn parse_ack(reply: Reply<'_>) -> Result<(), NetlinkError> {
    let code = reply.body.first_chunk().map_or(-libc::EIO, |b| i32::from_ne_bytes(*b));
    if code == 0 {
        return Ok(());
    }
    let echoed = reply
        .body
        .get(4..8)
        .and_then(|b| b.first_chunk().copied())
        .map_or(HEADER, |b| if reply.flags & NLM_F_CAPPED != 0 { HEADER } else { u32::from_ne_bytes(b) as usize });
    let text = if reply.flags & NLM_F_ACK_TLVS == 0 {
        None
    } else {
        reply.body.get(4 + echoed.next_multiple_of(4)..).and_then(ext_ack)
    };
    Err(NetlinkError { errno: code.saturating_neg(), text })
}

fn ext_ack(bytes: &[u8]) -> Option<Box<str>> {
    Attrs(bytes).str(NLMSGERR_ATTR_MSG).map(Into::into)
}

fn send_all(raw: &Raw, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        match raw.send(bytes, 0) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// `setsockopt` at the level of sockets.
pub(crate) fn set_option<T>(fd: BorrowedFd<'_>, option: i32, value: &T) -> std::io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let code =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, std::ptr::from_ref(value).cast(), len) };
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Lets no event through that was caused by one of these sockets, by a filter in the kernel (socket(7),
/// `SO_ATTACH_FILTER`): thousands of own writes then take no room in the queue.
pub(crate) fn drop_events_of(fd: BorrowedFd<'_>, ports: &[u32]) -> std::io::Result<()> {
    // Classic BPF (linux/bpf_common.h): load the word at an offset, jump if equal, return.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const PORT_OFFSET: u32 = 12;
    let op = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = vec![op(LOAD_WORD, 0, 0, PORT_OFFSET)];
    for (i, port) in ports.iter().enumerate() {
        // To the last instruction, over the comparisons that follow and the one that lets pass.
        let Ok(distance) = u8::try_from(ports.len() - i) else { continue };
        // The filter reads in network order, the field is in host order.
        program.push(op(JUMP_IF_EQUAL, distance, 0, u32::from_be_bytes(port.to_ne_bytes())));
    }
    program.push(op(RETURN, 0, 0, u32::MAX));
    program.push(op(RETURN, 0, 0, 0));
    let len = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    set_option(fd, libc::SO_ATTACH_FILTER, &program)
}

#[cfg(test)]
mod tests {
    use super::super::uapi::{RTM_GETLINK, RTM_GETROUTE};
    use super::*;

    #[test]
    fn loopback_is_in_every_dump_and_an_unknown_link_is_an_error_with_words() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let links = socket.dump(&Message::new(RTM_GETLINK, 0, &[0; 16])).unwrap();
        assert!(links.iter().any(|l| l.split::<16>().unwrap().1.str(3) == Some("lo")));
        let fault = socket.call(Message::new(RTM_GETLINK, 0, &[0; 16]).str(3, "rip-no-such")).unwrap_err();
        assert_eq!(fault.errno, libc::ENODEV);
        assert_eq!(errno_text(libc::ENODEV), "No such device");
    }

    #[test]
    fn each_message_of_a_batch_gets_its_own_answer() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let get = |name: &str| Message::new(RTM_GETLINK, 0, &[0; 16]).str(3, name);
        let answers = socket.batch(vec![get("lo"), get("rip-no-such"), get("lo")]);
        assert!(answers[0].result.is_ok() && answers[0].replies.first().is_some());
        assert_eq!(answers[1].result.as_ref().unwrap_err().errno, libc::ENODEV);
        assert!(answers[2].result.is_ok() && answers[2].replies.first().is_some());
        let many = socket.batch((0..1000).map(|_| get("lo")).collect());
        assert!(many.iter().all(|a| a.replies.first().is_some()));
    }

    #[test]
    fn strict_checking_gives_the_kernels_words() {
        let mut socket = Socket::open(Protocol::Route).unwrap();
        let mut header = [0; 12];
        header[1] = 3; // a destination length in a dump request is refused
        let fault = socket.dump(&Message::new(RTM_GETROUTE, 0, &header)).unwrap_err();
        assert_eq!(fault.errno, libc::EINVAL);
        assert!(fault.text.is_some(), "{fault:?}");
    }
}
