//! What the forwarder of the backend `udp` goes by. One that does not answer has nothing.

use std::path::Path;

use ripstop_netmodel::{Forwarder, ForwarderPeer, Kind, Model};

use crate::apply::connect;

/// Kinds of this module.
pub(super) const KINDS: [Kind; 2] = [Kind::Forwarder, Kind::ForwarderPeer];

/// Puts it into the model.
pub(super) fn read(socket: &Path, model: &mut Model) {
    let Some(setup) = connect(socket).ok().and_then(|mut client| client.get().ok()).flatten() else { return };
    let link = setup.device;
    model.insert(Forwarder { link: link.clone(), listen: setup.listen }, None);
    for peer in setup.peers {
        let (to, also_from, ranges) = (peer.to, peer.also_from, peer.ranges);
        model.insert(ForwarderPeer { link: link.clone(), peer: peer.name.into(), to, also_from, ranges }, None);
    }
}
