//! Attributes of families and extensions that this speaker has not: passed on, unless their own documents say that one in
//! their state must not be. Who checks nothing spreads what makes other speakers end their sessions.
//!
//! | attribute | from | errors |
//! |---|---|---|
//! | PMSI_TUNNEL | RFC 6514 | its document is silent: treat-as-withdraw, as others do |
//! | TUNNEL_ENCAPSULATION | RFC 9012 section 13 | treat-as-withdraw |
//! | IPv6 EXTENDED COMMUNITIES | RFC 7606 section 7.15 | treat-as-withdraw |
//! | AIGP | RFC 7311 section 3.2 | always discarded: no session is enabled for it |
//! | BGP-LS | RFC 9552 | always discarded: not transitive |
//! | ONLY_TO_CUSTOMER | RFC 9234 section 6 | treat-as-withdraw |
//! | NEXT_HOP_DEPENDENT_CHARACTERISTICS | a draft | discarded |
//! | PREFIX_SID | RFC 8669 section 6 | discarded |

use super::attributes::{flag, kind};
use super::{Grade, Reader};

/// What becomes of a foreign attribute.
pub enum Verdict {
    /// It is passed on.
    Keep,
    /// It is left out, and that is no error.
    Drop,
    /// An error of that grade.
    Wrong(Grade, String),
}

/// Judges an attribute of which the codec knows no value.
pub fn judge(kind: u8, flags: u8, value: &[u8]) -> Verdict {
    let transitive = flags & flag::TRANSITIVE != 0;
    if flags & flag::OPTIONAL == 0 {
        // No document tells of well-known attributes beyond those that every speaker has, so this one's flags are wrong.
        return Verdict::Wrong(Grade::TreatAsWithdraw, "a well-known attribute that is not known".to_owned());
    }
    if matches!(kind, kind::AIGP | kind::LINK_STATE) {
        return Verdict::Drop;
    }
    let Some((grade, checked)) = known(kind, value) else {
        return if transitive { Verdict::Keep } else { Verdict::Drop };
    };
    match checked {
        _ if !transitive => Verdict::Wrong(grade, "it is not marked as transitive".to_owned()),
        Err(reason) => Verdict::Wrong(grade, reason),
        Ok(()) => Verdict::Keep,
    }
}

/// For an attribute with rules: how bad an error in it is, and whether there is one.
fn known(kind: u8, value: &[u8]) -> Option<(Grade, Result<(), String>)> {
    Some(match kind {
        kind::PMSI_TUNNEL => (Grade::TreatAsWithdraw, pmsi(value)),
        kind::TUNNEL_ENCAPSULATION => (Grade::TreatAsWithdraw, tunnels(value)),
        kind::IPV6_EXTENDED_COMMUNITIES => (Grade::TreatAsWithdraw, multiple(value, 20)),
        kind::ONLY_TO_CUSTOMER => (Grade::TreatAsWithdraw, customer(value)),
        kind::NEXT_HOP_CAPABILITIES => (Grade::AttributeDiscard, next_hop_dependent(value)),
        kind::PREFIX_SID => (Grade::AttributeDiscard, prefix_sid(value)),
        _ => return None,
    })
}

/// Whether a list has whole elements, and one at least.
pub fn multiple(value: &[u8], size: usize) -> Result<(), String> {
    if value.is_empty() || !value.len().is_multiple_of(size) {
        return Err(format!("{} bytes, accepted are multiples of {size} from {size} on", value.len()));
    }
    Ok(())
}

fn customer(value: &[u8]) -> Result<(), String> {
    match value {
        [0, 0, 0, 0] => Err("AS 0, which nobody may be".to_owned()),
        [_, _, _, _] => Ok(()),
        _ => Err(format!("{} bytes, accepted are 4", value.len())),
    }
}

/// Flags, type of tunnel, label of three bytes, and an identifier whose length is the type's.
fn pmsi(value: &[u8]) -> Result<(), String> {
    let [_, tunnel, _, _, _, identifier @ ..] = value else {
        return Err(format!("{} bytes, accepted are 5 and more", value.len()));
    };
    match tunnel {
        0..=5 | 7 => Ok(()),
        6 if matches!(identifier.len(), 4 | 16) => Ok(()),
        6 => Err(format!("ingress replication to an address of {} bytes", identifier.len())),
        _ => Err(format!("a tunnel of type {tunnel}, accepted are 0 to 7")),
    }
}

/// Tunnels, each with sub-TLVs whose length has two bytes from type 128 on.
fn tunnels(value: &[u8]) -> Result<(), String> {
    let mut read = Reader::new(value);
    if read.is_empty() {
        return Err("0 bytes, accepted are 4 and more".to_owned());
    }
    while !read.is_empty() {
        let tunnel = read.u16().and_then(|_| read.counted_long());
        let mut inside = Reader::new(tunnel.ok_or("a tunnel is not as long as it says")?);
        while !inside.is_empty() {
            let kind = inside.u8().unwrap_or(0);
            let part = if kind < 128 { inside.counted() } else { inside.counted_long() };
            part.ok_or_else(|| format!("a sub-TLV of type {kind} is not as long as it says"))?;
        }
    }
    Ok(())
}

/// TLVs; a label index has 7 bytes, an originator's range 2 and some of 6.
fn prefix_sid(value: &[u8]) -> Result<(), String> {
    let mut read = Reader::new(value);
    if read.is_empty() {
        return Err("0 bytes, accepted are 3 and more".to_owned());
    }
    while !read.is_empty() {
        let kind = read.u8().unwrap_or(0);
        let part = read.counted_long().ok_or_else(|| format!("a TLV of type {kind} is not as long as it says"))?;
        let fits = match kind {
            // Reserved (RFC 8669 section 7): an attribute of zeros alone is such a TLV, and has made sessions end.
            0 => false,
            1 => part.len() == 7,
            3 => part.len() >= 8 && (part.len() - 2).is_multiple_of(6),
            _ => true,
        };
        if !fits {
            return Err(format!("a TLV of type {kind} cannot be {} bytes long", part.len()));
        }
    }
    Ok(())
}

/// Family, next hop, TLVs with codes and lengths of two bytes.
fn next_hop_dependent(value: &[u8]) -> Result<(), String> {
    let mut read = Reader::new(value);
    let (Some(afi), Some(safi), Some(next_hop)) = (read.u16(), read.u8(), read.counted()) else {
        return Err("it is too short for its family and next hop".to_owned());
    };
    if !matches!(afi, 1 | 2) || !matches!(safi, 1 | 2 | 4 | 128) || next_hop.is_empty() {
        return Err(format!("family {afi}/{safi} with a next hop of {} bytes", next_hop.len()));
    }
    while !read.is_empty() {
        read.u16().and_then(|_| read.counted_long()).ok_or("a characteristic is not as long as it says")?;
    }
    Ok(())
}
