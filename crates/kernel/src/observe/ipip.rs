//! Programs that carry IPIP, and what they go by. Pins that have lost their link are nothing.

use std::path::Path;

use ripstop_netmodel::{IpipPeer, IpipProgram, Kind, Model};
use ripstop_types::{IfName, Mac};

use crate::error::ObserveError;
use crate::netlink::Socket;
use crate::wire;
use crate::wire::link::RawLink;

/// Kinds of this module.
pub(super) const KINDS: [Kind; 2] = [Kind::IpipProgram, Kind::IpipPeer];

/// Puts those of the calling thread's namespace into the model.
pub(super) fn read(route: &mut Socket, model: &mut Model) -> Result<(), ObserveError> {
    let Ok(tunnel) = crate::apply::ipip_tunnel() else { return Ok(()) };
    let Some(setup) = tunnel.read() else { return Ok(()) };
    let Ok(link) = setup.link.1.parse::<IfName>() else { return Ok(()) };
    let replies = route.dump(&wire::link::dump()).map_err(|error| ObserveError::new("links", error))?;
    let links: Vec<RawLink> = replies.iter().filter_map(RawLink::read).collect();
    // Made anew under its name it is not the one that they lead to.
    if !links.iter().any(|there| there.name == link && there.index == setup.link.0) {
        return Ok(());
    }
    let uplinks = setup.uplinks.iter().filter_map(|name| name.parse().ok()).collect();
    model.insert(IpipProgram { link: link.clone(), mac: Mac(setup.mac), local: setup.local, uplinks }, None);
    for (ip, index) in tunnel.peers() {
        // An uplink that is gone is none that is wanted.
        let uplink =
            links.iter().find(|there| there.index == index).map_or_else(|| link.clone(), |there| there.name.clone());
        model.insert(IpipPeer { link: link.clone(), ip, uplink }, None);
    }
    Ok(())
}

/// Whether this kernel makes IPIP devices: it does already, or has a module that would. To ask it would load the module, which
/// makes a device of its own in every namespace.
pub(super) fn has_device() -> bool {
    if Path::new("/sys/module/ipip").exists() {
        return true;
    }
    let release = rustix::system::uname();
    let folder = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    let names =
        ["modules.builtin", "modules.dep"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap_or_default());
    names.iter().flat_map(|text| text.lines()).any(|line| line.split(':').next().is_some_and(is_it))
}

/// `kernel/net/ipv4/ipip.ko`, however it is packed.
fn is_it(path: &str) -> bool {
    path.rsplit('/').next().and_then(|file| file.split_once('.')).is_some_and(|(name, _)| name == "ipip")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_known_by_its_whole_name() {
        for path in ["kernel/net/ipv4/ipip.ko", "kernel/net/ipv4/ipip.ko.xz", "ipip.ko.zst"] {
            assert!(is_it(path), "{path}");
        }
        for path in ["kernel/net/ipv4/ip_tunnel.ko", "kernel/net/xipip.ko", "kernel/net/ipip/other.ko", ""] {
            assert!(!is_it(path), "{path}");
        }
    }
}
