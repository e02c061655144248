//! Conditions a selector implies: `ip saddr` in an `inet` table is about IPv4 packets only.
//!
//! nft writes such a condition as a match of its own in front, once a rule, and leaves it out again when it lists the
//! rule. Encoder, printer and simulator share this one account of which conditions a rule has met.

use crate::model::build::{EtherType, NfProto, Proto};
use crate::model::{Hook, KeyPart, Match, Operand, Relation, Selector, TableFamily, Value};

/// A condition that must be written before a selector means what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// `meta nfproto`
    NfProto(u8),
    /// `meta protocol`
    Protocol(u16),
    /// `ether type`, read from the frame
    EtherType(u16),
    /// `meta l4proto`
    L4Proto(u8),
    /// The incoming device is an Ethernet one (`meta iiftype ether`).
    EtherDevice,
}

/// What is settled at one place in a rule.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    family: TableFamily,
    l3: Option<u16>,
    l4: Option<u8>,
    ether: bool,
}

/// The network protocol, as an ether type, that a selector's header belongs to.
pub(crate) fn network(selector: Selector) -> Option<u16> {
    use Selector as S;
    match selector {
        S::IpSaddr | S::IpDaddr | S::IpProtocol | S::IcmpType => Some(EtherType::IPV4.0),
        S::Ip6Saddr | S::Ip6Daddr | S::Ip6Nexthdr | S::Icmpv6Type | S::NdTarget => Some(EtherType::IPV6.0),
        S::ArpOperation | S::ArpSaddrEther | S::ArpSaddrIp | S::ArpDaddrEther | S::ArpDaddrIp => Some(EtherType::ARP.0),
        _ => None,
    }
}

/// The transport protocol that a selector's header belongs to.
pub(crate) fn transport(selector: Selector) -> Option<u8> {
    use Selector as S;
    match selector {
        S::TcpSport | S::TcpDport | S::TcpFlags => Some(Proto::TCP.0),
        S::UdpSport | S::UdpDport => Some(Proto::UDP.0),
        S::IcmpType => Some(Proto::ICMP.0),
        S::Icmpv6Type | S::NdTarget => Some(Proto::ICMPV6.0),
        _ => None,
    }
}

impl Settled {
    /// At the beginning of a rule.
    pub(crate) fn new(family: TableFamily) -> Self {
        let l3 = match family {
            TableFamily::Ip => Some(EtherType::IPV4.0),
            TableFamily::Ip6 => Some(EtherType::IPV6.0),
            TableFamily::Arp => Some(EtherType::ARP.0),
            TableFamily::Inet | TableFamily::Bridge | TableFamily::Netdev => None,
        };
        Self { family, l3, l4: None, ether: false }
    }

    /// What has to be written before these selectors; afterwards it is settled.
    pub(crate) fn need(&mut self, selectors: &[Selector]) -> Vec<Condition> {
        selectors.iter().flat_map(|selector| self.need_one(*selector)).collect()
    }

    /// The same for address translation and refusals, which are about one network protocol.
    pub(crate) fn need_network(&mut self, l3: u16) -> Option<Condition> {
        if self.l3 == Some(l3) {
            return None;
        }
        self.l3 = Some(l3);
        Some(match self.family {
            TableFamily::Inet => {
                Condition::NfProto(if l3 == EtherType::IPV4.0 { NfProto::IPV4.0 } else { NfProto::IPV6.0 })
            }
            _ => Condition::Protocol(l3),
        })
    }

    /// The same for what is about one transport protocol.
    pub(crate) fn need_transport(&mut self, l4: u8) -> Option<Condition> {
        if self.l4 == Some(l4) {
            return None;
        }
        self.l4 = Some(l4);
        Some(Condition::L4Proto(l4))
    }

    fn need_one(&mut self, selector: Selector) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if let Some(l3) = network(selector) {
            let condition = self.need_network(l3);
            // In a bridge nft asks the frame itself, except for addresses of the IP headers.
            let by_frame = self.family == TableFamily::Bridge
                && !matches!(
                    selector,
                    Selector::IpSaddr
                        | Selector::IpDaddr
                        | Selector::IpProtocol
                        | Selector::Ip6Saddr
                        | Selector::Ip6Daddr
                        | Selector::Ip6Nexthdr
                );
            conditions.extend(condition.map(|c| if by_frame { Condition::EtherType(l3) } else { c }));
        }
        if let Some(l4) = transport(selector) {
            conditions.extend(self.need_transport(l4));
        }
        let link = matches!(selector, Selector::EtherSaddr | Selector::EtherDaddr | Selector::EtherType);
        if link && !self.ether && !matches!(self.family, TableFamily::Bridge | TableFamily::Arp) {
            self.ether = true;
            conditions.push(Condition::EtherDevice);
        }
        conditions
    }

    /// Takes note of a match that was written.
    pub(crate) fn learn(&mut self, found: &Match) {
        let (Relation::Is, [selector], Operand::Part(KeyPart::Value(value))) =
            (found.relation, &found.fields[..], &found.operand)
        else {
            return;
        };
        let frames = matches!(self.family, TableFamily::Bridge | TableFamily::Netdev);
        match (selector, value) {
            (Selector::MetaNfproto, Value::NfProto(2)) if !frames => self.l3 = Some(EtherType::IPV4.0),
            (Selector::MetaNfproto, Value::NfProto(10)) if !frames => self.l3 = Some(EtherType::IPV6.0),
            (Selector::MetaProtocol | Selector::EtherType, Value::EtherType(kind)) if frames => self.l3 = Some(*kind),
            (Selector::MetaL4proto | Selector::IpProtocol | Selector::Ip6Nexthdr, Value::Proto(proto)) => {
                self.l4 = Some(*proto);
            }
            _ => {}
        }
    }

    /// The transport protocol the rule is about here, if it is settled.
    pub(crate) fn transport(&self) -> Option<u8> {
        self.l4
    }
}

/// The number the kernel gives a hook in a family (linux/netfilter.h, linux/netfilter_arp.h, linux/netfilter_bridge.h).
pub(crate) fn hook_number(family: TableFamily, hook: Hook) -> u32 {
    match (family, hook) {
        (TableFamily::Netdev, _) => 0,
        (TableFamily::Arp, Hook::Input) => 0,
        (TableFamily::Arp, Hook::Output) => 1,
        (TableFamily::Arp, _) => 2,
        (_, Hook::Prerouting) => 0,
        (_, Hook::Input) => 1,
        (_, Hook::Forward) => 2,
        (_, Hook::Output) => 3,
        (_, Hook::Postrouting) => 4,
        (_, Hook::Ingress) => 5,
    }
}
