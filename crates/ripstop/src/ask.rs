//! The agent's HTTP API as the commands see it: JSON in, JSON out, and every way it can fail as a sentence.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Failure, plain};
use crate::http::{self, Fault, Request, Response};
use crate::target::Target;

/// How long a question may go without a byte of answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same for what the agent does before it answers: it waits for its store and its kernel.
const PATIENCE_TO_ACT: Duration = Duration::from_secs(60);

/// An agent that can be asked. Each question is a connection of its own.
#[derive(Debug, Clone)]
pub struct Agent {
    socket: PathBuf,
    advice: String,
}

impl Agent {
    /// The agent that was picked.
    ///
    /// # Errors
    /// As [`Target::path`].
    pub fn of(target: &Target) -> Result<Self, Failure> {
        Ok(Self { socket: target.path()?, advice: target.advice() })
    }

    /// The answer to `GET path`.
    ///
    /// # Errors
    /// [`Failure::Away`] where there is none, and what the agent's own error says.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.decoded(path, &self.answer(Request { method: "GET", path, body: None }, PATIENCE)?)
    }

    /// The answer to `POST path` with a body, which is empty where there is none.
    ///
    /// # Errors
    /// As [`Agent::get`].
    pub fn post(&self, path: &str, media: &str, body: &[u8]) -> Result<Value, Failure> {
        let request = Request { method: "POST", path, body: Some((media, body)) };
        let response = self.answer(request, PATIENCE_TO_ACT)?;
        if response.body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        self.decoded(path, &response)
    }

    /// An answer that is not an error.
    fn answer(&self, request: Request<'_>, patience: Duration) -> Result<Response, Failure> {
        let response = http::exchange(&self.socket, request, patience).map_err(|fault| self.unanswered(fault))?;
        if (200..300).contains(&response.status) { Ok(response) } else { Err(self.refused(request.path, &response)) }
    }

    fn decoded<T: DeserializeOwned>(&self, path: &str, response: &Response) -> Result<T, Failure> {
        serde_json::from_slice(&response.body).map_err(|error| {
            let socket = self.socket.display();
            Failure::Failed(format!(
                "the agent at {socket} answered {path} with something else than expected ({error}); is it of another \
                 version than this program?"
            ))
        })
    }

    /// The agent's own sentence, and the exit code its status stands for.
    fn refused(&self, path: &str, response: &Response) -> Failure {
        let said = serde_json::from_slice::<Value>(&response.body).ok();
        let said = said.as_ref().and_then(|body| body.get("error")).and_then(Value::as_str).map(str::to_owned);
        let text = said.unwrap_or_else(|| {
            format!(
                "the agent at {} answered {path} with status {} and no reason",
                self.socket.display(),
                response.status
            )
        });
        match response.status {
            401 | 403 => Failure::NotPermitted(text),
            // The agent is there, and what it needs to answer is not: its store.
            502..=504 => Failure::Away(text),
            _ => Failure::Failed(text),
        }
    }

    fn unanswered(&self, fault: Fault) -> Failure {
        let (socket, advice) = (self.socket.display(), &self.advice);
        match fault {
            Fault::Connect(error) => match error.kind() {
                io::ErrorKind::NotFound => {
                    Failure::Away(format!("cannot reach the agent at {socket}: no such file; {advice}"))
                }
                io::ErrorKind::PermissionDenied => Failure::NotPermitted(format!(
                    "cannot reach the agent at {socket}: permission denied; only root may ask it"
                )),
                io::ErrorKind::InvalidInput => {
                    Failure::Usage(format!("--socket {socket}: too long for a socket's path, at most 107 bytes are"))
                }
                _ if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                    Failure::Usage(format!("--socket {socket}: too long for a socket's path, at most 107 bytes are"))
                }
                io::ErrorKind::ConnectionRefused => {
                    Failure::Away(format!("cannot reach the agent at {socket}: nobody listens there; {advice}"))
                }
                _ => Failure::Away(format!("cannot reach the agent at {socket}: {}; {advice}", plain(&error))),
            },
            Fault::Broken(error) => Failure::Away(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    format!("the agent at {socket} does not answer; its log says what it is doing")
                }
                _ => format!("the agent at {socket} ended the connection before it answered; {advice}"),
            }),
            Fault::Malformed(what) => {
                Failure::Failed(format!("who listens at {socket} is no agent: {what}; --socket asks another"))
            }
        }
    }
}
