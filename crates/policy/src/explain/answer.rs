//! A question about two ends by name, in each family that they share.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ripstop_objects::service::Protocol;
use ripstop_types::{Family, Invalid};
use serde::{Deserialize, Serialize};

use super::{Explanation, Question};
use crate::policies::Policies;

/// A pod, a node, or somebody else with an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Its name, for who reads.
    pub name: String,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// Where a connection goes at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// To a port.
    Number(Protocol, u16),
    /// It has no ports, as ICMP.
    None,
}

/// What is said of a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who begins the connection,
    pub source: Arc<str>,
    /// and with whom.
    pub destination: Arc<str>,
    /// `80/TCP`, or `ICMP`.
    pub port: String,
    /// Whether it comes about, in every family.
    pub allowed: bool,
    /// The same if what is staged were enforced.
    pub allowed_staged: bool,
    /// By family.
    pub paths: Vec<Path>,
}

/// One family's part of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The source's address,
    pub source_ip: IpAddr,
    /// and the destination's.
    pub destination_ip: IpAddr,
    /// Whether it comes about.
    pub allowed: bool,
    /// What the ends say.
    #[serde(flatten)]
    pub explanation: Explanation,
}

impl Policies {
    /// Whether one may talk to another, and why. A pod talks to itself by a Service: otherwise its packets never leave it.
    ///
    /// # Errors
    /// A sentence, where they share no family.
    pub fn answer(&self, source: &Party, destination: &Party, port: Port) -> Result<Answer, String> {
        let by_service = source.name == destination.name;
        let first = |party: &Party, family| party.ips.iter().copied().find(|ip| Family::of(*ip) == family);
        let path = |family| {
            let (source, destination) = (first(source, family)?, first(destination, family)?);
            let question = Question { source, destination, port: port.question(), by_service };
            let explanation = self.explain(&question);
            let allowed = explanation.is_allowed();
            Some(Path { source_ip: source, destination_ip: destination, allowed, explanation })
        };
        let paths: Vec<Path> = Family::BOTH.into_iter().filter_map(path).collect();
        if paths.is_empty() {
            return Err(no_path(source, destination));
        }
        Ok(Answer {
            source: source.name.as_str().into(),
            destination: destination.name.as_str().into(),
            port: port.to_string(),
            allowed: paths.iter().all(|path| path.allowed),
            allowed_staged: paths.iter().all(|path| path.explanation.is_allowed_staged()),
            paths,
        })
    }
}

fn no_path(source: &Party, destination: &Party) -> String {
    for party in [source, destination] {
        if party.ips.is_empty() {
            return format!("{}: found no address, accepted: what has one", party.name);
        }
    }
    let (source, destination) = (&source.name, &destination.name);
    format!("{source} and {destination} have no family of addresses in common, so they cannot talk to each other")
}

impl Port {
    /// As questions have it.
    #[must_use]
    pub fn question(self) -> Option<(Protocol, u16)> {
        match self {
            Self::Number(protocol, number) => Some((protocol, number)),
            Self::None => None,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(protocol, number) => write!(f, "{number}/{protocol}"),
            Self::None => f.write_str("ICMP"),
        }
    }
}

/// `80/TCP`, `53/udp`, `80`, which is TCP, or `icmp`.
impl FromStr for Port {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self::None);
        }
        let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let protocol: Option<Protocol> = protocol.to_ascii_uppercase().parse().ok();
        match (number.parse::<u16>(), protocol) {
            (Ok(number), Some(protocol))
                if number > 0 && number.to_string().len() == text.find('/').unwrap_or(text.len()) =>
            {
                Ok(Self::Number(protocol, number))
            }
            _ => Err(Invalid::new(
                "a port",
                text,
                "1 to 65535 with its protocol, as 80/TCP, 53/UDP or 5060/SCTP; or ICMP",
            )),
        }
    }
}

/// For people: what becomes of it, and who says so at each end.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, port, .. } = self;
        let alike = |path: &Path| {
            let ends = |path: &Path| path.explanation.ends().cloned().collect::<Vec<_>>();
            ends(path) == ends(&self.paths[0])
        };
        // Where the families are alike one stands for both.
        let shown = if self.paths.iter().all(alike) { &self.paths[..1] } else { &self.paths[..] };
        for path in shown {
            let verdict = if path.allowed { "allowed" } else { "denied" };
            write!(f, "{verdict}: {source} -> {destination} {port}")?;
            if shown.len() > 1 {
                write!(f, " ({} -> {})", path.source_ip, path.destination_ip)?;
            }
            writeln!(f)?;
            for end in path.explanation.ends() {
                writeln!(f, "{}", end.to_string().replace('\n', "\n  "))?;
            }
            if path.explanation.ends().next().is_none() {
                writeln!(f, "neither end is a pod with an address of its own: policies are not asked")?;
            }
        }
        Ok(())
    }
}
