//! Refusals and findings of the lease book, as sentences.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, Prefix};

use super::lease::Attachment;

/// Why an attachment gets no address. Nothing was given, in no family.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseFault {
    /// Nothing is free.
    #[error("{holder}: {}", full(.ranges, *.leased, *.usable, .window.as_deref()))]
    Full {
        /// Who asked.
        holder: String,
        /// The ranges tried.
        ranges: Vec<Prefix>,
        /// Leases in them.
        leased: u128,
        /// Addresses for pods in them.
        usable: u128,
        /// The windows that limited the choice.
        window: Option<String>,
    },
    /// The node has no range to give from.
    #[error(
        "{holder}: this node has no {family} range of network {network} yet; `ripstop get networks` and the agent's \
         status say why"
    )]
    NoRange {
        /// Who asked.
        holder: String,
        /// The network.
        network: Arc<str>,
        /// The family without a range.
        family: Family,
    },
    /// The fixed address is someone's.
    #[error("{holder}: address {ip} is held by {by}; remove that pod or ask for another")]
    Taken {
        /// Who asked.
        holder: String,
        /// The address.
        ip: IpAddr,
        /// Its holder.
        by: String,
    },
    /// The fixed address is lent to another node, or on its way there or back.
    #[error("{holder}: address {ip} is lent to another node; `ripstop get leases` names it")]
    Lent {
        /// Who asked.
        holder: String,
        /// The address.
        ip: IpAddr,
    },
    /// The fixed address is not of this node.
    #[error("{holder}: address {ip} is in no range that this node gives from; it has {}", list(.ranges))]
    Outside {
        /// Who asked.
        holder: String,
        /// The address.
        ip: IpAddr,
        /// This node's ranges of the network.
        ranges: Vec<Prefix>,
    },
    /// The fixed address is not for pods.
    #[error("{holder}: address {ip} of range {range} is not for pods: {why}")]
    Reserved {
        /// Who asked.
        holder: String,
        /// The address.
        ip: IpAddr,
        /// Its range.
        range: Prefix,
        /// Why not.
        why: &'static str,
    },
    /// The fixed address contradicts `ipRanges`.
    #[error("{holder}: address {ip} is outside the address ranges of the same request ({windows})")]
    OutsideWindow {
        /// Who asked.
        holder: String,
        /// The address.
        ip: IpAddr,
        /// The windows.
        windows: String,
    },
    /// The windows and this node's ranges have no address in common.
    #[error("{holder}: the request's address ranges ({windows}) have nothing in common with this node's: {}", list(.ranges))]
    WindowOutside {
        /// Who asked.
        holder: String,
        /// The windows.
        windows: String,
        /// This node's ranges of the network.
        ranges: Vec<Prefix>,
    },
    /// More than one fixed address in a family.
    #[error("{holder}: {first} and {second} are both {family}: an interface gets one address a family")]
    TwoOfFamily {
        /// Who asked.
        holder: String,
        /// The family.
        family: Family,
        /// One.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
    /// A fixed address of a family the network does not have.
    #[error("{holder}: address {ip} is {family}, which network {network} does not have")]
    FamilyUnknown {
        /// Who asked.
        holder: String,
        /// The network.
        network: Arc<str>,
        /// The address.
        ip: IpAddr,
        /// Its family.
        family: Family,
    },
    /// No family was asked for.
    #[error("{holder}: network {network} has no address family")]
    NoFamily {
        /// Who asked.
        holder: String,
        /// The network.
        network: Arc<str>,
    },
    /// The fixed hardware address is someone's in this network.
    #[error("{holder}: hardware address {mac} is held by {by} in the same network")]
    MacTaken {
        /// Who asked.
        holder: String,
        /// The hardware address.
        mac: ripstop_types::Mac,
        /// Its holder.
        by: String,
    },
    /// The attachment is made and has other addresses than asked for.
    #[error("{holder} has {} in network {network} already, and asks for something else; DEL comes first", addresses(.has))]
    Different {
        /// Who asked.
        holder: String,
        /// The network it has.
        network: Arc<str>,
        /// The addresses it has.
        has: Vec<IpAddr>,
    },
    /// No such lease.
    #[error("attachment {0} has no lease")]
    Unknown(Attachment),
    /// Two ranges of this node overlap.
    #[error("ranges {0} and {1} of this node overlap")]
    RangesOverlap(Prefix, Prefix),
}

impl LeaseFault {
    /// Whether the same request may succeed later without anybody changing it (CNI error 11, try again later).
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::NoRange { .. } | Self::Full { .. })
    }
}

/// What reading leases back found. Nothing named here was dropped, except leases of another boot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportNote {
    /// Made before the machine was started anew: its pod cannot exist.
    #[error("lease of {holder} ({}) is of another boot and void", addresses(.ips))]
    OtherBoot {
        /// The attachment.
        attachment: Attachment,
        /// Its pod.
        holder: String,
        /// The addresses that are free again.
        ips: Vec<IpAddr>,
    },
    /// Two leases name one address. The older has it; the younger is kept too, and the address stays taken until both are
    /// gone.
    #[error("address {ip} is in the leases of {older} and {younger}; the older keeps it: remove the younger pod")]
    Duplicate {
        /// The address.
        ip: IpAddr,
        /// The older lease's pod.
        older: String,
        /// The younger's attachment.
        attachment: Attachment,
        /// The younger's pod.
        younger: String,
    },
    /// Two rows for one attachment: the older is kept.
    #[error("attachment {attachment} has two leases: {} is kept, {} is not", addresses(.kept), addresses(.other))]
    Twice {
        /// The attachment.
        attachment: Attachment,
        /// The addresses kept.
        kept: Vec<IpAddr>,
        /// The addresses of the other.
        other: Vec<IpAddr>,
    },
}

fn full(ranges: &[Prefix], leased: u128, usable: u128, window: Option<&str>) -> String {
    let verb = if ranges.len() == 1 { "is" } else { "are" };
    let noun = if ranges.len() == 1 { "range" } else { "ranges" };
    let limit = window.map_or(String::new(), |window| format!(" within {window}"));
    format!(
        "{noun} {} {verb} full{limit}: {leased} of {usable} leased; remove pods, or give the node a larger range",
        list(ranges)
    )
}

fn list(ranges: &[Prefix]) -> String {
    if ranges.is_empty() { "none".into() } else { join(ranges) }
}

fn addresses(ips: &[IpAddr]) -> String {
    join(ips)
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
