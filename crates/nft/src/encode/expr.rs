//! Rules as lists of kernel expressions.
//!
//! Register 1 holds what is compared, looked up or set; a concatenation fills the 4-byte registers from there on, and
//! a map's answer comes to the same place. Conditions a selector implies are written first, as nft does.

use ripstop_types::Family;

use super::attr::Attrs;
use crate::bytes;
use crate::implied::{Condition, Settled};
use crate::model::build::Proto;
use crate::model::{
    Data, DataType, FibKey, FibResult, KeyPart, Limit, Log, MapRef, MarkSource, Match, Nat, NatFlags, NatKind, NatTo,
    NumGen, Operand, PayloadBase, RejectWith, Relation, Rule, Selector, Set, SetRef, SetUpdate, Statement, TableFamily,
    Type, Value, Verdict,
};
use crate::uapi::*;

/// A set written into a rule: the kernel names it and removes it with the rule.
#[derive(Debug, Clone)]
pub(super) struct InlineSet {
    /// Identifies it within the batch.
    pub(super) id: u32,
    pub(super) declaration: Set,
    pub(super) entries: Vec<(Vec<KeyPart>, Option<Data>)>,
}

impl InlineSet {
    /// The pattern the kernel makes a name of.
    pub(super) fn name(&self) -> &'static str {
        if self.declaration.data.is_some() { "__map%d" } else { "__set%d" }
    }
}

/// A rule as the kernel takes it.
#[derive(Debug, Default)]
pub(super) struct EncodedRule {
    /// The contents of `NFTA_RULE_EXPRESSIONS`.
    pub(super) expressions: Attrs,
    pub(super) sets: Vec<InlineSet>,
}

/// Encodes a rule. Inline sets take ids from `next_id` on.
pub(super) fn rule(family: TableFamily, rule: &Rule, next_id: &mut u32) -> EncodedRule {
    let mut writer = Writer { settled: Settled::new(family), family, next_id, out: EncodedRule::default() };
    for statement in &rule.statements {
        writer.statement(statement);
    }
    writer.out
}

/// Writes a verdict as `nft_data`.
pub(super) fn verdict(attrs: &mut Attrs, kind: u16, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN.cast_unsigned(), None),
        Verdict::Continue => (NFT_CONTINUE.cast_unsigned(), None),
        Verdict::Jump(chain) => (NFT_JUMP.cast_unsigned(), Some(chain)),
        Verdict::Goto(chain) => (NFT_GOTO.cast_unsigned(), Some(chain)),
    };
    attrs.nest(kind, |a| {
        a.nest(NFTA_DATA_VERDICT, |a| {
            a.be32(NFTA_VERDICT_CODE, code);
            if let Some(chain) = chain {
                a.text(NFTA_VERDICT_CHAIN, chain.as_str());
            }
        });
    });
}

fn nat_flags(flags: NatFlags) -> u32 {
    let bits = [
        (flags.random, NF_NAT_RANGE_PROTO_RANDOM),
        (flags.fully_random, NF_NAT_RANGE_PROTO_RANDOM_FULLY),
        (flags.persistent, NF_NAT_RANGE_PERSISTENT),
    ];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

struct Writer<'a> {
    settled: Settled,
    family: TableFamily,
    next_id: &'a mut u32,
    out: EncodedRule,
}

impl Writer<'_> {
    fn expr(&mut self, name: &str, fill: impl FnOnce(&mut Attrs)) {
        self.out.expressions.nest(NFTA_LIST_ELEM, |a| {
            a.text(NFTA_EXPR_NAME, name);
            a.nest(NFTA_EXPR_DATA, fill);
        });
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Match(found) => {
                self.matched(found);
                self.settled.learn(found);
            }
            Statement::Verdict(found) => self.expr("immediate", |a| {
                a.be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
                verdict(a, NFTA_IMMEDIATE_DATA, found);
            }),
            Statement::Vmap { key, map } => self.map(key, map, &DataType::Verdict, NFT_REG_VERDICT),
            Statement::Counter => self.expr("counter", zero_counter),
            Statement::Masquerade(flags) => self.expr("masq", |a| {
                if nat_flags(*flags) != 0 {
                    a.be32(NFTA_MASQ_FLAGS, nat_flags(*flags));
                }
            }),
            Statement::Redirect(port) => self.redirect(*port),
            Statement::Nat(nat) => self.nat(nat),
            Statement::Reject(with) => self.reject(*with),
            Statement::MetaMark(source) => {
                self.mark(source, Selector::MetaMark);
                self.expr("meta", |a| {
                    a.be32(NFTA_META_KEY, NFT_META_MARK).be32(NFTA_META_SREG, NFT_REG_1);
                });
            }
            Statement::CtMark(source) => {
                self.mark(source, Selector::CtMark);
                self.expr("ct", |a| {
                    a.be32(NFTA_CT_KEY, NFT_CT_MARK).be32(NFTA_CT_SREG, NFT_REG_1);
                });
            }
            Statement::Notrack => self.expr("notrack", |_| {}),
            Statement::Log(log) => self.log(log),
            Statement::Limit(limit) => self.limit(limit),
            Statement::SetUpdate(update) => self.set_update(update),
            Statement::Fwd(device) => {
                self.immediate(NFT_REG_1, &device.index.to_ne_bytes());
                self.expr("fwd", |a| {
                    a.be32(NFTA_FWD_SREG_DEV, NFT_REG_1);
                });
            }
        }
    }

    fn conditions(&mut self, selectors: &[Selector]) {
        for condition in self.settled.need(selectors) {
            self.condition(condition);
        }
    }

    fn condition(&mut self, condition: Condition) {
        let (key, value) = match condition {
            Condition::NfProto(proto) => (NFT_META_NFPROTO, vec![proto]),
            Condition::Protocol(kind) => (NFT_META_PROTOCOL, kind.to_be_bytes().to_vec()),
            Condition::L4Proto(proto) => (NFT_META_L4PROTO, vec![proto]),
            // ARPHRD_ETHER, in host byte order.
            Condition::EtherDevice => (NFT_META_IIFTYPE, 1u16.to_ne_bytes().to_vec()),
            Condition::EtherType(kind) => {
                self.load(Selector::EtherType, NFT_REG_1);
                self.compare(NFT_CMP_EQ, &kind.to_be_bytes());
                return;
            }
        };
        self.load_meta(key, NFT_REG_1);
        self.compare(NFT_CMP_EQ, &value);
    }

    fn load_meta(&mut self, key: u32, register: u32) {
        self.expr("meta", |a| {
            a.be32(NFTA_META_KEY, key).be32(NFTA_META_DREG, register);
        });
    }

    fn load_payload(&mut self, base: PayloadBase, offset: u32, len: u32, register: u32) {
        let base = match base {
            PayloadBase::Link => NFT_PAYLOAD_LL_HEADER,
            PayloadBase::Network => NFT_PAYLOAD_NETWORK_HEADER,
            PayloadBase::Transport => NFT_PAYLOAD_TRANSPORT_HEADER,
        };
        self.expr("payload", |a| {
            a.be32(NFTA_PAYLOAD_DREG, register).be32(NFTA_PAYLOAD_BASE, base);
            a.be32(NFTA_PAYLOAD_OFFSET, offset).be32(NFTA_PAYLOAD_LEN, len);
        });
    }

    fn load_ct(&mut self, key: u32, direction: Option<u8>, register: u32) {
        self.expr("ct", |a| {
            a.be32(NFTA_CT_KEY, key).be32(NFTA_CT_DREG, register);
            if let Some(direction) = direction {
                a.bytes(NFTA_CT_DIRECTION, &[direction]);
            }
        });
    }

    fn load(&mut self, selector: Selector, register: u32) {
        use Selector as S;
        if let Some((base, offset, len)) = selector.payload() {
            return self.load_payload(base, offset, len, register);
        }
        match selector {
            S::MetaIifname => self.load_meta(NFT_META_IIFNAME, register),
            S::MetaOifname => self.load_meta(NFT_META_OIFNAME, register),
            S::MetaIif => self.load_meta(NFT_META_IIF, register),
            S::MetaOif => self.load_meta(NFT_META_OIF, register),
            S::MetaL4proto => self.load_meta(NFT_META_L4PROTO, register),
            S::MetaNfproto => self.load_meta(NFT_META_NFPROTO, register),
            S::MetaProtocol => self.load_meta(NFT_META_PROTOCOL, register),
            S::MetaMark => self.load_meta(NFT_META_MARK, register),
            S::MetaPkttype => self.load_meta(NFT_META_PKTTYPE, register),
            S::CtState => self.load_ct(NFT_CT_STATE, None, register),
            S::CtStatus => self.load_ct(NFT_CT_STATUS, None, register),
            S::CtMark => self.load_ct(NFT_CT_MARK, None, register),
            S::CtDirection => self.load_ct(NFT_CT_DIRECTION, None, register),
            S::CtOriginalIpDaddr => self.load_ct(NFT_CT_DST_IP, Some(0), register),
            S::CtOriginalIp6Daddr => self.load_ct(NFT_CT_DST_IP6, Some(0), register),
            S::CtOriginalProtoDst => self.load_ct(NFT_CT_PROTO_DST, Some(0), register),
            S::Fib(key, result) => self.load_fib(key, result, register),
            S::Number(number) => self.numgen(&number, register),
            // All others are read out of the packet, above.
            _ => {}
        }
    }

    fn load_fib(&mut self, key: FibKey, result: FibResult, register: u32) {
        let flags = match key {
            FibKey::Daddr => NFTA_FIB_F_DADDR,
            FibKey::Saddr => NFTA_FIB_F_SADDR,
            FibKey::DaddrIif => NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF,
            FibKey::SaddrIif => NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF,
        };
        let result = match result {
            FibResult::Type => NFT_FIB_RESULT_ADDRTYPE,
            FibResult::Oif => NFT_FIB_RESULT_OIF,
        };
        self.expr("fib", |a| {
            a.be32(NFTA_FIB_DREG, register).be32(NFTA_FIB_RESULT, result).be32(NFTA_FIB_FLAGS, flags);
        });
    }

    /// Loads a key into register 1 and on.
    fn load_key(&mut self, fields: &[Selector]) {
        self.conditions(fields);
        let mut register = NFT_REG32_00;
        for field in fields {
            let aligned = (register - NFT_REG32_00).is_multiple_of(4);
            // The kernel and nft name a 16-byte register by its number where a field begins one.
            self.load(*field, if aligned { (register - NFT_REG32_00) / 4 + NFT_REG_1 } else { register });
            register += registers(field.type_of());
        }
    }

    fn compare(&mut self, op: u32, value: &[u8]) {
        self.expr("cmp", |a| {
            a.be32(NFTA_CMP_SREG, NFT_REG_1).be32(NFTA_CMP_OP, op).data(NFTA_CMP_DATA, value);
        });
    }

    /// Register 1 becomes `(register 1 & mask) ^ xor`.
    fn bitwise(&mut self, mask: &[u8], xor: &[u8]) {
        let len = u32::try_from(mask.len()).unwrap_or(0);
        self.expr("bitwise", |a| {
            a.be32(NFTA_BITWISE_SREG, NFT_REG_1).be32(NFTA_BITWISE_DREG, NFT_REG_1).be32(NFTA_BITWISE_LEN, len);
            a.data(NFTA_BITWISE_MASK, mask).data(NFTA_BITWISE_XOR, xor);
        });
    }

    fn matched(&mut self, found: &Match) {
        let inverted = found.relation == Relation::IsNot;
        let equal = if inverted { NFT_CMP_NEQ } else { NFT_CMP_EQ };
        match (&found.operand, &found.fields[..]) {
            (Operand::Set(set), fields) => self.lookup(fields, set, inverted),
            (Operand::AnyBit(any), [field]) => {
                let mask = number_bytes(field.type_of(), *any);
                let zero = vec![0; mask.len()];
                self.load_key(&[*field]);
                self.bitwise(&mask, &zero);
                self.compare(if inverted { NFT_CMP_EQ } else { NFT_CMP_NEQ }, &zero);
            }
            (Operand::Part(part), [field]) => self.compare_part(*field, found.mask, part, inverted, equal),
            // A concatenation is only ever looked up; `Table::check` says so.
            _ => {}
        }
    }

    fn compare_part(&mut self, field: Selector, mask: Option<u32>, part: &KeyPart, inverted: bool, equal: u32) {
        match part {
            KeyPart::Prefix(prefix) => self.compare_prefix(field, prefix, equal),
            KeyPart::Value(value) => {
                self.load_key(&[field]);
                if let Some(mask) = mask {
                    let mask = number_bytes(field.type_of(), mask);
                    let zero = vec![0; mask.len()];
                    self.bitwise(&mask, &zero);
                }
                self.compare(equal, &bytes::value(value));
            }
            KeyPart::Range(bounds) => {
                self.load_key(&[field]);
                let (first, last) = (bytes::value(&bounds.0), bytes::value(&bounds.1));
                if inverted {
                    self.expr("range", |a| {
                        a.be32(NFTA_RANGE_SREG, NFT_REG_1).be32(NFTA_RANGE_OP, NFT_RANGE_NEQ);
                        a.data(NFTA_RANGE_FROM_DATA, &first).data(NFTA_RANGE_TO_DATA, &last);
                    });
                } else {
                    self.compare(NFT_CMP_GTE, &first);
                    self.compare(NFT_CMP_LTE, &last);
                }
            }
        }
    }

    fn compare_prefix(&mut self, field: Selector, prefix: &ripstop_types::Prefix, equal: u32) {
        let address = bytes::value(&Value::from(prefix.addr()));
        let whole = usize::from(prefix.len() / 8);
        // Whole bytes are compared without a mask.
        if let Some((base, offset, _)) = field.payload()
            && prefix.len().is_multiple_of(8)
            && whole > 0
        {
            self.conditions(&[field]);
            self.load_payload(base, offset, u32::from(prefix.len() / 8), NFT_REG_1);
            return self.compare(equal, address.get(..whole).unwrap_or(&address));
        }
        self.load_key(&[field]);
        self.bitwise(&bytes::prefix_mask(prefix.len(), address.len()), &vec![0; address.len()]);
        self.compare(equal, &address);
    }

    fn lookup(&mut self, fields: &[Selector], set: &SetRef, inverted: bool) {
        self.load_key(fields);
        let (name, id) = match set {
            SetRef::Named(name) => (name.as_str(), None),
            SetRef::Inline(elements) => {
                let entries = elements.iter().map(|parts| (parts.clone(), None)).collect();
                let (name, id) = self.inline(fields, None, entries);
                (name, Some(id))
            }
        };
        self.expr("lookup", |a| {
            a.text(NFTA_LOOKUP_SET, name).be32(NFTA_LOOKUP_SREG, NFT_REG_1);
            if let Some(id) = id {
                a.be32(NFTA_LOOKUP_SET_ID, id);
            }
            if inverted {
                a.be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV);
            }
        });
    }

    fn map(&mut self, key: &[Selector], map: &MapRef, data: &DataType, register: u32) {
        self.load_key(key);
        let (name, id) = match map {
            MapRef::Named(name) => (name.as_str(), None),
            MapRef::Inline(entries) => {
                let entries = entries.iter().map(|(parts, data)| (parts.clone(), Some(data.clone()))).collect();
                let (name, id) = self.inline(key, Some(data.clone()), entries);
                (name, Some(id))
            }
        };
        self.expr("lookup", |a| {
            a.text(NFTA_LOOKUP_SET, name).be32(NFTA_LOOKUP_SREG, NFT_REG_1).be32(NFTA_LOOKUP_DREG, register);
            if let Some(id) = id {
                a.be32(NFTA_LOOKUP_SET_ID, id);
            }
        });
    }

    fn inline(
        &mut self,
        fields: &[Selector],
        data: Option<DataType>,
        entries: Vec<(Vec<KeyPart>, Option<Data>)>,
    ) -> (&'static str, u32) {
        let interval = entries.iter().any(|(parts, _)| parts.iter().any(|part| !part.is_single()));
        let declaration = Set { data, interval, ..Set::of(fields.iter().map(|field| field.type_of())) };
        let id = *self.next_id;
        *self.next_id += 1;
        let set = InlineSet { id, declaration, entries };
        let name = set.name();
        self.out.sets.push(set);
        (name, id)
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expr("immediate", |a| {
            a.be32(NFTA_IMMEDIATE_DREG, register).data(NFTA_IMMEDIATE_DATA, value);
        });
    }

    fn redirect(&mut self, port: Option<u16>) {
        if let Some(port) = port {
            self.immediate(NFT_REG_1, &port.to_be_bytes());
        }
        self.expr("redir", |a| {
            if port.is_some() {
                a.be32(NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1).be32(NFTA_REDIR_FLAGS, NF_NAT_RANGE_PROTO_SPECIFIED);
            }
        });
    }

    fn nat(&mut self, nat: &Nat) {
        let (address, width) = match nat.family {
            Family::V4 => (Type::Ipv4Addr, 1),
            Family::V6 => (Type::Ipv6Addr, 4),
        };
        let (port_register, port_flag) = match &nat.to {
            NatTo::Address(addr, port) => {
                self.immediate(NFT_REG_1, &bytes::value(&Value::from(*addr)));
                if let Some(port) = port {
                    self.immediate(NFT_REG_2, &port.to_be_bytes());
                }
                (port.map(|_| NFT_REG_2), port.map_or(0, |_| NF_NAT_RANGE_PROTO_SPECIFIED))
            }
            NatTo::Map { key, map, port } => {
                let types = if *port { vec![address, Type::InetService] } else { vec![address] };
                self.map(key, map, &DataType::Values(types), NFT_REG_1);
                (port.then_some(NFT_REG32_00 + width), 0)
            }
        };
        let kind = match nat.kind {
            NatKind::Snat => NFT_NAT_SNAT,
            NatKind::Dnat => NFT_NAT_DNAT,
        };
        // NFPROTO_IPV4 and NFPROTO_IPV6.
        let family = if nat.family == Family::V4 { 2 } else { 10 };
        let flags = nat_flags(nat.flags) | port_flag;
        self.expr("nat", |a| {
            a.be32(NFTA_NAT_TYPE, kind).be32(NFTA_NAT_FAMILY, family).be32(NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
            if let Some(register) = port_register {
                a.be32(NFTA_NAT_REG_PROTO_MIN, register);
            }
            if flags != 0 {
                a.be32(NFTA_NAT_FLAGS, flags);
            }
        });
    }

    fn reject(&mut self, with: RejectWith) {
        let (kind, code) = match (with, self.family) {
            (RejectWith::TcpReset, _) => {
                if let Some(condition) = self.settled.need_transport(Proto::TCP.0) {
                    self.condition(condition);
                }
                (NFT_REJECT_TCP_RST, 0)
            }
            // Codes of RFC 792 and RFC 4443.
            (RejectWith::NoRoute, TableFamily::Ip | TableFamily::Ip6) => (NFT_REJECT_ICMP_UNREACH, 0),
            (RejectWith::HostUnreachable, TableFamily::Ip) => (NFT_REJECT_ICMP_UNREACH, 1),
            (RejectWith::PortUnreachable, TableFamily::Ip) => (NFT_REJECT_ICMP_UNREACH, 3),
            (RejectWith::AdminProhibited, TableFamily::Ip) => (NFT_REJECT_ICMP_UNREACH, 13),
            (RejectWith::AdminProhibited, TableFamily::Ip6) => (NFT_REJECT_ICMP_UNREACH, 1),
            (RejectWith::HostUnreachable, TableFamily::Ip6) => (NFT_REJECT_ICMP_UNREACH, 3),
            (RejectWith::PortUnreachable, TableFamily::Ip6) => (NFT_REJECT_ICMP_UNREACH, 4),
            (RejectWith::NoRoute, _) => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_NO_ROUTE),
            (RejectWith::PortUnreachable, _) => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH),
            (RejectWith::HostUnreachable, _) => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_HOST_UNREACH),
            (RejectWith::AdminProhibited, _) => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED),
        };
        self.expr("reject", |a| {
            a.be32(NFTA_REJECT_TYPE, kind).bytes(NFTA_REJECT_ICMP_CODE, &[u8::try_from(code).unwrap_or(0)]);
        });
    }

    /// Leaves a mark in register 1.
    fn mark(&mut self, source: &MarkSource, own: Selector) {
        let masked = |writer: &mut Self, selector, mask: u32| {
            writer.load(selector, NFT_REG_1);
            if mask != u32::MAX {
                writer.bitwise(&mask.to_ne_bytes(), &[0; 4]);
            }
        };
        match source {
            MarkSource::Value(mark) => self.immediate(NFT_REG_1, &mark.to_ne_bytes()),
            MarkSource::Change { keep, set } => {
                self.load(own, NFT_REG_1);
                self.bitwise(&keep.to_ne_bytes(), &set.to_ne_bytes());
            }
            MarkSource::Meta(mask) => masked(self, Selector::MetaMark, *mask),
            MarkSource::Ct(mask) => masked(self, Selector::CtMark, *mask),
            MarkSource::Number(number) => self.numgen(number, NFT_REG_1),
            MarkSource::Map { key, map } => self.map(key, map, &DataType::Values(vec![Type::Mark]), NFT_REG_1),
        }
    }

    fn numgen(&mut self, number: &NumGen, register: u32) {
        let kind = if number.random { NFT_NG_RANDOM } else { NFT_NG_INCREMENTAL };
        self.expr("numgen", |a| {
            a.be32(NFTA_NG_DREG, register).be32(NFTA_NG_MODULUS, number.modulus);
            a.be32(NFTA_NG_TYPE, kind).be32(NFTA_NG_OFFSET, number.offset);
        });
    }

    fn log(&mut self, log: &Log) {
        self.expr("log", |a| {
            if let Some(prefix) = &log.prefix {
                a.text(NFTA_LOG_PREFIX, prefix.as_str());
            }
            if let Some(group) = log.group {
                a.bytes(NFTA_LOG_GROUP, &group.to_be_bytes());
            }
        });
    }

    fn limit(&mut self, limit: &Limit) {
        self.expr("limit", |a| {
            a.be64(NFTA_LIMIT_RATE, limit.rate).be64(NFTA_LIMIT_UNIT, limit.unit.seconds());
            a.be32(NFTA_LIMIT_BURST, limit.burst).be32(NFTA_LIMIT_TYPE, NFT_LIMIT_PKTS);
            a.be32(NFTA_LIMIT_FLAGS, if limit.over { NFT_LIMIT_F_INV } else { 0 });
        });
    }

    fn set_update(&mut self, update: &SetUpdate) {
        // Conditions use register 1, so all come before the first field.
        self.conditions(&update.key);
        self.conditions(&update.data);
        self.load_key(&update.key);
        let key_registers: u32 = update.key.iter().map(|field| registers(field.type_of())).sum();
        let mut register = NFT_REG32_00 + key_registers;
        let data_register = register;
        for field in &update.data {
            self.load(*field, register);
            register += registers(field.type_of());
        }
        let op = if update.refresh { NFT_DYNSET_OP_UPDATE } else { NFT_DYNSET_OP_ADD };
        self.expr("dynset", |a| {
            a.text(NFTA_DYNSET_SET_NAME, update.set.as_str()).be32(NFTA_DYNSET_OP, op);
            a.be32(NFTA_DYNSET_SREG_KEY, NFT_REG_1);
            if !update.data.is_empty() {
                a.be32(NFTA_DYNSET_SREG_DATA, data_register);
            }
            if let Some(seconds) = update.timeout {
                a.be64(NFTA_DYNSET_TIMEOUT, u64::from(seconds) * 1_000);
            }
            if update.counter {
                a.nest(NFTA_DYNSET_EXPR, |a| {
                    a.text(NFTA_EXPR_NAME, "counter").nest(NFTA_EXPR_DATA, zero_counter);
                });
            }
        });
    }
}

fn zero_counter(a: &mut Attrs) {
    a.be64(NFTA_COUNTER_BYTES, 0).be64(NFTA_COUNTER_PACKETS, 0);
}

/// 4-byte registers a field fills.
fn registers(kind: Type) -> u32 {
    u32::try_from(kind.len().div_ceil(4)).unwrap_or(4)
}

fn number_bytes(kind: Type, number: u32) -> Vec<u8> {
    match kind.len() {
        1 => vec![u8::try_from(number & 0xff).unwrap_or(0)],
        _ => number.to_ne_bytes().to_vec(),
    }
}
