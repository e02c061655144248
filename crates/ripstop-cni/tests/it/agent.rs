//! Agents made in the test: each connection is served by a script.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ripstop_cni_spec::wire::{Request, Response};
use ripstop_cni_spec::{CniResult, Error, Verb};
use tempfile::TempDir;

/// A listening agent. Its threads end with the test's process.
pub struct Agent {
    dir: TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Agent {
    /// Serves each connection, numbered from 1, with `serve`, which gets the request that came in.
    pub fn start(serve: impl Fn(usize, &Request, &mut UnixStream) + Send + Sync + 'static) -> Self {
        let agent = Self { dir: TempDir::new().unwrap(), requests: Arc::default() };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        let (requests, serve) = (agent.requests.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().enumerate() {
                let (requests, serve) = (requests.clone(), serve.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut line = Vec::new();
                    BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
                    let request = Request::parse(&line).unwrap();
                    requests.lock().unwrap().push(request.clone());
                    serve(n + 1, &request, &mut stream);
                });
            }
        });
        agent
    }

    /// An agent that does what the real one does with a request, short of any network.
    pub fn honest() -> Self {
        Self::start(|_, request, stream| answer(stream, &outcome(request)))
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("cni.sock")
    }

    /// The requests that came so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// A plugin that has given up does not take the answer.
pub fn answer(stream: &mut UnixStream, response: &Response) {
    let _ = stream.write_all(&response.to_line().unwrap());
}

/// An empty result for ADD, nothing for others, the refusal for what cannot be decoded.
pub fn outcome(request: &Request) -> Response {
    match request.decode() {
        Ok(call) if call.call.verb() == Verb::Add => {
            Response::with_result(CniResult::default().to_raw(call.conf.version))
        }
        Ok(_) => Response::done(),
        Err(error) => Response::failed(error),
    }
}

pub fn failure(code: u32, msg: &str) -> Response {
    Response::failed(Error::new(ripstop_cni_spec::Code::from_number(code), msg))
}
