//! The plugin under test: its program, its configuration, the versions it claims.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};

use crate::options::Options;
use crate::version::{Verb, Version};

/// The plugin under test.
#[derive(Debug)]
pub struct Subject {
    pub plugin: PathBuf,
    /// The plugin's own configuration as a runtime passes it on, without what differs between calls.
    pub conf: Map<String, Value>,
    /// The capabilities it declares.
    pub capabilities: Vec<String>,
    /// `CNI_PATH`.
    pub path: String,
    pub args: String,
    pub cap_args: Map<String, Value>,
    pub ifname: String,
    pub env: BTreeMap<String, String>,
    pub timeout: Duration,
    /// What VERSION answered, if it was an answer.
    pub claims: Vec<String>,
}

impl Subject {
    /// Reads plugin and configuration. Nothing runs yet.
    ///
    /// # Errors
    /// A sentence for what is wrong with either.
    pub fn read(options: &Options) -> Result<Self, String> {
        let plugin = &options.plugin;
        let plugin = std::path::absolute(plugin).map_err(|error| format!("--plugin {}: {error}", plugin.display()))?;
        if !plugin.is_file() {
            return Err(format!("--plugin {}: there is no such file", plugin.display()));
        }
        let text = std::fs::read_to_string(&options.conf)
            .map_err(|error| format!("--conf {}: {error}", options.conf.display()))?;
        let name = plugin.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut conf =
            configuration(&text, &name).map_err(|why| format!("--conf {}: {why}", options.conf.display()))?;
        let declared = conf.remove("capabilities").unwrap_or_default();
        let on = |(key, on): (&String, &Value)| (*on == true).then(|| key.clone());
        let capabilities: Vec<String> = declared.as_object().into_iter().flatten().filter_map(on).collect();
        let mut folders: Vec<&Path> = options.path.iter().map(PathBuf::as_path).collect();
        folders.extend(plugin.parent());
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let mut cap_args = options.cap_args.clone();
        cap_args.retain(|key, _| capabilities.contains(key));
        Ok(Self {
            plugin,
            conf,
            capabilities,
            path: folders.join(":"),
            args: options.args.clone(),
            cap_args,
            ifname: options.ifname.clone(),
            env: options.env.iter().cloned().collect(),
            timeout: options.timeout,
            claims: Vec::new(),
        })
    }

    /// The versions that the plugin claims and the suite can judge, oldest first. Where VERSION gave no list, the
    /// configuration's own.
    pub fn versions(&self) -> Vec<Version> {
        let named = |text: &String| Version::of(text);
        let mut versions: Vec<Version> = self.claims.iter().filter_map(named).collect();
        if versions.is_empty() {
            versions.extend(self.conf["cniVersion"].as_str().and_then(Version::of));
        }
        versions.sort_unstable();
        versions.dedup();
        versions
    }

    /// The newest of them that has an operation.
    pub fn newest(&self, verb: Verb) -> Option<Version> {
        self.versions().into_iter().rev().find(|version| version.has(verb))
    }

    /// The file name of the plugin that hands out addresses, if the configuration names one.
    pub fn delegate(&self) -> Option<&str> {
        self.conf.get("ipam")?.get("type")?.as_str().filter(|name| !name.is_empty())
    }
}

/// The configuration of the plugin with this file name, out of a list or alone, with name and version.
fn configuration(text: &str, plugin: &str) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Object(mut list) = value else { return Err("it is no JSON object".into()) };
    let mut conf = match list.remove("plugins") {
        None => list.clone(),
        Some(Value::Array(plugins)) => {
            let objects = || plugins.iter().filter_map(Value::as_object);
            let named = objects().find(|entry| entry.get("type").and_then(Value::as_str) == Some(plugin));
            named.or_else(|| objects().next()).cloned().ok_or("its list of plugins is empty")?
        }
        Some(_) => return Err("`plugins` is no list".into()),
    };
    for key in ["name", "cniVersion"] {
        let value = list.get(key).or_else(|| conf.get(key)).cloned();
        match value {
            Some(Value::String(text)) if !text.is_empty() => conf.insert(key.into(), text.into()),
            _ => return Err(format!("{key} is missing or no string")),
        };
    }
    Ok(conf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_gives_the_entry_of_the_plugin_with_the_lists_name() {
        let list = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a"},{"type":"b","x":1}]}"#;
        let conf = configuration(list, "b").unwrap();
        assert_eq!(Value::Object(conf), serde_json::json!({"cniVersion":"1.0.0","name":"net","type":"b","x":1}));
        assert_eq!(configuration(list, "other").unwrap()["type"], "a");
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_a_reason() {
        for (text, why) in [
            ("{", "not JSON"),
            ("[]", "no JSON object"),
            (r#"{"cniVersion":"1.0.0"}"#, "name is missing"),
            (r#"{"name":"x"}"#, "cniVersion is missing"),
            (r#"{"name":"x","cniVersion":"1.0.0","plugins":[]}"#, "empty"),
        ] {
            let error = configuration(text, "a").unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
