//! Netlink attributes and userdata, written.

use crate::uapi::{NFTA_DATA_VALUE, NLA_F_NESTED, UDATA_PART};

/// A growing list of attributes.
#[derive(Debug, Default, Clone)]
pub(super) struct Attrs {
    pub(super) bytes: Vec<u8>,
    /// Some attribute is longer than its 16-bit length can say.
    pub(super) overflow: bool,
}

impl Attrs {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let len = u16::try_from(value.len() + 4).unwrap_or_else(|_| {
            self.overflow = true;
            u16::MAX
        });
        self.bytes.extend(len.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its terminating zero.
    pub(super) fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    /// A number in network byte order, as nf_tables has all of its own.
    pub(super) fn be32(&mut self, kind: u16, number: u32) -> &mut Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn be64(&mut self, kind: u16, number: u64) -> &mut Self {
        self.bytes(kind, &number.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attrs)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).unwrap_or_else(|_| {
            self.overflow = true;
            u16::MAX
        });
        let header = [len.to_ne_bytes(), (kind | NLA_F_NESTED).to_ne_bytes()].concat();
        if let Some(place) = self.bytes.get_mut(start..start + 4) {
            place.copy_from_slice(&header);
        }
        self
    }

    /// `nft_data` with a plain value.
    pub(super) fn data(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest(kind, |a| {
            a.bytes(NFTA_DATA_VALUE, value);
        })
    }
}

/// libnftnl's type-length-value list in userdata: one byte each for type and length.
#[derive(Debug, Default)]
pub(super) struct Userdata(pub(super) Vec<u8>);

impl Userdata {
    pub(super) fn bytes(mut self, kind: u8, value: &[u8]) -> Self {
        // Callers write comments (128 bytes with the zero), digests and numbers.
        let value = value.get(..255).unwrap_or(value);
        self.0.push(kind);
        self.0.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        self.0.extend(value);
        self
    }

    pub(super) fn text(self, kind: u8, text: &str) -> Self {
        let mut value = text.as_bytes().to_vec();
        value.push(0);
        self.bytes(kind, &value)
    }

    pub(super) fn optional_text(self, kind: u8, text: Option<&crate::model::Comment>) -> Self {
        match text {
            Some(text) => self.text(kind, text.as_str()),
            None => self,
        }
    }

    /// The mark of a part's chains and sets.
    pub(super) fn of_part(self, part: Option<&crate::model::Name>) -> Self {
        match part {
            Some(part) => self.bytes(UDATA_PART, part.as_str().as_bytes()),
            None => self,
        }
    }

    /// A number as libnftnl writes it: in host byte order.
    pub(super) fn number(self, kind: u8, number: u32) -> Self {
        self.bytes(kind, &number.to_ne_bytes())
    }
}
