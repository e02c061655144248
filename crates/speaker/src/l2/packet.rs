//! Sockets that take and give whole Ethernet frames of ARP or of neighbour discovery on one interface.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which frames are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// ARP.
    Arp,
    /// Neighbour discovery: solicitations and advertisements.
    Ndp,
}

/// One interface's frames of one kind.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

/// What is compared in a packet of IPv6: its next header, and the type of the ICMPv6 message.
const NEXT_HEADER: u32 = 6;
const ICMPV6: u32 = 58;
const TYPE: u32 = 40;
const SOLICITATION: u32 = 135;
const ADVERTISEMENT: u32 = 136;

impl FrameSocket {
    /// Opens it on an interface; frames that this machine sends are not taken.
    pub fn open(interface: u32, frames: Frames) -> io::Result<Self> {
        let protocol = match frames {
            Frames::Arp => libc::ETH_P_ARP,
            Frames::Ndp => libc::ETH_P_IPV6,
        };
        let protocol = u16::try_from(protocol).unwrap_or(0).to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // Of no protocol at first, so that nothing is taken before the filter stands.
        // SAFETY: the descriptor is new and has no other owner.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, kind, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        if frames == Frames::Ndp {
            filter(&socket)?;
        }
        let index = i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: zeros are a value of it.
        let mut at: libc::sockaddr_ll = unsafe { zeroed() };
        at.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        at.sll_protocol = protocol;
        at.sll_ifindex = index;
        let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
        // SAFETY: the address lives through the call and has this length.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if frames == Frames::Ndp {
            // Questions about an address come by a group that the interface is no member of.
            // SAFETY: zeros are a value of it.
            let mut membership: libc::packet_mreq = unsafe { zeroed() };
            membership.mr_ifindex = index;
            membership.mr_type = u16::try_from(libc::PACKET_MR_ALLMULTI).unwrap_or(0);
            set(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        }
        Ok(Self(socket))
    }

    /// A frame; none if there is none.
    pub fn take<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let length = rustix::io::read(&self.0, &mut *buffer).ok()?;
        buffer.get(..length)
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, frame).map(drop).map_err(Into::into)
    }
}

impl AsFd for FrameSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes solicitations and advertisements alone.
fn filter(socket: &OwnedFd) -> io::Result<()> {
    const ETHERNET: u32 = 14;
    let load = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let end = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k };
    let mut program = [
        step(load, 0, 0, ETHERNET + NEXT_HEADER),
        step(equals, 0, 4, ICMPV6),
        step(load, 0, 0, ETHERNET + TYPE),
        step(equals, 1, 0, SOLICITATION),
        step(equals, 0, 1, ADVERTISEMENT),
        step(end, 0, 0, u32::MAX),
        step(end, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Sets an option to a value of the kernel's own form.
fn set<T>(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer is to a value of this length, and so is what it points to in turn; the kernel copies it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
