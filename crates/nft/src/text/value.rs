//! Values, keys, data and verdicts as nft prints them.

use std::cmp::Reverse;

use crate::bytes;
use crate::model::{Data, KeyPart, Type, Value, Verdict};

/// nft's name of a type.
pub(super) fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Ipv4Addr => "ipv4_addr",
        Type::Ipv6Addr => "ipv6_addr",
        Type::EtherAddr => "ether_addr",
        Type::InetService => "inet_service",
        Type::IfName => "ifname",
        Type::InetProto => "inet_proto",
        Type::Mark => "mark",
        Type::EtherType => "ether_type",
        Type::ArpOp => "arp_op",
        Type::IcmpType => "icmp_type",
        Type::Icmpv6Type => "icmpv6_type",
        Type::NfProto => "nf_proto",
        Type::PktType => "pkt_type",
        Type::FibAddrType => "fib_addrtype",
        Type::IfIndex => "iface_index",
        Type::CtState => "ct_state",
        Type::CtStatus => "ct_status",
        Type::CtDirection => "ct_dir",
        Type::TcpFlags => "tcp_flag",
    }
}

const PROTOCOLS: &[(u32, &str)] = &[
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipencap"),
    (6, "tcp"),
    (17, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (89, "ospf"),
    (112, "vrrp"),
    (132, "sctp"),
    (136, "udplite"),
];
const ICMP: &[(u32, &str)] = &[
    (0, "echo-reply"),
    (3, "destination-unreachable"),
    (4, "source-quench"),
    (5, "redirect"),
    (8, "echo-request"),
    (9, "router-advertisement"),
    (10, "router-solicitation"),
    (11, "time-exceeded"),
    (12, "parameter-problem"),
    (13, "timestamp-request"),
    (14, "timestamp-reply"),
];
const ICMPV6: &[(u32, &str)] = &[
    (1, "destination-unreachable"),
    (2, "packet-too-big"),
    (3, "time-exceeded"),
    (4, "parameter-problem"),
    (128, "echo-request"),
    (129, "echo-reply"),
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
    (137, "nd-redirect"),
    (138, "router-renumbering"),
    (143, "mld2-listener-report"),
];
const ADDR_TYPES: &[(u32, &str)] = &[
    (0, "unspec"),
    (1, "unicast"),
    (2, "local"),
    (3, "broadcast"),
    (4, "anycast"),
    (5, "multicast"),
    (6, "blackhole"),
    (7, "unreachable"),
    (8, "prohibit"),
];
const CT_STATE: &[(u32, &str)] = &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
const CT_STATUS: &[(u32, &str)] =
    &[(1, "expected"), (2, "seen-reply"), (4, "assured"), (8, "confirmed"), (16, "snat"), (32, "dnat"), (512, "dying")];
const TCP_FLAGS: &[(u32, &str)] =
    &[(1, "fin"), (2, "syn"), (4, "rst"), (8, "psh"), (16, "ack"), (32, "urg"), (64, "ecn"), (128, "cwr")];

fn named(names: &[(u32, &'static str)], number: u32, otherwise: impl FnOnce() -> String) -> String {
    match names.iter().find(|(n, _)| *n == number) {
        Some((_, name)) => (*name).to_owned(),
        None => otherwise(),
    }
}

/// The names of set bits with commas; the number if one has no name.
fn bit_names(names: &[(u32, &'static str)], bits: u32) -> String {
    let known: u32 = names.iter().map(|(n, _)| n).sum();
    if bits & !known != 0 || bits == 0 {
        return format!("0x{bits:x}");
    }
    let set: Vec<_> = names.iter().filter(|(n, _)| bits & n != 0).map(|(_, name)| *name).collect();
    set.join(",")
}

/// Bits of a type whose values are sets of bits.
pub(super) fn bits(kind: Type, bits: u32) -> String {
    match kind {
        Type::CtState => bit_names(CT_STATE, bits),
        Type::CtStatus => bit_names(CT_STATUS, bits),
        Type::TcpFlags => bit_names(TCP_FLAGS, bits),
        _ => mark(bits),
    }
}

/// A mark.
pub(super) fn mark(mark: u32) -> String {
    format!("0x{mark:08x}")
}

/// One value.
pub(super) fn value(value: &Value) -> String {
    let decimal = |n: u32| move || n.to_string();
    match value {
        Value::Ipv4(ip) => ip.to_string(),
        Value::Ipv6(ip) => ip.to_string(),
        Value::Ether(mac) => mac.to_string(),
        Value::Service(port) => port.to_string(),
        Value::IfName(pattern) => {
            if_pattern(&pattern.to_string(), matches!(pattern, crate::model::IfPattern::Prefix(_)))
        }
        Value::Proto(n) => named(PROTOCOLS, (*n).into(), decimal((*n).into())),
        Value::Mark(n) => mark(*n),
        Value::EtherType(n) => named(
            &[(0x0800, "ip"), (0x0806, "arp"), (0x86dd, "ip6"), (0x8100, "8021q"), (0x88a8, "8021ad")],
            (*n).into(),
            || format!("0x{n:04x}"),
        ),
        Value::ArpOp(n) => named(&[(1, "request"), (2, "reply")], (*n).into(), decimal((*n).into())),
        Value::IcmpType(n) => named(ICMP, (*n).into(), decimal((*n).into())),
        Value::Icmpv6Type(n) => named(ICMPV6, (*n).into(), decimal((*n).into())),
        Value::NfProto(n) => named(&[(2, "ipv4"), (10, "ipv6")], (*n).into(), decimal((*n).into())),
        Value::PktType(n) => {
            named(&[(0, "host"), (1, "broadcast"), (2, "multicast"), (3, "other")], (*n).into(), decimal((*n).into()))
        }
        Value::FibAddrType(n) => named(ADDR_TYPES, *n, decimal(*n)),
        Value::IfIndex(n) => n.to_string(),
        Value::CtState(n) => bit_names(CT_STATE, *n),
        Value::CtStatus(n) => bit_names(CT_STATUS, *n),
        Value::CtDirection(n) => named(&[(0, "original"), (1, "reply")], (*n).into(), decimal((*n).into())),
        Value::TcpFlags(n) => bit_names(TCP_FLAGS, (*n).into()),
    }
}

/// A link's name in quotation marks. nft's strings know one escape, `\*`; a quotation mark cannot be written.
fn if_pattern(text: &str, is_prefix: bool) -> String {
    let text = text.replace(['"', '\\'], "?");
    if !is_prefix && let Some(begin) = text.strip_suffix('*') {
        return format!("\"{begin}\\*\"");
    }
    format!("\"{text}\"")
}

/// One part of a key.
pub(super) fn key_part(part: &KeyPart) -> String {
    match part {
        KeyPart::Value(one) => value(one),
        KeyPart::Prefix(prefix) => prefix.to_string(),
        KeyPart::Range(bounds) => format!("{}-{}", value(&bounds.0), value(&bounds.1)),
    }
}

/// A whole key.
pub(super) fn key_parts(parts: &[KeyPart]) -> String {
    parts.iter().map(key_part).collect::<Vec<_>>().join(" . ")
}

/// A verdict.
pub(super) fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Continue => "continue".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

/// A map's data.
pub(super) fn data(data: &Data) -> String {
    match data {
        Data::Verdict(found) => verdict(found),
        Data::Values(values) => values.iter().map(value).collect::<Vec<_>>().join(" . "),
    }
}

/// Seconds as nft writes them: `1d2h3m4s`.
pub(super) fn duration(seconds: u32) -> String {
    let parts = [(seconds / 86_400, 'd'), (seconds / 3_600 % 24, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The order in which nft lists elements: by number; names and concatenations by their last byte first.
pub(super) fn sort_key(parts: &[KeyPart]) -> (Vec<u8>, Reverse<Vec<u8>>) {
    let (mut first, last) = bytes::key_bounds(parts);
    let host_order = match parts {
        [one] => !one.type_of().has_ranges(),
        _ => true,
    };
    if host_order {
        first.reverse();
    }
    (first, Reverse(last))
}

/// What stands between two elements of a named set, the `index`th of which is to come.
pub(super) fn set_delimiter(key: &[Type], index: usize) -> &'static str {
    let per_line = match key {
        [Type::Ipv4Addr | Type::PktType | Type::CtState | Type::CtStatus | Type::CtDirection | Type::NfProto] => 2,
        [Type::InetService | Type::InetProto | Type::Mark | Type::ArpOp | Type::IfIndex | Type::TcpFlags] => 5,
        _ => 1,
    };
    if index.is_multiple_of(per_line) { ",\n\t\t\t     " } else { ", " }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_strings_cannot_end_them() {
        assert_eq!(if_pattern("rip*", true), "\"rip*\"");
        assert_eq!(if_pattern("rip*", false), "\"rip\\*\"");
        assert_eq!(if_pattern("a\"b", false), "\"a?b\"");
    }

    #[test]
    fn durations_leave_out_what_is_zero() {
        assert_eq!(duration(5_400), "1h30m");
        assert_eq!(duration(10_800), "3h");
        assert_eq!(duration(86_461), "1d1m1s");
        assert_eq!(duration(0), "0s");
    }

    #[test]
    fn unnamed_bits_make_a_number() {
        assert_eq!(bits(Type::CtState, 2 | 4), "established,related");
        assert_eq!(bits(Type::CtState, 2 | 128), "0x82");
        assert_eq!(bits(Type::Mark, 2), "0x00000002");
    }
}
