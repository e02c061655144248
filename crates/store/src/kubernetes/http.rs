//! One connection to an API server, made when it is needed and again when it is lost.
//!
//! HTTP/2 over TLS, so that watches and questions share it. A question that was not sent is asked again on another
//! connection; one that was sent is not, as it may have been done.

use std::error::Error;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::access::{Secret, Server, TOKEN_AGE};
use super::options::Access;

/// A connection on which something was refused is made anew after this.
const REFUSED: Duration = Duration::from_secs(5);
/// Time for a server to take a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// A connection on which nothing comes for this long is asked for a sign of life.
const PING: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// Bytes one watch, and all together, may have under way: a receiver that is slow holds up no other.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Longest answer: a page of a list.
const MOST_BYTES: usize = 256 << 20;
/// Longest event of a watch: the largest object that a server takes, twice, with room.
const MOST_LINE: usize = 16 << 20;

/// What is asked.
#[derive(Clone)]
pub(super) struct Ask {
    pub method: Method,
    /// From the first '/', with what stands behind '?'.
    pub path: String,
    /// A body and its type.
    pub body: Option<(&'static str, Bytes)>,
}

impl Ask {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None }
    }
}

/// An answer, whatever it says.
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// No answer.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub cause: String,
    /// The question went out, so it may have been answered.
    pub sent: bool,
    /// Nothing will come of asking again unless somebody changes something.
    pub lasting: bool,
}

impl Lost {
    fn passing(cause: String, sent: bool) -> Self {
        Self { cause, sent, lasting: false }
    }
}

pub(super) struct Client {
    access: Access,
    timeout: Duration,
    link: Mutex<Option<Arc<Link>>>,
    /// Where the server is, as last read; for messages.
    peer: StdMutex<String>,
}

struct Link {
    sender: SendRequest<Full<Bytes>>,
    server: Server,
    made: Instant,
    token: StdMutex<Option<(Instant, String)>>,
}

impl Client {
    pub(super) fn new(access: Access, timeout: Duration) -> Self {
        let peer = match &access {
            Access::Kubeconfig(path) => path.display().to_string(),
            Access::InCluster => "in cluster".to_owned(),
        };
        Self { access, timeout, link: Mutex::new(None), peer: StdMutex::new(peer) }
    }

    /// The server's address, once it is known; before, where it is to be found.
    pub(super) fn peer(&self) -> String {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<Answer, Lost> {
        let deadline = Instant::now() + self.timeout;
        let again = ask.method == Method::GET;
        for last in [false, true] {
            let result = match timeout_at(deadline, self.once(ask)).await {
                Ok(result) => result,
                Err(_) => {
                    // What does not answer is looked for anew.
                    self.lose().await;
                    return Err(Lost::passing(format!("no answer within {:?}", self.timeout), true));
                }
            };
            match result {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED && !last => self.lose().await,
                Ok(answer) if answer.status == StatusCode::FORBIDDEN => {
                    self.lose_older().await;
                    return Ok(answer);
                }
                Err(lost) if !lost.lasting && !last && (again || !lost.sent) => self.lose().await,
                other => return other,
            }
        }
        Err(Lost::passing("it closed the connection twice".into(), false))
    }

    async fn once(&self, ask: &Ask) -> Result<Answer, Lost> {
        let response = self.send(ask).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|fault| Lost::passing(chain(&fault), true))?;
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > MOST_BYTES {
                return Err(Lost::passing(format!("an answer longer than {MOST_BYTES} bytes"), true));
            }
        }
        Ok(Answer { status, body: bytes.freeze() })
    }

    /// Asks for a stream of lines. An answer that is none is handed out as it is.
    pub(super) async fn stream(&self, path: String) -> Result<Result<Lines, Answer>, Lost> {
        let ask = Ask::get(path);
        for last in [false, true] {
            let response = match timeout(self.timeout, self.send(&ask)).await {
                Ok(Ok(response)) => response,
                Ok(Err(lost)) if lost.lasting || last => return Err(lost),
                Ok(Err(_)) => {
                    self.lose().await;
                    continue;
                }
                Err(_) => {
                    self.lose().await;
                    return Err(Lost::passing(format!("no answer within {:?}", self.timeout), true));
                }
            };
            if response.status() == StatusCode::UNAUTHORIZED && !last {
                self.lose().await;
                continue;
            }
            let status = response.status();
            if status == StatusCode::FORBIDDEN {
                self.lose_older().await;
            }
            if status.is_success() {
                return Ok(Ok(Lines { body: response.into_body(), held: BytesMut::new(), searched: 0 }));
            }
            let body = timeout(self.timeout, response.into_body().collect()).await;
            let body = body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Ok(Err(Answer { status, body }));
        }
        Err(Lost::passing("it closed the connection twice".into(), false))
    }

    async fn send(&self, ask: &Ask) -> Result<http::Response<Incoming>, Lost> {
        let link = self.link().await?;
        let mut sender = link.sender.clone();
        sender.ready().await.map_err(|fault| Lost::passing(chain(&fault), false))?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(format!("{}{}{}", link.server.url, link.server.prefix, ask.path))
            .header(header::USER_AGENT, concat!("ripstop/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(token) = link.token().map_err(|cause| Lost { cause, sent: false, lasting: true })? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = ask.body.as_ref().map(|(content, bytes)| (*content, bytes.clone()));
        if let Some((content, _)) = &body {
            request = request.header(header::CONTENT_TYPE, *content);
        }
        let request = request
            .body(Full::new(body.map(|(_, bytes)| bytes).unwrap_or_default()))
            .map_err(|fault| Lost { cause: fault.to_string(), sent: false, lasting: true })?;
        let answer = sender.send_request(request).await;
        answer.map_err(|fault| Lost::passing(chain(&fault), !fault.is_canceled()))
    }

    async fn lose(&self) {
        *self.link.lock().await = None;
    }

    /// Who may not do something may be somebody else by now: what says so is read again, but not at every refusal.
    async fn lose_older(&self) {
        let mut link = self.link.lock().await;
        link.take_if(|link| link.made.elapsed() > REFUSED);
    }

    async fn link(&self) -> Result<Arc<Link>, Lost> {
        let mut link = self.link.lock().await;
        if let Some(link) = link.as_ref().filter(|link| !link.sender.is_closed()) {
            return Ok(link.clone());
        }
        *link = None;
        let made = Arc::new(self.connect().await?);
        *link = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> Result<Link, Lost> {
        let server = Server::read(&self.access).map_err(|cause| Lost { cause, sent: false, lasting: true })?;
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&server.url);
        let late = |_| Lost::passing(format!("it took no connection within {CONNECT:?}"), false);
        let stream = timeout(CONNECT, TcpStream::connect((server.host.as_str(), server.port))).await.map_err(late)?;
        let stream = stream.map_err(|fault| Lost::passing(fault.to_string(), false))?;
        // Small questions and answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        let tls = TlsConnector::from(server.tls.clone()).connect(server.name.clone(), stream);
        let tls = timeout(CONNECT, tls).await.map_err(late)?;
        let tls = tls.map_err(|fault| Lost::passing(untrusted(&chain(&fault)), false))?;
        let shaken = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING_ANSWER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(tls));
        let (sender, connection) =
            timeout(CONNECT, shaken).await.map_err(late)?.map_err(|fault| Lost::passing(chain(&fault), false))?;
        // It ends with its last sender and stream, or with the server.
        tokio::spawn(async move {
            if let Err(fault) = connection.await {
                tracing::debug!("a connection to the API server ended: {}", chain(&fault));
            }
        });
        Ok(Link { sender, server, made: Instant::now(), token: StdMutex::new(None) })
    }
}

impl Link {
    fn token(&self) -> Result<Option<String>, String> {
        let Some(secret) = &self.server.token else { return Ok(None) };
        let mut kept = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((read, token)) = kept.as_ref()
            && (matches!(secret, Secret::Here(_)) || read.elapsed() < TOKEN_AGE)
        {
            return Ok(Some(token.clone()));
        }
        let token = secret.read()?;
        *kept = Some((Instant::now(), token.clone()));
        Ok(Some(token))
    }
}

/// Lines of an answer as they come.
pub(super) struct Lines {
    body: Incoming,
    held: BytesMut,
    searched: usize,
}

impl Lines {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(end) = self.held[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.held.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.searched > MOST_LINE {
                return Err(format!("an event longer than {MOST_LINE} bytes"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(fault)) => return Err(chain(&fault)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// What lies behind an error, each cause once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        next = error.source();
    }
    parts.join(": ")
}

/// What a handshake that failed means to who wrote the kubeconfig.
fn untrusted(cause: &str) -> String {
    if cause.contains("UnknownIssuer") {
        return format!("its certificate is not signed by the kubeconfig's certificate-authority ({cause})");
    }
    if cause.contains("not valid for name") || cause.contains("NotValidForName") {
        return format!("its certificate is for another name: see tls-server-name ({cause})");
    }
    cause.to_owned()
}
