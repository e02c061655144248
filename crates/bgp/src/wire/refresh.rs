//! ROUTE-REFRESH (RFC 2918), with the marks of enhanced route refresh (RFC 7313).

use ripstop_types::Family;

use super::{AfiSafi, Reader, Reset, code, kind, message};

/// What a ROUTE-REFRESH says about a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// Whose routes.
    pub family: Family,
    /// Request, begin or end.
    pub kind: RefreshKind,
}

/// The three uses of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshKind {
    /// Send all routes again.
    Request,
    /// All routes follow.
    Begin,
    /// All routes have been sent.
    End,
}

impl Refresh {
    /// The message.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let AfiSafi { afi, safi } = AfiSafi::unicast(self.family);
        let subtype = match self.kind {
            RefreshKind::Request => 0,
            RefreshKind::Begin => 1,
            RefreshKind::End => 2,
        };
        let [high, low] = afi.to_be_bytes();
        message(kind::ROUTE_REFRESH, |out| out.extend_from_slice(&[high, low, subtype, safi]))
    }

    /// `None` for what a speaker ignores: a family that it does not have, a subtype that it does not know.
    pub(super) fn decode(body: &[u8]) -> Result<Option<Self>, Reset> {
        let mut read = Reader::new(body);
        let (Some(afi), Some(subtype), Some(safi)) = (read.u16(), read.u8(), read.u8()) else {
            return Err(Reset::new(code::ROUTE_REFRESH, 1, body.to_vec(), "a ROUTE-REFRESH is too short"));
        };
        let kind = match subtype {
            // Outbound route filters follow a request; nobody was told that they are understood, so they are not heeded.
            0 => RefreshKind::Request,
            1 | 2 if !read.is_empty() => {
                let reason = format!("a ROUTE-REFRESH of subtype {subtype} is {} bytes too long", read.rest().len());
                return Err(Reset::new(code::ROUTE_REFRESH, 1, body.to_vec(), reason));
            }
            1 => RefreshKind::Begin,
            2 => RefreshKind::End,
            _ => return Ok(None),
        };
        Ok(AfiSafi { afi, safi }.family().map(|family| Self { family, kind }))
    }
}
