//! When the kernel's rules change: nftables tells of each transaction, whoever makes it, iptables over nf_tables among them.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ripstop_lab::space;

/// `NFNLGRP_NFTABLES`, as a bit of the old kind (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES` and `NFT_MSG_NEWGEN`: the end of a transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;

/// Hears of transactions in a namespace.
pub struct Transactions(OwnedFd);

impl Transactions {
    /// Begins to listen.
    pub fn listen(netns: &Path) -> Result<Self> {
        let open = || -> io::Result<Self> {
            // SAFETY: a plain system call without pointers.
            let fd =
                unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_NETFILTER) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is new and nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            // SAFETY: all bytes zero is a valid value of this plain structure.
            let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
            address.nl_family = libc::AF_NETLINK as u16;
            address.nl_groups = GROUP;
            let size: libc::c_int = 64 << 20;
            let length = |size: usize| libc::socklen_t::try_from(size).unwrap_or_default();
            // SAFETY: pointers and lengths are those of variables that live until the calls return.
            let code = unsafe {
                let value = (&raw const size).cast();
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    value,
                    length(size_of_val(&size)),
                );
                libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length(size_of_val(&address)))
            };
            if code == 0 { Ok(Self(fd)) } else { Err(io::Error::last_os_error()) }
        };
        space::in_netns(netns, open)?.context("listen to nftables")
    }

    /// When the next one ended; none where none does in time.
    pub fn next(&self, limit: Duration) -> Option<Instant> {
        let deadline = Instant::now() + limit;
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut wait = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = libc::c_int::try_from(left.as_millis()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the pointer is to one pollfd, as the count says.
            if unsafe { libc::poll(&raw mut wait, 1, millis) } <= 0 {
                return None;
            }
            // SAFETY: pointer and length are the buffer's.
            let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let at = Instant::now();
            if usize::try_from(got).is_ok_and(|got| has_end(&buffer[..got])) {
                return Some(at);
            }
        }
    }

    /// Forgets what came so far.
    pub fn drain(&self) {
        while self.next(Duration::ZERO).is_some() {}
    }
}

/// Whether one of the messages is the end of a transaction.
fn has_end(mut data: &[u8]) -> bool {
    while let Some((length, kind)) = head(data) {
        if kind == NEW_GENERATION {
            return true;
        }
        let next = length.next_multiple_of(4);
        if length < 16 || next >= data.len() {
            return false;
        }
        data = &data[next..];
    }
    false
}

fn head(data: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(data.get(4..6)?.try_into().ok()?);
    Some((usize::try_from(length).ok()?, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_transaction_is_found_behind_other_messages() {
        let message = |kind: u16| [&20_u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 14]].concat();
        assert!(has_end(&[message(10 << 8 | 12), message(NEW_GENERATION)].concat()));
        assert!(!has_end(&message(10 << 8 | 12)));
        assert!(!has_end(&[0; 3]));
    }
}
