//! What the types of the model cannot rule out: names that lead nowhere, values of the wrong type, rules in chains
//! that cannot have them.

use std::collections::BTreeSet;

use super::{
    Base, Chain, ChainType, Data, DataType, ElementBody, Hook, IfPattern, Key, KeyPart, MapRef, MarkSource, Match,
    NatKind, NatTo, Operand, RejectWith, Relation, Rule, Selector, Set, SetRef, Statement, Table, TableFamily, Type,
    Value, Verdict,
};

/// A mistake in a table's definition: where, and what is wrong with what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Fault {
    /// `table inet ripstop, chain forward, rule 3`
    pub place: String,
    /// What was found and what is accepted.
    pub problem: String,
}

/// Most bytes of a key or of a map's data: `NFT_DATA_VALUE_MAXLEN`.
const KEY_MAX: usize = 64;

/// Most fields of a concatenation: nft's number of its type has 6 bits for each of five.
const FIELDS_MAX: usize = 5;

/// Bytes of a value made of these fields. In a concatenation each field fills whole 4-byte registers.
pub(crate) fn width(types: &[Type]) -> usize {
    match types {
        [one] => one.len(),
        several => several.iter().map(|t| t.len().next_multiple_of(4)).sum(),
    }
}

impl Table {
    /// Finds the first mistake the kernel would refuse or, worse, take for something else.
    ///
    /// # Errors
    /// The fault, with its place in the table.
    pub fn check(&self) -> Result<(), Fault> {
        let table = format!("table {} {}", self.family, self.name);
        for (name, set) in &self.sets {
            check_set(set).map_err(|problem| Fault { place: format!("{table}, set {name}"), problem })?;
        }
        for (name, chain) in &self.chains {
            let place = || format!("{table}, chain {name}");
            if let Some(base) = &chain.base {
                check_base(self.family, base).map_err(|problem| Fault { place: place(), problem })?;
            }
            for (index, rule) in chain.rules.iter().enumerate() {
                let rule_place = || match &rule.comment {
                    Some(comment) => format!("{}, rule {} ({comment})", place(), index + 1),
                    None => format!("{}, rule {}", place(), index + 1),
                };
                check_rule(self, chain, rule).map_err(|problem| Fault { place: rule_place(), problem })?;
            }
        }
        self.check_loops().map_err(|problem| Fault { place: table, problem })
    }

    /// Checks an element against the declaration of its set.
    ///
    /// # Errors
    /// The fault, naming the set and the element's field.
    pub fn check_element(&self, set: &super::Name, key: &Key, body: &ElementBody) -> Result<(), Fault> {
        let fault =
            |problem| Fault { place: format!("table {} {}, set {set}, element", self.family, self.name), problem };
        let declared = self.sets.get(set).ok_or_else(|| fault("the table declares no such set".to_owned()))?;
        if key.interval != declared.interval {
            return Err(fault(format!("key says interval {}, set says {}", key.interval, declared.interval)));
        }
        let place = if declared.interval { KeyPlace::IntervalSet } else { KeyPlace::PlainSet };
        check_key(&key.parts, &declared.key, place).map_err(fault)?;
        match (&declared.data, &body.data) {
            (None, None) => {}
            // Whether the part has that chain, its table does not know.
            (Some(DataType::Verdict), Some(Data::Verdict(verdict))) if leads_to_a_part(verdict) => {}
            (Some(types), Some(data)) => check_data(self, data, types).map_err(fault)?,
            (None, Some(_)) => return Err(fault("has a value, but the set is not a map".to_owned())),
            (Some(_), None) => return Err(fault("has no value, but the set is a map".to_owned())),
        }
        if body.timeout.is_some() && !declared.timeout {
            return Err(fault("has a timeout, but the set has not the flag timeout".to_owned()));
        }
        Ok(())
    }

    /// Jumps must not lead in circles, and not deeper than the kernel's stack of 16 (`NFT_JUMP_STACK_SIZE`).
    fn check_loops(&self) -> Result<(), String> {
        // Repeatedly strip chains that lead only to stripped ones; what remains is a circle. Depth is the round.
        let mut open: std::collections::BTreeMap<_, _> =
            self.chains.iter().map(|(name, chain)| (name.clone(), targets(chain))).collect();
        for _ in 0..16 {
            let done: Vec<_> = open
                .iter()
                .filter(|(_, to)| to.iter().all(|t| !open.contains_key(t)))
                .map(|(n, _)| n.clone())
                .collect();
            open.retain(|name, _| !done.contains(name));
        }
        match open.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("chain {name} jumps in a circle or more than 16 chains deep")),
        }
    }
}

fn leads_to_a_part(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Jump(chain) | Verdict::Goto(chain) if super::part_of(chain).is_some())
}

/// The chains that a chain's rules lead to.
pub(super) fn targets(chain: &Chain) -> BTreeSet<super::Name> {
    chain.rules.iter().flat_map(|rule| &rule.statements).flat_map(statement_targets).collect()
}

fn statement_targets(statement: &Statement) -> Vec<super::Name> {
    let of = |verdict: &Verdict| match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain.clone()),
        _ => None,
    };
    match statement {
        Statement::Verdict(verdict) => of(verdict).into_iter().collect(),
        Statement::Vmap { map: MapRef::Inline(entries), .. } => entries
            .iter()
            .filter_map(|(_, data)| match data {
                Data::Verdict(verdict) => of(verdict),
                Data::Values(_) => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn check_set(set: &Set) -> Result<(), String> {
    if set.key.is_empty() {
        return Err("has no key field; accepted are 1 and more".to_owned());
    }
    if set.key.len() > FIELDS_MAX {
        return Err(format!("the key has {} fields; accepted are up to {FIELDS_MAX}", set.key.len()));
    }
    if width(&set.key) > KEY_MAX {
        return Err(format!("the key has {} bytes; accepted are up to {KEY_MAX}", width(&set.key)));
    }
    if let Some(DataType::Values(types)) = &set.data
        && (types.is_empty() || width(types) > KEY_MAX)
    {
        return Err(format!("the data has {} bytes; accepted are 1 to {KEY_MAX}", width(types)));
    }
    if set.interval
        && let [one] = set.key[..]
        && !one.has_ranges()
    {
        return Err(format!("flag interval with key {one:?}, whose values have no order the kernel knows"));
    }
    if set.interval && set.dynamic {
        return Err("flags interval and dynamic exclude each other".to_owned());
    }
    if set.default_timeout.is_some() && !set.timeout {
        return Err("a default timeout needs the flag timeout".to_owned());
    }
    Ok(())
}

fn check_base(family: TableFamily, base: &Base) -> Result<(), String> {
    use Hook::{Forward, Ingress, Input, Output, Postrouting, Prerouting};
    let hooks: &[Hook] = match (family, base.kind) {
        (TableFamily::Inet, ChainType::Filter) => &[Ingress, Prerouting, Input, Forward, Output, Postrouting],
        (TableFamily::Ip | TableFamily::Ip6 | TableFamily::Bridge, ChainType::Filter) => {
            &[Prerouting, Input, Forward, Output, Postrouting]
        }
        (TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6, ChainType::Nat) => {
            &[Prerouting, Input, Output, Postrouting]
        }
        (TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6, ChainType::Route) => &[Output],
        (TableFamily::Arp, ChainType::Filter) => &[Input, Output],
        (TableFamily::Netdev, ChainType::Filter) => &[Ingress],
        _ => &[],
    };
    if !hooks.contains(&base.hook) {
        return Err(format!(
            "type {} at hook {}; accepted in family {family} are {:?}",
            base.kind.as_str(),
            base.hook.as_str(),
            hooks.iter().map(|hook| hook.as_str()).collect::<Vec<_>>()
        ));
    }
    if (base.hook == Ingress) != base.device.is_some() {
        return Err("a device belongs to a chain at hook ingress, and only there".to_owned());
    }
    if base.kind == ChainType::Nat && base.priority <= super::priority::CONNTRACK {
        return Err(format!("type nat with priority {}; accepted are those above -200", base.priority));
    }
    Ok(())
}

fn check_rule(table: &Table, chain: &Chain, rule: &Rule) -> Result<(), String> {
    if rule.statements.is_empty() {
        return Err("has no statement".to_owned());
    }
    let mut is_icmpv6 = false;
    for (index, statement) in rule.statements.iter().enumerate() {
        check_statement(table, chain, statement)?;
        if let Statement::Match(found) = statement {
            is_icmpv6 |= found.fields == [Selector::Icmpv6Type] && found.relation == Relation::Is;
            if found.fields.contains(&Selector::NdTarget) && !is_icmpv6 {
                return Err(
                    "a neighbour discovery target; accepted is one behind a match of the icmpv6 type".to_owned()
                );
            }
        }
        let last = index + 1 == rule.statements.len();
        if !last && is_terminal(statement) {
            return Err(format!("statement {} ends the rule, but others follow", index + 1));
        }
    }
    Ok(())
}

fn is_terminal(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Verdict(_)
            | Statement::Reject(_)
            | Statement::Nat(_)
            | Statement::Masquerade(_)
            | Statement::Redirect(_)
            | Statement::Fwd(_)
    )
}

fn check_statement(table: &Table, chain: &Chain, statement: &Statement) -> Result<(), String> {
    match statement {
        Statement::Match(found) => check_match(table, found),
        Statement::Verdict(verdict) => check_verdict(table, verdict),
        Statement::Vmap { key, map } => {
            let types = selectors(table, key)?;
            check_map(table, &types, map, &DataType::Verdict)
        }
        Statement::Masquerade(_) | Statement::Redirect(_) | Statement::Nat(_) => check_nat(table, chain, statement),
        Statement::Reject(RejectWith::TcpReset) if table.family == TableFamily::Netdev => {
            Err("reject needs Linux 5.16 in family netdev; accepted is drop".to_owned())
        }
        Statement::Reject(_) if chain.base.as_ref().is_some_and(|base| base.hook == Hook::Postrouting) => {
            Err("reject at hook postrouting; accepted are the hooks before".to_owned())
        }
        Statement::Reject(_) => match table.family {
            TableFamily::Arp | TableFamily::Netdev => Err(format!("reject in family {}", table.family)),
            _ => Ok(()),
        },
        Statement::CtMark(_) | Statement::Notrack if !tracks(table.family) => {
            Err(format!("connection tracking in family {}, which has none", table.family))
        }
        Statement::MetaMark(source) | Statement::CtMark(source) => check_mark(table, source),
        Statement::Limit(limit) if limit.rate == 0 => Err("limit rate 0; accepted are 1 and more".to_owned()),
        Statement::SetUpdate(update) => {
            let types = selectors(table, &update.key)?;
            let set = table.sets.get(&update.set).ok_or_else(|| format!("no set {} is declared", update.set))?;
            if !set.dynamic {
                return Err(format!("set {} has not the flag dynamic", update.set));
            }
            same_types(&types, &set.key)?;
            if update.timeout.is_some() && !set.timeout {
                return Err(format!("a timeout, but set {} has not the flag timeout", update.set));
            }
            match &set.data {
                None if update.data.is_empty() => Ok(()),
                Some(DataType::Values(declared)) => same_types(&selectors(table, &update.data)?, declared),
                _ => Err(format!("the value does not fit the data of {}", update.set)),
            }
        }
        Statement::Fwd(_) if table.family != TableFamily::Netdev => {
            Err(format!("fwd in family {}; accepted is family netdev", table.family))
        }
        Statement::Counter | Statement::Notrack | Statement::Log(_) | Statement::Limit(_) | Statement::Fwd(_) => Ok(()),
    }
}

fn check_match(table: &Table, found: &Match) -> Result<(), String> {
    let types = selectors(table, &found.fields)?;
    let [single] = types[..] else {
        let Operand::Set(set) = &found.operand else {
            return Err("a concatenation can only be looked up in a set".to_owned());
        };
        return check_set_ref(table, &types, set);
    };
    if found.mask.is_some()
        && (!matches!(single, Type::Mark | Type::TcpFlags)
            || !matches!(found.operand, Operand::Part(KeyPart::Value(_))))
    {
        return Err(format!("a mask with {single:?}; accepted is a mark or TCP flags compared with a value"));
    }
    match &found.operand {
        Operand::Set(set) => check_set_ref(table, &types, set),
        Operand::AnyBit(_) if single.is_bits() => Ok(()),
        Operand::AnyBit(_) => Err(format!("bits of {single:?}, which has none")),
        Operand::Part(part) => check_key(std::slice::from_ref(part), &types, KeyPlace::Comparison),
    }
}

fn selectors(table: &Table, fields: &[Selector]) -> Result<Vec<Type>, String> {
    if fields.is_empty() {
        return Err("no field is named".to_owned());
    }
    for field in fields {
        check_selector(table.family, *field)?;
    }
    let types: Vec<_> = fields.iter().map(|field| field.type_of()).collect();
    if width(&types) > KEY_MAX || types.len() > FIELDS_MAX {
        let (bytes, count) = (width(&types), types.len());
        return Err(format!("{count} fields of {bytes} bytes; accepted are up to {FIELDS_MAX} of {KEY_MAX}"));
    }
    Ok(types)
}

/// Whether packets of the family have connections.
fn tracks(family: TableFamily) -> bool {
    !matches!(family, TableFamily::Arp | TableFamily::Netdev)
}

fn check_selector(family: TableFamily, selector: Selector) -> Result<(), String> {
    use Selector as S;
    let fits = match selector {
        S::IpSaddr | S::IpDaddr | S::IpProtocol | S::IcmpType | S::CtOriginalIpDaddr => {
            !matches!(family, TableFamily::Ip6 | TableFamily::Arp)
        }
        S::Ip6Saddr | S::Ip6Daddr | S::Ip6Nexthdr | S::Icmpv6Type | S::NdTarget | S::CtOriginalIp6Daddr => {
            !matches!(family, TableFamily::Ip | TableFamily::Arp)
        }
        S::ArpOperation | S::ArpSaddrEther | S::ArpSaddrIp | S::ArpDaddrEther | S::ArpDaddrIp => {
            matches!(family, TableFamily::Arp | TableFamily::Bridge | TableFamily::Netdev)
        }
        S::CtState | S::CtStatus | S::CtMark | S::CtDirection | S::CtOriginalProtoDst => tracks(family),
        S::Number(number) if number.modulus == 0 => return Err("numgen mod 0; accepted are 1 and more".to_owned()),
        S::Fib(..) => matches!(family, TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6 | TableFamily::Netdev),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{selector:?} in family {family}, which has no such packets")) }
}

fn check_set_ref(table: &Table, types: &[Type], set: &SetRef) -> Result<(), String> {
    match set {
        SetRef::Named(name) => {
            let declared = table.sets.get(name).ok_or_else(|| format!("no set {name} is declared"))?;
            same_types(types, &declared.key)
        }
        SetRef::Inline(elements) => {
            if elements.is_empty() {
                return Err("an inline set without elements".to_owned());
            }
            elements.iter().try_for_each(|element| check_key(element, types, KeyPlace::IntervalSet))
        }
    }
}

fn check_map(table: &Table, types: &[Type], map: &MapRef, data: &DataType) -> Result<(), String> {
    match map {
        MapRef::Named(name) => {
            let declared = table.sets.get(name).ok_or_else(|| format!("no map {name} is declared"))?;
            same_types(types, &declared.key)?;
            if declared.data.as_ref() != Some(data) {
                return Err(format!("map {name} gives {:?}; accepted is {data:?}", declared.data));
            }
            Ok(())
        }
        MapRef::Inline(entries) => {
            if entries.is_empty() {
                return Err("an inline map without elements".to_owned());
            }
            entries.iter().try_for_each(|(key, value)| {
                check_key(key, types, KeyPlace::IntervalSet)?;
                check_data(table, value, data)
            })
        }
    }
}

fn same_types(found: &[Type], declared: &[Type]) -> Result<(), String> {
    if found == declared { Ok(()) } else { Err(format!("fields {found:?}; the set has {declared:?}")) }
}

/// Where a key stands: what it may be depends on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyPlace {
    Comparison,
    PlainSet,
    IntervalSet,
}

fn check_key(parts: &[KeyPart], types: &[Type], place: KeyPlace) -> Result<(), String> {
    if parts.len() != types.len() {
        return Err(format!("{} key fields; accepted are {}", parts.len(), types.len()));
    }
    for (part, expected) in parts.iter().zip(types) {
        let (first, last) = part.bounds();
        if first.type_of() != *expected || last.type_of() != *expected {
            return Err(format!("{part:?} where a value of {expected:?} is accepted"));
        }
        if !part.is_single() && (place == KeyPlace::PlainSet || !expected.has_ranges()) {
            return Err(format!("{part:?} is a range; accepted is one value of {expected:?}"));
        }
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        if matches!(first, Value::IfName(IfPattern::Prefix(_))) && place != KeyPlace::Comparison {
            return Err(format!("{part:?} is a pattern; accepted in a set is a whole name"));
        }
    }
    Ok(())
}

fn check_data(table: &Table, data: &Data, declared: &DataType) -> Result<(), String> {
    match (data, declared) {
        (Data::Verdict(verdict), DataType::Verdict) => check_verdict(table, verdict),
        (Data::Values(values), DataType::Values(types)) => {
            same_types(&values.iter().map(Value::type_of).collect::<Vec<_>>(), types)
        }
        _ => Err(format!("{data:?} in a map of {declared:?}")),
    }
}

fn check_verdict(table: &Table, verdict: &Verdict) -> Result<(), String> {
    let (Verdict::Jump(target) | Verdict::Goto(target)) = verdict else { return Ok(()) };
    match table.chains.get(target) {
        None => Err(format!("no chain {target} is declared")),
        Some(chain) if chain.base.is_some() => Err(format!("chain {target} is a base chain; nothing can jump there")),
        Some(_) => Ok(()),
    }
}

fn check_mark(table: &Table, source: &MarkSource) -> Result<(), String> {
    match source {
        MarkSource::Map { key, map } => {
            let types = selectors(table, key)?;
            check_map(table, &types, map, &DataType::Values(vec![Type::Mark]))
        }
        MarkSource::Number(number) if number.modulus == 0 => Err("numgen mod 0; accepted are 1 and more".to_owned()),
        MarkSource::Change { keep, set } if keep & set != 0 => {
            Err(format!("bits {:#x} are both kept and set", keep & set))
        }
        _ => Ok(()),
    }
}

fn check_nat(table: &Table, chain: &Chain, statement: &Statement) -> Result<(), String> {
    if !matches!(table.family, TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6) {
        return Err(format!("address translation in family {}", table.family));
    }
    let source = match statement {
        Statement::Masquerade(_) => true,
        Statement::Nat(nat) => nat.kind == NatKind::Snat,
        _ => false,
    };
    let masquerade = matches!(statement, Statement::Masquerade(_));
    if let Some(base) = &chain.base {
        let hooks: &[Hook] = match (source, masquerade) {
            (true, true) => &[Hook::Postrouting],
            (true, false) => &[Hook::Postrouting, Hook::Input],
            (false, _) => &[Hook::Prerouting, Hook::Output],
        };
        if base.kind != ChainType::Nat || !hooks.contains(&base.hook) {
            return Err(format!("address translation in a chain of type {} at {:?}", base.kind.as_str(), base.hook));
        }
    }
    let Statement::Nat(nat) = statement else { return Ok(()) };
    let address = Type::address(nat.family);
    match &nat.to {
        NatTo::Address(addr, _) if ripstop_types::Family::of(*addr) != nat.family => {
            Err(format!("{addr} is not of family {}", nat.family))
        }
        NatTo::Address(..) => Ok(()),
        NatTo::Map { key, map, port } => {
            let types = selectors(table, key)?;
            let data = if *port { vec![address, Type::InetService] } else { vec![address] };
            check_map(table, &types, map, &DataType::Values(data))
        }
    }
}
