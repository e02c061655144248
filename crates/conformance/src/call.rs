//! One call of the plugin, as a runtime makes it or spoiled on purpose, and what came of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::case::{Verdict, fail};
use crate::process::{self, Care, Ended};
use crate::scene::{Pod, Scene};
use crate::version::{Verb, Version};

/// A call that can be made any number of times.
#[derive(Clone)]
pub struct Call<'s> {
    scene: &'s Scene<'s>,
    what: String,
    env: BTreeMap<String, OsString>,
    conf: Map<String, Value>,
    stdin: Option<Vec<Vec<u8>>>,
    kill_after: Option<Duration>,
    finish: bool,
}

impl<'s> Call<'s> {
    /// A call without attachment, in a version.
    pub fn plain(scene: &'s Scene<'s>, verb: Verb, version: Version) -> Self {
        let subject = scene.subject();
        let mut env: BTreeMap<String, OsString> =
            subject.env.iter().map(|(key, value)| (key.clone(), value.into())).collect();
        env.insert("CNI_COMMAND".into(), verb.name().into());
        env.insert("CNI_PATH".into(), subject.path.clone().into());
        let mut conf = subject.conf.clone();
        conf.insert("cniVersion".into(), version.to_string().into());
        let what = format!("{verb} in {version}");
        Self { scene, what, env, conf, stdin: None, kill_after: None, finish: false }
    }

    /// A call for an attachment of a pod: the same parameters each time, as the specification wants.
    pub fn attached(scene: &'s Scene<'s>, verb: Verb, version: Version, pod: &Pod) -> Self {
        let subject = scene.subject();
        let mut call = Self::plain(scene, verb, version)
            .env("CNI_CONTAINERID", pod.container())
            .env("CNI_NETNS", pod.netns())
            .env("CNI_IFNAME", &subject.ifname);
        if !subject.args.is_empty() {
            call = call.env("CNI_ARGS", &subject.args);
        }
        if !subject.cap_args.is_empty() {
            call = call.conf("runtimeConfig", subject.cap_args.clone());
        }
        call
    }

    /// What it is made in.
    pub fn scene(&self) -> &'s Scene<'s> {
        self.scene
    }

    /// Its `CNI_PATH`.
    pub fn path(&self) -> String {
        self.env.get("CNI_PATH").map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Sets a variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Takes a variable out.
    pub fn unset(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    /// Sets a key of the configuration.
    pub fn conf(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.conf.insert(key.into(), value.into());
        self
    }

    /// Takes a key of the configuration out.
    pub fn without(mut self, key: &str) -> Self {
        self.conf.remove(key);
        self
    }

    /// Changes the section of the configuration that hands out addresses.
    pub fn ipam(mut self, change: impl FnOnce(&mut Map<String, Value>)) -> Self {
        if let Some(ipam) = self.conf.get_mut("ipam").and_then(Value::as_object_mut) {
            change(ipam);
        }
        self
    }

    /// The previous result.
    pub fn prev(self, result: &Value) -> Self {
        self.conf("prevResult", result.clone())
    }

    /// Another interface than the usual.
    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    /// These bytes on standard input instead of the configuration, part by part.
    pub fn stdin(mut self, parts: &[&[u8]]) -> Self {
        self.stdin = Some(parts.iter().map(|part| part.to_vec()).collect());
        self
    }

    /// The configuration as it would be written.
    pub fn text(&self) -> String {
        Value::Object(self.conf.clone()).to_string()
    }

    /// SIGKILL after a while.
    pub fn killed_after(mut self, time: Duration) -> Self {
        self.kill_after = Some(time);
        self
    }

    /// Made although the user wants to stop: it cleans up.
    pub fn in_any_case(mut self) -> Self {
        self.finish = true;
        self
    }

    /// Makes the call.
    pub fn run(&self) -> Verdict<Reply> {
        let text = |key: &str| self.env.get(key).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        if text("CNI_COMMAND") == "ADD" {
            self.scene.note(&text("CNI_CONTAINERID"), &text("CNI_IFNAME"), &text("CNI_NETNS"));
        }
        let subject = self.scene.subject();
        let mut command = Command::new(&subject.plugin);
        command.env_clear().envs(&self.env).current_dir("/");
        // Not a parameter, but what every runtime's plugins find: some start programs of the system.
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
        command.env("PATH", path);
        let whole = || vec![self.text().into_bytes()];
        let care = Care {
            stdin: &self.stdin.clone().unwrap_or_else(whole),
            pause: Duration::from_millis(30),
            timeout: subject.timeout,
            kill_after: self.kill_after,
            finish: self.finish,
        };
        let ended = process::run(self.scene.place(), &mut command, &care)?;
        if ended.timed_out {
            return fail(format!("{} did not end within {} ms and was killed", self.what, subject.timeout.as_millis()));
        }
        Ok(Reply { what: self.what.clone(), ended })
    }

    /// Makes the call, which must succeed.
    pub fn done(&self) -> Verdict {
        self.run()?.done()
    }

    /// Makes the call, which must succeed and print an object.
    pub fn result(&self) -> Verdict<Value> {
        self.run()?.result()
    }

    /// Makes the call, which must be refused.
    pub fn refused(&self, why: &str) -> Verdict<Refusal> {
        self.run()?.refused(why)
    }
}

/// What a call came to. It ended by itself or was killed on purpose.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The call in words.
    pub what: String,
    pub ended: Ended,
}

impl Reply {
    pub fn succeeded(&self) -> bool {
        self.ended.code == Some(0)
    }

    /// It must have succeeded.
    pub fn done(&self) -> Verdict {
        if self.succeeded() { Ok(()) } else { fail(format!("{} failed: {self}", self.what)) }
    }

    /// It must have succeeded and printed one JSON object.
    pub fn result(&self) -> Verdict<Value> {
        self.done()?;
        match serde_json::from_slice::<Value>(&self.ended.stdout) {
            Ok(value) if value.is_object() => Ok(value),
            Ok(_) => fail(format!("{} printed JSON that is no object: {}", self.what, self.printed())),
            Err(error) => fail(format!("{} printed no single JSON object ({error}): {}", self.what, self.printed())),
        }
    }

    /// It must have been refused: ended by itself with a status that is not zero. How well it said so is in the refusal.
    pub fn refused(&self, why: &str) -> Verdict<Refusal> {
        match (self.ended.code, self.ended.signal) {
            (Some(0), _) => fail(format!("{} succeeded although {why}", self.what)),
            (None, signal) => fail(format!("{} died of signal {} where {why}", self.what, signal.unwrap_or_default())),
            // A program that panics is not one that refuses: Go's runtime ends with 2, Rust's with 101.
            (Some(code @ (2 | 101)), _) if self.ended.stdout.is_empty() && !self.ended.stderr.is_empty() => {
                fail(format!("{} crashed (status {code}) where {why}: {self}", self.what))
            }
            (Some(_), _) => {
                let object = serde_json::from_slice::<Value>(&self.ended.stdout).ok().filter(Value::is_object);
                Ok(Refusal { what: self.what.clone(), object, printed: self.printed() })
            }
        }
    }

    pub fn printed(&self) -> String {
        shortened(&self.ended.stdout)
    }
}

/// How it ended, for a reason.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ended.code, self.ended.signal) {
            (Some(code), _) => write!(f, "status {code}")?,
            (None, signal) => write!(f, "signal {}", signal.unwrap_or_default())?,
        }
        let object = serde_json::from_slice::<Value>(&self.ended.stdout).unwrap_or_default();
        match (object["msg"].as_str(), object["details"].as_str().filter(|text| !text.is_empty())) {
            (Some(msg), Some(details)) => write!(f, ", {msg:?}, {details:?}"),
            (Some(msg), None) => write!(f, ", {msg:?}"),
            _ if !self.ended.stdout.is_empty() => write!(f, ", printed {}", self.printed()),
            _ => write!(f, ", said {}", shortened(&self.ended.stderr)),
        }
    }
}

/// A call that was refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    what: String,
    object: Option<Value>,
    printed: String,
}

impl Refusal {
    /// The error object it must have printed.
    pub fn object(&self) -> Verdict<&Value> {
        match &self.object {
            Some(object) => Ok(object),
            None => fail(format!("{} was refused without an error object on stdout: {}", self.what, self.printed)),
        }
    }

    /// Its code, which must be one of these.
    pub fn code(&self, accepted: &[u64]) -> Verdict {
        let code = self.object()?.get("code").and_then(Value::as_u64);
        match code {
            Some(code) if accepted.contains(&code) => Ok(()),
            _ => {
                let accepted: Vec<String> = accepted.iter().map(ToString::to_string).collect();
                let found = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
                fail(format!(
                    "{}: the error's code is {found}, not {} (msg {:?})",
                    self.what,
                    accepted.join(" or "),
                    self.text("msg")
                ))
            }
        }
    }

    /// It must say a word, in message or details.
    pub fn says(&self, word: &str) -> Verdict {
        self.object()?;
        let (msg, details) = (self.text("msg"), self.text("details"));
        if msg.contains(word) || details.contains(word) {
            return Ok(());
        }
        fail(format!("{}: the error does not name {word}: msg {msg:?}, details {details:?}", self.what))
    }

    fn text(&self, key: &str) -> String {
        self.object.as_ref().and_then(|object| object[key].as_str()).unwrap_or_default().to_owned()
    }
}

fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    if text.is_empty() {
        return "nothing".into();
    }
    let mut short: String = text.chars().take(200).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
