//! A network namespace of one thread, and a netlink socket in it.

use std::process::Command;

use ripstop_nft::decode::{Answers, Message, Observation, ObservedTable, messages};
use ripstop_nft::encode::{self, Batch, Failure};
use ripstop_nft::model::{Name, TableFamily};

/// Runs a test in a network namespace of its own, which goes with the thread. Skips where that is not permitted.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: no pointers; only this thread is moved.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("SKIPPED: unshare(CLONE_NEWNET): {}", std::io::Error::last_os_error());
            return;
        }
        if !std::path::Path::new("/usr/sbin/nft").exists() {
            eprintln!("SKIPPED: /usr/sbin/nft is not installed");
            return;
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the thread's namespace and gives what it printed.
pub fn run(command: &str, args: &[&str]) -> String {
    let out = Command::new(command).args(args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command} {args:?}: {stderr}{stdout}");
    stdout.into_owned()
}

/// `nft -s list table`
pub fn listed(family: &str, table: &str) -> String {
    run("nft", &["-s", "list", "table", family, table])
}

/// A `NETLINK_NETFILTER` socket.
pub struct Socket {
    fd: std::os::fd::OwnedFd,
    seq: u32,
}

impl Socket {
    pub fn open() -> Self {
        use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
        // SAFETY: no pointers; the descriptor is owned from here on.
        let fd =
            unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just opened, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zero is an address, and the family is set next.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK.try_into().unwrap();
        let size = u32::try_from(size_of_val(&address)).unwrap();
        // An unbound socket hears no notifications. SAFETY: the pointer is to a live address of the size given.
        let rc = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), size) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
        let socket = Self { fd, seq: 1 };
        socket.option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64i32 << 20);
        socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8i32 << 20);
        let patience = libc::timeval { tv_sec: 20, tv_usec: 0 };
        socket.option(libc::SOL_SOCKET, libc::SO_RCVTIMEO, patience);
        socket.option(libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1i32);
        socket.option(libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1i32);
        socket
    }

    pub fn join(&self, group: i32) {
        self.option(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group);
    }

    fn option<T>(&self, level: i32, name: i32, value: T) {
        use std::os::fd::AsRawFd;
        let size = u32::try_from(size_of::<T>()).unwrap();
        // SAFETY: the pointer is to a live value of the size given.
        let rc = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), size) };
        assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    }

    pub fn send(&self, bytes: &[u8]) {
        use std::os::fd::AsRawFd;
        // SAFETY: pointer and length are those of a live slice.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        assert_eq!(usize::try_from(sent).ok(), Some(bytes.len()), "{}", std::io::Error::last_os_error());
    }

    pub fn receive(&self) -> Vec<u8> {
        use std::os::fd::AsRawFd;
        let mut buffer = vec![0u8; 256 * 1024];
        // SAFETY: pointer and length are those of a live buffer.
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        buffer.truncate(usize::try_from(got).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error())));
        buffer
    }

    /// Sends a batch and reads its answers.
    pub fn apply(&mut self, batch: Batch) -> Result<(), Failure> {
        let encoded = batch.finish(self.seq);
        self.seq = encoded.next_seq();
        self.send(&encoded.bytes);
        let mut answers = Answers::to(&encoded);
        while !answers.take(&self.receive()).unwrap() {}
        answers.result(&encoded)
    }

    fn take_seq(&mut self) -> u32 {
        self.seq += 1;
        self.seq
    }

    /// Sends a request that dumps and reads all of the answer.
    pub fn dump(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> Vec<Message> {
        let seq = self.take_seq();
        self.send(&request(seq));
        let mut out = Vec::new();
        loop {
            for one in messages(&self.receive()).unwrap().into_iter().filter(|one| one.seq == seq) {
                assert!(!one.interrupted);
                match one.message {
                    Message::Done => return out,
                    Message::Refused(refusal) => panic!("{refusal:?}"),
                    message => out.push(message),
                }
            }
        }
    }

    /// As [`Socket::dump`], each message as it came.
    pub fn dump_raw(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> Vec<Vec<u8>> {
        let seq = self.take_seq();
        self.send(&request(seq));
        let mut out = Vec::new();
        loop {
            let bytes = self.receive();
            let mut rest = &bytes[..];
            while rest.len() >= 16 {
                let length = usize::try_from(u32::from_ne_bytes(rest[..4].try_into().unwrap())).unwrap();
                let (one, tail) = rest.split_at(length.next_multiple_of(4).min(rest.len()));
                if u16::from_ne_bytes(one[4..6].try_into().unwrap()) == 3 {
                    return out;
                }
                out.push(one.to_vec());
                rest = tail;
            }
        }
    }

    /// Adds a copy of a dumped rule, userdata and all, in front of its chain, and deletes the original.
    pub fn move_rule_to_front(&mut self, dumped: &[u8]) {
        let attrs = attributes(&dumped[20..]);
        let of = |kinds: &[u16]| -> Vec<u8> {
            attrs.iter().filter(|(kind, _)| kinds.contains(kind)).flat_map(|(_, bytes)| bytes.clone()).collect()
        };
        let seq = self.take_seq();
        let mut batch = Vec::new();
        let mut push = |kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]| {
            batch.extend(u32::try_from(20 + body.len()).unwrap().to_ne_bytes());
            batch.extend(kind.to_ne_bytes());
            batch.extend((1 | flags).to_ne_bytes());
            batch.extend(seq.to_ne_bytes());
            batch.extend([0, 0, 0, 0, family, 0]);
            batch.extend(resource.to_be_bytes());
            batch.extend(body);
        };
        push(16, 0, 0, 10, &[]);
        // NEWRULE without APPEND puts in front: table, chain, expressions, userdata. DELRULE: table, chain, handle.
        push(10 << 8 | 6, 0x400, dumped[16], 0, &of(&[1, 2, 4, 7]));
        push(10 << 8 | 8, 4, dumped[16], 0, &of(&[1, 2, 3]));
        push(17, 0, 0, 10, &[]);
        self.send(&batch);
        let answers = messages(&self.receive()).unwrap();
        assert!(answers.iter().all(|one| one.message == Message::Ack), "{answers:?}");
    }

    pub fn generation(&mut self) -> u32 {
        let seq = self.take_seq();
        self.send(&encode::get_generation(seq));
        match &messages(&self.receive()).unwrap()[..] {
            [one] => match &one.message {
                Message::Generation(generation) => generation.id,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    /// Dumps everything about a table; `None` if it is not there.
    pub fn observe(&mut self, family: TableFamily, name: &Name) -> Option<ObservedTable> {
        let mut seen = Observation::new();
        let mut messages = self.dump(encode::dump_tables);
        messages.extend(self.dump(|seq| encode::dump_chains(seq, family)));
        if messages.iter().any(|m| matches!(m, Message::Table(t) if t.name == name.as_str() && t.family == family)) {
            messages.extend(self.dump(|seq| encode::dump_rules(seq, family, Some(name))));
            messages.extend(self.dump(|seq| encode::dump_sets(seq, family, Some(name))));
        }
        messages.into_iter().for_each(|message| seen.take(message));
        for set in [seen.sets(family, name), seen.filled_sets(family, name)].concat() {
            let elements = self.dump(|seq| encode::dump_elements(seq, family, name, &set));
            elements.into_iter().for_each(|message| seen.take(message));
        }
        seen.tables().into_iter().find(|table| table.family == family && table.name == *name)
    }
}

/// The attributes one after another: number without flags, and all bytes with header and padding.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    while bytes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes(bytes[..2].try_into().unwrap())).next_multiple_of(4);
        let (one, rest) = bytes.split_at(length.min(bytes.len()));
        out.push((u16::from_ne_bytes(one[2..4].try_into().unwrap()) & 0x3fff, one.to_vec()));
        bytes = rest;
    }
    out
}
