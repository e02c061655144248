//! The thread between the core and the one that answers ARP and neighbour discovery: names of links become numbers, reports inputs.
//!
//! Not here: what is announced, and by whom.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context;
use ripstop_election::Timing;
use ripstop_speaker::l2::{Report, Segment, Speaker};
use ripstop_tables::{Announced, AnnouncedRow, Input};
use ripstop_types::{IfName, NodeName};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use tokio::sync::mpsc::UnboundedSender;

use crate::core::SegmentPlan;
use crate::message::Message;

/// How long a node that is silent is taken for alive. A shorter time takes pauses of a busy machine for its end.
const DETECTION: Duration = Duration::from_millis(60);

/// Pause between looks at reports, which nobody waits for.
const LOOK: Duration = Duration::from_millis(50);

/// Pause before what could not be started is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long an agent that ends waits until others answer for its addresses.
const LEAVING: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug)]
pub enum Order {
    /// What is announced from now on.
    Plans(Arc<Vec<SegmentPlan>>),
    /// Nothing any more: others take over, and whoever waits here is told.
    Leave(Sender<()>),
}

/// Starts it.
///
/// # Errors
/// Where the system has no thread left.
pub fn start(node: NodeName, run: u64, queue: UnboundedSender<Message>) -> anyhow::Result<Sender<Order>> {
    let (orders, to_do) = mpsc::channel();
    let mut thread = Thread {
        node,
        run,
        queue,
        plans: Arc::default(),
        speaker: None,
        last: Report::default(),
        told: Announced::default(),
        again: None,
    };
    let builder = std::thread::Builder::new().name("l2-agent".into());
    builder.spawn(move || thread.work(&to_do)).context("cannot start a thread")?;
    Ok(orders)
}

/// Has other nodes take over what this one announces, and waits until they have.
pub fn leave(orders: &Sender<Order>) {
    let (done, wait) = mpsc::channel();
    if orders.send(Order::Leave(done)).is_ok() {
        // Who is alone on its segment has nobody to wait for.
        let _ = wait.recv_timeout(LEAVING);
    }
}

struct Thread {
    node: NodeName,
    run: u64,
    queue: UnboundedSender<Message>,
    plans: Arc<Vec<SegmentPlan>>,
    speaker: Option<(Speaker, Receiver<Report>)>,
    last: Report,
    told: Announced,
    /// When to try again what could not be started.
    again: Option<Instant>,
}

impl Thread {
    fn work(&mut self, orders: &Receiver<Order>) {
        let mut leaving: Option<Sender<()>> = None;
        loop {
            // Where nothing is announced there is nothing to look at.
            let idle = self.speaker.is_none() && self.again.is_none() && leaving.is_none();
            match orders.recv_timeout(if idle { Duration::MAX } else { LOOK }) {
                Ok(Order::Plans(plans)) if leaving.is_none() => {
                    self.plans = plans;
                    self.set_up();
                }
                Ok(Order::Plans(_)) => {}
                Ok(Order::Leave(done)) => {
                    let leaves = |plan: &SegmentPlan| SegmentPlan { leaves: true, ..plan.clone() };
                    self.plans = Arc::new(self.plans.iter().map(leaves).collect());
                    self.set_up();
                    leaving = Some(done);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.again.is_some_and(|again| Instant::now() >= again) {
                self.set_up();
            }
            self.report();
            if leaving.is_some() && self.told.rows.iter().all(|row| !row.speaks) {
                // Whoever waited may have gone.
                let _ = leaving.take().map(|done| done.send(()));
            }
        }
    }

    fn set_up(&mut self) {
        self.again = None;
        if self.plans.is_empty() {
            self.speaker = None;
            self.last = Report::default();
            return;
        }
        if self.speaker.is_none() {
            match Speaker::start(self.node.clone(), self.run, Timing::of(DETECTION)) {
                Ok(started) => self.speaker = Some(started),
                Err(error) => return self.fail(&format!("UDP port {}: {error}", ripstop_speaker::l2::PORT)),
            }
        }
        let mut missing = None;
        let segments: Vec<Segment> = self
            .plans
            .iter()
            .filter_map(|plan| {
                let Some(interface) = index(&plan.link) else {
                    missing = Some(format!("{} is not there", plan.link));
                    return None;
                };
                Some(Segment {
                    interface,
                    mac: plan.mac,
                    own: plan.own,
                    candidates: plan.candidates.clone(),
                    addresses: plan.addresses.clone(),
                    leaves: plan.leaves,
                })
            })
            .collect();
        if let Some((speaker, _)) = &self.speaker {
            speaker.set(segments);
        }
        if let Some(why) = missing {
            self.fail(&why);
        }
    }

    fn fail(&mut self, why: &str) {
        self.again = Some(Instant::now() + RETRY);
        self.tell(Announced { faults: vec![why.to_owned()], ..self.told.clone() });
    }

    fn report(&mut self) {
        let Some((_, reports)) = &self.speaker else {
            return self.tell(Announced { rows: Vec::new(), ..self.told.clone() });
        };
        let Some(last) = reports.try_iter().last() else { return };
        self.last = last;
        let links: BTreeMap<u32, &IfName> =
            self.plans.iter().filter_map(|plan| Some((index(&plan.link)?, &plan.link))).collect();
        let rows = self.last.rows.iter().filter_map(|((interface, address), row)| {
            Some(AnnouncedRow {
                link: (*links.get(interface)?).clone(),
                address: *address,
                speaks: row.speaks,
                owner: row.choice.clone(),
                conflict: row.conflict,
            })
        });
        let faults = self.last.faults.iter();
        let faults = faults.filter_map(|(interface, why)| Some(format!("{}: {why}", links.get(interface)?)));
        if !self.last.faults.is_empty() {
            self.again = Some(Instant::now() + RETRY);
        }
        self.tell(Announced { rows: rows.collect(), faults: faults.collect() });
    }

    fn tell(&mut self, now: Announced) {
        if self.told != now {
            self.told = now.clone();
            // The agent is ending where this fails.
            let _ = self.queue.send(Message::Input(Input::Announced(now)));
        }
    }
}

fn index(link: &IfName) -> Option<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    name_to_index(&socket, link.as_str()).ok()
}
