//! System calls that no library gives in a safe form: the only unsafe code of this crate.
//!
//! Callers say where bytes lie by ranges of slices, which are checked here; no pointer leaves this module.

pub mod signal;
pub mod tun;
pub mod udp;

use std::io;

/// The error of the last call if it failed.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same of a call that answers a length.
fn check_length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Bytes of one of several buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which buffer.
    pub buffer: usize,
    /// Where it begins in that buffer.
    pub start: usize,
    /// How long it is.
    pub length: usize,
}

impl Piece {
    /// The bytes; nothing where the range is outside.
    #[must_use]
    pub fn of<'a>(&self, buffers: &[&'a [u8]]) -> &'a [u8] {
        buffers.get(self.buffer).and_then(|bytes| bytes.get(self.start..self.start + self.length)).unwrap_or_default()
    }

    fn iovec(&self, buffers: &[&[u8]]) -> libc::iovec {
        let bytes = self.of(buffers);
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
    }
}
