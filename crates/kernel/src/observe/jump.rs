//! Jumps of ours in iptables' table `filter`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ripstop_netmodel::{FORWARD_CHAIN, ForwardJump, LINK_PREFIX, Model};
use ripstop_types::{Family, Owner};

use crate::error::ObserveError;
use crate::netlink::uapi::*;
use crate::netlink::{Attrs, NetlinkError, Reply, Socket};
use crate::wire::jump as wire;

/// Bytes of `struct nfgenmsg`.
const NFGEN: usize = 4;

/// Chains in which a jump of ours may stand.
const CHAINS: [&str; 2] = ["FORWARD", "DOCKER-USER"];

/// What of ours is in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Jumps {
    /// Handles of the rules that jump to our chain, by the chain they stand in.
    pub(crate) handles: BTreeMap<Arc<str>, Vec<u64>>,
    /// Whether our chain is there.
    pub(crate) chain: bool,
    /// Whether it has its rules and no other.
    whole: bool,
}

/// Puts every jump of ours into the model. A chain of ours to which nothing jumps is shown as a jump that is not whole.
pub(super) fn read(socket: &mut Socket, model: &mut Model) -> Result<(), ObserveError> {
    for family in Family::BOTH {
        let found = jumps(socket, family).map_err(|error| ObserveError::new("iptables' rules", error))?;
        let mut add = |chain: Arc<str>, whole| model.insert(ForwardJump { family, chain, whole }, Some(Owner::agent()));
        if found.chain && found.handles.is_empty() {
            add(CHAINS[0].into(), false);
        }
        for (chain, handles) in found.handles {
            add(chain, found.whole && handles.len() == 1);
        }
    }
    Ok(())
}

/// What of ours is in the table of a family. Without our chain nothing can jump to it, so other rules are not read.
pub(crate) fn jumps(socket: &mut Socket, family: Family) -> Result<Jumps, NetlinkError> {
    let is_absent = |error: &NetlinkError| {
        matches!(error.errno, libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT)
    };
    let rules = match socket.call(wire::get(family)).and_then(|_| socket.dump(&wire::dump(family))) {
        Ok(rules) => rules,
        Err(error) if is_absent(&error) => return Ok(Jumps::default()),
        Err(error) => return Err(error),
    };
    let mut found = Jumps { chain: true, ..Jumps::default() };
    let mut own = Vec::new();
    for rule in rules.iter() {
        let Some((_, attrs)) = rule.split::<NFGEN>() else { continue };
        let chain = attrs.str(NFTA_RULE_CHAIN).unwrap_or_default();
        if chain == FORWARD_CHAIN {
            own.push(accepts(attrs.nested(NFTA_RULE_EXPRESSIONS)));
        } else if jumps_to(rule, FORWARD_CHAIN)
            && let Some(handle) = attrs.get(NFTA_RULE_HANDLE).and_then(|data| data.first_chunk().copied())
        {
            found.handles.entry(chain.into()).or_default().push(u64::from_be_bytes(handle));
        }
    }
    found.whole = own == [Some(NFT_META_IIFNAME), Some(NFT_META_OIFNAME)];
    Ok(found)
}

/// Whether a rule jumps to a chain, under whatever condition.
pub(super) fn jumps_to(rule: Reply<'_>, chain: &str) -> bool {
    let Some((_, attrs)) = rule.split::<NFGEN>() else { return false };
    expressions(attrs.nested(NFTA_RULE_EXPRESSIONS))
        .any(|(name, data)| name == "immediate" && verdict(data).str(NFTA_VERDICT_CHAIN) == Some(chain))
}

/// The interface of which a rule accepts everything that bears a name of ours; `None` of any other rule.
fn accepts(list: Attrs<'_>) -> Option<u32> {
    let mut found = None;
    for (n, (name, data)) in expressions(list).enumerate() {
        let as_written = match (n, name) {
            (0, "meta") => {
                found = data.be32(NFTA_META_KEY);
                true
            }
            (1, "cmp") => {
                data.be32(NFTA_CMP_OP) == Some(NFT_CMP_EQ)
                    && data.nested(NFTA_CMP_DATA).get(NFTA_DATA_VALUE) == Some(LINK_PREFIX.as_bytes())
            }
            (2, "counter") => true,
            (3, "immediate") => verdict(data).be32(NFTA_VERDICT_CODE) == Some(NF_ACCEPT),
            _ => false,
        };
        if !as_written {
            return None;
        }
    }
    found
}

fn verdict(data: Attrs<'_>) -> Attrs<'_> {
    data.nested(NFTA_IMMEDIATE_DATA).nested(NFTA_DATA_VERDICT)
}

fn expressions(list: Attrs<'_>) -> impl Iterator<Item = (&str, Attrs<'_>)> {
    let elements = list.into_iter().filter(|(kind, _)| *kind == NFTA_LIST_ELEM).map(|(_, data)| Attrs(data));
    elements.map(|element| (element.str(NFTA_EXPR_NAME).unwrap_or_default(), element.nested(NFTA_EXPR_DATA)))
}

/// Whether an event of another's table is about a place where a jump of ours stands or could.
pub(crate) fn concerns(family: u8, kind: u16, attrs: Attrs<'_>) -> bool {
    let in_table = attrs.str(NFTA_RULE_TABLE) == Some(wire::TABLE) && matches!(family, NFPROTO_IPV4 | NFPROTO_IPV6);
    let named = |chain: Option<&str>| chain.is_some_and(|chain| chain == FORWARD_CHAIN || CHAINS.contains(&chain));
    in_table
        && match kind {
            NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN => named(attrs.str(NFTA_CHAIN_NAME)),
            NFT_MSG_NEWRULE | NFT_MSG_DELRULE => named(attrs.str(NFTA_RULE_CHAIN)),
            NFT_MSG_DELTABLE => true,
            _ => false,
        }
}
