//! The parameters that a runtime passes as environment variables (section 2, "Parameters"), and their rules.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::version::Verb;

/// The environment of one call, as it came. A variable that is set to nothing counts as not set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: Option<String>,
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerId", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// `CNI_NETNS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// `CNI_IFNAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// `CNI_ARGS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
    /// `CNI_PATH`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: libcni's word that the namespace may be the plugin's own.
    #[serde(rename = "netnsOverride", skip_serializing_if = "Option::is_none")]
    pub netns_override: Option<String>,
}

impl Environment {
    /// The variables that are read, by name.
    pub const NAMES: [&'static str; 7] =
        ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH", "CNI_NETNS_OVERRIDE"];

    /// Takes one variable in; those that are none of [`Self::NAMES`] are passed over.
    pub fn set(&mut self, name: &str, value: &str) {
        if let Some(place) = self.place(name) {
            *place = Some(value.to_string()).filter(|v| !v.is_empty());
        }
    }

    /// The value of a variable that is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = match name {
            "CNI_COMMAND" => &self.command,
            "CNI_CONTAINERID" => &self.container_id,
            "CNI_NETNS" => &self.netns,
            "CNI_IFNAME" => &self.ifname,
            "CNI_ARGS" => &self.args,
            "CNI_PATH" => &self.path,
            "CNI_NETNS_OVERRIDE" => &self.netns_override,
            _ => &None,
        };
        value.as_deref().filter(|v| !v.is_empty())
    }

    /// The verb, after checking that every variable it requires is there, and that those it uses are well formed.
    /// Every fault is code 4 and names all variables concerned.
    pub fn check(&self) -> Result<Verb, Error> {
        let Some(command) = self.get("CNI_COMMAND") else {
            return Err(missing(&["CNI_COMMAND"], "a runtime sets it to ADD, DEL, CHECK, GC, STATUS or VERSION"));
        };
        let verb = Verb::of_command(command)?;
        let absent: Vec<&str> = verb.required().iter().copied().filter(|name| self.get(name).is_none()).collect();
        if !absent.is_empty() {
            return Err(missing(&absent, &format!("{verb} requires {}", verb.required().join(", "))));
        }
        if matches!(verb, Verb::Add | Verb::Del | Verb::Check) {
            self.check_id()?;
            self.check_ifname()?;
        }
        Ok(verb)
    }

    fn check_id(&self) -> Result<(), Error> {
        let id = self.get("CNI_CONTAINERID").unwrap_or_default();
        let ok = id.len() <= 253
            && id.starts_with(|c: char| c.is_ascii_alphanumeric())
            && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if ok {
            return Ok(());
        }
        let rule = "a letter or digit, then letters, digits, '_', '.' and '-', at most 253 characters";
        Err(invalid("CNI_CONTAINERID", id, rule))
    }

    fn check_ifname(&self) -> Result<(), Error> {
        let name = self.get("CNI_IFNAME").unwrap_or_default();
        let ok = name.len() <= 15
            && name != "."
            && name != ".."
            && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if ok {
            return Ok(());
        }
        Err(invalid("CNI_IFNAME", name, "1 to 15 bytes without '/', ':' and white space, and not '.' or '..'"))
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "CNI_COMMAND" => &mut self.command,
            "CNI_CONTAINERID" => &mut self.container_id,
            "CNI_NETNS" => &mut self.netns,
            "CNI_IFNAME" => &mut self.ifname,
            "CNI_ARGS" => &mut self.args,
            "CNI_PATH" => &mut self.path,
            "CNI_NETNS_OVERRIDE" => &mut self.netns_override,
            _ => return None,
        })
    }
}

/// A variable's value was refused: code 4.
pub fn invalid(name: &str, found: &str, accepted: &str) -> Error {
    let shown: String = found.chars().take(100).collect();
    Error::new(Code::InvalidEnvironment, format!("{name} is {shown:?}: it must be {accepted}"))
}

fn missing(names: &[&str], why: &str) -> Error {
    let verb = if names.len() == 1 { "is" } else { "are" };
    Error::new(Code::InvalidEnvironment, format!("{} {verb} not set: {why}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(command: &str) -> Environment {
        let mut env = Environment::default();
        for (name, value) in [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("HOME", "/"),
        ] {
            env.set(name, value);
        }
        env
    }

    #[test]
    fn each_verb_misses_exactly_what_it_requires() {
        for verb in Verb::ALL {
            assert_eq!(complete(verb.as_str()).check(), Ok(verb));
            for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"] {
                let mut env = complete(verb.as_str());
                env.set(name, "");
                let required = verb.required().contains(&name);
                match env.check() {
                    Err(error) => {
                        assert!(required, "{verb} without {name}: {error}");
                        assert_eq!(error.code, Code::InvalidEnvironment);
                        assert!(error.msg.starts_with(&format!("{name} is not set")), "{error}");
                    }
                    Ok(_) => assert!(!required, "{verb} without {name} was accepted"),
                }
            }
        }
    }

    #[test]
    fn every_missing_variable_is_named() {
        let mut env = Environment::default();
        assert!(env.check().unwrap_err().msg.contains("CNI_COMMAND"));
        env.set("CNI_COMMAND", "ADD");
        let error = env.check().unwrap_err();
        for name in Verb::Add.required() {
            assert!(error.msg.contains(name), "{error}");
        }
    }

    #[test]
    fn names_are_checked_where_they_are_used() {
        for (name, bad) in [
            ("CNI_IFNAME", "sixteen-bytes-xx"),
            ("CNI_IFNAME", "a/b"),
            ("CNI_IFNAME", "a:b"),
            ("CNI_IFNAME", "a b"),
            ("CNI_IFNAME", ".."),
            ("CNI_CONTAINERID", "-c"),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_CONTAINERID", "ü"),
        ] {
            for verb in ["ADD", "DEL", "CHECK"] {
                let mut env = complete(verb);
                env.set(name, bad);
                let error = env.check().unwrap_err();
                assert_eq!(error.code, Code::InvalidEnvironment);
                assert!(error.msg.contains(name) && error.msg.contains(bad), "{error}");
            }
            let mut env = complete("STATUS");
            env.set(name, bad);
            assert_eq!(env.check(), Ok(Verb::Status));
        }
    }
}
