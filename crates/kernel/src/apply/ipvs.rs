//! Consecutive steps for IPVS, in one system call as far as it fits.

use ripstop_netmodel::{Key, Object};
use ripstop_plan::{Action, Step};

use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::{Message, NetlinkError};
use crate::observe::ipvs::Ipvs;
use crate::wire::ipvs;

impl Run<'_> {
    /// Sends the steps for IPVS that wait.
    pub(super) fn flush_ipvs(&mut self) {
        let pending = std::mem::take(&mut self.ipvs);
        if pending.is_empty() || self.stopped() {
            return;
        }
        match self.send_ipvs(&pending) {
            Ok(results) => pending.into_iter().zip(results).for_each(|(step, result)| self.settle(step, result)),
            Err(fault) => pending.into_iter().for_each(|step| self.settle(step, Err(fault.clone()))),
        }
    }

    fn send_ipvs(&mut self, pending: &[usize]) -> Result<Vec<Result<(), Fault>>, Fault> {
        let steps: Vec<&Step> = pending.iter().filter_map(|step| self.steps.get(*step)).collect();
        let there = match &mut self.applier.ipvs {
            Some(there) => there,
            None => match Ipvs::open() {
                Ok(opened) => self.applier.ipvs.insert(opened),
                // Without IPVS there is nothing to remove.
                Err(error) if error.errno == libc::ENOENT => {
                    let missing = || Err(Fault::refused(&error, Some(MISSING.into())));
                    let of = |step: &&Step| if step.action == Action::Delete { Ok(()) } else { missing() };
                    return Ok(steps.iter().map(of).collect());
                }
                Err(error) => return Err(Fault::refused(&error, None)),
            },
        };
        let mut results = exchange(there, &steps, |step| step.action == Action::Create);
        // What is there is made so, and what is gone is made.
        let is_another = |step: &Step, error: &NetlinkError| match step.action {
            Action::Create => error.errno == libc::EEXIST,
            Action::Update => matches!(error.errno, libc::ESRCH | libc::ENOENT),
            _ => false,
        };
        let again: Vec<usize> = (0..steps.len())
            .filter(
                |place| matches!(&results[*place], Err(Problem::Refused(error)) if is_another(steps[*place], error)),
            )
            .collect();
        let others: Vec<&Step> = again.iter().map(|place| steps[*place]).collect();
        let answers = exchange(there, &others, |step| step.action != Action::Create);
        for (place, answer) in again.into_iter().zip(answers) {
            results[place] = answer;
        }
        Ok(steps.iter().zip(results).map(|(step, result)| judged(step, result)).collect())
    }
}

/// What is to be done where the kernel has no IPVS.
pub(super) const MISSING: &str = "this kernel has no IPVS: load its module with `modprobe ip_vs` on the node";

enum Problem {
    Mismatch,
    Refused(NetlinkError),
}

fn judged(step: &Step, result: Result<(), Problem>) -> Result<(), Fault> {
    match result {
        Ok(()) => Ok(()),
        Err(Problem::Mismatch) => Err(mismatch()),
        // ESRCH of a virtual server, ENOENT of a destination.
        Err(Problem::Refused(error))
            if step.action == Action::Delete && matches!(error.errno, libc::ESRCH | libc::ENOENT) =>
        {
            Ok(())
        }
        Err(Problem::Refused(error)) => {
            let is_scheduler = error.errno == libc::ENOENT && matches!(step.key, Key::IpvsService { .. });
            let cause = "this kernel lacks the scheduler: load its module with `modprobe ip_vs_NAME`".to_owned();
            Err(Fault::refused(&error, is_scheduler.then_some(cause)))
        }
    }
}

fn exchange(there: &mut Ipvs, steps: &[&Step], is_new: impl Fn(&Step) -> bool) -> Vec<Result<(), Problem>> {
    let messages: Vec<Option<Message>> = steps.iter().map(|step| message(there.family, step, is_new(step))).collect();
    let sent: Vec<Message> = messages.iter().flatten().cloned().collect();
    let mut answers = there.socket.batch(sent).into_iter();
    let each = messages.iter().map(|message| match message.as_ref().and_then(|_| answers.next()) {
        Some(answer) => answer.result.map_err(Problem::Refused),
        None => Err(Problem::Mismatch),
    });
    each.collect()
}

fn message(family: u16, step: &Step, is_new: bool) -> Option<Message> {
    Some(match (&step.key, step.action, step.after.as_deref().map(|entry| &entry.object)) {
        (Key::IpvsService { server }, Action::Delete, _) => ipvs::delete_service(family, server),
        (Key::IpvsDestination { server, to }, Action::Delete, _) => ipvs::delete_destination(family, server, *to),
        (_, _, Some(Object::IpvsService(service))) => ipvs::write_service(family, service, is_new),
        (_, _, Some(Object::IpvsDestination(to))) => ipvs::write_destination(family, to, is_new),
        _ => return None,
    })
}
