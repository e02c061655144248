//! Consecutive nftables steps as one transaction.
//!
//! The kernel takes all of a batch or none, and refuses it for one element that is there with another value or is gone
//! already. Then what is there is read, the batch is made to fit, and sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, NFT_LOOPBACK_TABLE, NftValues, Ns, Object, ROUTE_LOCALNET, is_own_table};
use ripstop_nft::decode::{Answers, Refusal};
use ripstop_nft::encode::{self, Batch, Encoded, Failure};
use ripstop_nft::model::{Data, ElementBody, ElementKey, Name, Part, Table, TableFamily, part_of};
use ripstop_plan::{Action, Step};

use super::parts::Parts;
use super::queue::{Begun, UNMET_AT_ONCE};
use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::uapi::NFNLGRP_NFTABLES;
use crate::netlink::{NetlinkError, Socket};
use crate::observe::nft::{elements_of, generation};
use crate::own::Ear;
use crate::sysctl;

/// One change, and the step it is for.
#[derive(Debug, Clone)]
struct Op<'a> {
    step: usize,
    what: What<'a>,
}

#[derive(Debug, Clone)]
enum What<'a> {
    /// A table in the place of whatever has its name.
    Table(&'a Table),
    /// No table of this name.
    NoTable(TableFamily, &'a Name),
    /// A part, in the place of what is there of it.
    Part(&'a Part),
    /// The same by and by: it shut and empty,
    Begun(&'a Part),
    /// some of what fills a set of it,
    Filled(&'a Part, &'a Name, &'a [(IpAddr, IpAddr)]),
    /// and its rules.
    Ended(&'a Part),
    /// No part of this name.
    NoPart(TableFamily, &'a Name, &'a Name),
    Add(&'a ElementKey, &'a ElementBody),
    Remove(&'a ElementKey),
}

impl What<'_> {
    fn table(&self) -> (TableFamily, &Name) {
        match self {
            Self::Table(table) => (table.family, &table.name),
            Self::NoTable(family, name) => (*family, name),
            Self::Part(part) | Self::Begun(part) | Self::Filled(part, ..) | Self::Ended(part) => {
                (part.family, &part.table)
            }
            Self::NoPart(family, table, _) => (*family, table),
            Self::Add(key, _) | Self::Remove(key) => (key.family, &key.table),
        }
    }

    fn element(&self) -> Option<&ElementKey> {
        match self {
            Self::Add(key, _) | Self::Remove(key) => Some(key),
            _ => None,
        }
    }

    fn part(&self) -> Option<&Name> {
        match self {
            Self::Part(part) | Self::Begun(part) | Self::Filled(part, ..) | Self::Ended(part) => Some(&part.name),
            Self::NoPart(_, _, name) => Some(name),
            _ => None,
        }
    }
}

/// Runs transactions while monitors do not listen; `transact` says how many were done. To tell them of an element takes
/// the kernel longer than to add it, even where a filter of theirs lets nothing through. The kernel counts transactions, but for those that
/// change nothing: where it counted another one, or cannot be asked, they are told to look.
pub(super) fn unheard(
    socket: &mut Socket,
    ears: &[Arc<Ear>],
    transact: impl FnOnce(&mut Socket) -> Result<u32, NetlinkError>,
) -> Result<u32, NetlinkError> {
    if ears.is_empty() {
        return transact(socket);
    }
    let Some(before) = generation(socket)? else { return transact(socket) };
    // One that cannot leave goes on listening.
    let deaf: Vec<&Arc<Ear>> = ears.iter().filter(|ear| ear.nft.leave(NFNLGRP_NFTABLES).is_ok()).collect();
    let result = transact(socket);
    let back: Vec<bool> = deaf.iter().map(|ear| ear.nft.join(NFNLGRP_NFTABLES).is_ok()).collect();
    let done = result.as_ref().map_or(0, |done| *done);
    let ours = before.wrapping_add(done);
    let now = generation(socket).ok().flatten();
    let is_alone = result.is_ok() && (now == Some(ours) || now == Some(before));
    for (ear, is_back) in deaf.into_iter().zip(back) {
        if !is_alone || !is_back {
            ear.missed();
        }
    }
    result
}

impl Run<'_> {
    /// Sends the nftables steps that wait, and forgets connections to what they take away: before, where nobody gets there
    /// any more.
    pub(super) fn flush_nft(&mut self) {
        let mut pending = std::mem::take(&mut self.nft);
        self.begun = Begun::default();
        self.shut_loopback(&mut pending);
        let over = self.taken_away(&pending);
        let is_left = pending.iter().all(|i| self.steps[*i].action == Action::Delete);
        if is_left {
            self.forget(&over);
        }
        let sent = pending.clone();
        self.send_nft(pending);
        self.forget_host_ports(&sent);
        if !is_left {
            self.forget(&over);
        }
    }

    /// Where the table that guards loopback addresses goes, what it guards goes before it, whoever made it so; or else it stays.
    fn shut_loopback(&mut self, pending: &mut Vec<usize>) {
        let is_guard = |step: &Step| {
            step.action == Action::Delete
                && matches!(&step.key, Key::NftTable { name, .. } if name.as_str() == NFT_LOOPBACK_TABLE)
        };
        let Some(place) = pending.iter().position(|i| is_guard(&self.steps[*i])) else { return };
        let written = self.inside(&Ns::Host, || sysctl::write(ROUTE_LOCALNET, "0"));
        if let Err(fault) = written.and_then(|written| written) {
            let step = pending.remove(place);
            self.settle(step, Err(fault));
        }
    }

    /// Sends steps: all are done or none. Where others are to be tried after a failure, those the kernel names are left out
    /// and the rest is sent again.
    fn send_nft(&mut self, pending: Vec<usize>) {
        let steps = self.steps;
        let mut ops = Vec::new();
        for step in pending {
            match op(&steps[step]) {
                Ok(what) => ops.push(Op { step, what }),
                Err(fault) => self.settle(step, Err(fault)),
            }
        }
        let mut fitted = false;
        while !ops.is_empty() {
            if self.stopped() {
                return;
            }
            let (culprits, fault) = match self.transact(&ops) {
                Ok(()) => return ops.iter().for_each(|op| self.settle(op.step, Ok(()))),
                Err(Refused::Element(_)) if !fitted => {
                    fitted = true;
                    match self.fit(ops.clone()) {
                        Ok(fitting) => {
                            ops = fitting;
                            continue;
                        }
                        Err(error) => (everything(&ops), Fault::refused(&error, None)),
                    }
                }
                Err(Refused::Element((culprits, fault)) | Refused::Other((culprits, fault))) => (culprits, fault),
            };
            for step in &culprits {
                self.settle(*step, Err(fault.clone()));
            }
            ops.retain(|op| !culprits.contains(&op.step));
            self.leave_out_astray(&mut ops);
        }
    }

    /// Leaves out what would lead to what is not written whole, and then what would lead there.
    fn leave_out_astray(&mut self, ops: &mut Vec<Op<'_>>) {
        loop {
            let astray = ops.iter().filter_map(|op| Some((op.step, self.leads_astray(op.step)?)));
            let astray: BTreeMap<usize, Fault> = astray.collect();
            if astray.is_empty() {
                return;
            }
            ops.retain(|op| !astray.contains_key(&op.step));
            astray.into_iter().for_each(|(step, fault)| self.settle(step, Err(fault)));
        }
    }

    /// Writes a part with more in its sets than one transaction takes, in several.
    pub(super) fn write_long_part(&mut self, step: usize) {
        let steps = self.steps;
        let part = match op(&steps[step]) {
            Ok(What::Part(part)) => part,
            Ok(_) => return self.settle(step, Err(mismatch())),
            Err(fault) => return self.settle(step, Err(fault)),
        };
        let ranges = part.filled.iter().flat_map(|(set, filling)| {
            filling.ranges.chunks(UNMET_AT_ONCE).map(move |ranges| What::Filled(part, set, ranges))
        });
        let ops = [What::Begun(part)].into_iter().chain(ranges).chain([What::Ended(part)]);
        let written = ops.map(|what| self.transact(&[Op { step, what }])).try_for_each(|written| match written {
            Ok(()) => Ok(()),
            Err(Refused::Element((_, fault)) | Refused::Other((_, fault))) => Err(fault),
        });
        self.settle(step, written);
    }

    fn transact(&mut self, ops: &[Op<'_>]) -> Result<(), Refused> {
        let with_parts = ops.iter().filter(|op| op.what.part().is_some()).map(|op| op.what.table());
        let tables: BTreeSet<(TableFamily, Name)> = with_parts.map(|(family, table)| (family, table.clone())).collect();
        let unread = |error: NetlinkError| Refused::Other((everything(ops), Fault::refused(&error, None)));
        // Whatever goes wrong, nothing is known then.
        let mut parts = std::mem::take(&mut self.applier.parts);
        if !tables.is_empty() {
            parts.learn(&mut self.applier.nft, tables).map_err(unread)?;
        }
        let batch = encode(ops, &mut parts)?;
        if batch.is_empty() {
            self.applier.parts = parts;
            return Ok(());
        }
        let encoded = batch.finish(self.applier.nft.next_seq());
        match self.send(&encoded).map_err(|fault| Refused::Other((everything(ops), fault)))? {
            Some(refusal) => Err(refused(ops, &encoded, &refusal)),
            None => {
                parts.follow(&mut self.applier.nft);
                self.applier.parts = parts;
                Ok(())
            }
        }
    }

    /// Sends a transaction; answers with the first refusal.
    fn send(&mut self, encoded: &Encoded) -> Result<Option<Refusal>, Fault> {
        let socket = &mut self.applier.nft;
        socket.set_seq(encoded.next_seq());
        let mut answers = Answers::to(encoded);
        let mut unreadable = None;
        let ears = self.applier.own.ears();
        let sent = unheard(socket, &ears, |socket| {
            socket.transact(&encoded.bytes, |bytes| {
                if let Err(error) = answers.take(bytes) {
                    unreadable = Some(error);
                }
            })?;
            Ok(u32::from(answers.refusals().is_empty()))
        });
        sent.map_err(|error| Fault::refused(&error, None))?;
        if let Some(error) = unreadable {
            return Err(Fault::Unsupported(format!("the kernel's answer is not understood: {error}").into()));
        }
        Ok(answers.refusals().first().cloned())
    }

    /// Adds elements to sets that packets and flows fill. Where there is no such set, or no room in it, they are not added.
    pub(super) fn add_passing(&mut self, elements: &BTreeSet<ElementKey>) -> Result<(), Fault> {
        let (mut batch, body) = (Batch::new(), ElementBody::default());
        let added = batch.add_elements(elements.iter().map(|key| (key, &body)));
        added.map_err(|error| Fault::Unsupported(error.to_string().into()))?;
        if batch.is_empty() {
            return Ok(());
        }
        let encoded = batch.finish(self.applier.nft.next_seq());
        match self.send(&encoded)? {
            Some(refusal) => {
                let failure = encoded.explain(&refusal);
                Err(Fault::Refused { errno: failure.errno, text: failure.to_string().into(), cause: None })
            }
            None => {
                self.applier.parts.follow(&mut self.applier.nft);
                Ok(())
            }
        }
    }

    /// Makes changes of elements fit what is there: what is gone is not removed, what is there with another value is
    /// removed first.
    fn fit<'o>(&mut self, ops: Vec<Op<'o>>) -> Result<Vec<Op<'o>>, NetlinkError> {
        let sets: BTreeSet<(TableFamily, Name, Name)> = ops
            .iter()
            .filter_map(|op| op.what.element())
            .map(|key| (key.family, key.table.clone(), key.set.clone()))
            .collect();
        let mut there = elements_of(&mut self.applier.nft, &sets)?;
        let mut fitting = Vec::new();
        for op in ops {
            match &op.what {
                What::Table(_) | What::NoTable(..) => {
                    let table = op.what.table();
                    there.retain(|key, _| (key.family, &key.table) != table);
                    fitting.push(op);
                }
                What::Part(_) | What::NoPart(..) | What::Begun(_) | What::Filled(..) | What::Ended(_) => {
                    fitting.push(op)
                }
                What::Remove(key) => match there.remove(*key) {
                    Some(_) => fitting.push(op),
                    None => self.settle(op.step, Ok(())),
                },
                What::Add(key, body) => {
                    let same = |found: &ElementBody| found.data == body.data;
                    match there.insert((*key).clone(), (*body).clone()) {
                        Some(found) if same(&found) => self.settle(op.step, Ok(())),
                        Some(_) => {
                            fitting.push(Op { step: op.step, what: What::Remove(key) });
                            fitting.push(op);
                        }
                        None => fitting.push(op),
                    }
                }
            }
        }
        Ok(fitting)
    }
}

/// Elements of one transaction that takes some out of a map: packets may take others out meanwhile, and then it is refused.
const PURGED_AT_ONCE: usize = 500;
/// So often is a map read again of which elements expired while they were removed.
const PURGES: usize = 20;

/// The values that a map may have, where a step holds it to them.
fn values(entry: Option<&Entry>) -> Option<&NftValues> {
    match entry {
        Some(Entry { object: Object::NftValues(values), .. }) => Some(values),
        _ => None,
    }
}

impl Run<'_> {
    /// Holds maps that wait for it to the values they may have.
    pub(super) fn flush_bounds(&mut self) {
        let waiting = std::mem::take(&mut self.bounding);
        if waiting.is_empty() || self.stopped() {
            return;
        }
        let result = self.purge(&waiting);
        for step in waiting {
            self.settle(step, result.clone());
            self.bounded.extend(result.is_ok().then_some(step));
        }
    }

    /// Holds all maps of this run to their values before their turn: a connection that is forgotten must not come by an old entry to where
    /// it was. What goes wrong is said when their turn comes.
    pub(super) fn purge_all(&mut self) {
        let steps = self.steps.iter().enumerate();
        let bounds: Vec<usize> =
            steps.filter(|(_, step)| step.key.kind() == Kind::NftValues).map(|(place, _)| place).collect();
        if !bounds.is_empty() {
            let _ = self.purge(&bounds);
        }
    }

    /// Looks at them once more where an endpoint's slot went behind: a packet may have been on its way that had drawn it, and has put
    /// it there.
    pub(super) fn look_again(&mut self) {
        let steps = self.steps;
        let is_removal = |step: &Step| matches!(step.key, Key::NftElement(_)) && step.action == Action::Delete;
        let last = steps.iter().rposition(is_removal);
        let before: Vec<usize> = self.bounded.drain(..).filter(|step| Some(*step) < last).collect();
        if before.is_empty() || self.stopped() {
            return;
        }
        let result = self.purge(&before);
        before.into_iter().for_each(|step| self.settle(step, result.clone()));
    }

    fn purge(&mut self, waiting: &[usize]) -> Result<(), Fault> {
        let steps = self.steps;
        let mut bounds = BTreeMap::new();
        for step in waiting.iter().map(|step| &steps[*step]).filter(|step| step.action != Action::Delete) {
            let wanted = values(step.after.as_deref()).ok_or_else(mismatch)?;
            if !is_own_table(wanted.family, wanted.table.as_str()) {
                return Err(Fault::Foreign { holder: format!("table {} {}", wanted.family, wanted.table).into() });
            }
            let only_grows = |was: &NftValues| !was.found && was.values.is_subset(&wanted.values);
            if !values(step.before.as_deref()).is_some_and(only_grows) {
                bounds.insert((wanted.family, wanted.table.clone(), wanted.map.clone()), wanted);
            }
        }
        let maps: BTreeSet<(TableFamily, Name, Name)> = bounds.keys().cloned().collect();
        for _ in 0..PURGES {
            let there = elements_of(&mut self.applier.nft, &maps).map_err(|error| Fault::refused(&error, None))?;
            let is_stray = |key: &ElementKey, body: &ElementBody| match &body.data {
                Some(Data::Values(found)) => bounds
                    .get(&(key.family, key.table.clone(), key.set.clone()))
                    .is_some_and(|wanted| !wanted.values.contains(found)),
                _ => false,
            };
            let stray: Vec<ElementKey> =
                there.into_iter().filter(|(key, body)| is_stray(key, body)).map(|(key, _)| key).collect();
            if stray.is_empty() {
                return Ok(());
            }
            for some in stray.chunks(PURGED_AT_ONCE) {
                let ops: Vec<Op<'_>> = some.iter().map(|key| Op { step: 0, what: What::Remove(key) }).collect();
                match self.transact(&ops) {
                    Ok(()) | Err(Refused::Element(_)) => {}
                    Err(Refused::Other((_, fault))) => return Err(fault),
                }
            }
        }
        Err(Fault::Unsupported("elements of maps kept changing while some were removed".into()))
    }
}

/// Steps at fault, and what is wrong with them.
type Blame = (BTreeSet<usize>, Fault);

enum Refused {
    /// An element that is there, or not there: reading may help.
    Element(Blame),
    Other(Blame),
}

fn everything(ops: &[Op<'_>]) -> BTreeSet<usize> {
    ops.iter().map(|op| op.step).collect()
}

/// What a step asks of nftables; refused where the table is not ours.
fn op(step: &Step) -> Result<What<'_>, Fault> {
    let (family, table) = match &step.key {
        Key::NftTable { family, name } => (*family, name),
        Key::NftPart { family, table, .. } => (*family, table),
        Key::NftElement(key) => (key.family, &key.table),
        _ => return Err(mismatch()),
    };
    if !is_own_table(family, table.as_str()) {
        return Err(Fault::Foreign { holder: format!("table {family} {table}").into() });
    }
    match (&step.key, step.action, step.after.as_deref()) {
        (Key::NftTable { family, name }, Action::Delete, _) => Ok(What::NoTable(*family, name)),
        (Key::NftPart { family, table, name }, Action::Delete, _) => Ok(What::NoPart(*family, table, name)),
        (Key::NftPart { .. }, _, Some(Entry { object: Object::NftPart(part), .. })) if part.found.is_none() => {
            Ok(What::Part(&part.part))
        }
        (Key::NftElement(key), Action::Delete, _) => Ok(What::Remove(key)),
        (Key::NftTable { .. }, _, Some(Entry { object: Object::NftTable(table), .. })) => Ok(What::Table(&table.table)),
        (Key::NftElement(_), _, Some(Entry { object: Object::NftElement(element), .. })) => {
            Ok(What::Add(&element.key, &element.body))
        }
        _ => Err(mismatch()),
    }
}

/// The batch, or the step that cannot be written.
fn encode(ops: &[Op<'_>], parts: &mut Parts) -> Result<Batch, Refused> {
    let mut batch = Batch::new();
    for run in ops.chunk_by(|a, b| {
        matches!((&a.what, &b.what), (What::Add(..), What::Add(..)) | (What::Remove(_), What::Remove(_)))
    }) {
        let Some(first) = run.first() else { continue };
        if matches!(first.what, What::Table(_) | What::NoTable(..)) {
            parts.clear(first.what.table());
        }
        let written = match &first.what {
            What::Table(table) => batch.replace_table(table, []),
            What::NoTable(family, name) => batch.destroy_table(*family, name),
            What::Part(part) => {
                let written = batch.write_part(part, parts.get(part.family, &part.table, &part.name));
                parts.insert(part);
                written
            }
            What::Begun(part) => {
                let written = batch.begin_part(part, parts.get(part.family, &part.table, &part.name));
                parts.insert(part);
                written
            }
            What::Filled(part, set, ranges) => batch.fill_part(part, set, ranges),
            What::Ended(part) => batch.end_part(part),
            What::NoPart(family, table, name) => match parts.remove(*family, table, name) {
                Some(there) => batch.delete_part(&there),
                None => Ok(()),
            },
            What::Add(..) => batch.add_elements(run.iter().filter_map(|op| match op.what {
                What::Add(key, body) => Some((key, body)),
                _ => None,
            })),
            What::Remove(_) => batch.delete_elements(run.iter().filter_map(|op| op.what.element())),
        };
        if let Err(error) = written {
            // What lies in a table that cannot be written cannot be written either.
            let culprits = match &first.what {
                What::Table(_) => of_table(ops, first.what.table()),
                _ => everything(run),
            };
            return Err(Refused::Other((culprits, Fault::Unsupported(error.to_string().into()))));
        }
    }
    Ok(batch)
}

fn of_table(ops: &[Op<'_>], table: (TableFamily, &Name)) -> BTreeSet<usize> {
    ops.iter().filter(|op| op.what.table() == table).map(|op| op.step).collect()
}

/// The steps for the part that a chain or set belongs to, or where it is none's those for the table.
fn of_part_or_table(ops: &[Op<'_>], table: (TableFamily, &Name), name: &Name) -> BTreeSet<usize> {
    let Some(part) = part_of(name) else { return of_table(ops, table) };
    let of_it = |op: &&Op<'_>| op.what.table() == table && op.what.part() == Some(&part);
    ops.iter().filter(of_it).map(|op| op.step).collect()
}

/// The steps for elements, or where they are what a part is filled with that for the part.
fn of_elements(
    ops: &[Op<'_>],
    table: (TableFamily, &Name),
    set: &Name,
    of: impl Fn(&ElementKey) -> bool,
) -> BTreeSet<usize> {
    let steps: BTreeSet<usize> = ops.iter().filter(|op| op.what.element().is_some_and(&of)).map(|op| op.step).collect();
    if steps.is_empty() { of_part_or_table(ops, table, set) } else { steps }
}

/// Which steps a refusal is about.
fn refused(ops: &[Op<'_>], encoded: &Encoded, refusal: &Refusal) -> Refused {
    let failure = encoded.explain(refusal);
    let fault = Fault::Refused { errno: failure.errno, text: failure.to_string().into(), cause: None };
    let culprits = match &failure.object {
        Some(encode::Object::Element(key)) => {
            of_elements(ops, (key.family, &key.table), &key.set, |other| other == key)
        }
        Some(encode::Object::Elements { family, table, set, .. }) => {
            let of_set = |key: &ElementKey| key.family == *family && key.table == *table && key.set == *set;
            of_elements(ops, (*family, table), set, of_set)
        }
        Some(encode::Object::Table { family, table }) => of_table(ops, (*family, table)),
        Some(encode::Object::Chain { family, table, chain } | encode::Object::Rule { family, table, chain, .. }) => {
            of_part_or_table(ops, (*family, table), chain)
        }
        Some(encode::Object::Set { family, table, set }) => match set.parse() {
            Ok(set) => of_part_or_table(ops, (*family, table), &set),
            Err(_) => of_table(ops, (*family, table)),
        },
        None => everything(ops),
    };
    let culprits = if culprits.is_empty() { everything(ops) } else { culprits };
    if is_about_an_element(&failure) { Refused::Element((culprits, fault)) } else { Refused::Other((culprits, fault)) }
}

fn is_about_an_element(failure: &Failure) -> bool {
    let element = matches!(failure.object, Some(encode::Object::Element(_) | encode::Object::Elements { .. }));
    element && (failure.is_missing() || failure.is_present())
}
