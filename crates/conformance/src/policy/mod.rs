//! The suite for policies: which packets pass, whatever data plane carries them.
//!
//! [`scenarios`] draws clusters, changes of them and packets that nobody thought of. Whatever carries packets is set beside
//! [`ripstop_oracle::policy::judge`] with them.
//!
//! Not here: tables of any kind.

mod generate;

pub use generate::{Change, Scenario, Step, scenarios};
