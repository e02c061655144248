//! iptables: what of ours is in its tables, and the programs by which it is read and written.
//!
//! The one place from which an agent runs a program, and only where its rules are to be, or are, in iptables: nobody but
//! `iptables-restore` writes what other programs of iptables then take for their own.
//!
//! - `state`: chains, and how entries are laid out in them; pure.
//! - `text`: the form of `iptables-save` and `iptables-restore`; pure.
//! - `program`: runs them.
//! - `legacy`: what `x_tables` tells without a program.
//! - `lock`: who holds the lock of `x_tables`.
//!
//! Invariants: what is known is what was read last or written since; after a failure nothing is known. Chains of ours are known by their
//! names, jumps of ours by where they lead.

mod legacy;
mod lock;
mod program;
pub(crate) mod state;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ripstop_netmodel::{FORWARD_CHAIN, IPTABLES_PREFIX, IptablesBackend};
use ripstop_types::Family;

use crate::error::Fault;
use crate::netlink::uapi::{NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE};
use crate::netlink::{Message, NetlinkError, Socket};
pub(crate) use legacy::names as legacy_tables;
pub(crate) use legacy::preferred;
pub(crate) use program::{lacking, restore, save};
pub(crate) use state::State;

/// A backend's tables of a family.
pub(crate) type At = (IptablesBackend, Family);

/// What is known of the kernel, shared by who writes, who reads and who listens.
#[derive(Debug, Clone, Default)]
pub struct Iptables(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
pub(crate) struct Known {
    states: BTreeMap<At, State>,
    /// How `x_tables` looked then, of families in whose tables something of ours is.
    looks: BTreeMap<Family, legacy::Look>,
}

impl Iptables {
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether tables of `x_tables` with something of ours are not as they were left, as far as their sizes tell: the kernel gives no
    /// notice. Cheap, and runs no program.
    #[must_use]
    pub fn has_legacy_changed(&self) -> bool {
        // Who writes looks when that is done.
        let Ok(known) = self.0.try_lock() else { return false };
        known.looks.iter().any(|(family, look)| legacy::look(*family) != *look)
    }
}

impl Known {
    /// What is there, as it was read or written last, for who changes it; read where that is not known. Until it is set again nothing is.
    pub(crate) fn take(&mut self, nft: &mut Socket, at: At) -> Result<State, Fault> {
        let known = self.states.remove(&at);
        self.forget(at);
        known.map_or_else(|| read(nft, at), Ok)
    }

    /// Whether it is known what is there.
    pub(crate) fn is_known(&self, at: At) -> bool {
        self.states.contains_key(&at)
    }

    pub(crate) fn set(&mut self, at: At, state: State) {
        if at.0 == IptablesBackend::Legacy {
            self.looks.remove(&at.1);
            if !state.is_empty() {
                self.looks.insert(at.1, legacy::look(at.1));
            }
        }
        self.states.insert(at, state);
    }

    pub(crate) fn forget(&mut self, at: At) {
        self.states.remove(&at);
        if at.0 == IptablesBackend::Legacy {
            self.looks.remove(&at.1);
        }
    }
}

/// Reads what of ours is there. Where a look by other means shows nothing, no program is run.
pub(crate) fn read(nft: &mut Socket, at: At) -> Result<State, Fault> {
    let (backend, family) = at;
    let is_there = match backend {
        IptablesBackend::Legacy => legacy::has_ours(family),
        IptablesBackend::Nft => has_chains(nft, family)?,
    };
    if !is_there {
        return Ok(State::default());
    }
    text::read(&program::save(at)?)
        .map_err(|line| Fault::Program(format!("{}: {line}", program::name(at, "save")).into()))
}

/// Writes; all that one table is given is done, or nothing.
pub(crate) fn write(at: At, input: &str) -> Result<(), Refusal> {
    program::restore(at, input)
}

/// Why something was not written.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    /// Something that is there, or not there, may be in the way.
    pub(crate) is_of_rules: bool,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { fault, is_of_rules: false }
    }
}

/// Whether a chain is of Services, by its name.
pub(crate) fn is_ours(chain: &str) -> bool {
    chain.starts_with(IPTABLES_PREFIX) && chain != FORWARD_CHAIN
}

/// Whether there are chains of ours in the tables that iptables has in nftables.
fn has_chains(nft: &mut Socket, family: Family) -> Result<bool, NetlinkError> {
    let found = chains(nft, family)?;
    Ok(found.iter().any(|(table, chain)| matches!(table.as_str(), "nat" | "filter") && is_ours(chain)))
}

/// Whether a table of nftables has a chain.
fn has_chain(nft: &mut Socket, family: Family, table: &str, chain: &str) -> bool {
    let request = Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, 0, &[number(family), 0, 0, 0]);
    nft.call(request.str(NFTA_CHAIN_TABLE, table).str(NFTA_CHAIN_NAME, chain)).is_ok()
}

/// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
fn number(family: Family) -> u8 {
    if family == Family::V4 { 2 } else { 10 }
}

/// Tables and names of chains.
pub(crate) fn chains(nft: &mut Socket, family: Family) -> Result<Vec<(String, String)>, NetlinkError> {
    let request = Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, 0, &[number(family), 0, 0, 0]);
    let replies = match nft.dump(&request) {
        Ok(replies) => replies,
        // A kernel without nftables has none.
        Err(error) if matches!(error.errno, libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let names = replies.iter().filter_map(|reply| {
        let (_, attrs) = reply.split::<4>()?;
        Some((attrs.str(NFTA_CHAIN_TABLE)?.to_owned(), attrs.str(NFTA_CHAIN_NAME)?.to_owned()))
    });
    Ok(names.collect())
}
