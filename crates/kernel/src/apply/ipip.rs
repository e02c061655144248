//! Programs that carry IPIP: loaded, attached, told of peers.

use std::collections::BTreeSet;

use ripstop_bpf::ipip::{Setup, Tunnel};
use ripstop_netmodel::{Key, Ns, Object};
use ripstop_plan::Action;

use super::run::{Run, mismatch};
use crate::error::Fault;

/// The programs of the calling thread's network namespace.
pub(crate) fn ipip_tunnel() -> Result<Tunnel, Fault> {
    let folder = ripstop_bpf::folder().map_err(|error| Fault::Bpf(error.to_string().into()))?;
    Ok(Tunnel::at(&folder))
}

impl Run<'_> {
    /// Does a step.
    pub(super) fn ipip(&mut self, i: usize) -> Result<(), Fault> {
        let step = &self.steps[i];
        let tunnel = ipip_tunnel()?;
        let wanted = step.after.as_ref().filter(|_| step.action != Action::Delete).map(|entry| &entry.object);
        let done = match (&step.key, wanted) {
            (Key::IpipProgram { .. }, None) => tunnel.clear(),
            (Key::IpipPeer { ip, .. }, None) => tunnel.remove_peer(*ip),
            (Key::IpipProgram { .. }, Some(Object::IpipProgram(program))) => {
                let link = (self.index(&Ns::Host, &program.link)?, program.link.to_string());
                let uplinks: BTreeSet<String> = program.uplinks.iter().map(ToString::to_string).collect();
                tunnel.set(&Setup { link, mac: program.mac.0, local: program.local, uplinks })
            }
            (Key::IpipPeer { .. }, Some(Object::IpipPeer(peer))) => {
                tunnel.add_peer(peer.ip, self.index(&Ns::Host, &peer.uplink)?)
            }
            _ => return Err(mismatch()),
        };
        done.map_err(|fault| Fault::Bpf(fault.to_string().into()))
    }
}
