//! The runtime's side: a network configuration list, and what each plugin of it gets (sections 1 and 3).
//!
//! The lab and the tests play the runtime with this. It runs nothing: it says which plugin, in which order, with which
//! environment and which standard input.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::call::Attachment;
use crate::error::{Code, Error};
use crate::fault::{Faults, Object};
use crate::version::{CniVersion, Verb};
use crate::wire::{NETWORK_NAME_RULE, network_name_ok};

/// A network configuration list (`*.conflist`).
#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    /// The highest version of `cniVersion` and `cniVersions` that is ours.
    pub version: CniVersion,
    /// The network's name.
    pub name: String,
    /// No CHECK may be called.
    pub disable_check: bool,
    /// No GC may be called.
    pub disable_gc: bool,
    /// `loadOnlyInlinedPlugins`.
    pub load_only_inlined_plugins: bool,
    /// The plugins in the order of ADD.
    pub plugins: Vec<PluginConf>,
}

/// One entry of `plugins`, as written.
#[derive(Debug, Clone, PartialEq)]
pub struct PluginConf {
    /// The name of its executable.
    pub plugin_type: String,
    /// Capabilities that are declared and true.
    pub capabilities: Vec<String>,
    body: Map<String, Value>,
}

/// What a runtime passes for one attachment.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    /// Container and interface.
    pub attachment: Attachment,
    /// The namespace's path; `None` for a DEL after the namespace is gone.
    pub netns: Option<String>,
    /// Pairs of `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
    /// Capability arguments: each goes to the plugins that declare it.
    pub capability_args: BTreeMap<String, Value>,
}

impl ConfList {
    /// Reads a list. Code 6 for text that is not a JSON object, 1 if no version of it is ours, 7 otherwise.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let undecodable =
            |why: String| Error::new(Code::Decoding, format!("the configuration list cannot be decoded: {why}"));
        let value: Value = serde_json::from_str(text).map_err(|e| undecodable(e.to_string()))?;
        let map = value.as_object().ok_or_else(|| undecodable("it must be a JSON object".into()))?;
        let object = Object::new(map, "");
        let mut faults = Faults::default();
        let version = select_version(object, &mut faults)?;
        let name = object.text("name", &mut faults).unwrap_or_default().to_owned();
        if !network_name_ok(&name) {
            faults.add("name", object.get("name"), NETWORK_NAME_RULE);
        }
        let list = Self {
            version,
            name,
            disable_check: read_bool(object, "disableCheck", &mut faults),
            disable_gc: read_bool(object, "disableGC", &mut faults),
            load_only_inlined_plugins: read_bool(object, "loadOnlyInlinedPlugins", &mut faults),
            plugins: read_plugins(object, &mut faults),
        };
        faults.into_result("the configuration list")?;
        Ok(list)
    }

    /// The plugins a verb calls, as indices into [`Self::plugins`] in order: backwards for DEL; none where the list's version
    /// does not have the verb, or the list forbids it.
    pub fn order(&self, verb: Verb) -> Vec<usize> {
        let forbidden = (verb == Verb::Check && self.disable_check) || (verb == Verb::Gc && self.disable_gc);
        if forbidden || !self.version.has(verb) {
            return Vec::new();
        }
        let forward = 0..self.plugins.len();
        if verb == Verb::Del { forward.rev().collect() } else { forward.collect() }
    }

    /// Standard input of a plugin for ADD, DEL or CHECK. `prev_result` is the result of the plugin before in an ADD, and the
    /// final result of the ADD in DEL and CHECK; DEL gets it from 0.4.0 on.
    pub fn attachment_stdin(
        &self,
        plugin: &PluginConf,
        verb: Verb,
        parameters: &Parameters,
        prev_result: Option<&Value>,
    ) -> Value {
        let mut body = self.common(plugin);
        let wanted = |(key, _): &(&String, &Value)| plugin.capabilities.contains(key);
        let runtime: Map<String, Value> =
            parameters.capability_args.iter().filter(wanted).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !runtime.is_empty() {
            body.insert("runtimeConfig".into(), runtime.into());
        }
        if let Some(result) = prev_result
            && (verb != Verb::Del || self.version >= CniVersion::V0_4_0)
        {
            body.insert("prevResult".into(), result.clone());
        }
        body.into()
    }

    /// Standard input of a plugin for GC: the attachments to keep under the specification's key, and under the one that
    /// libcni sends besides.
    pub fn gc_stdin(&self, plugin: &PluginConf, valid: &[Attachment]) -> Value {
        let list: Vec<Value> = valid
            .iter()
            .map(|a| json!({"containerID": a.container_id.as_str(), "ifname": a.ifname.as_str()}))
            .collect();
        let mut body = self.common(plugin);
        body.insert("cni.dev/valid-attachments".into(), list.clone().into());
        body.insert("cni.dev/attachments".into(), list.into());
        body.into()
    }

    /// Standard input of a plugin for STATUS.
    pub fn status_stdin(&self, plugin: &PluginConf) -> Value {
        self.common(plugin).into()
    }

    fn common(&self, plugin: &PluginConf) -> Map<String, Value> {
        let mut body = plugin.body.clone();
        body.remove("capabilities");
        body.insert("cniVersion".into(), json!(self.version));
        body.insert("name".into(), self.name.clone().into());
        body
    }
}

impl Parameters {
    /// The environment of a plugin for ADD, DEL or CHECK.
    pub fn env(&self, verb: Verb, path: &str) -> Vec<(&'static str, String)> {
        let args: Vec<String> = self.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            ("CNI_COMMAND", verb.to_string()),
            ("CNI_CONTAINERID", self.attachment.container_id.to_string()),
            ("CNI_NETNS", self.netns.clone().unwrap_or_default()),
            ("CNI_IFNAME", self.attachment.ifname.to_string()),
            ("CNI_ARGS", args.join(";")),
            ("CNI_PATH", path.to_owned()),
        ]
    }
}

/// The environment of a plugin for GC, STATUS or VERSION.
pub fn plain_env(verb: Verb, path: &str) -> Vec<(&'static str, String)> {
    vec![("CNI_COMMAND", verb.to_string()), ("CNI_PATH", path.to_owned())]
}

fn select_version(object: Object<'_>, faults: &mut Faults) -> Result<CniVersion, Error> {
    let mut offered = object.texts("cniVersions", faults);
    offered.extend(object.text("cniVersion", faults).map(str::to_owned));
    offered.iter().filter_map(|v| v.parse().ok()).max().ok_or_else(|| {
        let offered = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
        Error::new(
            Code::IncompatibleVersion,
            format!("no version of the configuration list is supported: it has {offered}"),
        )
        .with_details("supported are 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")
    })
}

/// libcni takes the words "true" and "false" as well.
fn read_bool(object: Object<'_>, key: &str, faults: &mut Faults) -> bool {
    match object.get(key) {
        None => false,
        Some(Value::Bool(on)) => *on,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => true,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => false,
        Some(other) => {
            faults.add(key, Some(other), "true or false");
            false
        }
    }
}

fn read_plugins(object: Object<'_>, faults: &mut Faults) -> Vec<PluginConf> {
    let items = object.list("plugins", faults);
    if items.is_empty() {
        faults.add("plugins", object.get("plugins"), "a list of one or more plugins");
    }
    let mut plugins = Vec::new();
    for (n, item) in items.iter().enumerate() {
        let path = format!("plugins[{n}]");
        let Some(body) = item.as_object() else {
            faults.add(path, Some(item), "an object");
            continue;
        };
        let entry = Object::new(body, &path);
        let plugin_type = entry.text("type", faults).unwrap_or_default().to_owned();
        if plugin_type.is_empty() || plugin_type.contains(['/', '\\', '\0']) {
            faults.add(entry.path("type"), entry.get("type"), "the name of an executable, without a path");
        }
        let declared = entry.object("capabilities", faults).into_iter().flatten();
        let capabilities = declared.filter(|(_, on)| on.as_bool() == Some(true)).map(|(key, _)| key.clone()).collect();
        plugins.push(PluginConf { plugin_type, capabilities, body: body.clone() });
    }
    plugins
}
