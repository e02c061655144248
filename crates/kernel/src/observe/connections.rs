//! Tracked connections, as far as somebody asks for them: there may be a million.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_netmodel::{Connection, Resource};
use ripstop_types::Family;

use super::Observer;
use crate::error::ObserveError;
use crate::wire;
use crate::wire::address::RawAddress;
use crate::wire::flow::{dump_answering, dump_family, dump_from, read_connection};

/// Of so few addresses the kernel is asked one by one: that it looks at all its connections is cheaper than that it shows them.
const FEW: usize = 4;

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
        let of_family = |family: Family| from.iter().chain(to).any(|ip| Family::of(*ip) == family);
        let requests: Vec<_> = match from.len() + to.len() <= FEW {
            true => from.iter().map(|ip| dump_from(*ip)).chain(to.iter().map(|ip| dump_answering(*ip))).collect(),
            false => Family::BOTH.into_iter().filter(|family| of_family(*family)).map(dump_family).collect(),
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
