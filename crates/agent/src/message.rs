//! What enters the agent's loop, from every thread and socket of the agent.
//!
//! Not here: the loop (`super::run`), and what the core does with it.

use ripstop_cni_spec::wire::{Request, Response};
use ripstop_tables::Input;
use tokio::sync::oneshot;

use crate::core::Core;
use crate::metrics::Metrics;

/// What enters the loop.
pub enum Message {
    /// An input of the core.
    Input(Input),
    /// A plugin's request.
    Cni {
        /// What it asks.
        request: Request,
        /// Where the answer goes.
        answer: oneshot::Sender<Response>,
    },
    /// An operator's request, which is answered when it was carried out.
    Operate {
        /// The input it is, with the number of the call.
        input: Box<dyn FnOnce(u64) -> Input + Send>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A question, which reads and changes nothing.
    Ask(Question),
    /// The snapshot could not be written.
    Unsaved,
}

/// Reads the core and what is counted.
pub type Question = Box<dyn FnOnce(&Core, &Metrics) + Send>;
