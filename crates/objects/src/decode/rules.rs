//! Rules on a network's fields that need no more than the network itself, whatever document it came from.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ripstop_types::{Family, Prefix};

use super::Decoder;
use crate::{NetworkSpec, NodeRangeLen, RangeMode, Ranges};

/// VXLAN network identifiers: 24 bits (RFC 7348, section 5), zero left out.
pub(crate) const VNI: RangeInclusive<u64> = 1..=0xff_ffff;

/// The longest node range: a network, a gateway, a pod and a last address.
pub(crate) fn longest_node_range(family: Family) -> u8 {
    family.bits() - 2
}

/// MTUs of pods: what IPv4 (RFC 791) or IPv6 (RFC 8200, section 5) demands at least, and a length field's greatest.
pub(crate) fn mtu(ranges: Ranges) -> RangeInclusive<u64> {
    if ranges.v6.is_some() { 1280..=65535 } else { 576..=65535 }
}

/// Length of node ranges where none is given: /24 and /64, or, in a network too small for four of those, its quarters.
pub(crate) fn default_node_range_len(ranges: Ranges) -> NodeRangeLen {
    let of = |range: Option<Prefix>, usual: u8, family| {
        let quarter = range.map_or(0, |range: Prefix| range.len().saturating_add(2));
        usual.max(quarter).min(longest_node_range(family))
    };
    let usual = NodeRangeLen::default();
    NodeRangeLen { v4: of(ranges.v4, usual.v4, Family::V4), v6: of(ranges.v6, usual.v6, Family::V6) }
}

/// Ranges in which pods cannot have addresses, and what they are for.
pub(super) const RESERVED: &[(&str, &str)] = &[
    ("0.0.0.0/8", "this network (RFC 1122)"),
    ("127.0.0.0/8", "loopback (RFC 1122)"),
    ("169.254.0.0/16", "link-local (RFC 3927), where the pods' gateway is"),
    ("224.0.0.0/4", "multicast (RFC 5771)"),
    ("240.0.0.0/4", "reserved (RFC 1112)"),
    ("::/127", "the unspecified and the loopback address (RFC 4291)"),
    ("::ffff:0.0.0.0/96", "IPv4-mapped (RFC 4291)"),
    ("fe80::/10", "link-local (RFC 4291), where the pods' gateway is"),
    ("ff00::/8", "multicast (RFC 4291)"),
];

/// A field that a rule can be broken at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Range(Family),
    NodeRangeLen(Family),
    RangeMin(Family),
    RangeMax(Family),
    Exclude(Prefix),
}

/// Checks fields against each other. `path` gives the path under which the document's author knows a field.
pub(crate) fn check_spec(d: &mut Decoder, spec: &NetworkSpec, path: impl Fn(Field) -> String) {
    for range in spec.ranges.iter() {
        check_reserved(d, range, &path);
        // Blocks have a length of their own.
        if spec.range_mode != RangeMode::Blocks {
            check_node_range_len(d, spec, range, &path);
        }
    }
    check_bounds(d, spec, &path);
    check_exclude(d, spec, &path);
}

fn check_reserved(d: &mut Decoder, range: Prefix, path: &impl Fn(Field) -> String) {
    for (reserved, purpose) in RESERVED {
        let Ok(reserved) = reserved.parse::<Prefix>() else { continue };
        if reserved.overlaps(&range) {
            let accepted = format!("a range that does not overlap {reserved}, {purpose}");
            d.fault(path(Field::Range(range.family())), range, accepted);
        }
    }
}

fn check_node_range_len(d: &mut Decoder, spec: &NetworkSpec, range: Prefix, path: &impl Fn(Field) -> String) {
    let family = range.family();
    let (len, longest) = (spec.node_range_len.get(family), longest_node_range(family));
    if range.len() > longest {
        d.fault(path(Field::Range(family)), range, format!("a range of at most /{longest}"));
    } else if !(range.len()..=longest).contains(&len) {
        let accepted = format!("{} to {longest}, so that a node's range fits into {range}", range.len());
        d.fault(path(Field::NodeRangeLen(family)), len, accepted);
    }
}

fn check_bounds(d: &mut Decoder, spec: &NetworkSpec, path: &impl Fn(Field) -> String) {
    for family in Family::BOTH {
        let (min, max) = (spec.range_min.get(family), spec.range_max.get(family));
        for (field, address) in [(Field::RangeMin(family), min), (Field::RangeMax(family), max)] {
            if let Some(address) = address
                && let Some(accepted) = accepted_bound(spec, address)
            {
                d.fault(path(field), address, accepted);
            }
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let accepted = format!("an address not before {min} of {}", path(Field::RangeMin(family)));
            d.fault(path(Field::RangeMax(family)), max, accepted);
        }
    }
}

/// What would be accepted in the place of a bound; `None` if the bound is.
fn accepted_bound(spec: &NetworkSpec, bound: IpAddr) -> Option<String> {
    let family = Family::of(bound);
    let len = spec.node_range_len.get(family);
    if spec.range_mode != RangeMode::Lease {
        return Some("nothing: only rangeMode lease chooses ranges".into());
    }
    let Some(range) = spec.ranges.get(family) else {
        return Some(format!("nothing: the network has no {family} range"));
    };
    if !range.contains(bound) {
        return Some(format!("an address in {range}"));
    }
    // A length that does not fit the network has a fault of its own.
    let node_range = Prefix::containing(bound, len).filter(|_| len >= range.len())?;
    (node_range.addr() != bound).then(|| format!("the first address of a /{len}, such as {}", node_range.addr()))
}

fn check_exclude(d: &mut Decoder, spec: &NetworkSpec, path: &impl Fn(Field) -> String) {
    for exclude in &spec.exclude {
        let pools: Vec<Prefix> = spec.pools(exclude.family()).map(|pool| pool.range).collect();
        let at = || path(Field::Exclude(*exclude));
        match pools.first() {
            Some(_) if let Some(pool) = pools.iter().find(|pool| exclude.covers(pool)) => {
                d.fault(at(), exclude, format!("a part of {pool}, not all of it"));
            }
            Some(_) if pools.iter().any(|pool| pool.covers(exclude)) => {}
            Some(_) => {
                let pools: Vec<String> = pools.iter().map(ToString::to_string).collect();
                d.fault(at(), exclude, format!("a range inside {}", pools.join(" or ")));
            }
            None => {
                let accepted = format!("a range in a family of the network, which has no {}", exclude.family());
                d.fault(at(), exclude, accepted);
            }
        }
    }
}
