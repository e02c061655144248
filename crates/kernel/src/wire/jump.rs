//! Rules of iptables' table `filter`, in the form in which iptables itself writes them (iptables 1.8, nft-shared.c), so
//! that `iptables -S` prints them and `iptables-save` keeps them: an interface by prefix is a comparison of its first
//! bytes, every rule counts, a comment lies in the rule's user data.

use ripstop_netmodel::{FORWARD_CHAIN, LINK_PREFIX};
use ripstop_types::Family;

use crate::netlink::Message;
use crate::netlink::uapi::*;

/// iptables' table.
pub(crate) const TABLE: &str = "filter";
/// What stands beside the jump.
pub(crate) const COMMENT: &str = "ripstop: what pods send and receive";

/// `NFTNL_UDATA_RULE_COMMENT` (libnftnl, udata.h).
const UDATA_COMMENT: u8 = 0;

/// `NFPROTO_*` of the table.
pub(crate) fn protocol(family: Family) -> u8 {
    match family {
        Family::V4 => NFPROTO_IPV4,
        Family::V6 => NFPROTO_IPV6,
    }
}

fn message(kind: u16, flags: u16, family: Family) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &[protocol(family), 0, 0, 0])
}

/// Asks for the chain of ours.
pub(crate) fn get(family: Family) -> Message {
    message(NFT_MSG_GETCHAIN, 0, family).str(NFTA_CHAIN_TABLE, TABLE).str(NFTA_CHAIN_NAME, FORWARD_CHAIN)
}

/// Asks for every rule of the table.
pub(crate) fn dump(family: Family) -> Message {
    message(NFT_MSG_GETRULE, 0, family).str(NFTA_RULE_TABLE, TABLE)
}

/// Makes the chain of ours where it is not there.
pub(crate) fn create_chain(family: Family) -> Message {
    message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family).str(NFTA_CHAIN_TABLE, TABLE).str(NFTA_CHAIN_NAME, FORWARD_CHAIN)
}

/// Removes the chain of ours.
pub(crate) fn delete_chain(family: Family) -> Message {
    message(NFT_MSG_DELCHAIN, 0, family).str(NFTA_CHAIN_TABLE, TABLE).str(NFTA_CHAIN_NAME, FORWARD_CHAIN)
}

/// Removes one rule of a chain, or all of the chain of ours.
pub(crate) fn delete_rule(family: Family, chain: &str, handle: Option<u64>) -> Message {
    let message = message(NFT_MSG_DELRULE, 0, family).str(NFTA_RULE_TABLE, TABLE).str(NFTA_RULE_CHAIN, chain);
    match handle {
        Some(handle) => message.bytes(NFTA_RULE_HANDLE, &handle.to_be_bytes()),
        None => message,
    }
}

/// Puts a rule that accepts what comes from (`NFT_META_IIFNAME`) or goes to (`NFT_META_OIFNAME`) a link of ours at the end
/// of the chain of ours.
pub(crate) fn create_accept(family: Family, key: u32) -> Message {
    rule(family, FORWARD_CHAIN, NLM_F_APPEND, None, |list| {
        let list = expression(list, "meta", |m| m.be32(NFTA_META_KEY, key).be32(NFTA_META_DREG, NFT_REG_1));
        let list = expression(list, "cmp", |m| {
            m.be32(NFTA_CMP_SREG, NFT_REG_1)
                .be32(NFTA_CMP_OP, NFT_CMP_EQ)
                .nest(NFTA_CMP_DATA, |m| m.bytes(NFTA_DATA_VALUE, LINK_PREFIX.as_bytes()))
        });
        verdict(counter(list), |m| m.be32(NFTA_VERDICT_CODE, NF_ACCEPT))
    })
}

/// Puts the jump at the head of a chain.
pub(crate) fn create_jump(family: Family, chain: &str) -> Message {
    let mut comment = vec![UDATA_COMMENT, u8::try_from(COMMENT.len() + 1).unwrap_or(u8::MAX)];
    comment.extend_from_slice(COMMENT.as_bytes());
    comment.push(0);
    rule(family, chain, 0, Some(&comment), |list| {
        verdict(counter(list), |m| m.be32(NFTA_VERDICT_CODE, NFT_JUMP).str(NFTA_VERDICT_CHAIN, FORWARD_CHAIN))
    })
}

fn rule(
    family: Family,
    chain: &str,
    flags: u16,
    userdata: Option<&[u8]>,
    expressions: impl FnOnce(Message) -> Message,
) -> Message {
    let message = message(NFT_MSG_NEWRULE, NLM_F_CREATE | flags, family)
        .str(NFTA_RULE_TABLE, TABLE)
        .str(NFTA_RULE_CHAIN, chain)
        .nest(NFTA_RULE_EXPRESSIONS, expressions);
    match userdata {
        Some(data) => message.bytes(NFTA_RULE_USERDATA, data),
        None => message,
    }
}

fn expression(list: Message, name: &str, data: impl FnOnce(Message) -> Message) -> Message {
    list.nest(NFTA_LIST_ELEM, |m| m.str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data))
}

fn counter(list: Message) -> Message {
    let zero = [0; 8];
    expression(list, "counter", |m| m.bytes(NFTA_COUNTER_BYTES, &zero).bytes(NFTA_COUNTER_PACKETS, &zero))
}

fn verdict(list: Message, data: impl FnOnce(Message) -> Message) -> Message {
    expression(list, "immediate", |m| {
        m.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT).nest(NFTA_IMMEDIATE_DATA, |m| m.nest(NFTA_DATA_VERDICT, data))
    })
}
