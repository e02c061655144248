//! What the tables of policies have counted of packets that they refused.

use ripstop_netmodel::{NFT_POLICY_TABLE, Refused, RefusedSet};
use ripstop_nft::decode::{Message, messages};
use ripstop_nft::encode::dump_elements;
use ripstop_nft::model::{Name, TableFamily};
use ripstop_types::Family;

use crate::error::ObserveError;
use crate::netlink::{NetlinkError, Protocol, Socket};

/// Reads these counts. It has a socket of its own, so that nobody waits for it.
#[derive(Debug)]
pub struct RefusedReader {
    nft: Socket,
}

impl RefusedReader {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn open() -> Result<Self, ObserveError> {
        let nft = Socket::open(Protocol::Netfilter).map_err(|error| ObserveError::new("a netlink socket", error))?;
        Ok(Self { nft })
    }

    /// How many packets were refused since the tables were made, as far as the kernel still knows of them; none where there are no tables.
    /// Packets go on meanwhile, so it is no one moment's state.
    ///
    /// # Errors
    /// The kernel cannot be asked.
    pub fn read(&mut self) -> Result<Refused, ObserveError> {
        let (mut refused, table) = (Refused::default(), Name::from(NFT_POLICY_TABLE));
        for family in Family::BOTH {
            let of = match family {
                Family::V4 => TableFamily::Ip,
                Family::V6 => TableFamily::Ip6,
            };
            for set in RefusedSet::ALL {
                let name = Name::from(set.name());
                let bytes = match self.nft.dump_bytes(|seq| dump_elements(seq, of, &table, &name)) {
                    // There is no such table.
                    Err(error) if error.errno == libc::ENOENT => break,
                    bytes => bytes.map_err(fault)?,
                };
                let read = messages(&bytes);
                let read = read.map_err(|error| fault(NetlinkError::with_text(libc::EBADMSG, &error.to_string())))?;
                for received in read {
                    let Message::Elements(info) = received.message else { continue };
                    info.counts(&set.key(family)).iter().for_each(|(key, packets)| refused.take(key, *packets));
                }
            }
        }
        Ok(refused)
    }
}

fn fault(error: NetlinkError) -> ObserveError {
    ObserveError::new("what policies refused", error)
}
