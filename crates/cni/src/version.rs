//! Versions of the specification, the verbs each has, and what each verb requires of the environment.

use alloc::format;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Code, Error};

/// A version of the specification that Ripstop speaks, in order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CniVersion {
    /// 0.3.0: results with several interfaces and addresses; chaining.
    V0_3_0,
    /// 0.3.1: the same with a corrected text.
    V0_3_1,
    /// 0.4.0: CHECK, and the previous result for DEL.
    V0_4_0,
    /// 1.0.0: addresses without their family.
    V1_0_0,
    /// 1.1.0: GC, STATUS, and more about interfaces and routes.
    V1_1_0,
}

impl CniVersion {
    /// All, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const LATEST: Self = Self::V1_1_0;

    /// The version as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether a configuration of this version may be used with the verb.
    pub fn has(self, verb: Verb) -> bool {
        match verb {
            Verb::Add | Verb::Del | Verb::Version => true,
            Verb::Check => self >= Self::V0_4_0,
            Verb::Gc | Verb::Status => self >= Self::V1_1_0,
        }
    }

    /// Refuses a verb that this version does not have, with code 1.
    pub fn require(self, verb: Verb) -> Result<(), Error> {
        if self.has(verb) {
            return Ok(());
        }
        let first = Self::ALL.into_iter().find(|v| v.has(verb)).unwrap_or(Self::LATEST);
        Err(Error::new(
            Code::IncompatibleVersion,
            format!("cniVersion {self} of the network configuration has no {verb}: it came with {first}"),
        ))
    }

    /// Reads the `cniVersion` of a configuration; code 1 if it is not one of ours. Without one it is 0.1.0, as it was in
    /// the specification's first days.
    pub fn of_config(text: Option<&str>) -> Result<Self, Error> {
        let msg = match text.map(Self::from_str) {
            Some(Ok(version)) => return Ok(version),
            Some(Err(UnknownVersion)) => {
                let text = text.unwrap_or_default();
                format!("cniVersion {text:?} of the network configuration is not supported")
            }
            None => {
                "the network configuration has no cniVersion, which stands for 0.1.0, and that is not supported".into()
            }
        };
        Err(Error::new(Code::IncompatibleVersion, msg)
            .with_details("supported are 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0"))
    }
}

/// A text is not a version that Ripstop speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownVersion;

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")
    }
}

impl core::error::Error for UnknownVersion {}

impl FromStr for CniVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or(UnknownVersion)
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for CniVersion {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for CniVersion {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <alloc::borrow::Cow<'de, str>>::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A value of `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Attach a pod to the network.
    Add,
    /// Undo ADD, to the fullest extent possible.
    Del,
    /// Compare a pod's network with the result of ADD.
    Check,
    /// Remove what belongs to no attachment of a list.
    Gc,
    /// Say whether ADD can be served.
    Status,
    /// Name the versions of the specification.
    Version,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// The verb as `CNI_COMMAND` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The variables that must be set and not empty, besides `CNI_COMMAND` (section 2, "CNI operations").
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }

    /// Reads `CNI_COMMAND`; code 4 if it is not one of the six.
    pub fn of_command(text: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|v| v.as_str() == text).ok_or_else(|| {
            Error::new(
                Code::InvalidEnvironment,
                format!("CNI_COMMAND is {text:?}: it must be ADD, DEL, CHECK, GC, STATUS or VERSION"),
            )
        })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_verbs() {
        let verbs = |v: CniVersion| Verb::ALL.into_iter().filter(|verb| v.has(*verb)).collect::<Vec<_>>();
        assert_eq!(verbs(CniVersion::V0_3_0), [Verb::Add, Verb::Del, Verb::Version]);
        assert_eq!(verbs(CniVersion::V0_3_1), [Verb::Add, Verb::Del, Verb::Version]);
        assert_eq!(verbs(CniVersion::V0_4_0), [Verb::Add, Verb::Del, Verb::Check, Verb::Version]);
        assert_eq!(verbs(CniVersion::V1_0_0), [Verb::Add, Verb::Del, Verb::Check, Verb::Version]);
        assert_eq!(verbs(CniVersion::V1_1_0), Verb::ALL);
    }

    #[test]
    fn a_verb_before_its_time_is_an_incompatible_version() {
        let error = CniVersion::V0_3_1.require(Verb::Check).unwrap_err();
        assert_eq!(error.code, Code::IncompatibleVersion);
        assert!(error.msg.contains("0.3.1") && error.msg.contains("CHECK") && error.msg.contains("0.4.0"), "{error}");
    }

    #[test]
    fn versions_read_as_they_print() {
        for version in CniVersion::ALL {
            assert_eq!(version.as_str().parse(), Ok(version));
            let json = serde_json::to_string(&version).unwrap();
            assert_eq!(serde_json::from_str::<CniVersion>(&json).unwrap(), version);
        }
        assert_eq!(CniVersion::of_config(None).unwrap_err().code, Code::IncompatibleVersion);
        for bad in ["", "0.2.0", "1.1", "1.1.0 ", "2.0.0", "v1.0.0"] {
            assert_eq!(CniVersion::of_config(Some(bad)).unwrap_err().code, Code::IncompatibleVersion, "{bad:?}");
        }
    }

    #[test]
    fn commands_are_upper_case_words() {
        for verb in Verb::ALL {
            assert_eq!(Verb::of_command(verb.as_str()), Ok(verb));
        }
        for bad in ["", "add", "UPDATE", "ADD "] {
            let error = Verb::of_command(bad).unwrap_err();
            assert_eq!(error.code, Code::InvalidEnvironment);
            assert!(error.msg.contains("CNI_COMMAND"), "{error}");
        }
    }
}
