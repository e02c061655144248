//! What a message of a batch was for, and sentences for what the kernel says against it.

use std::fmt;

use super::{Encoded, Record};
use crate::decode::Refusal;
use crate::model::{ElementKey, Name, TableFamily};

/// What a message does with its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Adds it.
    Add,
    /// Deletes it.
    Delete,
}

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // Families and names say what they are.
pub enum Object {
    /// A table.
    Table { family: TableFamily, table: Name },
    /// A named set or map.
    Set { family: TableFamily, table: Name, set: String },
    /// A chain.
    Chain { family: TableFamily, table: Name, chain: Name },
    /// A rule, or a set written into it. `index` counts from 0.
    Rule { family: TableFamily, table: Name, chain: Name, index: usize, text: String },
    /// Elements of one set.
    Elements { family: TableFamily, table: Name, set: Name, count: usize },
    /// One element.
    Element(ElementKey),
}

impl Object {
    pub(super) fn table(family: TableFamily, name: &Name) -> Self {
        Self::Table { family, table: name.clone() }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { family, table } => write!(f, "table {family} {table}"),
            Self::Set { family, table, set } => write!(f, "set {family} {table} {set}"),
            Self::Chain { family, table, chain } => write!(f, "chain {family} {table} {chain}"),
            Self::Rule { family, table, chain, index, text } => {
                write!(f, "rule {} of chain {family} {table} {chain} ({text})", index + 1)
            }
            Self::Elements { family, table, set, count } => {
                write!(f, "one of {count} elements of set {family} {table} {set}")
            }
            Self::Element(key) => write!(f, "element {key}"),
        }
    }
}

/// Why the kernel took none of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The object the kernel stumbled over; `None` if it is the batch as a whole.
    pub object: Option<Object>,
    /// What was to be done with it.
    pub action: Option<Action>,
    /// The kernel's error number, positive.
    pub errno: i32,
    /// The kernel's own words, if it sent any.
    pub message: Option<String>,
}

impl Failure {
    /// Whether the ruleset had changed since the generation the batch was made for; reading it again and making a new
    /// batch is the answer.
    pub fn is_stale(&self) -> bool {
        self.errno == ERESTART
    }

    /// Whether the object named was not there.
    pub fn is_missing(&self) -> bool {
        self.errno == ENOENT
    }

    /// Whether the object named was there already.
    pub fn is_present(&self) -> bool {
        self.errno == EEXIST
    }
}

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENFILE: i32 = 23;
const EMLINK: i32 = 31;
const ERANGE: i32 = 34;
const ELOOP: i32 = 40;
const ERESTART: i32 = 85;
const EPROTO: i32 = 71;
const EOPNOTSUPP: i32 = 95;
const ENOBUFS: i32 = 105;
const ENOTSUPP: i32 = 524;

fn cause(errno: i32) -> &'static str {
    match errno {
        EPERM => "not permitted: CAP_NET_ADMIN is missing, or another program owns the table",
        ENOENT => "it, its table, or something it names is not there, or the kernel lacks an expression it uses",
        ENOMEM => "the kernel has no memory for it",
        EBUSY => "it is in use, or it overlaps with another element",
        EEXIST => "it is there already, or an element with the same key has another value",
        EINVAL => "the kernel finds it malformed or not allowed at this place",
        ENFILE => "the set is full",
        EMLINK | ELOOP => "chains jump in a circle or too deep",
        ERANGE => "a number is out of range",
        ERESTART => "the ruleset was changed by another hand in the meantime",
        EPROTO | EOPNOTSUPP | ENOTSUPP => "this kernel lacks it, or has it not in this family",
        ENOBUFS => "the socket's buffer is too small for the answers",
        _ => "see errno(3)",
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.action {
            Some(Action::Delete) => "delete",
            _ => "add",
        };
        match &self.object {
            Some(object) => write!(f, "the kernel refused to {verb} {object}")?,
            None => f.write_str("the kernel refused the batch")?,
        }
        write!(f, ": {} (errno {}", cause(self.errno), self.errno)?;
        match &self.message {
            Some(message) => write!(f, ", {message:?})"),
            None => f.write_str(")"),
        }
    }
}

impl Encoded {
    /// The number of the first message, which marks the batch's beginning: errors of the batch as a whole carry it.
    pub fn first_seq(&self) -> u32 {
        self.first_seq
    }

    /// The number of the last message that is answered.
    pub fn last_seq(&self) -> u32 {
        self.first_seq.wrapping_add(u32::try_from(self.records.len()).unwrap_or(u32::MAX))
    }

    /// The first number that is free after this batch.
    pub fn next_seq(&self) -> u32 {
        self.last_seq().wrapping_add(2)
    }

    /// What the message of this number is about.
    pub fn object(&self, seq: u32) -> Option<&Object> {
        let index = seq.wrapping_sub(self.first_seq).checked_sub(1)?;
        self.records.get(usize::try_from(index).ok()?).map(|record| &record.object)
    }

    /// Makes a sentence of a refusal. If the kernel says where in a message it stumbled, an element is named.
    pub fn explain(&self, refusal: &Refusal) -> Failure {
        let index = refusal.seq.wrapping_sub(self.first_seq).checked_sub(1);
        let record = index.and_then(|index| self.records.get(usize::try_from(index).ok()?));
        let (action, object) = match record {
            None => (None, None),
            Some(Record { action, object, elements }) => {
                let element = refusal.offset.and_then(|at| elements.iter().rev().find(|(begin, _)| *begin <= at));
                let single = if elements.len() == 1 { elements.first() } else { None };
                let object = match element.or(single) {
                    Some((_, key)) => Object::Element(key.clone()),
                    None => object.clone(),
                };
                (Some(*action), Some(object))
            }
        };
        Failure { object, action, errno: refusal.errno, message: refusal.message.clone() }
    }
}
