//! Tracked connections, as far as somebody asks for them: there may be a million.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_netmodel::{Connection, Resource};
use ripstop_types::Family;

use super::Observer;
use super::facts::conntrack;
use crate::error::ObserveError;
use crate::wire;
use crate::wire::address::RawAddress;
use crate::wire::flow::{dump_answering, dump_family, dump_from, read_connection};

/// What it takes the kernel to look into one bucket of its table, in nanoseconds,
const BUCKET_NS: u64 = 35;

/// and to show one connection.
const SHOWN_NS: u64 = 2_000;

impl Observer {
    /// The connections of TCP, UDP and SCTP that one of `from` began or one of `to` answers, without their pods' namespaces.
    ///
    /// # Errors
    /// The kernel refuses to show them.
    pub fn connections(
        &mut self,
        from: &BTreeSet<IpAddr>,
        to: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Connection>, ObserveError> {
        let requests: Vec<_> = match is_asked_one_by_one(from.len() + to.len()) {
            true => from.iter().map(|ip| dump_from(*ip)).chain(to.iter().map(|ip| dump_answering(*ip))).collect(),
            false => vec![dump_family(only_family(from.iter().chain(to)))],
        };
        let is_meant = |connection: &Connection| {
            from.contains(&connection.source.ip()) || to.contains(&connection.destination.ip())
        };
        let mut found = Vec::new();
        for request in &requests {
            let all = self.nft.dump(request).map_err(|e| ObserveError::new("tracked connections", e))?;
            // Before Linux 5.8 all are shown.
            found.extend(all.iter().filter_map(read_connection).filter(is_meant));
        }
        if requests.len() > 1 {
            // One may have come twice.
            found.sort_by_cached_key(|connection| (connection.key(), connection.id));
            found.dedup();
        }
        Ok(found)
    }

    /// The addresses of the agent's own namespace, whoever made them.
    ///
    /// # Errors
    /// The kernel refuses to show them.
    pub fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, ObserveError> {
        let replies =
            self.route.dump(&wire::address::dump(None)).map_err(|e| ObserveError::new("this node's addresses", e))?;
        Ok(replies.iter().filter_map(RawAddress::read).map(|address| address.ip).collect())
    }
}

/// Whether to ask for each address alone, for which the kernel looks through its table each time, is cheaper than to have it show all
/// connections once.
fn is_asked_one_by_one(addresses: usize) -> bool {
    let (Some(buckets), Some(connections)) = (conntrack("buckets"), conntrack("count")) else { return false };
    let once_more = (addresses as u64).saturating_sub(1);
    once_more.saturating_mul(buckets * BUCKET_NS) < connections.saturating_mul(SHOWN_NS)
}

/// The family of all of them; `None`: there are both.
fn only_family<'a>(mut ips: impl Iterator<Item = &'a IpAddr>) -> Option<Family> {
    let first = Family::of(*ips.next()?);
    ips.all(|ip| Family::of(*ip) == first).then_some(first)
}
