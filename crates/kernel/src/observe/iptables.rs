//! Rules of ours in the tables of iptables.

use ripstop_netmodel::{IptablesBackend, Model};
use ripstop_types::Family;

use crate::iptables::{Iptables, is_ours, read as read_rules};
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Socket};

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
                    tracing::debug!("{fault}");
                }
            }
        }
    }
}

/// Whether an event of another's table is about a chain of ours there, or about a place where a jump of ours stands.
pub(crate) fn concerns(family: u8, kind: u16, attrs: Attrs<'_>) -> bool {
    let in_table = matches!(attrs.str(NFTA_RULE_TABLE), Some("nat" | "filter"));
    let is_built_in = |chain: &str| matches!(chain, "PREROUTING" | "INPUT" | "FORWARD" | "OUTPUT" | "POSTROUTING");
    in_table
        && matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6)
        && match kind {
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => attrs.str(NFTA_CHAIN_NAME).is_some_and(is_ours),
            // In FORWARD something may come to stand before the jump.
            NFT_MSG_NEWRULE => attrs.str(NFTA_RULE_CHAIN).is_some_and(|chain| is_ours(chain) || chain == "FORWARD"),
            NFT_MSG_DELRULE => attrs.str(NFTA_RULE_CHAIN).is_some_and(|chain| is_ours(chain) || is_built_in(chain)),
            NFT_MSG_DELTABLE => true,
            _ => false,
        }
}
