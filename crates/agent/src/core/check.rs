//! CHECK: what a runtime says of an interface, beside what the tables and the kernel have.

use ripstop_cni_spec::wire::Response;
use ripstop_cni_spec::{Code, Error, TypedCall};
use ripstop_ipam::Attachment;
use ripstop_netmodel::{Entry, Model, Resource};
use ripstop_tables::{PodRow, PodState};

use super::call::{Begun, Stage, busy, own};
use super::{Core, Output};

impl Core {
    pub(super) fn begin_check(&mut self, call: u64, typed: &TypedCall, attachment: &Attachment, netns: &str) -> Begun {
        let Some(row) = self.tables.pods.get(attachment).cloned() else {
            let text = format!("{attachment} is not known to this agent: it was never added, or was deleted");
            return Begun::Answer(Response::failed(Error::new(Code::UnknownContainer, text)));
        };
        if self.keys_busy(attachment) {
            return Begun::Wait(busy());
        }
        let faults = prev_result_faults(typed, &row, netns);
        if !faults.is_empty() {
            return Begun::Answer(Response::failed(Error::new(Code::NotAsExpected, faults.join("; "))));
        }
        let keys = ripstop_desired::inspect_keys(&self.tables, &row);
        self.outputs.push(Output::Inspect { call, keys });
        Begun::Stage(Stage::Inspecting)
    }

    /// The kernel was read for a CHECK.
    pub(super) fn finish_check(&mut self, call: u64, found: Result<Vec<Entry>, String>) {
        let Some(place) = self.pending.iter().position(|pending| pending.call == call) else { return };
        let Some(pending) = self.pending.remove(place) else { return };
        let row =
            pending.typed.call.attachment().and_then(|attachment| self.tables.pods.get(&own(attachment))).cloned();
        let response = match (row, found) {
            (None, _) => Response::failed(Error::new(Code::UnknownContainer, "the pod was removed meanwhile")),
            (_, Err(why)) => Response::failed(Error::new(Code::NotAsExpected, why)),
            (Some(row), Ok(entries)) => {
                let found: Model = entries.into_iter().collect();
                let netns = pending.typed.call.netns().unwrap_or_default();
                // The interface may have gone while the kernel was read.
                let mut differences = prev_result_faults(&pending.typed, &row, netns);
                differences.append(&mut self.differences(&row, &found));
                if differences.is_empty() {
                    Response::done()
                } else {
                    Response::failed(Error::new(Code::NotAsExpected, differences.join("; ")))
                }
            }
        };
        self.reply(call, response);
    }

    /// What of a pod's interface is not as wanted. Of two interfaces that want one route, the first has it.
    fn differences(&self, row: &PodRow, found: &Model) -> Vec<String> {
        let keys = ripstop_desired::inspect_keys(&self.tables, row);
        let wanted = keys.iter().filter_map(|key| Some((key, self.desired.model().get(key)?)));
        wanted
            .filter_map(|(key, entry)| match found.get(key) {
                None => Some(format!("{key} is missing")),
                Some(there) if entry.object.satisfied_by(&there.object) => None,
                Some(there) => {
                    Some(format!("{key} differs in {}", ripstop_plan::difference(&there.object, &entry.object)))
                }
            })
            .collect()
    }
}

/// What a CHECK's previous result says that is not so.
fn prev_result_faults(typed: &TypedCall, row: &PodRow, netns: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if row.state != PodState::Ready {
        faults.push(format!("link {} is missing: the interface went without a DEL", row.host_link));
    }
    if *row.netns != *netns {
        faults.push(format!("CNI_NETNS is {netns}, but the interface was added to {}", row.netns));
    }
    // A runtime must say what ADD resulted in, and what it says must be about this interface.
    let Some(result) = &typed.conf.prev_result else {
        faults.push("prevResult is missing: CHECK compares with the result of ADD".into());
        return faults;
    };
    let Some((index, interface)) = result.pod_interface(&row.attachment.ifname) else {
        faults.push(format!("prevResult lists no interface {} in a container", row.attachment.ifname));
        return faults;
    };
    if let Some(sandbox) = interface.sandbox.as_deref().filter(|sandbox| *sandbox != netns) {
        faults.push(format!("prevResult has {} in {sandbox}, and CNI_NETNS is {netns}", row.attachment.ifname));
    }
    for ip in result.ips_of(index).map(|ip| ip.address.ip()).filter(|ip| !row.ips.contains(ip)) {
        faults.push(format!("prevResult has address {ip}, which this pod does not have"));
    }
    if interface.mac().is_some_and(|mac| mac != row.mac) {
        faults.push(format!("prevResult has another hardware address than {}", row.mac));
    }
    faults
}
