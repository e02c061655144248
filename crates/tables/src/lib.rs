//! A node's whole state of knowledge, in memory: what entered, as rows; and the messages by which it entered.
//!
//! Everything that enters is an [`Input`]; [`Recording`] writes it as JSON lines and reads it back, so a run of an
//! agent can be repeated. [`Tables`] holds the rows, and [`Change`] says which of them an input touched. [`Snapshot`]
//! is what outlives the process.
//!
//! Not here: any decision. A table says "this node published that", never what follows from it.
//!
//! Invariants: a row keeps the revision it came with; a kind is [`Knowledge::Unknown`] until it came from the store or a
//! snapshot; nothing iterates in an order that depends on the run.

mod applied;
mod bgp;
mod cluster;
mod few;
mod flannel;
mod input;
mod metallb;
mod networks;
mod nexthop;
mod nodes;
mod pod;
mod policies;
mod proxy;
mod record;
mod services;
mod snapshot;
mod state;
mod value;

pub use bgp::{BgpInput, BgpTables};
pub use cluster::{ClusterSnapshot, ClusterTables, ObjectInput};
pub use input::{
    Announced, AnnouncedRow, FaultCause, Input, Moment, NetworkList, ProbeInput, Start, StepFault, StoreInput,
    StoreResult, Tracking, Withdrawn,
};
pub use metallb::MetallbTables;
pub use nexthop::NexthopIds;
pub use pod::{Bandwidth, HostPort, PodRow, PodState, Shaping};
pub use policies::{Concern, PodAddresses, PolicyTables};
pub use proxy::{Leaving, Proxies, Stage};
pub use record::{Recording, RecordingFault, Stamped};
pub use ripstop_netmodel::{ForeignDrop, HostFacts, HostLink};
pub use ripstop_probe::{Checksums, Reach, Report, Target, Tunnel};
pub use ripstop_types::StoreKind;
pub use services::{At, Place, ServiceTables};
pub use snapshot::{SNAPSHOT_VERSION, Snapshot, SnapshotFault, SnapshotRecord, SnapshotRows};
pub use state::{Change, Knowledge, Row, StoreState, Tables};
pub use value::StoreValue;
