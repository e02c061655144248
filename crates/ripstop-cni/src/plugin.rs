//! From the environment and standard input to an exit status.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ripstop_cni_spec::env::Environment;
use ripstop_cni_spec::wire::{
    DEFAULT_SOCKET, DEFAULT_TIMEOUT_MS, MAX_CONFIG, PROTOCOL, Request, Settings, undecodable,
};
use ripstop_cni_spec::{CniVersion, Code, Error, Verb};
use rustix::rand::{GetRandomFlags, getrandom};
use serde_json::value::RawValue;

use crate::agent::{self, Patience};
use crate::sys::{self, Deadline, Failure};

/// Overrides the path of the agent's socket, for tests and labs.
const SOCKET_VARIABLE: &str = "RIPSTOP_CNI_SOCKET";
/// How long a runtime may take to write the configuration, in milliseconds.
const STDIN_MS: u64 = 10_000;
/// How long VERSION waits for an input that it can do without, in milliseconds.
const VERSION_STDIN_MS: u64 = 1_000;
/// How long STATUS waits for the answer of an agent that took the call, in milliseconds.
const STATUS_MS: u64 = 2_000;

const USAGE: &str = concat!(
    "ripstop-cni ",
    env!("CARGO_PKG_VERSION"),
    ": a CNI plugin (0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0); a container runtime starts it with CNI_COMMAND set\n"
);

/// What was found in the environment.
#[derive(Default)]
struct Start {
    env: Environment,
    socket: Option<String>,
    fault: Option<Error>,
}

/// Serves one call and says with which status to exit. `vars` are `NAME=VALUE`.
pub fn run<'a>(args: impl Iterator<Item = &'a [u8]>, vars: impl Iterator<Item = &'a [u8]>) -> i32 {
    let start = read_environment(vars);
    if start.env.get("CNI_COMMAND").is_none()
        && start.fault.is_none()
        && let Some(status) = by_hand(args)
    {
        return status;
    }
    // The version that an error is printed in, as soon as it is known.
    let mut version = CniVersion::LATEST;
    match serve(start, &mut version) {
        Ok(None) => 0,
        Ok(Some(mut output)) => {
            output.push('\n');
            print(&output, 0)
        }
        Err(error) => {
            let mut output = error.to_json(version);
            output.push('\n');
            print(&output, 1)
        }
    }
}

/// The options a person may try, and the line for one who tried none. `None` if no person is there: then it is a runtime
/// that forgot `CNI_COMMAND`.
fn by_hand<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Option<i32> {
    match args.next() {
        Some(b"--version" | b"-V") => Some(print(concat!("ripstop-cni ", env!("CARGO_PKG_VERSION"), "\n"), 0)),
        Some(b"--help" | b"-h") => Some(print(USAGE, 0)),
        None if !rustix::termios::isatty(sys::stdin()) => None,
        _ => {
            let _ = sys::write_all(sys::stderr(), USAGE.as_bytes());
            Some(2)
        }
    }
}

fn print(text: &str, status: i32) -> i32 {
    match sys::write_all(sys::stdout(), text.as_bytes()) {
        Ok(()) => status,
        Err(errno) => {
            let line = format!("ripstop-cni: writing to standard output failed: {}\n", sys::explain(errno));
            let _ = sys::write_all(sys::stderr(), line.as_bytes());
            1
        }
    }
}

fn read_environment<'a>(vars: impl Iterator<Item = &'a [u8]>) -> Start {
    let mut start = Start::default();
    for var in vars.filter(|var| var.starts_with(b"CNI_") || var.starts_with(SOCKET_VARIABLE.as_bytes())) {
        let Some(split) = var.iter().position(|b| *b == b'=') else { continue };
        let (name, value) = (&var[..split], &var[split + 1..]);
        let Ok(name) = core::str::from_utf8(name) else { continue };
        if name != SOCKET_VARIABLE && !Environment::NAMES.contains(&name) {
            continue;
        }
        match core::str::from_utf8(value) {
            Ok(value) if name == SOCKET_VARIABLE => {
                start.socket = Some(value.into()).filter(|v: &String| !v.is_empty())
            }
            Ok(value) => start.env.set(name, value),
            Err(_) => {
                let msg = format!("{name} is not valid UTF-8: it must be text");
                start.fault = Some(Error::new(Code::InvalidEnvironment, msg));
            }
        }
    }
    start
}

/// What to print on success.
fn serve(start: Start, version: &mut CniVersion) -> Result<Option<String>, Error> {
    let Start { env, socket, fault } = start;
    if let Some(fault) = fault {
        return Err(fault);
    }
    let verb = env.check()?;
    if verb == Verb::Version {
        return answer_version().map(Some);
    }
    let config = decode(read_stdin(STDIN_MS)?)?;
    let settings = Settings::read(&config)?;
    if let Some(known) = settings.cni_version.as_deref().and_then(|v| v.parse().ok()) {
        *version = known;
    }
    settings.check(verb)?;
    let timeout_ms = match settings.timeout_ms() {
        Err(_) if matches!(verb, Verb::Del | Verb::Gc) => DEFAULT_TIMEOUT_MS,
        other => other?,
    };
    let path = socket.or(settings.socket).filter(|path| !path.is_empty());
    let path = path.as_deref().unwrap_or(DEFAULT_SOCKET);
    ask(verb, path, timeout_ms, env, config)
}

fn ask(
    verb: Verb,
    path: &str,
    timeout_ms: u64,
    env: Environment,
    config: Box<RawValue>,
) -> Result<Option<String>, Error> {
    let once = verb == Verb::Status;
    let total_ms = if once { timeout_ms.min(STATUS_MS) } else { timeout_ms };
    let patience = Patience { deadline: Deadline::after(total_ms), once, total_ms };
    let mut request = Request {
        protocol: PROTOCOL,
        id: unique_id(),
        attempt: 1,
        timeout_ms: total_ms,
        plugin: env!("CARGO_PKG_VERSION").into(),
        env,
        config,
    };
    let response = agent::call(path, &mut request, &patience).map_err(|error| match error.code {
        // For STATUS an agent that does not answer is a state, not a failure: pods keep their connectivity.
        Code::TryAgainLater if verb == Verb::Status => Error { code: Code::NotAvailable, ..error },
        _ => error,
    })?;
    match response.into_outcome()? {
        Some(result) if verb == Verb::Add => Ok(Some(result.get().into())),
        None if verb == Verb::Add => Err(Error::new(Code::Protocol, "the agent answered ADD without a result")),
        _ => Ok(None),
    }
}

/// VERSION, without the agent: the version that came in, and those that are supported.
fn answer_version() -> Result<String, Error> {
    let input = match rustix::termios::isatty(sys::stdin()) {
        true => Vec::new(),
        false => read_stdin(VERSION_STDIN_MS).unwrap_or_default(),
    };
    let asked =
        if input.iter().all(u8::is_ascii_whitespace) { None } else { Settings::read(&decode(input)?)?.cni_version };
    let asked = serde_json::to_string(asked.as_deref().unwrap_or(CniVersion::LATEST.as_str()));
    let asked = asked.map_err(|e| Error::new(Code::Internal, format!("cniVersion cannot be printed: {e}")))?;
    let supported = CniVersion::ALL.map(|v| format!("\"{v}\"")).join(",");
    Ok(format!("{{\"cniVersion\":{asked},\"supportedVersions\":[{supported}]}}"))
}

fn read_stdin(within_ms: u64) -> Result<Vec<u8>, Error> {
    sys::read_all(sys::stdin(), MAX_CONFIG, Deadline::after(within_ms), |_| false).map_err(|failure| {
        let (code, why) = match failure {
            Failure::TimedOut => (Code::Io, format!("it was not closed within {within_ms} ms")),
            Failure::TooLong => (Code::Decoding, format!("it is longer than {MAX_CONFIG} bytes")),
            Failure::Errno(errno) => (Code::Io, sys::explain(errno).into()),
        };
        Error::new(code, format!("reading the network configuration from standard input failed: {why}"))
    })
}

fn decode(input: Vec<u8>) -> Result<Box<RawValue>, Error> {
    if input.iter().all(u8::is_ascii_whitespace) {
        return Err(undecodable("it is empty"));
    }
    let text = String::from_utf8(input).map_err(|e| undecodable(&format!("{}", e.utf8_error())))?;
    RawValue::from_string(text).map_err(|e| undecodable(&format!("{e}")))
}

/// 128 random bits in hexadecimal; of the clock where the kernel has no randomness yet.
fn unique_id() -> String {
    let mut bytes = [0u8; 16];
    if getrandom(&mut bytes, GetRandomFlags::NONBLOCK) != Ok(bytes.len()) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        bytes[..8].copy_from_slice(&now.tv_sec.to_ne_bytes());
        bytes[8..].copy_from_slice(&now.tv_nsec.to_ne_bytes());
    }
    format!("{:032x}", u128::from_be_bytes(bytes))
}
