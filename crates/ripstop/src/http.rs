//! HTTP/1.1 over a unix socket, as much as a program needs that asks its own agent one question: one request, one
//! answer, one connection (RFC 9112). Nothing is kept open, nothing is pipelined.
//!
//! An answer is bounded in head and body, and each wait for bytes in time, so that a peer that is not an agent, or one
//! that hangs, ends in an error and not in a program that hangs as well.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// The most bytes of status line and headers.
const MAX_HEAD: u64 = 64 << 10;
/// The most bytes of a body. Ten thousand pods are about four megabytes.
const MAX_BODY: u64 = 256 << 20;

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Path, and query if any, escaped.
    pub path: &'a str,
    /// Media type and bytes of the body.
    pub body: Option<(&'a str, &'a [u8])>,
}

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Fault {
    /// There is no connection.
    Connect(io::Error),
    /// The connection ended, or was silent for too long, before the answer was whole.
    Broken(io::Error),
    /// What came is not HTTP/1.1, or too big.
    Malformed(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// Sends a request and reads the answer. `patience` bounds the connecting, and each wait for more bytes.
pub fn exchange(socket: &Path, request: Request<'_>, patience: Duration) -> Result<Response, Fault> {
    let mut stream = connect(socket, patience).map_err(Fault::Connect)?;
    let written = write(&mut stream, request);
    // A server may answer and close before it has read all: the answer says more than the broken pipe.
    match read(&mut BufReader::new(stream)) {
        Ok(response) => Ok(response),
        Err(fault) => Err(written.err().map_or(fault, Fault::Broken)),
    }
}

/// A connection with bounded waits, also for a place in the listener's queue, which the standard library cannot bound.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    for way in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&fd, way, Some(patience))?;
    }
    rustix::net::connect(&fd, &address)?;
    Ok(UnixStream::from(fd))
}

fn write(stream: &mut impl Write, request: Request<'_>) -> io::Result<()> {
    let Request { method, path, body } = request;
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: ripstop\r\nConnection: close\r\n").into_bytes();
    if let Some((media, body)) = body {
        bytes.extend(format!("Content-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes());
        bytes.extend(body);
    } else {
        bytes.extend(b"\r\n");
    }
    stream.write_all(&bytes)
}

/// How the length of a body is told (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

fn read(stream: &mut impl BufRead) -> Result<Response, Fault> {
    let mut head = stream.take(MAX_HEAD);
    let status = loop {
        let status = status_line(&line(&mut head)?)?;
        if status >= 200 {
            break status;
        }
        // An interim answer (RFC 9110, section 15.2) has a head only.
        while !line(&mut head)?.is_empty() {}
    };
    let mut framing = Framing::UntilClose;
    loop {
        let text = line(&mut head)?;
        if text.is_empty() {
            break;
        }
        header(&text, &mut framing)?;
    }
    if matches!(status, 204 | 304) {
        framing = Framing::None;
    }
    Ok(Response { status, body: body(stream, framing)? })
}

/// `HTTP/1.1 200 OK`; the words behind the number are for people.
fn status_line(text: &str) -> Result<u16, Fault> {
    let number = text.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    let number = number.filter(|digits| digits.len() == 3).and_then(|digits| digits.parse().ok());
    number.filter(|status| (100..600).contains(status)).ok_or(Fault::Malformed("the answer is not HTTP/1.1"))
}

fn header(text: &str, framing: &mut Framing) -> Result<(), Fault> {
    let (name, value) = text.split_once(':').ok_or(Fault::Malformed("a header line has no colon"))?;
    let value = value.trim();
    if name.eq_ignore_ascii_case("transfer-encoding") {
        if !value.eq_ignore_ascii_case("chunked") {
            return Err(Fault::Malformed("the transfer encoding is not chunked"));
        }
        *framing = Framing::Chunked;
    } else if name.eq_ignore_ascii_case("content-length") && *framing != Framing::Chunked {
        let length = value.parse().map_err(|_| Fault::Malformed("the content length is not a number"))?;
        *framing = Framing::Length(length);
    }
    Ok(())
}

fn body(stream: &mut impl BufRead, framing: Framing) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    match framing {
        Framing::None => {}
        Framing::Length(length) => part(stream, length, &mut body)?,
        Framing::Chunked => loop {
            let size = line(&mut stream.take(MAX_HEAD))?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16).map_err(|_| Fault::Malformed("a chunk has no size"))?;
            if size == 0 {
                while !line(&mut stream.take(MAX_HEAD))?.is_empty() {}
                break;
            }
            part(stream, size, &mut body)?;
            if !line(&mut stream.take(MAX_HEAD))?.is_empty() {
                return Err(Fault::Malformed("a chunk is longer than its size"));
            }
        },
        Framing::UntilClose => {
            stream.take(MAX_BODY + 1).read_to_end(&mut body)?;
            if body.len() as u64 > MAX_BODY {
                return Err(Fault::Malformed("the body is too long"));
            }
        }
    }
    Ok(body)
}

/// Reads exactly `length` bytes more into `body`.
fn part(stream: &mut impl Read, length: u64, body: &mut Vec<u8>) -> Result<(), Fault> {
    if length > MAX_BODY - (body.len() as u64).min(MAX_BODY) {
        return Err(Fault::Malformed("the body is too long"));
    }
    if stream.take(length).read_to_end(body)? as u64 == length {
        Ok(())
    } else {
        Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into()))
    }
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    stream.read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(Fault::Broken(io::ErrorKind::UnexpectedEof.into()));
    }
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    String::from_utf8(bytes).map_err(|_| Fault::Malformed("the head is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Response, Fault> {
        read(&mut text.as_bytes())
    }

    #[test]
    fn every_framing_is_read() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]more", 200, "[]"),
            ("HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\n[]", 200, "[]"),
            ("HTTP/1.0 404 Not Found\r\n\r\n{\"error\":\"no\"}", 404, "{\"error\":\"no\"}"),
            ("HTTP/1.1 204\r\n\r\n", 204, ""),
            ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", 200, ""),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n",
                200,
                "abc0123456789",
            ),
        ];
        for (text, status, body) in cases {
            let response = parsed(text).unwrap();
            assert_eq!((response.status, response.body), (status, body.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            assert!(matches!(parsed(&whole[..cut]), Err(Fault::Broken(_))), "{:?}", &whole[..cut]);
        }
        assert!(matches!(parsed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Err(Fault::Broken(_))));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let long = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", MAX_BODY + 1);
        for text in [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 2000 x\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
            &long,
        ] {
            assert!(matches!(parsed(text), Err(Fault::Malformed(_))), "{text:?}");
        }
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let text = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1 << 20));
        assert!(parsed(&text).is_err());
    }

    #[test]
    fn a_request_has_the_length_of_its_body() {
        let mut bytes = Vec::new();
        let body = Some(("application/json", b"{}".as_slice()));
        write(&mut bytes, Request { method: "POST", path: "/v1/x", body }).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("POST /v1/x HTTP/1.1\r\nHost: ripstop\r\n"), "{text}");
        assert!(text.ends_with("Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"), "{text}");
    }
}
