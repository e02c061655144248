//! Statements as nft prints them.

use std::borrow::Cow;
use std::fmt::Write as _;

use ripstop_types::Family;

use super::value::{bits, data, duration, key_part, key_parts, mark, sort_key, verdict};
use crate::implied::{Settled, network, transport};
use crate::model::build::Proto;
use crate::model::{
    Data, FibKey, FibResult, KeyPart, Limit, MapRef, MarkSource, Match, Nat, NatFlags, NatKind, NatTo, NumGen, Operand,
    RejectWith, Relation, Selector, SetRef, SetUpdate, Statement, TableFamily, TimeUnit, Type, Value,
};

/// The statements of a rule.
pub(super) fn rule(family: TableFamily, statements: &[Statement]) -> String {
    let mut settled = Settled::new(family);
    let mut out: Vec<String> = Vec::new();
    let mut inferred = None;
    for (index, one) in statements.iter().enumerate() {
        if let Statement::Match(found) = one {
            settled.learn(found);
            if let Some(next) = statements.get(index + 1)
                && left_out(family, found, next)
            {
                inferred = settled.transport();
                continue;
            }
        }
        let mut text = statement(family, &mut settled, one);
        if let Some(proto) = inferred.take() {
            text = name_transport(&text, proto);
        }
        out.push(text);
    }
    out.join(" ")
}

/// Whether nft leaves an explicit match out because the statement behind it implies the same.
fn left_out(family: TableFamily, found: &Match, next: &Statement) -> bool {
    let Statement::Match(next) = next else { return false };
    let (Relation::Is, [selector], Operand::Part(KeyPart::Value(wanted)), [next]) =
        (found.relation, &found.fields[..], &found.operand, &next.fields[..])
    else {
        return false;
    };
    match (selector, wanted) {
        (Selector::MetaNfproto, Value::NfProto(proto)) => {
            let ethertype = if *proto == 2 { 0x0800 } else { 0x86dd };
            family == TableFamily::Inet && network(*next) == Some(ethertype)
        }
        (Selector::EtherType, Value::EtherType(kind)) => family == TableFamily::Bridge && network(*next) == Some(*kind),
        (Selector::MetaL4proto, Value::Proto(proto)) => {
            let any_ports = matches!(next, Selector::ThSport | Selector::ThDport);
            transport(*next) == Some(*proto) || any_ports && [Proto::TCP.0, Proto::UDP.0, Proto::SCTP.0].contains(proto)
        }
        _ => false,
    }
}

fn name_transport(text: &str, proto: u8) -> String {
    match (text.strip_prefix("th "), proto) {
        (Some(rest), 6) => format!("tcp {rest}"),
        (Some(rest), 17) => format!("udp {rest}"),
        (Some(rest), 132) => format!("sctp {rest}"),
        _ => text.to_owned(),
    }
}

fn statement(family: TableFamily, settled: &mut Settled, statement: &Statement) -> String {
    match statement {
        Statement::Match(found) => {
            settled.need(&found.fields);
            matched(found)
        }
        Statement::Verdict(found) => verdict(found),
        Statement::Vmap { key, map } => {
            settled.need(key);
            format!("{} vmap {}", selectors(key), map_ref(map))
        }
        Statement::Counter => "counter".to_owned(),
        Statement::Masquerade(flags) => format!("masquerade{}", nat_flags(*flags)),
        Statement::Redirect(None) => "redirect".to_owned(),
        Statement::Redirect(Some(port)) => format!("redirect to :{port}"),
        Statement::Nat(found) => nat(family, found),
        Statement::Reject(with) => reject(family, settled, *with),
        Statement::MetaMark(source) => format!("meta mark set {}", mark_source("meta mark", source)),
        Statement::CtMark(source) => format!("ct mark set {}", mark_source("ct mark", source)),
        Statement::Notrack => "notrack".to_owned(),
        Statement::Log(log) => {
            let mut out = "log".to_owned();
            if let Some(prefix) = &log.prefix {
                let _ = write!(out, " prefix \"{prefix}\"");
            }
            if let Some(group) = log.group {
                let _ = write!(out, " group {group}");
            }
            out
        }
        Statement::Limit(found) => limit(found),
        Statement::SetUpdate(update) => set_update(update),
        Statement::Fwd(device) => format!("fwd to \"{}\"", device.name),
    }
}

/// nft's name of a selector.
pub(super) fn selector(selector: Selector) -> Cow<'static, str> {
    use Selector as S;
    Cow::Borrowed(match selector {
        S::Number(number) => return Cow::Owned(numgen(&number)),
        S::MetaIifname => "iifname",
        S::MetaOifname => "oifname",
        S::MetaIif => "iif",
        S::MetaOif => "oif",
        S::MetaL4proto => "meta l4proto",
        S::MetaNfproto => "meta nfproto",
        S::MetaProtocol => "meta protocol",
        S::MetaMark => "meta mark",
        S::MetaPkttype => "meta pkttype",
        S::EtherSaddr => "ether saddr",
        S::EtherDaddr => "ether daddr",
        S::EtherType => "ether type",
        S::ArpOperation => "arp operation",
        S::ArpSaddrEther => "arp saddr ether",
        S::ArpSaddrIp => "arp saddr ip",
        S::ArpDaddrEther => "arp daddr ether",
        S::ArpDaddrIp => "arp daddr ip",
        S::IpSaddr => "ip saddr",
        S::IpDaddr => "ip daddr",
        S::IpProtocol => "ip protocol",
        S::Ip6Saddr => "ip6 saddr",
        S::Ip6Daddr => "ip6 daddr",
        S::Ip6Nexthdr => "ip6 nexthdr",
        S::TcpSport => "tcp sport",
        S::TcpDport => "tcp dport",
        S::TcpFlags => "tcp flags",
        S::UdpSport => "udp sport",
        S::UdpDport => "udp dport",
        S::ThSport => "th sport",
        S::ThDport => "th dport",
        S::IcmpType => "icmp type",
        S::Icmpv6Type => "icmpv6 type",
        S::NdTarget => "@th,64,128",
        S::CtState => "ct state",
        S::CtStatus => "ct status",
        S::CtMark => "ct mark",
        S::CtDirection => "ct direction",
        S::CtOriginalIpDaddr => "ct original ip daddr",
        S::CtOriginalIp6Daddr => "ct original ip6 daddr",
        S::CtOriginalProtoDst => "ct original proto-dst",
        S::Fib(FibKey::Daddr, FibResult::Type) => "fib daddr type",
        S::Fib(FibKey::Saddr, FibResult::Type) => "fib saddr type",
        S::Fib(FibKey::DaddrIif, FibResult::Type) => "fib daddr . iif type",
        S::Fib(FibKey::SaddrIif, FibResult::Type) => "fib saddr . iif type",
        S::Fib(FibKey::Daddr, FibResult::Oif) => "fib daddr oif",
        S::Fib(FibKey::Saddr, FibResult::Oif) => "fib saddr oif",
        S::Fib(FibKey::DaddrIif, FibResult::Oif) => "fib daddr . iif oif",
        S::Fib(FibKey::SaddrIif, FibResult::Oif) => "fib saddr . iif oif",
    })
}

fn selectors(fields: &[Selector]) -> String {
    fields.iter().map(|field| selector(*field)).collect::<Vec<_>>().join(" . ")
}

fn matched(found: &Match) -> String {
    let left = selectors(&found.fields);
    let not = found.relation == Relation::IsNot;
    let kind = found.fields.first().map(|field| field.type_of());
    match (&found.operand, kind) {
        (Operand::Set(set), _) => format!("{left} {}{}", if not { "!= " } else { "" }, set_ref(set)),
        (Operand::AnyBit(any), Some(Type::Mark)) => {
            format!("{left} & {} {} {}", mark(*any), if not { "==" } else { "!=" }, mark(0))
        }
        (Operand::AnyBit(any), Some(kind)) => format!("{left} {}{}", if not { "! " } else { "" }, bits(kind, *any)),
        (Operand::AnyBit(any), None) => format!("{left} {any}"),
        (Operand::Part(part), kind) => compared(&left, found, not, part, kind),
    }
}

fn compared(left: &str, found: &Match, not: bool, part: &KeyPart, kind: Option<Type>) -> String {
    let relation = if not { "!= " } else { "" };
    match (part, found.mask, kind) {
        (KeyPart::Value(Value::TcpFlags(flags)), Some(mask), _) => {
            format!("{left} {relation}{} / {}", bits(Type::TcpFlags, (*flags).into()), bits(Type::TcpFlags, mask))
        }
        (part, Some(mask), _) => {
            format!("{left} & {} {} {}", self::mark(mask), if not { "!=" } else { "==" }, key_part(part))
        }
        (KeyPart::Value(Value::Ipv6(ip)), None, _) if found.fields == [Selector::NdTarget] => {
            format!("{left} {relation}0x{:x}", ip.to_bits())
        }
        (part, None, Some(Type::CtState | Type::CtStatus | Type::TcpFlags)) => {
            format!("{left} {} {}", if not { "!=" } else { "==" }, key_part(part))
        }
        (part, None, _) => format!("{left} {relation}{}", key_part(part)),
    }
}

fn set_ref(set: &SetRef) -> String {
    match set {
        SetRef::Named(name) => format!("@{name}"),
        SetRef::Inline(elements) => {
            let mut sorted: Vec<_> = elements.iter().collect();
            sorted.sort_by_cached_key(|parts| sort_key(parts));
            format!("{{ {} }}", sorted.iter().map(|parts| key_parts(parts)).collect::<Vec<_>>().join(", "))
        }
    }
}

fn map_ref(map: &MapRef) -> String {
    match map {
        MapRef::Named(name) => format!("@{name}"),
        MapRef::Inline(entries) => {
            let mut sorted: Vec<&(Vec<KeyPart>, Data)> = entries.iter().collect();
            sorted.sort_by_cached_key(|(parts, _)| sort_key(parts));
            let entries: Vec<_> = sorted.iter().map(|(k, v)| format!("{} : {}", key_parts(k), data(v))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

fn nat_flags(flags: NatFlags) -> String {
    let names = [(flags.random, "random"), (flags.fully_random, "fully-random"), (flags.persistent, "persistent")];
    let set: Vec<_> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if set.is_empty() { String::new() } else { format!(" {}", set.join(",")) }
}

fn nat(family: TableFamily, nat: &Nat) -> String {
    let kind = match nat.kind {
        NatKind::Snat => "snat",
        NatKind::Dnat => "dnat",
    };
    let of = match (family, nat.family) {
        (TableFamily::Inet, Family::V4) => " ip",
        (TableFamily::Inet, Family::V6) => " ip6",
        _ => "",
    };
    let to = match &nat.to {
        NatTo::Address(addr, None) => addr.to_string(),
        NatTo::Address(addr, Some(port)) => std::net::SocketAddr::new(*addr, *port).to_string(),
        NatTo::Map { key, map, .. } => format!("{} map {}", selectors(key), map_ref(map)),
    };
    format!("{kind}{of} to {to}{}", nat_flags(nat.flags))
}

fn reject(family: TableFamily, settled: &mut Settled, with: RejectWith) -> String {
    let kind = match family {
        TableFamily::Ip => "icmp",
        TableFamily::Ip6 => "icmpv6",
        _ => "icmpx",
    };
    let code = match (with, family) {
        (RejectWith::TcpReset, _) => {
            let condition = settled.need_transport(Proto::TCP.0).is_some() && family == TableFamily::Inet;
            return format!("{}reject with tcp reset", if condition { "meta l4proto tcp " } else { "" });
        }
        (RejectWith::PortUnreachable, _) => return "reject".to_owned(),
        (RejectWith::AdminProhibited, _) => "admin-prohibited",
        (RejectWith::HostUnreachable, TableFamily::Ip6) => "addr-unreachable",
        (RejectWith::HostUnreachable, _) => "host-unreachable",
        (RejectWith::NoRoute, TableFamily::Ip) => "net-unreachable",
        (RejectWith::NoRoute, _) => "no-route",
    };
    format!("reject with {kind} {code}")
}

fn mark_source(own: &str, source: &MarkSource) -> String {
    let masked = |name: &str, mask: u32| match mask {
        u32::MAX => name.to_owned(),
        _ => format!("{name} & {}", self::mark(mask)),
    };
    match source {
        MarkSource::Value(number) => mark(*number),
        // nft shows bits that are set afterwards as kept.
        MarkSource::Change { keep, set } if keep | set == u32::MAX => format!("{own} | {}", mark(*set)),
        MarkSource::Change { keep, set: 0 } => masked(own, *keep),
        MarkSource::Change { keep, set } => format!("{own} & {} | {}", mark(keep | set), mark(*set)),
        MarkSource::Meta(mask) => masked("meta mark", *mask),
        MarkSource::Ct(mask) => masked("ct mark", *mask),
        MarkSource::Number(number) => numgen(number),
        MarkSource::Map { key, map } => format!("{} map {}", selectors(key), map_ref(map)),
    }
}

fn numgen(number: &NumGen) -> String {
    let kind = if number.random { "random" } else { "inc" };
    let offset = if number.offset == 0 { String::new() } else { format!(" offset {}", number.offset) };
    format!("numgen {kind} mod {}{offset}", number.modulus)
}

fn limit(limit: &Limit) -> String {
    let unit = match limit.unit {
        TimeUnit::Second => "second",
        TimeUnit::Minute => "minute",
        TimeUnit::Hour => "hour",
        TimeUnit::Day => "day",
    };
    let over = if limit.over { "over " } else { "" };
    let burst = if limit.burst == 5 { String::new() } else { format!(" burst {} packets", limit.burst) };
    format!("limit rate {over}{}/{unit}{burst}", limit.rate)
}

fn set_update(update: &SetUpdate) -> String {
    let verb = if update.refresh { "update" } else { "add" };
    let timeout = update.timeout.map(|seconds| format!(" timeout {}", duration(seconds))).unwrap_or_default();
    let counter = if update.counter { " counter" } else { "" };
    let value = if update.data.is_empty() { String::new() } else { format!(" : {}", selectors(&update.data)) };
    format!("{verb} @{} {{ {}{timeout}{counter}{value} }}", update.set, selectors(&update.key))
}
