//! Reading a JSON object key by key, collecting every fault on the way.

use std::fmt;

use serde_json::{Map, Value};

use crate::error::{Code, Error};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The path of the field: `runtimeConfig.ips[1]`.
    pub field: String,
    /// What was found, as JSON; "nothing" for a field that is missing.
    pub found: String,
    /// What would have been accepted.
    pub accepted: String,
    /// The field is understood, and not supported.
    pub unsupported: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, accepted, unsupported } = self;
        if *unsupported {
            write!(f, "{field} is {found}, which is not supported: {accepted}")
        } else {
            write!(f, "{field} is {found}: it must be {accepted}")
        }
    }
}

/// The faults of one object, in the order in which they were found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, found: Option<&Value>, accepted: impl Into<String>) {
        self.push(field.into(), found, accepted.into(), false);
    }

    pub(crate) fn unsupported(&mut self, field: impl Into<String>, found: &Value, accepted: impl Into<String>) {
        self.push(field.into(), Some(found), accepted.into(), true);
    }

    fn push(&mut self, field: String, found: Option<&Value>, accepted: String, unsupported: bool) {
        let found = found.map_or_else(|| "nothing".to_owned(), shown);
        self.0.push(Fault { field, found, accepted, unsupported });
    }

    /// Nothing if there is no fault; otherwise code 2 if all are of unsupported fields, and 7 if not. The message has the
    /// first, the details have all where there are several.
    pub(crate) fn into_result(self, object: &str) -> Result<(), Error> {
        let Some(first) = self.0.first() else { return Ok(()) };
        let all_unsupported = self.0.iter().all(|f| f.unsupported);
        let code = if all_unsupported { Code::UnsupportedField } else { Code::InvalidConfig };
        let (more, details) = match self.0.len() {
            1 => (String::new(), String::new()),
            n => {
                let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
                (format!(" (and {} more)", n - 1), all.join("; "))
            }
        };
        Err(Error::new(code, format!("{object}: {first}{more}")).with_details(details))
    }
}

/// A value as a message shows it: JSON, cut after 200 characters.
pub(crate) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A JSON object and the path under which it was found. A key whose value is null counts as missing.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Object<'a> {
    pub(crate) fn new(map: &'a Map<String, Value>, path: &'a str) -> Self {
        Self { map, path }
    }

    /// The path of a key of this object.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Keys whose value is not null.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.as_str(), v))
    }

    /// Whether the key is there at all, even as null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.find(key).filter(|v| !v.is_null())
    }

    /// In any case where it is not there as it is written: so reads Go's `encoding/json`, by which runtimes and other plugins go.
    /// containerd 1.6 says `HostPort`, `IngressRate` and `Servers`.
    fn find(&self, key: &str) -> Option<&'a Value> {
        let in_any_case = || self.map.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        self.map.get(key).or_else(in_any_case)
    }

    pub(crate) fn text(&self, key: &str, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            faults.add(self.path(key), Some(value), "a string");
        }
        text
    }

    /// A string that is read into a type of its own.
    pub(crate) fn parsed<T: std::str::FromStr>(&self, key: &str, accepted: &str, faults: &mut Faults) -> Option<T> {
        let value = self.get(key)?;
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            faults.add(self.path(key), Some(value), accepted);
        }
        parsed
    }

    /// A whole number within bounds.
    pub(crate) fn number(&self, key: &str, min: u64, max: u64, faults: &mut Faults) -> Option<u64> {
        let value = self.get(key)?;
        let number = value.as_u64().filter(|n| (min..=max).contains(n));
        if number.is_none() {
            faults.add(self.path(key), Some(value), format!("a whole number from {min} to {max}"));
        }
        number
    }

    pub(crate) fn list(&self, key: &str, faults: &mut Faults) -> &'a [Value] {
        match self.get(key) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(other) => {
                faults.add(self.path(key), Some(other), "a list");
                &[]
            }
        }
    }

    /// A list of strings; other items are faults.
    pub(crate) fn texts(&self, key: &str, faults: &mut Faults) -> Vec<String> {
        let mut texts = Vec::new();
        for (n, item) in self.list(key, faults).iter().enumerate() {
            match item.as_str() {
                Some(text) => texts.push(text.to_owned()),
                None => faults.add(format!("{}[{n}]", self.path(key)), Some(item), "a string"),
            }
        }
        texts
    }

    pub(crate) fn object(&self, key: &str, faults: &mut Faults) -> Option<&'a Map<String, Value>> {
        let value = self.get(key)?;
        let map = value.as_object();
        if map.is_none() {
            faults.add(self.path(key), Some(value), "an object");
        }
        map
    }
}
