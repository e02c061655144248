//! Consecutive nftables steps as one transaction.

use super::run::Run;
use crate::error::Fault;

impl Run<'_> {
    /// Sends the nftables steps that wait: all are done or none.
    pub(super) fn flush_nft(&mut self) {
        for step in std::mem::take(&mut self.nft) {
            self.settle(step, Err(Fault::Unsupported("nftables are not written yet".into())));
        }
    }
}
