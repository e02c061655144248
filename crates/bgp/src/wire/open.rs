//! OPEN (RFC 4271 section 4.2), its optional parameters also in the extended form (RFC 9072).

use std::net::Ipv4Addr;

use super::{AS_TRANS, Capability, Reader, Reset, code, kind, message};

/// The protocol's version.
const VERSION: u8 = 4;

/// Type of the one optional parameter there is, and the mark of the extended form.
const CAPABILITIES: u8 = 2;
const EXTENDED: u8 = 255;

/// What an OPEN says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS: of the capability where it has one, otherwise of the field.
    pub asn: u32,
    /// Seconds without a message after which the session is dead; 0 for never, never 1 or 2.
    pub hold_time: u16,
    /// The sender's router id.
    pub router_id: Ipv4Addr,
    /// What it can, in its order. The one of four-byte AS numbers among them.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The AS of the capability, if it has one.
    #[must_use]
    pub fn four_byte_as(&self) -> Option<u32> {
        self.capabilities.iter().find_map(|capability| match capability {
            Capability::FourByteAs(number) => Some(*number),
            _ => None,
        })
    }

    /// The message. Capabilities beyond what a message can hold are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut parameters = Vec::new();
        for capability in &self.capabilities {
            let mut one = Vec::new();
            capability.encode(&mut one);
            if parameters.len() + one.len() < super::LONGEST - super::HEADER - 64 {
                parameters.extend_from_slice(&one);
            }
        }
        message(kind::OPEN, |out| {
            out.push(VERSION);
            out.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
            out.extend_from_slice(&self.hold_time.to_be_bytes());
            out.extend_from_slice(&self.router_id.octets());
            match u8::try_from(parameters.len()) {
                Ok(0) => out.push(0),
                Ok(length) if length <= 253 => out.extend_from_slice(&[length + 2, CAPABILITIES, length]),
                _ => {
                    let length = u16::try_from(parameters.len()).unwrap_or(u16::MAX);
                    out.extend_from_slice(&[EXTENDED, EXTENDED]);
                    out.extend_from_slice(&(length + 3).to_be_bytes());
                    out.push(CAPABILITIES);
                    out.extend_from_slice(&length.to_be_bytes());
                }
            }
            out.extend_from_slice(&parameters);
        })
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Reset> {
        let refuse =
            |subcode: u8, data: &[u8], reason: String| Err(Reset::new(code::OPEN, subcode, data.to_vec(), reason));
        let mut read = Reader::new(body);
        let (Some(version), Some(short_as), Some(hold_time), Some(id)) =
            (read.u8(), read.u16(), read.u16(), read.array())
        else {
            return refuse(0, &[], "an OPEN is too short".to_owned());
        };
        if version != VERSION {
            return refuse(
                1,
                &[0, VERSION],
                format!("the peer speaks version {version} of BGP, accepted is {VERSION}"),
            );
        }
        if matches!(hold_time, 1 | 2) {
            let reason = format!("the peer wants a hold time of {hold_time} s, accepted are 0 and 3 or more");
            return refuse(6, &[], reason);
        }
        let router_id = Ipv4Addr::from(id);
        if router_id.is_unspecified() {
            return refuse(3, &[], "the peer has the router id 0.0.0.0, which nobody may have".to_owned());
        }
        let capabilities = parameters(read)?;
        let mut open = Self { asn: u32::from(short_as), hold_time, router_id, capabilities };
        open.asn = open.four_byte_as().unwrap_or(open.asn);
        if open.asn == 0 {
            return refuse(2, &[], "the peer says it is AS 0, which nobody may be (RFC 7607)".to_owned());
        }
        Ok(open)
    }
}

/// All capabilities of all parameters.
fn parameters(mut read: Reader<'_>) -> Result<Vec<Capability>, Reset> {
    let refuse = |subcode: u8, data: &[u8], reason: String| Err(Reset::new(code::OPEN, subcode, data.to_vec(), reason));
    let cut = || refuse(0, &[], "optional parameters of an OPEN are not as long as they say".to_owned());
    let mut peek = read;
    let extended = matches!((peek.u8(), peek.u8()), (Some(length), Some(EXTENDED)) if length != 0);
    let all = if extended { peek.counted_long().filter(|all| all.len() == peek_total(read)) } else { read.counted() };
    if !extended && !read.is_empty() {
        return cut();
    }
    let Some(all) = all else { return cut() };
    let mut read = Reader::new(all);
    let mut found = Vec::new();
    while !read.is_empty() {
        let kind = read.u8();
        let value = if extended { read.counted_long() } else { read.counted() };
        let (Some(kind), Some(value)) = (kind, value) else { return cut() };
        if kind != CAPABILITIES {
            return refuse(4, &[], format!("an optional parameter of type {kind}, accepted is {CAPABILITIES}"));
        }
        let mut inside = Reader::new(value);
        while !inside.is_empty() {
            let (Some(code), Some(value)) = (inside.u8(), inside.counted()) else { return cut() };
            let Some(one) = Capability::decode(code, value) else {
                return refuse(0, &[], format!("capability {code} cannot be {} bytes long", value.len()));
            };
            found.push(one);
        }
    }
    Ok(found)
}

/// Bytes behind the extended form's head: nothing may follow the parameters.
fn peek_total(read: Reader<'_>) -> usize {
    read.rest().len().saturating_sub(4)
}
