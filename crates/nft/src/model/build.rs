//! Small functions that make rules read like nft's own text.
//!
//! A field knows the type of its value, so a port cannot be compared with an address:
//!
//! ```
//! use ripstop_nft::model::build::*;
//! use ripstop_nft::model::Rule;
//!
//! Rule::new([ip::saddr().within("10.244.0.0/16".parse().unwrap()), ip::daddr().not_in_set("cluster"), masquerade()])
//!     .comment("network/default");
//! Rule::new([concat((meta::iifname(), ip::saddr())).not_in_set("pods"), counter(), drop()]);
//! Rule::new([meta::l4proto().one_of([Proto::TCP, Proto::UDP]), th::dport().is(53), accept()]);
//! ```

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Family, IfName, Mac, Prefix};

use super::{
    Data, Device, IfPattern, KeyPart, Limit, Log, MapRef, MarkSource, Match, Name, Nat, NatFlags, NatKind, NatTo,
    NumGen, Operand, RejectWith, Relation, Selector, SetRef, SetUpdate, Statement, TimeUnit, Value, Verdict,
};

macro_rules! plain_value {
    ($(#[$doc:meta])* $name:ident($inner:ty) $(= $($(#[$cdoc:meta])* $constant:ident $number:expr),+)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        $(#[allow(missing_docs)] // Named as nft and RFCs name them.
        impl $name {
            $($(#[$cdoc])* pub const $constant: Self = Self($number);)+
        })?

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl From<$name> for Value {
            fn from(value: $name) -> Self {
                plain_value!(@value $name value)
            }
        }
    };
    (@value Port $v:ident) => { Value::Service($v.0) };
    (@value IcmpType $v:ident) => { Value::IcmpType($v.0) };
    (@value $name:ident $v:ident) => { Value::$name($v.0) };
}

plain_value!(
    /// A TCP, UDP or SCTP port.
    Port(u16)
);
plain_value!(
    /// A packet's or connection's mark.
    Mark(u32)
);
plain_value!(
    /// A transport protocol, by IANA's protocol numbers.
    Proto(u8) = ICMP 1, IPIP 4, TCP 6, UDP 17, ICMPV6 58, SCTP 132
);
plain_value!(
    /// The kind of frame, by IEEE's ether types.
    EtherType(u16) = IPV4 0x0800, ARP 0x0806, IPV6 0x86dd, VLAN 0x8100
);
plain_value!(
    /// What an ARP packet is for (RFC 826).
    ArpOp(u16) = REQUEST 1, REPLY 2
);
plain_value!(
    /// The kind of ICMP message (RFC 792).
    IcmpType(u8) = ECHO_REPLY 0, DESTINATION_UNREACHABLE 3, ECHO_REQUEST 8, TIME_EXCEEDED 11
);
plain_value!(
    /// The kind of ICMPv6 message (RFC 4443, RFC 4861, RFC 2710).
    Icmpv6Type(u8) = DESTINATION_UNREACHABLE 1, PACKET_TOO_BIG 2, TIME_EXCEEDED 3, PARAMETER_PROBLEM 4,
        ECHO_REQUEST 128, ECHO_REPLY 129, MLD_LISTENER_QUERY 130, MLD_LISTENER_REPORT 131, MLD_LISTENER_DONE 132,
        ND_ROUTER_SOLICIT 133, ND_ROUTER_ADVERT 134, ND_NEIGHBOR_SOLICIT 135, ND_NEIGHBOR_ADVERT 136,
        ND_REDIRECT 137, MLD2_LISTENER_REPORT 143
);
plain_value!(
    /// The netfilter family a packet is in (linux/netfilter.h).
    NfProto(u8) = IPV4 2, ARP 3, BRIDGE 7, IPV6 10
);
plain_value!(
    /// Whom a frame is for (linux/if_packet.h).
    PktType(u8) = HOST 0, BROADCAST 1, MULTICAST 2, OTHER 3
);
plain_value!(
    /// The kind of an address by the routing tables (linux/rtnetlink.h).
    FibAddrType(u32) = UNSPEC 0, UNICAST 1, LOCAL 2, BROADCAST 3, ANYCAST 4, MULTICAST 5, BLACKHOLE 6,
        UNREACHABLE 7, PROHIBIT 8
);
plain_value!(
    /// A link's index.
    IfIndex(u32)
);
plain_value!(
    /// The state of a connection, as bits (linux/netfilter/nf_conntrack_common.h).
    CtState(u32) = INVALID 1, ESTABLISHED 2, RELATED 4, NEW 8, UNTRACKED 64
);
plain_value!(
    /// What has happened to a connection, as bits (`ip_conntrack_status`).
    CtStatus(u32) = EXPECTED 1, SEEN_REPLY 2, ASSURED 4, CONFIRMED 8, SNAT 16, DNAT 32, DYING 512
);
plain_value!(
    /// Whether a packet goes the way of the connection's first.
    CtDirection(u8) = ORIGINAL 0, REPLY 1
);
plain_value!(
    /// TCP's flags, as bits (RFC 9293, 3.1).
    TcpFlags(u8) = FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32
);

impl From<IfName> for Value {
    fn from(name: IfName) -> Self {
        Self::IfName(name.into())
    }
}

/// A field whose value is a `T`.
#[derive(Debug, Clone, Copy)]
pub struct Field<T> {
    selector: Selector,
    mask: Option<u32>,
    value: PhantomData<T>,
}

impl<T> Field<T> {
    fn new(selector: Selector) -> Self {
        Self { selector, mask: None, value: PhantomData }
    }

    fn matches(self, relation: Relation, operand: Operand) -> Statement {
        Match { fields: vec![self.selector], mask: self.mask, relation, operand }.into()
    }

    /// The selector behind it.
    pub fn selector(self) -> Selector {
        self.selector
    }

    /// Is an element of a named set.
    pub fn in_set(self, set: impl Into<Name>) -> Statement {
        self.matches(Relation::Is, Operand::Set(SetRef::Named(set.into())))
    }

    /// Is no element of a named set.
    pub fn not_in_set(self, set: impl Into<Name>) -> Statement {
        self.matches(Relation::IsNot, Operand::Set(SetRef::Named(set.into())))
    }

    /// The verdict a named map gives.
    pub fn vmap(self, map: impl Into<Name>) -> Statement {
        concat((self,)).vmap(map)
    }
}

impl<T: Into<Value>> Field<T> {
    /// Equals.
    pub fn is(self, value: impl Into<T>) -> Statement {
        self.matches(Relation::Is, Operand::Part(KeyPart::Value(value.into().into())))
    }

    /// Differs.
    pub fn is_not(self, value: impl Into<T>) -> Statement {
        self.matches(Relation::IsNot, Operand::Part(KeyPart::Value(value.into().into())))
    }

    /// Lies between, both ends included.
    pub fn between(self, first: impl Into<T>, last: impl Into<T>) -> Statement {
        self.matches(Relation::Is, Operand::Part(KeyPart::range(first.into(), last.into())))
    }

    /// Is one of these: an inline set.
    pub fn one_of(self, values: impl IntoIterator<Item = impl Into<T>>) -> Statement {
        self.matches(Relation::Is, inline(values.into_iter().map(|v| KeyPart::Value(v.into().into()))))
    }

    /// Is none of these: an inline set.
    pub fn none_of(self, values: impl IntoIterator<Item = impl Into<T>>) -> Statement {
        self.matches(Relation::IsNot, inline(values.into_iter().map(|v| KeyPart::Value(v.into().into()))))
    }

    /// The verdict of an inline map.
    pub fn verdicts<V: Into<T>>(self, entries: impl IntoIterator<Item = (V, Verdict)>) -> Statement {
        let mut entries: Vec<_> = entries
            .into_iter()
            .map(|(value, verdict)| (vec![KeyPart::Value(value.into().into())], Data::Verdict(verdict)))
            .collect();
        entries.sort();
        entries.dedup();
        Statement::Vmap { key: vec![self.selector], map: MapRef::Inline(entries) }
    }
}

fn inline(parts: impl Iterator<Item = KeyPart>) -> Operand {
    let mut elements: Vec<_> = parts.map(|part| vec![part.canonical()]).collect();
    elements.sort();
    elements.dedup();
    Operand::Set(SetRef::Inline(elements))
}

/// An address type whose fields can be compared with prefixes.
pub trait Address: Into<Value> {}
impl Address for Ipv4Addr {}
impl Address for Ipv6Addr {}
impl Address for IpAddr {}

impl<T: Address> Field<T> {
    /// Lies in the prefix.
    pub fn within(self, prefix: Prefix) -> Statement {
        self.matches(Relation::Is, Operand::Part(prefix.into()))
    }

    /// Lies outside the prefix.
    pub fn outside(self, prefix: Prefix) -> Statement {
        self.matches(Relation::IsNot, Operand::Part(prefix.into()))
    }

    /// Lies in one of the prefixes: an inline set.
    pub fn within_any(self, prefixes: impl IntoIterator<Item = Prefix>) -> Statement {
        self.matches(Relation::Is, inline(prefixes.into_iter().map(KeyPart::from)))
    }

    /// Lies in none of the prefixes: an inline set.
    pub fn outside_all(self, prefixes: impl IntoIterator<Item = Prefix>) -> Statement {
        self.matches(Relation::IsNot, inline(prefixes.into_iter().map(KeyPart::from)))
    }
}

impl Field<Mark> {
    /// Only these bits count.
    #[must_use]
    pub fn mask(self, mask: u32) -> Self {
        Self { mask: Some(mask), ..self }
    }
}

impl Field<TcpFlags> {
    /// Only these flags count.
    #[must_use]
    pub fn mask(self, mask: TcpFlags) -> Self {
        Self { mask: Some(mask.0.into()), ..self }
    }
}

macro_rules! bits {
    ($($name:ident: $inner:ty),+) => {$(
        impl std::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl Field<$name> {
            /// Has any of these bits.
            pub fn any(self, bits: $name) -> Statement {
                self.matches(Relation::Is, Operand::AnyBit(bits.0.into()))
            }

            /// Has none of these bits.
            pub fn none(self, bits: $name) -> Statement {
                self.matches(Relation::IsNot, Operand::AnyBit(bits.0.into()))
            }
        }
    )+};
}
bits!(CtState: u32, CtStatus: u32, Mark: u32, TcpFlags: u8);

/// Several packet fields looked up together.
#[derive(Debug, Clone)]
pub struct Concat(Vec<Selector>);

/// Several packet fields to look up together: `concat((meta::iifname(), ip::saddr()))`.
pub fn concat(fields: impl Fields) -> Concat {
    Concat(fields.selectors())
}

impl Concat {
    fn matches(self, relation: Relation, set: Name) -> Statement {
        Match { fields: self.0, mask: None, relation, operand: Operand::Set(SetRef::Named(set)) }.into()
    }

    /// Is an element of a named set.
    pub fn in_set(self, set: impl Into<Name>) -> Statement {
        self.matches(Relation::Is, set.into())
    }

    /// Is no element of a named set.
    pub fn not_in_set(self, set: impl Into<Name>) -> Statement {
        self.matches(Relation::IsNot, set.into())
    }

    /// The verdict a named map gives.
    pub fn vmap(self, map: impl Into<Name>) -> Statement {
        Statement::Vmap { key: self.0, map: MapRef::Named(map.into()) }
    }
}

/// One field, or a tuple of fields.
pub trait Fields {
    /// What they select.
    fn selectors(self) -> Vec<Selector>;
}

impl<T> Fields for Field<T> {
    fn selectors(self) -> Vec<Selector> {
        vec![self.selector]
    }
}

macro_rules! tuples {
    ($(($($t:ident $v:ident),+))+) => {$(
        impl<$($t),+> Fields for ($(Field<$t>,)+) {
            fn selectors(self) -> Vec<Selector> {
                let ($($v,)+) = self;
                vec![$($v.selector),+]
            }
        }
    )+};
}
tuples! {
    (A a)
    (A a, B b)
    (A a, B b, C c)
    (A a, B b, C c, D d)
    (A a, B b, C c, D d, E e)
}

macro_rules! fields {
    ($($(#[$doc:meta])* $module:ident { $($name:ident: $type:ty = $selector:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[allow(missing_docs)] // Each is the selector of the same name.
        pub mod $module {
            #[allow(unused_imports)]
            use super::*;

            $(pub fn $name() -> Field<$type> {
                Field::new(Selector::$selector)
            })+
        }
    )+};
}

fields! {
    /// What the kernel knows about the packet.
    meta {
        iifname: IfPattern = MetaIifname, oifname: IfPattern = MetaOifname, iif: IfIndex = MetaIif,
        oif: IfIndex = MetaOif, l4proto: Proto = MetaL4proto, nfproto: NfProto = MetaNfproto,
        protocol: EtherType = MetaProtocol, mark: Mark = MetaMark, pkttype: PktType = MetaPkttype,
    }
    /// The Ethernet header.
    ether { saddr: Mac = EtherSaddr, daddr: Mac = EtherDaddr, kind: EtherType = EtherType }
    /// An ARP packet.
    arp {
        operation: ArpOp = ArpOperation, saddr_ether: Mac = ArpSaddrEther, saddr_ip: Ipv4Addr = ArpSaddrIp,
        daddr_ether: Mac = ArpDaddrEther, daddr_ip: Ipv4Addr = ArpDaddrIp,
    }
    /// The IPv4 header.
    ip { saddr: Ipv4Addr = IpSaddr, daddr: Ipv4Addr = IpDaddr, protocol: Proto = IpProtocol }
    /// The IPv6 header.
    ip6 { saddr: Ipv6Addr = Ip6Saddr, daddr: Ipv6Addr = Ip6Daddr, nexthdr: Proto = Ip6Nexthdr }
    /// TCP.
    tcp { sport: Port = TcpSport, dport: Port = TcpDport, flags: TcpFlags = TcpFlags }
    /// UDP.
    udp { sport: Port = UdpSport, dport: Port = UdpDport }
    /// Any transport with ports; the rule must restrict the protocol.
    th { sport: Port = ThSport, dport: Port = ThDport }
    /// ICMP for IPv4.
    icmp { kind: IcmpType = IcmpType }
    /// ICMPv6.
    icmpv6 { kind: Icmpv6Type = Icmpv6Type, nd_target: Ipv6Addr = NdTarget }
    /// The connection.
    ct {
        state: CtState = CtState, status: CtStatus = CtStatus, mark: Mark = CtMark,
        direction: CtDirection = CtDirection, original_ip_daddr: Ipv4Addr = CtOriginalIpDaddr,
        original_ip6_daddr: Ipv6Addr = CtOriginalIp6Daddr, original_proto_dst: Port = CtOriginalProtoDst,
    }
}

/// The routing tables' answers.
pub mod fib {
    use super::{FibAddrType, Field, IfIndex, Selector};
    use crate::model::{FibKey, FibResult};

    /// `fib daddr type`
    pub fn daddr_type() -> Field<FibAddrType> {
        Field::new(Selector::Fib(FibKey::Daddr, FibResult::Type))
    }

    /// `fib saddr type`
    pub fn saddr_type() -> Field<FibAddrType> {
        Field::new(Selector::Fib(FibKey::Saddr, FibResult::Type))
    }

    /// `fib daddr . iif type`: only addresses of the incoming interface are local.
    pub fn daddr_iif_type() -> Field<FibAddrType> {
        Field::new(Selector::Fib(FibKey::DaddrIif, FibResult::Type))
    }

    /// `fib saddr . iif oif`: zero if answers would not leave by the incoming interface.
    pub fn saddr_iif_oif() -> Field<IfIndex> {
        Field::new(Selector::Fib(FibKey::SaddrIif, FibResult::Oif))
    }
}

/// A pseudo-random number from `offset` on, of `modulus` different ones, made anew for each packet: `numgen random`.
pub fn random(modulus: u32, offset: u32) -> Field<Mark> {
    Field::new(Selector::Number(NumGen { random: true, modulus, offset }))
}

/// The destination that packets of a family had before any rewriting, as their connection's first had it.
pub fn original_daddr(family: Family) -> Field<IpAddr> {
    Field::new(match family {
        Family::V4 => Selector::CtOriginalIpDaddr,
        Family::V6 => Selector::CtOriginalIp6Daddr,
    })
}

/// The source address in packets of a family.
pub fn saddr(family: Family) -> Field<IpAddr> {
    Field::new(match family {
        Family::V4 => Selector::IpSaddr,
        Family::V6 => Selector::Ip6Saddr,
    })
}

/// The destination address in packets of a family.
pub fn daddr(family: Family) -> Field<IpAddr> {
    Field::new(match family {
        Family::V4 => Selector::IpDaddr,
        Family::V6 => Selector::Ip6Daddr,
    })
}

/// Let it pass.
pub fn accept() -> Statement {
    Verdict::Accept.into()
}

/// Let it vanish.
pub fn drop() -> Statement {
    Verdict::Drop.into()
}

/// Back to where the jump came from.
pub fn ret() -> Statement {
    Verdict::Return.into()
}

/// Into a chain, and back.
pub fn jump(chain: impl Into<Name>) -> Statement {
    Verdict::Jump(chain.into()).into()
}

/// Into a chain for good.
pub fn goto(chain: impl Into<Name>) -> Statement {
    Verdict::Goto(chain.into()).into()
}

/// Count packets and bytes.
pub fn counter() -> Statement {
    Statement::Counter
}

/// Source address of the outgoing interface, ports chosen by the kernel as usual.
pub fn masquerade() -> Statement {
    Statement::Masquerade(NatFlags::default())
}

/// Source address of the outgoing interface, ports by pseudo-random number.
pub fn masquerade_fully_random() -> Statement {
    Statement::Masquerade(NatFlags::FULLY_RANDOM)
}

/// This source address, and port if given.
pub fn snat(addr: IpAddr, port: Option<u16>) -> Statement {
    nat(NatKind::Snat, addr, port)
}

/// This destination address, and port if given.
pub fn dnat(addr: IpAddr, port: Option<u16>) -> Statement {
    nat(NatKind::Dnat, addr, port)
}

fn nat(kind: NatKind, addr: IpAddr, port: Option<u16>) -> Statement {
    let to = NatTo::Address(addr, port);
    Statement::Nat(Nat { kind, family: Family::of(addr), to, flags: NatFlags::default() })
}

/// The source a named map gives, an address.
pub fn snat_map(family: Family, keys: impl Fields, map: impl Into<Name>) -> Statement {
    nat_map(NatKind::Snat, family, keys, map, false)
}

/// The destination a named map gives, an address.
pub fn dnat_map(family: Family, keys: impl Fields, map: impl Into<Name>) -> Statement {
    nat_map(NatKind::Dnat, family, keys, map, false)
}

/// The destination a named map gives, an address and a port.
pub fn dnat_port_map(family: Family, keys: impl Fields, map: impl Into<Name>) -> Statement {
    nat_map(NatKind::Dnat, family, keys, map, true)
}

fn nat_map(kind: NatKind, family: Family, keys: impl Fields, map: impl Into<Name>, port: bool) -> Statement {
    let to = NatTo::Map { key: keys.selectors(), map: MapRef::Named(map.into()), port };
    Statement::Nat(Nat { kind, family, to, flags: NatFlags::default() })
}

/// This host, and another port if given.
pub fn redirect(port: Option<u16>) -> Statement {
    Statement::Redirect(port)
}

/// Refuse with ICMP port unreachable.
pub fn reject() -> Statement {
    Statement::Reject(RejectWith::PortUnreachable)
}

/// Refuse with a TCP reset.
pub fn reject_tcp_reset() -> Statement {
    Statement::Reject(RejectWith::TcpReset)
}

/// Set the packet's mark.
pub fn set_mark(mark: u32) -> Statement {
    Statement::MetaMark(MarkSource::Value(mark))
}

/// Set the bits of `set` in the packet's mark; the other bits of `mask` become zero, all others stay.
pub fn set_mark_bits(set: u32, mask: u32) -> Statement {
    Statement::MetaMark(MarkSource::Change { keep: !mask, set })
}

/// Set the connection's mark.
pub fn set_ct_mark(mark: u32) -> Statement {
    Statement::CtMark(MarkSource::Value(mark))
}

/// Set the packet's mark to what a named map gives.
pub fn set_mark_map(keys: impl Fields, map: impl Into<Name>) -> Statement {
    Statement::MetaMark(MarkSource::Map { key: keys.selectors(), map: MapRef::Named(map.into()) })
}

/// Copy the packet's mark to the connection.
pub fn save_mark() -> Statement {
    Statement::CtMark(MarkSource::Meta(u32::MAX))
}

/// Copy the connection's mark to the packet.
pub fn restore_mark() -> Statement {
    Statement::MetaMark(MarkSource::Ct(u32::MAX))
}

/// Set the packet's mark to a pseudo-random number below `modulus`.
pub fn set_mark_random(modulus: u32) -> Statement {
    Statement::MetaMark(MarkSource::Number(NumGen { random: true, modulus, offset: 0 }))
}

/// Keep out of connection tracking.
pub fn notrack() -> Statement {
    Statement::Notrack
}

/// To a device that gives the packet back behind the ingress hook.
pub fn fwd(name: IfName, index: u32) -> Statement {
    Statement::Fwd(Device { name, index })
}

/// A line in the kernel log.
pub fn log(prefix: &str) -> Statement {
    Statement::Log(Log { prefix: Some(prefix.into()), group: None })
}

/// Go on only below the rate, with nft's usual burst of 5.
pub fn limit(rate: u64, unit: TimeUnit) -> Statement {
    Statement::Limit(Limit { rate, unit, burst: 5, over: false })
}

/// Add or refresh an element of a dynamic set.
pub fn update_set(set: impl Into<Name>, keys: impl Fields, timeout: Option<u32>) -> Statement {
    Statement::SetUpdate(SetUpdate { timeout, ..SetUpdate::of(set, keys.selectors()) })
}

/// Count at an element of a dynamic set, which is added or refreshed. Where it is not there and the set is full, the rule ends.
pub fn count_in(set: impl Into<Name>, keys: impl Fields) -> Statement {
    Statement::SetUpdate(SetUpdate { counter: true, ..SetUpdate::of(set, keys.selectors()) })
}

/// Add or refresh an element of a dynamic map. The value of one that is there stays.
pub fn update_map(map: impl Into<Name>, keys: impl Fields, data: impl Fields, timeout: Option<u32>) -> Statement {
    Statement::SetUpdate(SetUpdate { data: data.selectors(), timeout, ..SetUpdate::of(map, keys.selectors()) })
}
