//! Who may talk to whom: NetworkPolicies and ClusterNetworkPolicies, decided once for every data plane.
//!
//! [`Policies`] takes in what there is, object by object, and keeps for each pod of this node what becomes of its packets at each
//! [`Gate`]: a [`Lead`] to tables of ports and of peers. Whatever the number of policies, also of those about one pod, a packet is looked
//! up in one of each: rules that agree on a port are one [`Ladder`](tables), and peers of one rung are one set. Pods that policies cannot
//! tell apart share their tables, and so do different pods for which the same is to be asked.
//!
//! Nothing is computed before [`Policies::decide`], which says what has changed. A peer that comes, goes or changes its address costs an
//! exception in those tables that name it.
//!
//! [`explain`] tells why, and [`revoke`] which connections are over when something has changed.
//!
//! Not here: how a packet is matched, replies of a connection (they pass, and end with what permitted them), neighbour discovery, and what
//! comes from a pod's own node: none of those is asked about.
//!
//! Invariants: the same objects give the same tables with the same names, in whatever order they came; a table that nobody leads to is
//! not there; an address without a pod or node has no exception.
//!
//! Source of what is right: `networking.k8s.io/v1` NetworkPolicy and `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.

mod atoms;
mod course;
pub mod explain;
mod members;
mod peers;
mod policies;
pub mod revoke;
mod rules;
mod select;
mod slab;
pub mod tables;

pub use policies::{Changes, PeerTable, Policies};
pub use tables::{Gate, Lead, PortTable, TableName, Way};
