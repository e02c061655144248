//! The error of the specification (section 5, "Error") and its codes.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::version::CniVersion;

/// What kind of failure an [`Error`] is. Below 100 the numbers are the specification's, from 100 up they are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// 1: the configuration's version is unknown, or does not have the verb.
    IncompatibleVersion,
    /// 2: a field of the configuration that is not supported. The message has its key and value.
    UnsupportedField,
    /// 3: the container is unknown; the runtime need not clean up.
    UnknownContainer,
    /// 4: an environment variable is missing or invalid. The message has its name.
    InvalidEnvironment,
    /// 5: reading or writing failed.
    Io,
    /// 6: content could not be decoded.
    Decoding,
    /// 7: the configuration was decoded, and is not valid.
    InvalidConfig,
    /// 11: a condition that should clear up; the runtime should call again later.
    TryAgainLater,
    /// 50: STATUS: no ADD can be served.
    NotAvailable,
    /// 51: STATUS: no ADD can be served, and pods that exist may have limited connectivity.
    LimitedConnectivity,
    /// 100: the agent or the plugin failed in a way that is a defect of theirs.
    Internal,
    /// 101: plugin and agent do not speak the same protocol version.
    Protocol,
    /// 102: ADD for an interface that exists in the pod.
    InterfaceExists,
    /// 103: CHECK found the kernel different from the result of ADD.
    NotAsExpected,
    /// 104: every address of the node's ranges is in use.
    NoFreeAddress,
    /// 105: an address that was asked for is in use, reserved, or outside the ranges.
    AddressRefused,
    /// 106: the kernel refused a change.
    Kernel,
    /// 107: a part was done, and a part was not; the details say which.
    Incomplete,
    /// 108: the agent lacks a permission.
    NotPermitted,
    /// 109: a port of the host that was asked for is another pod's.
    PortTaken,
    /// Any other number, as another plugin or a later release may send it.
    Other(u32),
}

const CODES: [(Code, u32, &str); 20] = [
    (Code::IncompatibleVersion, 1, "incompatible CNI version"),
    (Code::UnsupportedField, 2, "unsupported field in the network configuration"),
    (Code::UnknownContainer, 3, "unknown container"),
    (Code::InvalidEnvironment, 4, "invalid environment variable"),
    (Code::Io, 5, "reading or writing failed"),
    (Code::Decoding, 6, "content cannot be decoded"),
    (Code::InvalidConfig, 7, "invalid network configuration"),
    (Code::TryAgainLater, 11, "try again later"),
    (Code::NotAvailable, 50, "not available"),
    (Code::LimitedConnectivity, 51, "not available, and existing pods may have limited connectivity"),
    (Code::Internal, 100, "internal error"),
    (Code::Protocol, 101, "plugin and agent do not understand each other"),
    (Code::InterfaceExists, 102, "the interface exists"),
    (Code::NotAsExpected, 103, "the pod's network is not as ADD left it"),
    (Code::NoFreeAddress, 104, "no free address"),
    (Code::AddressRefused, 105, "the address cannot be given"),
    (Code::Kernel, 106, "the kernel refused a change"),
    (Code::Incomplete, 107, "done in part"),
    (Code::NotPermitted, 108, "not permitted"),
    (Code::PortTaken, 109, "the host's port is taken"),
];

impl Code {
    /// The number in the JSON object.
    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            code => CODES.iter().find(|row| row.0 == code).map_or(0, |row| row.1),
        }
    }

    /// The code of a number; [`Code::Other`] for one without a name here.
    pub fn from_number(number: u32) -> Self {
        CODES.iter().find(|row| row.1 == number).map_or(Self::Other(number), |row| row.0)
    }

    /// A few words that say what the code means.
    pub fn meaning(self) -> &'static str {
        CODES.iter().find(|row| row.0 == self).map_or("an error without a name", |row| row.2)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.meaning())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(self.number())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u32::deserialize(from).map(Self::from_number)
    }
}

/// A failure as the runtime is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// One sentence: object, field, what was found, what is accepted or the likely cause.
    pub msg: String,
    /// More of the same, for a log; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The object that a plugin prints on standard output, on one line, with the protocol version in use.
    pub fn to_json(&self, version: CniVersion) -> String {
        let report = Report { cni_version: version, code: self.code.number(), msg: &self.msg, details: &self.details };
        // Serialising strings and a number into a string cannot fail; an empty object would be the specification's least.
        serde_json::to_string(&report).unwrap_or_else(|_| String::from("{}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl core::error::Error for Error {}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: CniVersion,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    details: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_as_it_prints() {
        for (code, number, meaning) in CODES {
            assert_eq!(code.number(), number);
            assert_eq!(Code::from_number(number), code);
            assert_eq!(code.meaning(), meaning);
        }
        assert_eq!(Code::from_number(999), Code::Other(999));
        assert_eq!(Code::Other(999).number(), 999);
    }

    #[test]
    fn the_printed_object_is_the_specifications() {
        let error = Error::new(Code::InvalidConfig, "a \"quoted\" reason");
        assert_eq!(error.to_json(CniVersion::V0_4_0), r#"{"cniVersion":"0.4.0","code":7,"msg":"a \"quoted\" reason"}"#);
        let error = error.with_details("line\nbreak");
        assert_eq!(
            error.to_json(CniVersion::LATEST),
            r#"{"cniVersion":"1.1.0","code":7,"msg":"a \"quoted\" reason","details":"line\nbreak"}"#
        );
        assert_eq!(serde_json::from_str::<Error>(&error.to_json(CniVersion::LATEST)).unwrap(), error);
    }
}
