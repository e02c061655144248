//! A GET over a unix socket: enough of HTTP/1.1 (RFC 9112) to ask an agent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The most bytes of an answer that are read.
const LIMIT: u64 = 256 << 20;

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks a server for a path. Each wait for the server is bounded by `limit`.
pub fn get(socket: &Path, path: &str, limit: Duration) -> io::Result<Answer> {
    ask(socket, path, limit).map_err(|error| match error.kind() {
        // What a socket with a time limit says when it has passed.
        io::ErrorKind::WouldBlock => {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs_f32()))
        }
        _ => error,
    })
}

fn ask(socket: &Path, path: &str, limit: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: ripstop\r\nConnection: close\r\n\r\n")?;
    read_answer(&mut BufReader::new(stream.take(LIMIT)))
}

fn read_answer(input: &mut impl BufRead) -> io::Result<Answer> {
    let status = line(input)?.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status"))?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(input)?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse().map_err(|_| bad("a length that is no number"))?),
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        read_chunks(input, &mut body)?;
    } else if let Some(length) = length {
        if input.take(length).read_to_end(&mut body)? as u64 != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    } else {
        input.read_to_end(&mut body)?;
    }
    Ok(Answer { status, body })
}

/// RFC 9112, section 7.1. Trailers are not read: the connection ends here.
fn read_chunks(input: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let head = line(input)?;
        let size = head.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).map_err(|_| bad("a chunk size that is no number"))?;
        if size == 0 {
            return Ok(());
        }
        if input.take(size).read_to_end(body)? as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line(input)?;
    }
}

fn line(input: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if input.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Answer> {
        read_answer(&mut text.as_bytes())
    }

    #[test]
    fn all_three_ways_to_end_a_body_are_read() {
        let hello = Answer { status: 200, body: b"hello".to_vec() };
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more").unwrap(), hello);
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nhello").unwrap(), hello);
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";
        assert_eq!(read(chunks).unwrap(), hello);
    }

    #[test]
    fn a_broken_answer_is_an_error() {
        for text in [
            "",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = get(&path, "/readyz", Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.to_string(), "no answer within 0.02 s");
    }

    #[test]
    fn a_server_on_a_socket_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let n = peer.read(&mut request).unwrap();
            peer.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n").unwrap();
            String::from_utf8_lossy(&request[..n]).into_owned()
        });
        let answer = get(&path, "/readyz", Duration::from_secs(10)).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "no\n"));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\nHost: "));
    }
}
