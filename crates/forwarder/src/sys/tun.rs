//! TUN devices (`linux/if_tun.h`): queues of IP packets, each behind a [`Vnet`] header.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ripstop_types::IfName;
use rustix::fs::{Mode, OFlags, open};

use super::{Piece, check, check_length};
use crate::frame::vnet;

const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

/// A new device and no other (`linux/if_tun.h`).
const EXCLUSIVE: libc::c_int = 0x8000;

/// Opens one more queue of a device. It is non-blocking.
///
/// # Errors
/// ENODEV where there is no such device, or it has not several queues; as `TUNSETIFF` otherwise.
pub fn queue(device: &IfName) -> io::Result<OwnedFd> {
    // TUNSETIFF would make a device that is not there.
    if rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?,
        device.as_str(),
    )
    .is_err()
    {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    attach(device, FLAGS)
}

/// A device that was just made. It goes when this value goes, unless it was [kept](Made::keep): whoever dies before it has
/// marked the device as its own leaves none behind.
#[derive(Debug)]
pub struct Made(OwnedFd);

/// Makes a device.
///
/// # Errors
/// EBUSY where the name is taken; as `TUNSETIFF` otherwise.
pub fn make(device: &IfName) -> io::Result<Made> {
    attach(device, FLAGS | EXCLUSIVE).map(Made)
}

impl Made {
    /// Lets the device stay when its queues are closed, and holds its carrier as [`hold`] does.
    ///
    /// # Errors
    /// As `TUNSETPERSIST` and `TUNSETQUEUE`.
    pub fn keep(self, device: &IfName) -> io::Result<OwnedFd> {
        // SAFETY: TUNSETPERSIST takes a number.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETPERSIST, 1) })?;
        detach(&self.0, device)?;
        Ok(self.0)
    }
}

/// Makes a device that stays, for tests and measurements: on a node the agent makes it.
///
/// # Errors
/// As [`make`].
pub fn create(device: &IfName) -> io::Result<()> {
    make(device)?.keep(device).map(drop)
}

/// Makes a device without any offload, one packet a read and no header, which goes when this descriptor is closed.
///
/// # Errors
/// EBUSY where the name is taken; as `TUNSETIFF` otherwise.
pub fn plain(device: &IfName) -> io::Result<OwnedFd> {
    attach(device, libc::IFF_TUN | libc::IFF_NO_PI | EXCLUSIVE)
}

/// Whether the device that a queue was opened at is there.
pub fn is_attached(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: an ifreq is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: TUNGETIFF writes an ifreq, to which the pointer is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) }).is_ok()
}

/// A queue that takes no packets. While any queue is open the device keeps its carrier, and with it the kernel keeps
/// nexthop objects on the device; so whoever holds this bridges the death of a forwarder.
///
/// # Errors
/// Where the device is missing, is none with several queues, or may not be opened.
pub fn hold(device: &IfName) -> io::Result<OwnedFd> {
    let fd = queue(device)?;
    detach(&fd, device)?;
    Ok(fd)
}

fn detach(fd: &OwnedFd, device: &IfName) -> io::Result<()> {
    let mut request = request(device, libc::IFF_DETACH_QUEUE);
    // SAFETY: TUNSETQUEUE reads an ifreq, to which the pointer is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) }).map(drop)
}

fn attach(device: &IfName, flags: libc::c_int) -> io::Result<OwnedFd> {
    let fd = open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
    let mut request = request(device, flags);
    // SAFETY: TUNSETIFF reads and writes an ifreq, to which the pointer is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(fd)
}

fn request(device: &IfName, flags: libc::c_int) -> libc::ifreq {
    // SAFETY: an ifreq is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // An IfName has less than the 16 bytes of the field, so a zero stays behind it.
    for (place, byte) in request.ifr_name.iter_mut().zip(device.as_str().bytes()) {
        *place = byte.cast_signed();
    }
    // The kernel takes the field for sixteen bits without a sign.
    request.ifr_ifru.ifru_flags = u16::try_from(flags).unwrap_or_default().cast_signed();
    request
}

/// Lets the kernel leave checksums and segmentation to the readers of this device: TCP always, UDP where the kernel knows
/// that (6.2). Answers whether it does.
///
/// # Errors
/// As `TUNSETOFFLOAD`.
pub fn offload(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let set = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes a number.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    };
    if set(tcp | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok() {
        return Ok(true);
    }
    set(tcp).map(|_| false)
}

/// Has the kernel take note at once that the device has a carrier again. It would do so by itself a little later, and until
/// then drop every packet to the device.
///
/// # Errors
/// As `SIOCETHTOOL`.
pub fn settle(device: &IfName) -> io::Result<()> {
    /// `struct ethtool_value` and `ETHTOOL_GLINK` of `linux/ethtool.h`; asking for the link runs what was put off.
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    let mut value = Value { command: 0x0a, data: 0 };
    let mut request = request(device, 0);
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: SIOCETHTOOL takes an ifreq, which points to the command's structure; both live until the call returns.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) }).map(drop)
}

/// Of `linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// Reads one packet behind its header into `buffer`; `None` where none waits.
///
/// # Errors
/// As read(2): EBADFD where the device is gone.
pub fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(fd, buffer) {
        Ok(length) => Ok(Some(length)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes packets of many pieces.
#[derive(Debug, Default)]
pub struct Writer {
    iovecs: Vec<libc::iovec>,
}

// SAFETY: the pointers in `iovecs` are made and used inside one call, and mean nothing between calls.
unsafe impl Send for Writer {}

impl Writer {
    /// Writes one packet: its header and its pieces.
    ///
    /// # Errors
    /// As writev(2).
    pub fn write(
        &mut self,
        fd: &OwnedFd,
        header: [u8; vnet::LEN],
        buffer: &[u8],
        pieces: impl Iterator<Item = std::ops::Range<usize>>,
    ) -> io::Result<()> {
        self.iovecs.clear();
        let buffers = [header.as_slice(), buffer];
        self.iovecs.push(Piece { buffer: 0, start: 0, length: vnet::LEN }.iovec(&buffers));
        for range in pieces {
            self.iovecs.push(Piece { buffer: 1, start: range.start, length: range.len() }.iovec(&buffers));
        }
        let count = libc::c_int::try_from(self.iovecs.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: each iovec is a range of `header` or `buffer`, which live until the call returns and are only read.
        check_length(unsafe { libc::writev(fd.as_fd().as_raw_fd(), self.iovecs.as_ptr(), count) }).map(drop)
    }
}
