//! Tracked connections, as far as somebody asks for them: there may be a million.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_netmodel::{Connection, Resource};
use ripstop_types::Family;

use super::Observer;
use crate::error::ObserveError;
use crate::wire::flow::{dump_family, dump_of, read_connection};

/// Of so few addresses the kernel is asked one by one: that it looks at all its connections is cheaper than that it shows them.
const FEW: usize = 4;

impl Observer {
    /// The connections of TCP, UDP and SCTP that one of these addresses is an end of, without their pods' namespaces.
    ///
    /// # Errors
    /// The kernel refuses to show them.
    pub fn connections(&mut self, of: &BTreeSet<IpAddr>) -> Result<Vec<Connection>, ObserveError> {
        let of_family = |family: Family| of.iter().any(|ip| Family::of(*ip) == family);
        let requests: Vec<_> = match of.len() <= FEW {
            true => of.iter().flat_map(|ip| dump_of(*ip)).collect(),
            false => Family::BOTH.into_iter().filter(|family| of_family(*family)).map(dump_family).collect(),
        };
        let mut found = Vec::new();
        for request in requests {
            let all = self.nft.dump(&request).map_err(|e| ObserveError::new("tracked connections", e))?;
            // Before Linux 5.8 all are shown.
            let is_meant = |ip| of.contains(&ip);
            found.extend(all.iter().filter_map(read_connection).filter(|connection| connection.is_of(is_meant)));
        }
        found.sort_by_cached_key(|connection| (connection.key(), connection.id));
        found.dedup();
        Ok(found)
    }
}
