//! Rules of ours in the tables of iptables.

use ripstop_netmodel::{IptablesBackend, Model};
use ripstop_types::Family;

use crate::iptables::{Iptables, read as read_rules};
use crate::netlink::Socket;

/// Puts what is there into the model, and notes that it is known. What cannot be read is as good as missing: whoever writes it hears why.
pub(super) fn read(nft: &mut Socket, shared: &Iptables, model: &mut Model) {
    for backend in IptablesBackend::BOTH {
        for at in Family::BOTH.map(|family| (backend, family)) {
            let mut known = shared.known();
            match read_rules(nft, at) {
                Ok(state) => {
                    for (rules, owner) in state.objects(at) {
                        model.insert(rules, owner);
                    }
                    known.set(at, state);
                }
                Err(fault) => {
                    known.forget(at);
                    tracing::warn!("{fault}");
                }
            }
        }
    }
}
