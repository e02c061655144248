//! The door of the fuzz targets to what the agent reads from others: its two sockets, pods' files, recordings. Not part
//! of the crate's interface.

use ripstop_tables::{Input, Moment, PodRow, Recording, Start};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex};
use tokio::net::UnixStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::bgp::BgpCell;
use crate::core::{Core, Output};
use crate::http::Server;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::store_lane::StoreCell;
use crate::{files, socket};

/// A core as it is right after a start, without a store.
pub struct Agent {
    core: Core,
    at: Moment,
}

impl Agent {
    /// With this start.
    #[must_use]
    pub fn new(at: Moment, start: Start) -> Self {
        Self { core: Core::start(at, start).0, at }
    }

    /// Says these bytes to the HTTP socket and hands back what it answered.
    pub async fn http(&mut self, bytes: &[u8]) -> Vec<u8> {
        let (here, there) = duplex(1 << 16);
        let (queue, messages) = unbounded_channel();
        let server = Server { queue, store: StoreCell::default(), bgp: BgpCell::default(), public: false };
        let serve = server.serve(there);
        let ((), answer, ()) = tokio::join!(serve, converse(here, bytes), self.answer(messages));
        answer
    }

    /// Says these bytes to the plugins' socket and hands back what it answered.
    pub async fn plugin(&mut self, bytes: &[u8]) -> Vec<u8> {
        // Without a pair of sockets nothing can be said.
        let Ok((here, there)) = UnixStream::pair() else { return Vec::new() };
        let (queue, messages) = unbounded_channel();
        let serve = async move {
            // A plugin that goes away is no fault.
            let _ = socket::serve_plugin(there, &queue).await;
        };
        let ((), answer, ()) = tokio::join!(serve, converse(here, bytes), self.answer(messages));
        answer
    }

    /// Answers as the loop does, as far as no kernel and no store are needed.
    async fn answer(&mut self, mut messages: UnboundedReceiver<Message>) {
        let metrics = Metrics::default();
        while let Some(message) = messages.recv().await {
            match message {
                Message::Ask(question) => question(&self.core, &metrics),
                Message::Input(input) => drop(self.core.handle(self.at, input)),
                Message::Unsaved => {}
                Message::Operate { input, answer } => {
                    let outputs = self.core.handle(self.at, input(1));
                    let result = outputs.into_iter().find_map(|output| match output {
                        Output::Answer { result, .. } => Some(result),
                        _ => None,
                    });
                    let _ = result.map(|result| answer.send(result));
                }
                Message::Cni { request, answer } => {
                    let outputs = self.core.handle(self.at, Input::Cni { call: 1, request });
                    let response = outputs.into_iter().find_map(|output| match output {
                        Output::Reply { response, .. } => Some(response),
                        _ => None,
                    });
                    // What waits for a kernel is not answered here: the connection ends as with an agent that ends.
                    let _ = response.map(|response| answer.send(response));
                }
            }
        }
    }
}

async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    let (mut read, mut write) = tokio::io::split(&mut stream);
    let say = async {
        let _ = write.write_all(bytes).await;
        let _ = write.shutdown().await;
    };
    let hear = async {
        let _ = read.read_to_end(&mut answer).await;
    };
    tokio::join!(say, hear);
    answer
}

/// Reads a pod's file.
///
/// # Errors
/// Where it is none.
pub fn pod_row(text: &str) -> serde_json::Result<PodRow> {
    files::pod_row(text)
}

/// Runs a recording, of which lines may be missing or changed, and gives the number of plans.
#[must_use]
pub fn recording(bytes: &[u8]) -> usize {
    let mut inputs = Recording::read(bytes).map_while(Result::ok);
    let Some(first) = inputs.next() else { return 0 };
    let Input::Start(start) = first.input else { return 0 };
    let (mut core, outputs) = Core::start(first.at, *start);
    let plans = |outputs: &[Output]| outputs.iter().filter(|output| matches!(output, Output::Apply { .. })).count();
    let mut count = plans(&outputs);
    for stamped in inputs {
        core.take_in(stamped.at, stamped.input);
        if !stamped.more {
            count += plans(&core.conclude());
        }
    }
    count
}
