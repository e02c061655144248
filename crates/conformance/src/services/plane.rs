//! What a suite of packets runs on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ripstop_oracle::services::flows::Flow;
use ripstop_oracle::services::health::Answer;
use ripstop_oracle::services::{Outcome, Packet, World};
use ripstop_types::Family;
use serde::Deserialize;
use serde_json::Value;

use super::case::{Case, Difference};
use crate::case::{Verdict, skip};

/// Something that carries packets to Services: rules in a kernel, a simulation, a model.
///
/// What one cannot show it says by [`super::Stop::Skip`], with the reason.
pub trait DataPlane {
    /// The objects of the next [`Self::install`] or [`Self::change`], as Kubernetes writes them.
    fn told(&mut self, _objects: &[Value]) {}

    /// Why this data plane is known to differ from a case; then it must.
    fn explained<'c>(&self, _case: &'c Case) -> Option<&'c Difference> {
        None
    }

    /// Begins anew with a world: nothing is left of what was before.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn install(&mut self, world: &World) -> Verdict;

    /// Goes over from the world before to this one; connections and affinity stay as far as they may.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn change(&mut self, world: &World) -> Verdict;

    /// Sends the first packet of a new connection.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn send(&mut self, packet: &Packet) -> Verdict<Seen>;

    /// For a model that is set beside another data plane: a connection that it would have sent to one endpoint went to this one.
    fn follow(&mut self, _packet: &Packet, _endpoint: SocketAddr) {}

    /// Lets time pass.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn wait(&mut self, time: Duration) -> Verdict {
        skip(format!("time of {} s does not pass here", time.as_secs()))
    }

    /// Ends the proxy and starts it again. [`Self::change`] tells it later what it lists.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn restart(&mut self) -> Verdict {
        skip("there is no proxy here that could be restarted")
    }

    /// The API server goes away (`false`) or comes back. What changes meanwhile is not told.
    ///
    /// # Errors
    /// Where it cannot be done.
    fn store(&mut self, _back: bool) -> Verdict {
        skip("there is no API server here that could be lost")
    }

    /// What became of the rules at the last [`Self::change`].
    ///
    /// # Errors
    /// Where it cannot be told.
    fn knowledge(&mut self) -> Verdict<Knowledge> {
        skip("it cannot be told here whether rules were kept")
    }

    /// What a health check is answered; none where nobody answers.
    ///
    /// # Errors
    /// Where nobody can be asked.
    fn health(&mut self, _port: u16, _path: &str, _family: Family) -> Verdict<Option<Answer>> {
        skip("no health checks are answered here")
    }

    /// Puts entries into the table of tracked connections.
    ///
    /// # Errors
    /// Where there is none.
    fn track(&mut self, _flows: &[Flow]) -> Verdict {
        skip("no connections are tracked here")
    }

    /// Which of the entries are there.
    ///
    /// # Errors
    /// Where there are none.
    fn tracked(&mut self) -> Verdict<BTreeSet<Flow>> {
        skip("no connections are tracked here")
    }

    /// What the proxy writes to parameters of the kernel on a machine with so many cores, where these are the values before.
    ///
    /// # Errors
    /// Where there are none.
    fn sysctls(&mut self, _cores: u64, _present: &BTreeMap<String, u64>) -> Verdict<BTreeMap<String, u64>> {
        skip("no parameters of the kernel are set here")
    }
}

/// What was seen of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What became of it.
    pub fate: Fate,
    /// What might have become of it as well, where the data plane can tell; else it is found by sending more.
    pub outcome: Option<Outcome>,
}

/// What became of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// An endpoint got it, with this source address.
    Arrived {
        /// Who got it.
        endpoint: SocketAddr,
        /// The source that it saw.
        source: IpAddr,
    },
    /// Its sender was told that nobody is there.
    Refused,
    /// Nothing was heard of it.
    Nothing,
    /// It went where it was sent to.
    Passed,
}

/// What became of the rules from before a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Knowledge {
    /// They stand: too little is known for others.
    Kept,
    /// They are those of the new world.
    Replaced,
}
