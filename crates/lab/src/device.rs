//! Questions about network devices of the calling thread's namespace: netdevice(7).

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// The flags of a device (`IFF_UP` and so on).
pub(crate) fn flags(name: &str) -> io::Result<i32> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut request = request(name)?;
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags, both inside the structure, which lives here.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above filled this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_flags }.into())
}

/// Whether a device is administratively up.
pub(crate) fn is_up(name: &str) -> bool {
    flags(name).is_ok_and(|flags| flags & libc::IFF_UP != 0)
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all bytes zero is a valid value of this plain structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is too long for a device")));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_flags_and_nothing_else_does() {
        assert!(flags("lo").unwrap() & libc::IFF_LOOPBACK != 0);
        assert!(flags("nosuchdevice").is_err());
        assert!(flags("a-name-too-long-for-the-kernel").is_err());
    }
}
