//! Health checks as load balancers ask them: a GET of HTTP/1.1 on a connection of its own.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ripstop_oracle::services::health::Answer;
use serde::Deserialize;

/// The most time that an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: u64 = 64 << 10;

#[derive(Deserialize)]
struct Body {
    #[serde(rename = "localEndpoints")]
    local: Option<usize>,
}

/// Asks, in the calling thread's namespace. None where nobody listens, or nothing is known by this path.
pub fn get(at: SocketAddr, path: &str) -> io::Result<Option<Answer>> {
    let mut stream = match TcpStream::connect_timeout(&at, LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        other => other?,
    };
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    let answer = read(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("answered {text:?}")))?;
    Ok(Some(answer).filter(|answer| answer.status != 404))
}

fn read(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split_whitespace().next()?.parse().ok()?;
    let local = serde_json::from_str::<Body>(body).ok().and_then(|body| body.local);
    let weight = head.lines().filter_map(|line| line.split_once(':'));
    let mut weight = weight.filter(|(name, _)| name.eq_ignore_ascii_case("x-load-balancing-endpoint-weight"));
    // Where both are there they say the same.
    let weight = weight.next().and_then(|(_, value)| value.trim().parse::<usize>().ok());
    if weight.is_some() && weight != local {
        return None;
    }
    Some(Answer { status, local })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_the_count_of_endpoints() {
        let text =
            "HTTP/1.1 503 Service Unavailable\r\nX-Load-Balancing-Endpoint-Weight: 0\r\n\r\n{\"localEndpoints\": 0}";
        assert_eq!(read(text), Some(Answer { status: 503, local: Some(0) }));
        assert_eq!(read("HTTP/1.1 200 OK\r\n\r\nok"), Some(Answer { status: 200, local: None }));
        let other = "HTTP/1.1 200 OK\r\nX-Load-Balancing-Endpoint-Weight: 1\r\n\r\n{\"localEndpoints\": 2}";
        assert_eq!(read(other), None, "it contradicts itself");
        assert_eq!(read("nonsense"), None);
    }
}
