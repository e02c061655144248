//! What plugin and agent say to each other on the agent's unix socket: one JSON line each way, then the connection ends.
//!
//! Invariants: a line has no line break but its last byte and is at most [`MAX_LINE`] bytes; a request that is sent
//! again after a lost connection has the same [`Request::id`] and a greater [`Request::attempt`], so that the agent can
//! tell it from a second call of the runtime. An unknown protocol number is answered with a sentence, never ignored.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::env::Environment;
use crate::error::{Code, Error};
use crate::version::{CniVersion, Verb};

/// The version of this protocol.
pub const PROTOCOL: u32 = 1;

/// The longest line, in bytes, its line break included.
pub const MAX_LINE: usize = 1 << 20;

/// The longest configuration that a plugin takes from standard input, in bytes: what leaves room for the rest of a line.
pub const MAX_CONFIG: usize = MAX_LINE - (64 << 10);

/// Where the agent listens, unless the configuration or the environment says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/ripstop/cni.sock";

/// How long the plugin tries to get an answer, in milliseconds, unless the configuration says otherwise.
pub const DEFAULT_TIMEOUT_MS: u64 = 10_000;

/// One call of a runtime, as the plugin passes it on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// Unique for each start of the plugin; the same in every attempt of one start.
    pub id: String,
    /// 1 for the first time this request is sent, then one more each time.
    pub attempt: u32,
    /// How long the plugin will still wait for the answer, in milliseconds.
    #[serde(rename = "timeoutMs")]
    pub timeout_ms: u64,
    /// The release of the plugin, for a log.
    #[serde(default)]
    pub plugin: String,
    /// The environment.
    pub env: Environment,
    /// The configuration from standard input: syntactically valid JSON, otherwise unchecked.
    pub config: Box<RawValue>,
}

impl Request {
    /// The line that is sent, with its line break.
    pub fn to_line(&self) -> Result<Vec<u8>, Error> {
        to_line(self, "request")
    }

    /// Reads a line; code 101 for another protocol, 6 for anything that is not a request.
    pub fn parse(line: &[u8]) -> Result<Self, Error> {
        check_protocol(line, "the plugin", "the agent")?;
        serde_json::from_slice(line)
            .map_err(|e| Error::new(Code::Decoding, format!("the plugin's request cannot be decoded: {e}")))
    }
}

/// The agent's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// What the plugin prints on success; absent where the verb prints nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// The failure, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

impl Response {
    /// Success without output: DEL, CHECK, GC, STATUS.
    pub fn done() -> Self {
        Self { protocol: PROTOCOL, result: None, error: None }
    }

    /// Success with a result in the version of the request: ADD.
    pub fn with_result(result: Box<RawValue>) -> Self {
        Self { protocol: PROTOCOL, result: Some(result), error: None }
    }

    /// Failure.
    pub fn failed(error: Error) -> Self {
        Self { protocol: PROTOCOL, result: None, error: Some(error) }
    }

    /// The line that is sent, with its line break.
    pub fn to_line(&self) -> Result<Vec<u8>, Error> {
        to_line(self, "answer")
    }

    /// Reads a line; code 101 for another protocol or for anything that is not a response.
    pub fn parse(line: &[u8]) -> Result<Self, Error> {
        check_protocol(line, "the agent", "the plugin")?;
        serde_json::from_slice(line)
            .map_err(|e| Error::new(Code::Protocol, format!("the agent's answer cannot be decoded: {e}")))
    }

    /// What the plugin prints: a result or nothing, or the error.
    pub fn into_outcome(self) -> Result<Option<Box<RawValue>>, Error> {
        match self.error {
            Some(error) => Err(error),
            None => Ok(self.result),
        }
    }
}

/// Reads a duration as configuration writes it: a whole number and `ms`, `s` or `m`. In milliseconds, at most ten minutes.
pub fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|ms| *ms <= 600_000)
}

/// The few keys of a network configuration that the plugin needs before the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// `cniVersion`, as written.
    pub cni_version: Option<String>,
    /// `name`, as written.
    pub name: Option<String>,
    /// `socket`: the path of the agent's socket.
    pub socket: Option<String>,
    /// `agentTimeout`, as written.
    pub agent_timeout: Option<String>,
}

impl Settings {
    /// Reads them from a whole configuration, which is checked for its syntax; code 6 if it is not a JSON object or one of
    /// the keys is not a string.
    pub fn read(config: &RawValue) -> Result<Self, Error> {
        if !config.get().starts_with('{') {
            return Err(undecodable("it must be a JSON object"));
        }
        let keys: Keys = serde_json::from_str(config.get()).map_err(|e| undecodable(&e.to_string()))?;
        let text = |key: &str, value: Option<&RawValue>| match value.map(|v| serde_json::from_str(v.get())) {
            None => Ok(None),
            Some(Ok(text)) => Ok(text),
            Some(Err(_)) => Err(undecodable(&format!("{key} must be a string"))),
        };
        Ok(Self {
            cni_version: text("cniVersion", keys.cni_version)?,
            name: text("name", keys.name)?,
            socket: text("socket", keys.socket)?,
            agent_timeout: text("agentTimeout", keys.agent_timeout)?,
        })
    }

    /// Whether the configuration can be used with the verb at all, and in which version: code 7 for a missing or wrong
    /// `name`, 1 for a version that is not ours or does not have the verb.
    pub fn check(&self, verb: Verb) -> Result<CniVersion, Error> {
        match &self.name {
            Some(name) if network_name_ok(name) => {}
            found => {
                let found = found.as_ref().map_or_else(|| String::from("nothing"), |name| format!("{name:?}"));
                let msg = format!("network configuration: name is {found}: it must be {NETWORK_NAME_RULE}");
                return Err(Error::new(Code::InvalidConfig, msg));
            }
        }
        let version = CniVersion::of_config(self.cni_version.as_deref())?;
        version.require(verb).map(|()| version)
    }

    /// How long to wait for an answer, in milliseconds; code 7 if `agentTimeout` is not a duration.
    pub fn timeout_ms(&self) -> Result<u64, Error> {
        let Some(text) = &self.agent_timeout else { return Ok(DEFAULT_TIMEOUT_MS) };
        parse_duration(text).ok_or_else(|| {
            Error::new(
                Code::InvalidConfig,
                format!(
                    "agentTimeout of the network configuration is {text:?}: it must be as 500ms, 10s or 2m, up to 10m"
                ),
            )
        })
    }
}

/// What a network's name may be (section 1, `name`).
pub const NETWORK_NAME_RULE: &str = "a letter or digit, then letters, digits, '_', '.' and '-'";

/// Whether a name follows [`NETWORK_NAME_RULE`].
pub fn network_name_ok(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// The error for a configuration that is not JSON: code 6.
pub fn undecodable(why: &str) -> Error {
    Error::new(Code::Decoding, format!("the network configuration on standard input cannot be decoded: {why}"))
}

#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(rename = "cniVersion", borrow)]
    cni_version: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    socket: Option<&'a RawValue>,
    #[serde(rename = "agentTimeout", borrow)]
    agent_timeout: Option<&'a RawValue>,
}

fn check_protocol(line: &[u8], sender: &str, reader: &str) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Numbered {
        protocol: u32,
    }
    let found = serde_json::from_slice::<Numbered>(line).map_err(|e| {
        Error::new(Code::Protocol, format!("{sender} sent something that is not of this protocol: {e}"))
    })?;
    if found.protocol == PROTOCOL {
        return Ok(());
    }
    Err(Error::new(
        Code::Protocol,
        format!(
            "{sender} speaks version {} of the plugin's protocol and {reader} version {PROTOCOL}: \
             install ripstop and ripstop-cni of one release",
            found.protocol
        ),
    ))
}

fn to_line<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>, Error> {
    let mut line = serde_json::to_vec(value)
        .map_err(|e| Error::new(Code::Internal, format!("the {what} cannot be encoded: {e}")))?;
    // In valid JSON a raw line break is white space between tokens: inside a string it would be escaped.
    for byte in &mut line {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(Error::new(
            Code::InvalidConfig,
            format!("the {what} has {} bytes, and {MAX_LINE} are accepted", line.len()),
        ));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(config: &str) -> Request {
        Request {
            protocol: PROTOCOL,
            id: "00ff".into(),
            attempt: 1,
            timeout_ms: 10_000,
            plugin: "0.1.0".into(),
            env: Environment { command: Some("ADD".into()), ..Environment::default() },
            config: RawValue::from_string(config.into()).unwrap(),
        }
    }

    #[test]
    fn a_request_is_one_line_and_reads_as_it_was_sent() {
        let sent = request("{\r\n  \"name\": \"a\\nb\"\n}");
        let line = sent.to_line().unwrap();
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
        let read = Request::parse(&line).unwrap();
        assert_eq!((read.id, read.attempt, read.env), (sent.id, 1, sent.env));
        let config: serde_json::Value = serde_json::from_str(read.config.get()).unwrap();
        assert_eq!(config["name"], "a\nb");
    }

    #[test]
    fn another_protocol_is_answered_with_a_sentence() {
        let line = br#"{"protocol":2,"something":"new"}"#;
        for error in [Request::parse(line).unwrap_err(), Response::parse(line).unwrap_err()] {
            assert_eq!(error.code, Code::Protocol);
            assert!(error.msg.contains("version 2") && error.msg.contains("one release"), "{error}");
        }
        assert_eq!(Request::parse(b"GET / HTTP/1.1").unwrap_err().code, Code::Protocol);
        assert_eq!(Request::parse(br#"{"protocol":1}"#).unwrap_err().code, Code::Decoding);
    }

    #[test]
    fn a_line_has_a_bound() {
        let config = format!("[{:?}]", "x".repeat(MAX_LINE));
        assert_eq!(request(&config).to_line().unwrap_err().code, Code::InvalidConfig);
    }

    #[test]
    fn responses_are_a_result_nothing_or_an_error() {
        let read = |r: Response| Response::parse(&r.to_line().unwrap()).unwrap().into_outcome();
        assert!(read(Response::done()).unwrap().is_none());
        let result = RawValue::from_string("{\"ips\": []}".into()).unwrap();
        assert_eq!(read(Response::with_result(result)).unwrap().unwrap().get(), "{\"ips\": []}");
        let error = Error::new(Code::NoFreeAddress, "full").with_details("10.244.1.0/24");
        assert_eq!(read(Response::failed(error.clone())).unwrap_err(), error);
    }

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("0s", 0), ("10m", 600_000)] {
            assert_eq!(parse_duration(text), Some(ms), "{text}");
        }
        for bad in ["", "10", "s", "1h", "-1s", "1.5s", "11m", "99999999999999999999s", "1 s", "é"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn settings_come_from_an_object_of_any_shape() {
        let read = |text: &str| Settings::read(&RawValue::from_string(text.into()).unwrap());
        let settings =
            read(r#" {"name":"n","x":[{}],"socket":"/s","agentTimeout":"5s","cniVersion":"1.0.0"} "#).unwrap();
        assert_eq!(settings.name.as_deref(), Some("n"));
        assert_eq!(settings.timeout_ms(), Ok(5_000));
        assert_eq!(read("{}").unwrap(), Settings::default());
        for bad in ["[]", "[\"1.0.0\",\"n\",\"s\",\"t\"]", "null", "1", "\"{\"", r#"{"name":1}"#, r#"{"socket":{}}"#] {
            assert_eq!(read(bad).unwrap_err().code, Code::Decoding, "{bad}");
        }
        assert_eq!(read(r#"{"agentTimeout":"soon"}"#).unwrap().timeout_ms().unwrap_err().code, Code::InvalidConfig);
    }
}
