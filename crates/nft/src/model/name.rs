//! Names, comments and interface patterns: text that reaches a rule, made harmless on entry.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use ripstop_types::{IfName, Invalid};
use serde::{Deserialize, Serialize};

/// The name of a table, chain, set or map, in the alphabet of nft's own scanner, so that text needs no quoting.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Text);

/// Most names are written in the program. Thousands of elements have the same two. Both forms fit two words.
#[derive(Clone)]
enum Text {
    Fixed(&'static str),
    Read(Arc<String>),
}

impl Name {
    /// Longest name in bytes: `NFT_NAME_MAXLEN` (256) less the terminating zero.
    pub const MAX: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Fixed(text) => text,
            Text::Read(text) => text,
        }
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (self.as_str(), other.as_str());
        if std::ptr::eq(one, other) { Ordering::Equal } else { one.cmp(other) }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Name").field(&self.as_str()).finish()
    }
}

/// # Errors
/// Text that is no name.
fn check(text: &str) -> Result<(), Invalid> {
    let first_ok = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest_ok = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    if first_ok && rest_ok && text.len() <= Name::MAX {
        return Ok(());
    }
    Err(Invalid::new(
        "an nftables name",
        text,
        "a letter or '_', then letters, digits, '_', '-', '.' and '/', at most 255 characters",
    ))
}

impl FromStr for Name {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        check(text)?;
        Ok(Self(Text::Read(Arc::new(text.into()))))
    }
}

impl From<&'static str> for Name {
    /// A name written in the program.
    ///
    /// # Panics
    /// If the literal is not a name: a mistake in the program. Text from outside goes through [`FromStr`].
    fn from(text: &'static str) -> Self {
        match check(text) {
            Ok(()) => Self(Text::Fixed(text)),
            Err(fault) => panic!("{fault}"),
        }
    }
}

impl From<&Name> for Name {
    fn from(name: &Name) -> Self {
        name.clone()
    }
}

impl TryFrom<String> for Name {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A comment or a log prefix. nft's quoted strings have no escape, so quotation marks, backslashes and control
/// characters are replaced on entry and the rest is cut at [`Comment::MAX`] bytes: any text can be given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Comment(Arc<str>);

impl Comment {
    /// Longest comment in bytes, one less than `NFTNL_UDATA_COMMENT_MAXLEN`; also fits `NF_LOG_PREFIXLEN`.
    pub const MAX: usize = 127;

    /// The harmless form of `text`.
    pub fn new(text: &str) -> Self {
        let mut out = String::with_capacity(text.len().min(Self::MAX));
        for c in text.chars() {
            let c = match c {
                '"' => '\'',
                '\\' => '/',
                c if c.is_control() => '?',
                c => c,
            };
            if out.len() + c.len_utf8() > Self::MAX {
                break;
            }
            out.push(c);
        }
        Self(out.into())
    }

    /// The comment as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Comment {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Comment {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<&ripstop_types::Owner> for Comment {
    fn from(owner: &ripstop_types::Owner) -> Self {
        Self::new(&owner.to_string())
    }
}

impl From<Comment> for String {
    fn from(comment: Comment) -> Self {
        comment.0.as_ref().into()
    }
}

impl fmt::Display for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an interface name is compared with: one name, or all names that begin with something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum IfPattern {
    /// Exactly this name.
    Exact(IfName),
    /// Every name that begins so: `rip*`.
    Prefix(IfName),
}

impl IfPattern {
    /// Whether a link of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.as_str() == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for IfPattern {
    type Err = Invalid;

    /// Reads a name, or a beginning followed by `*`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.strip_suffix('*') {
            Some(prefix) => prefix.parse().map(Self::Prefix),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl From<&'static str> for IfPattern {
    /// A pattern written in the program.
    ///
    /// # Panics
    /// If the literal is not a pattern: a mistake in the program. Text from outside goes through [`FromStr`].
    fn from(text: &'static str) -> Self {
        match text.parse() {
            Ok(pattern) => pattern,
            Err(fault) => panic!("{fault}"),
        }
    }
}

impl From<IfName> for IfPattern {
    fn from(name: IfName) -> Self {
        Self::Exact(name)
    }
}

impl From<&IfName> for IfPattern {
    fn from(name: &IfName) -> Self {
        Self::Exact(name.clone())
    }
}

impl TryFrom<String> for IfPattern {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<IfPattern> for String {
    fn from(pattern: IfPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for IfPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.pad(name.as_str()),
            Self::Prefix(name) => write!(f, "{name}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_nft_scans_without_quotes() {
        for good in ["ripstop", "_a", "pods-4", "a.b/c"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "4pods", "a b", "a;b", "a\"", &"x".repeat(256)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_comment_takes_any_text_and_is_harmless() {
        assert_eq!(Comment::new("a\"; drop\n\\").as_str(), "a'; drop?/");
        assert_eq!(Comment::new(&"é".repeat(100)).as_str().len(), 126);
    }

    #[test]
    fn a_pattern_knows_exact_from_prefix() {
        let exact: IfPattern = "rip0".into();
        let prefix: IfPattern = "rip*".into();
        assert!(exact.matches("rip0") && !exact.matches("rip01"));
        assert!(prefix.matches("rip01") && prefix.matches("rip") && !prefix.matches("ri"));
        assert!("*".parse::<IfPattern>().is_err());
    }
}
