//! The claims as the watch shows them: possibly old, never taken as proof of anything but other nodes' claims.

use std::collections::BTreeMap;

use ripstop_types::Revision;

use super::claim::{Claim, ClaimKey, Stored};

/// All claims as of a revision, with single newer ones learnt from the store's answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct View {
    claims: BTreeMap<ClaimKey, Stored>,
    /// Nothing up to here is missing; `None`: nothing was listed yet.
    seen: Option<Revision>,
}

impl View {
    pub(crate) fn claims(&self) -> impl Iterator<Item = (&ClaimKey, &Stored)> {
        self.claims.iter()
    }

    pub(crate) fn get(&self, key: &ClaimKey) -> Option<&Stored> {
        self.claims.get(key)
    }

    pub(crate) fn seen(&self) -> Option<Revision> {
        self.seen
    }

    /// A list replaces everything, also by something older: the watch repeats what is between.
    pub(crate) fn list(&mut self, revision: Revision, claims: BTreeMap<ClaimKey, Stored>) {
        self.claims = claims;
        self.seen = Some(revision);
    }

    /// Enters a change of the watch; `false` if it is a repeat, or there was no list yet.
    pub(crate) fn change(&mut self, key: &ClaimKey, revision: Revision, claim: Option<&Claim>) -> bool {
        if self.seen.is_none_or(|seen| revision <= seen) {
            return false;
        }
        self.seen = Some(revision);
        if self.claims.get(key).is_some_and(|known| known.revision >= revision) {
            return true;
        }
        match claim {
            Some(claim) => drop(self.claims.insert(key.clone(), Stored { revision, claim: claim.clone() })),
            None => drop(self.claims.remove(key)),
        }
        true
    }

    /// Enters what an answer of the store said about one claim. Answers may come late: that there is none removes only what
    /// is not newer than `expected`, the revision the answered call was about.
    pub(crate) fn learn(&mut self, key: &ClaimKey, current: Option<&Stored>, expected: Option<Revision>) {
        let known = self.claims.get(key).map(|known| known.revision);
        match current {
            Some(stored) if known.is_none_or(|known| known < stored.revision) => {
                self.claims.insert(key.clone(), stored.clone());
            }
            None if known <= expected => drop(self.claims.remove(key)),
            _ => {}
        }
    }
}
