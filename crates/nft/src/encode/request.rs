//! Requests that read the ruleset. Each gives the bytes of one message; dumps are answered by many.

use super::attr::Attrs;
use super::{family_number, message};
use crate::model::{Name, TableFamily};
use crate::uapi::*;

fn request(kind: u8, flags: u16, family: u8, seq: u32, attrs: &Attrs) -> Vec<u8> {
    let mut out = Vec::new();
    let kind = u16::from(NFNL_SUBSYS_NFTABLES) << 8 | u16::from(kind);
    message(&mut out, kind, NLM_F_REQUEST | flags, seq, family, 0, &attrs.bytes);
    out
}

/// The present generation of the ruleset; answered by one message.
pub fn get_generation(seq: u32) -> Vec<u8> {
    request(NFT_MSG_GETGEN, 0, 0, seq, &Attrs::default())
}

/// All tables of all families.
pub fn dump_tables(seq: u32) -> Vec<u8> {
    request(NFT_MSG_GETTABLE, NLM_F_DUMP, 0, seq, &Attrs::default())
}

/// The chains of all tables of a family: the kernel filters chains by nothing finer.
pub fn dump_chains(seq: u32, family: TableFamily) -> Vec<u8> {
    request(NFT_MSG_GETCHAIN, NLM_F_DUMP, family_number(family), seq, &Attrs::default())
}

/// The rules of a table, each chain's in order; without one, those of all tables of the family.
pub fn dump_rules(seq: u32, family: TableFamily, table: Option<&Name>) -> Vec<u8> {
    let mut attrs = Attrs::default();
    if let Some(table) = table {
        attrs.text(NFTA_RULE_TABLE, table.as_str());
    }
    request(NFT_MSG_GETRULE, NLM_F_DUMP, family_number(family), seq, &attrs)
}

/// The sets and maps of a table, without elements; without one, those of all tables of the family. Rules' inline sets
/// are among them.
pub fn dump_sets(seq: u32, family: TableFamily, table: Option<&Name>) -> Vec<u8> {
    let mut attrs = Attrs::default();
    if let Some(table) = table {
        attrs.text(NFTA_SET_TABLE, table.as_str());
    }
    request(NFT_MSG_GETSET, NLM_F_DUMP, family_number(family), seq, &attrs)
}

/// The elements of a set.
pub fn dump_elements(seq: u32, family: TableFamily, table: &Name, set: &Name) -> Vec<u8> {
    let mut attrs = Attrs::default();
    attrs.text(NFTA_SET_ELEM_LIST_TABLE, table.as_str()).text(NFTA_SET_ELEM_LIST_SET, set.as_str());
    request(NFT_MSG_GETSETELEM, NLM_F_DUMP, family_number(family), seq, &attrs)
}
