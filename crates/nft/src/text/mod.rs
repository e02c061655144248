//! The ruleset in nft's own syntax, as `nft -s list table` of nft 1.0.6 prints it and `nft -f` reads it.
//!
//! For humans, golden files and `nft -c`; never the way into the kernel. The order is the model's own and therefore
//! stable. Counters have no values and elements no expiry.
//!
//! Two things nft 1.0.6 prints that cannot be known here: the name of a link that stands behind an index, and
//! protocol names beyond Debian's /etc/protocols. A chain called like a keyword of nft (`dnat`, `all`) is printed, as
//! nft does, but nft cannot read it back.

mod statement;
mod value;

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use crate::model::{
    Base, Chain, DataType, ElementBody, ElementKey, Hook, Name, Policy, Rule, Set, Table, TableFamily, Type,
};
use value::{data, duration, key_parts, set_delimiter, sort_key};

/// One table with the elements of its sets. Elements of other tables are passed over.
pub fn table(table: &Table, elements: &BTreeMap<ElementKey, ElementBody>) -> String {
    let mut by_set: BTreeMap<&Name, Vec<(&ElementKey, &ElementBody)>> = BTreeMap::new();
    for (key, body) in elements {
        if key.family == table.family && key.table == table.name {
            by_set.entry(&key.set).or_default().push((key, body));
        }
    }
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = write_table(&mut out, table, &by_set);
    out
}

/// Tables and elements, one after another.
pub fn ruleset<'a>(
    tables: impl IntoIterator<Item = &'a Table>,
    elements: &BTreeMap<ElementKey, ElementBody>,
) -> String {
    tables.into_iter().map(|one| table(one, elements)).collect()
}

/// A rule as it stands in a chain of a table of the family, with its comment.
pub fn rule(family: TableFamily, rule: &Rule) -> String {
    let mut out = statement::rule(family, &rule.statements);
    if let Some(comment) = &rule.comment {
        let _ = write!(out, " comment \"{comment}\"");
    }
    out
}

fn write_table(
    out: &mut String,
    table: &Table,
    elements: &BTreeMap<&Name, Vec<(&ElementKey, &ElementBody)>>,
) -> fmt::Result {
    writeln!(out, "table {} {} {{", table.family, table.name)?;
    let mut blank = false;
    if let Some(comment) = &table.comment {
        writeln!(out, "\tcomment \"{comment}\"")?;
    }
    for (name, set) in &table.sets {
        if blank {
            out.push('\n');
        }
        blank = true;
        write_set(out, name, set, elements.get(name).map_or(&[][..], Vec::as_slice))?;
    }
    for (name, chain) in &table.chains {
        if blank {
            out.push('\n');
        }
        blank = true;
        write_chain(out, table.family, name, chain)?;
    }
    out.push_str("}\n");
    Ok(())
}

fn write_set(out: &mut String, name: &Name, set: &Set, elements: &[(&ElementKey, &ElementBody)]) -> fmt::Result {
    writeln!(out, "\t{} {name} {{", if set.data.is_some() { "map" } else { "set" })?;
    writeln!(out, "\t\ttype {}", SetType(set))?;
    if let Some(size) = set.size {
        writeln!(out, "\t\tsize {size}")?;
    }
    let flags = [(set.dynamic, "dynamic"), (set.interval, "interval"), (set.timeout, "timeout")];
    let flags: Vec<_> = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
    if !flags.is_empty() {
        writeln!(out, "\t\tflags {}", flags.join(","))?;
    }
    if let Some(seconds) = set.default_timeout {
        writeln!(out, "\t\ttimeout {}", duration(seconds))?;
    }
    if let Some(comment) = &set.comment {
        writeln!(out, "\t\tcomment \"{comment}\"")?;
    }
    write_elements(out, set, elements)?;
    out.push_str("\t}\n");
    Ok(())
}

fn write_elements(out: &mut String, set: &Set, elements: &[(&ElementKey, &ElementBody)]) -> fmt::Result {
    if elements.is_empty() {
        return Ok(());
    }
    let mut elements = elements.to_vec();
    elements.sort_by_cached_key(|(key, _)| sort_key(&key.key.parts));
    out.push_str("\t\telements = { ");
    for (index, (key, body)) in elements.iter().enumerate() {
        if index > 0 {
            out.push_str(set_delimiter(&set.key, index));
        }
        out.push_str(&key_parts(&key.key.parts));
        if let Some(seconds) = body.timeout {
            write!(out, " timeout {}", duration(seconds))?;
        }
        if let Some(comment) = &body.comment {
            write!(out, " comment \"{comment}\"")?;
        }
        if let Some(found) = &body.data {
            write!(out, " : {}", data(found))?;
        }
    }
    out.push_str(" }\n");
    Ok(())
}

struct SetType<'a>(&'a Set);

impl Display for SetType<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_types(f, &self.0.key)?;
        match &self.0.data {
            None => Ok(()),
            Some(DataType::Verdict) => f.write_str(" : verdict"),
            Some(DataType::Values(types)) => {
                f.write_str(" : ")?;
                write_types(f, types)
            }
        }
    }
}

fn write_types(f: &mut fmt::Formatter<'_>, types: &[Type]) -> fmt::Result {
    for (index, one) in types.iter().enumerate() {
        if index > 0 {
            f.write_str(" . ")?;
        }
        f.write_str(value::type_name(*one))?;
    }
    Ok(())
}

fn write_chain(out: &mut String, family: TableFamily, name: &Name, chain: &Chain) -> fmt::Result {
    writeln!(out, "\tchain {name} {{")?;
    if let Some(comment) = &chain.comment {
        writeln!(out, "\t\tcomment \"{comment}\"")?;
    }
    if let Some(base) = &chain.base {
        write!(out, "\t\ttype {} hook {} ", base.kind.as_str(), base.hook.as_str())?;
        if let Some(device) = &base.device {
            write!(out, "device \"{device}\" ")?;
        }
        let policy = match base.policy {
            Policy::Accept => "accept",
            Policy::Drop => "drop",
        };
        writeln!(out, "priority {}; policy {policy};", priority(family, base))?;
    }
    for one in &chain.rules {
        writeln!(out, "\t\t{}", rule(family, one))?;
    }
    out.push_str("\t}\n");
    Ok(())
}

/// nft's name for a priority, with the distance if it is at most 10.
fn priority(family: TableFamily, base: &Base) -> String {
    let inet = matches!(family, TableFamily::Inet | TableFamily::Ip | TableFamily::Ip6);
    let bridge = family == TableFamily::Bridge;
    let names = [
        ("raw", -300, inet),
        ("mangle", -150, inet),
        ("dstnat", -100, inet && base.hook == Hook::Prerouting),
        ("filter", 0, !bridge),
        ("security", 50, inet),
        ("srcnat", 100, inet && base.hook == Hook::Postrouting),
        ("dstnat", -300, bridge && base.hook == Hook::Prerouting),
        ("filter", -200, bridge),
        ("out", 100, bridge && base.hook == Hook::Output),
        ("srcnat", 300, bridge && base.hook == Hook::Postrouting),
    ];
    for (name, number, fits) in names {
        let distance = i64::from(base.priority) - number;
        if fits && distance.abs() <= 10 {
            return match distance {
                0 => name.to_owned(),
                d if d > 0 => format!("{name} + {d}"),
                d => format!("{name} - {}", -d),
            };
        }
    }
    base.priority.to_string()
}

impl Display for Table {
    /// The definition, without elements.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&table(self, &BTreeMap::new()))
    }
}

impl Display for ElementKey {
    /// `inet ripstop pods { "rip0" . 10.244.1.2 }`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {{ {} }}", self.family, self.table, self.set, key_parts(&self.key.parts))
    }
}

impl Display for ElementBody {
    /// `timeout 10s comment "pod/default/web" : 10.244.1.2`; empty if there is nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.timeout.map(|seconds| format!("timeout {}", duration(seconds))));
        parts.extend(self.comment.as_ref().map(|comment| format!("comment \"{comment}\"")));
        parts.extend(self.data.as_ref().map(|found| format!(": {}", data(found))));
        f.write_str(&parts.join(" "))
    }
}
