//! The ruleset as typed values.
//!
//! A [`Table`] holds chains and the declarations of its named sets and maps, never their elements: an element is a
//! value of its own ([`ElementKey`] and [`ElementBody`]), because elements are planned and applied one by one while a
//! table's definition is replaced as a whole. Contents of an inline (anonymous) set belong to the rule they stand in.
//!
//! Sets, maps and verdict maps share one name space in the kernel, so they share one map here; a [`Set`] with
//! [`Set::data`] is a map.
//!
//! Values cannot express everything wrongly, but some things (an address compared with a port) they can;
//! [`Table::check`] finds those, and the encoder refuses a table that fails it.
//!
//! Rules are written with the functions of [`build`]:
//!
//! ```
//! use ripstop_nft::model::{Chain, Hook, Rule, Set, Table, TableFamily, Type, build::*, priority};
//!
//! let table = Table::new(TableFamily::Inet, "ripstop")
//!     .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
//!     .chain(
//!         "forward",
//!         Chain::filter(Hook::Forward, priority::FILTER)
//!             .rule(Rule::new([ct::state().any(CtState::ESTABLISHED | CtState::RELATED), accept()]))
//!             .rule(Rule::new([meta::iifname().is("rip*"), concat((meta::iifname(), ip::saddr())).not_in_set("pods"), drop()])
//!                 .comment("agent")),
//!     );
//! assert_eq!(table.check(), Ok(()));
//! ```

pub mod build;
mod chain;
pub(crate) mod check;
mod name;
mod part;
mod selector;
mod set;
mod statement;
mod value;

pub use chain::{Base, Chain, ChainType, Hook, Policy, Rule, Table, TableFamily, priority};
pub use check::Fault;
pub(crate) use check::width;
pub use name::{Comment, IfPattern, Name};
pub use part::{Filling, Part, part_of};
pub use selector::{FibKey, FibResult, PayloadBase, Selector};
pub use set::{DataType, ElementBody, ElementKey, Key, KeyPart, Set};
pub use statement::{
    Device, Limit, Log, MapRef, MarkSource, Match, Nat, NatFlags, NatKind, NatTo, NumGen, Operand, RejectWith,
    Relation, SetRef, SetUpdate, Statement, TimeUnit,
};
pub use value::{Data, Type, Value, Verdict};
