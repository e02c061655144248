//! Whether a device leaves checksums of what it sends to what is below it (`SIOCETHTOOL`, linux/ethtool.h), in the calling
//! thread's namespace.

use std::io;
use std::os::fd::AsRawFd;

use ripstop_types::IfName;
use rustix::net::{AddressFamily, SocketType};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether it does.
pub(crate) fn tx_checksum(link: &IfName) -> io::Result<bool> {
    ask(link, ETHTOOL_GTXCSUM, 0).map(|value| value != 0)
}

/// Lets it, or has checksums complete before a packet reaches it.
pub(crate) fn set_tx_checksum(link: &IfName, on: bool) -> io::Result<()> {
    ask(link, ETHTOOL_STXCSUM, u32::from(on)).map(drop)
}

fn ask(link: &IfName, command: u32, data: u32) -> io::Result<u32> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut value = Value { command, data };
    // SAFETY: all zeros is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The rest stays zero: a name has at most 15 bytes.
    for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(link.as_str().bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request names a device and points to a value of the command's type, which lives until the call is over.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if answer == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}
