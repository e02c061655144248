//! Consecutive nftables steps as one transaction.
//!
//! The kernel takes all of a batch or none, and refuses it for one element that is there with another value or is gone
//! already. Then what is there is read, the batch is made to fit, and sent again.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Object, is_own_table};
use ripstop_nft::decode::{Answers, Refusal};
use ripstop_nft::encode::{self, Batch, Encoded, Failure};
use ripstop_nft::model::{ElementBody, ElementKey, Name, Table, TableFamily};
use ripstop_plan::{Action, Step};

use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::uapi::NFNLGRP_NFTABLES;
use crate::netlink::{NetlinkError, Socket};
use crate::observe::nft::{elements_of, generation};
use crate::own::Ear;

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
    Add(&'a ElementKey, &'a ElementBody),
    Remove(&'a ElementKey),
}

impl What<'_> {
    fn table(&self) -> (TableFamily, &Name) {
        match self {
            Self::Table(table) => (table.family, &table.name),
            Self::NoTable(family, name) => (*family, name),
            Self::Add(key, _) | Self::Remove(key) => (key.family, &key.table),
        }
    }

    fn element(&self) -> Option<&ElementKey> {
        match self {
            Self::Add(key, _) | Self::Remove(key) => Some(key),
            Self::Table(_) | Self::NoTable(..) => None,
        }
    }
}

/// Runs one transaction while monitors do not listen; `transact` says whether it was done. To tell them of an element takes
/// the kernel longer than to add it, even where a filter of theirs lets nothing through. The kernel counts transactions: where
/// it counted another one, or cannot be asked, they are told to look.
fn unheard(
    socket: &mut Socket,
    ears: &[Arc<Ear>],
    transact: impl FnOnce(&mut Socket) -> Result<bool, NetlinkError>,
) -> Result<bool, NetlinkError> {
    if ears.is_empty() {
        return transact(socket);
    }
    let Some(before) = generation(socket)? else { return transact(socket) };
    // One that cannot leave goes on listening.
    let deaf: Vec<&Arc<Ear>> = ears.iter().filter(|ear| ear.nft.leave(NFNLGRP_NFTABLES).is_ok()).collect();
    let result = transact(socket);
    let back: Vec<bool> = deaf.iter().map(|ear| ear.nft.join(NFNLGRP_NFTABLES).is_ok()).collect();
    let is_done = result.as_ref().is_ok_and(|is_done| *is_done);
    let ours = before.wrapping_add(u32::from(is_done));
    let is_alone = result.is_ok() && generation(socket).ok().flatten() == Some(ours);
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
        let pending = std::mem::take(&mut self.nft);
        let over = self.taken_away(&pending);
        let is_left = pending.iter().all(|i| self.steps[*i].action == Action::Delete);
        if is_left {
            self.forget(&over);
        }
        self.send_nft(pending);
        if !is_left {
            self.forget(&over);
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
        }
    }

    fn transact(&mut self, ops: &[Op<'_>]) -> Result<(), Refused> {
        let batch = encode(ops)?;
        let socket = &mut self.applier.nft;
        let encoded = batch.finish(socket.next_seq());
        socket.set_seq(encoded.next_seq());
        let mut answers = Answers::to(&encoded);
        let mut unreadable = None;
        let ears = self.applier.own.ears();
        let sent = unheard(socket, &ears, |socket| {
            socket.transact(&encoded.bytes, |bytes| {
                if let Err(error) = answers.take(bytes) {
                    unreadable = Some(error);
                }
            })?;
            Ok(answers.refusals().is_empty())
        });
        let all = |text: String| Refused::Other((everything(ops), Fault::Unsupported(text.into())));
        sent.map_err(|error| Refused::Other((everything(ops), Fault::refused(&error, None))))?;
        if let Some(error) = unreadable {
            return Err(all(format!("the kernel's answer is not understood: {error}")));
        }
        match answers.refusals().first() {
            Some(refusal) => Err(refused(ops, &encoded, refusal)),
            None => Ok(()),
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
        Key::NftElement(key) => (key.family, &key.table),
        _ => return Err(mismatch()),
    };
    if !is_own_table(family, table.as_str()) {
        return Err(Fault::Foreign { holder: format!("table {family} {table}").into() });
    }
    match (&step.key, step.action, step.after.as_deref()) {
        (Key::NftTable { family, name }, Action::Delete, _) => Ok(What::NoTable(*family, name)),
        (Key::NftElement(key), Action::Delete, _) => Ok(What::Remove(key)),
        (Key::NftTable { .. }, _, Some(Entry { object: Object::NftTable(table), .. })) => Ok(What::Table(&table.table)),
        (Key::NftElement(_), _, Some(Entry { object: Object::NftElement(element), .. })) => {
            Ok(What::Add(&element.key, &element.body))
        }
        _ => Err(mismatch()),
    }
}

/// The batch, or the step that cannot be written.
fn encode(ops: &[Op<'_>]) -> Result<Batch, Refused> {
    let mut batch = Batch::new();
    for run in ops.chunk_by(|a, b| {
        matches!((&a.what, &b.what), (What::Add(..), What::Add(..)) | (What::Remove(_), What::Remove(_)))
    }) {
        let Some(first) = run.first() else { continue };
        let written = match &first.what {
            What::Table(table) => batch.replace_table(table, []),
            What::NoTable(family, name) => batch.destroy_table(*family, name),
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

/// Which steps a refusal is about.
fn refused(ops: &[Op<'_>], encoded: &Encoded, refusal: &Refusal) -> Refused {
    let failure = encoded.explain(refusal);
    let fault = Fault::Refused { errno: failure.errno, text: failure.to_string().into(), cause: None };
    let culprits = match &failure.object {
        Some(encode::Object::Element(key)) => {
            ops.iter().filter(|op| op.what.element() == Some(key)).map(|op| op.step).collect()
        }
        Some(encode::Object::Elements { family, table, set, .. }) => {
            let of_set = |key: &ElementKey| key.family == *family && key.table == *table && key.set == *set;
            ops.iter().filter(|op| op.what.element().is_some_and(of_set)).map(|op| op.step).collect()
        }
        Some(
            encode::Object::Table { family, table }
            | encode::Object::Set { family, table, .. }
            | encode::Object::Chain { family, table, .. }
            | encode::Object::Rule { family, table, .. },
        ) => of_table(ops, (*family, table)),
        None => everything(ops),
    };
    let culprits = if culprits.is_empty() { everything(ops) } else { culprits };
    if is_about_an_element(&failure) { Refused::Element((culprits, fault)) } else { Refused::Other((culprits, fault)) }
}

fn is_about_an_element(failure: &Failure) -> bool {
    let element = matches!(failure.object, Some(encode::Object::Element(_) | encode::Object::Elements { .. }));
    element && (failure.is_missing() || failure.is_present())
}
