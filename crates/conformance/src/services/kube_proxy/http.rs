//! HTTP as far as the suite asks with it: one request a connection, and the whole answer.
//!
//! HTTP/1.0 is spoken, so that an answer ends with its connection and comes in one piece (RFC 1945).

use std::io::{self, Read, Write};

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// What follows its head.
    pub body: Vec<u8>,
}

/// Asks on a fresh connection.
///
/// # Errors
/// Where the connection breaks, or what comes is no answer of HTTP.
pub fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &[u8]) -> io::Result<Reply> {
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no answer of HTTP"))
}

fn parse(answer: &[u8]) -> Option<Reply> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, body: answer[end + 4..].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let reply = parse(b"HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\n{\"a\": 1}").unwrap();
        assert_eq!((reply.status, reply.body.as_slice()), (503, &b"{\"a\": 1}"[..]));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
    }
}
