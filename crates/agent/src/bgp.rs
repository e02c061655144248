//! The lane of BGP: hands what is wanted to the speaker, and what that tells to the core.
//!
//! It reads passwords from files and Secrets, each time something else is wanted and now and then besides: a password that is not there
//! shuts its peer down; one that cannot be asked for just now is what it was.
//!
//! Not here: who is a peer, and what a route leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ripstop_bgp::session::Password;
use ripstop_objects::bgp::PasswordSource;
use ripstop_speaker::bgp::{Answers, Explained, ExplainedPath, Report, Reports, Setup, Speaker};
use ripstop_tables::{BgpInput, Input};
use ripstop_types::Prefix;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;

use crate::core::{BgpPlan, PasswordOf};
use crate::store_lane::StoreCell;

/// Longest password file that is read, in bytes; a password is far shorter.
const MAX_FILE: u64 = 4_096;

/// How long after they were read passwords are read again.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// Routes that one question is answered with.
const ROUTES: usize = 10_000;

/// Routes of one input, so that what else the core has to do waits for no more.
const PART: usize = 1_000;

/// How long one waits for a report before one looks whether anybody still listens.
const LOOK: Duration = Duration::from_secs(1);

/// The speaker, where questions are asked.
#[derive(Debug, Clone, Default)]
pub struct BgpCell(Arc<Mutex<Option<Speaker>>>);

impl BgpCell {
    /// What is asked by a path below `/v1/bgp/`; none if nothing answers to it, and null where nothing is spoken.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub fn answer(&self, what: &str) -> Result<Option<Value>, String> {
        Ok(Some(match what.split_once('/') {
            None if what == "peers" => self.peers(),
            None if what == "routes" => self.routes(),
            Some(("received", peer)) => self.of_peer(peer, received)?,
            Some(("advertised", peer)) => self.of_peer(peer, advertised)?,
            Some(("explain", prefix)) => {
                let prefix: Prefix = prefix.parse().map_err(|invalid| format!("{invalid}"))?;
                self.explain(prefix).unwrap_or(Value::Null)
            }
            _ => return Ok(None),
        }))
    }

    /// What a peer told, or is told.
    fn of_peer(&self, name: &str, of: fn(&str, Explained) -> Vec<Value>) -> Result<Value, String> {
        let peer = name.to_owned();
        let rows = self.ask(move |answers| {
            let known: Vec<String> = answers.peers().iter().map(|one| one.key.to_string()).collect();
            if !known.contains(&peer) {
                return Err(format!("{peer} is no peer of this node; peers are {}", known.join(", ")));
            }
            let (all, _) = answers.routes(ROUTES);
            Ok(all.into_iter().flat_map(|one| of(&peer, one)).collect())
        });
        rows.unwrap_or(Ok(Value::Null))
    }

    /// How sessions are.
    #[must_use]
    pub fn peers(&self) -> Value {
        self.ask(|answers| {
            let rows = answers.peers().into_iter().map(|peer| {
                json!({
                    "peer": peer.key.to_string(),
                    "interface": peer.key.interface,
                    "address": peer.found.map_or(peer.key.address, Into::into),
                    "range": peer.range,
                    "as": peer.peer_as,
                    "state": format!("{:?}", peer.state).to_lowercase(),
                    "since": peer.since.0,
                    "received": peer.received,
                    "bfd": peer.bfd.map(|state| format!("{state:?}").to_lowercase()),
                    "hold": peer.hold_time,
                    "local": peer.local,
                    "routerId": peer.router_id,
                    "flaps": peer.flaps,
                    "reason": peer.error.or(peer.last_fault),
                })
            });
            rows.collect()
        })
        .unwrap_or_else(|| json!([]))
    }

    /// Paths to all prefixes, as many as there is room for.
    #[must_use]
    pub fn routes(&self) -> Value {
        self.ask(|answers| {
            let (all, _) = answers.routes(ROUTES);
            let rows = all.into_iter().flat_map(|one| {
                let dst = one.prefix;
                one.paths.into_iter().map(move |path| {
                    let (peer, route, used, because) = (path.peer, path.route, path.used, path.because);
                    json!({"dst": dst, "used": used, "peer": peer, "route": route, "because": because})
                })
            });
            rows.collect()
        })
        .unwrap_or_else(|| json!([]))
    }

    /// Why a prefix is reached as it is.
    #[must_use]
    pub fn explain(&self, prefix: Prefix) -> Option<Value> {
        self.ask(move |answers| {
            let one = answers.explain(prefix);
            let paths = one.paths.into_iter().map(
                |path| json!({"peer": path.peer, "route": path.route, "used": path.used, "because": path.because}),
            );
            let told = one.told.into_iter().map(|(peer, because)| json!({"peer": peer, "because": because}));
            json!({"dst": one.prefix, "paths": paths.collect::<Vec<_>>(), "told": told.collect::<Vec<_>>()})
        })
    }

    fn ask<T: Send + 'static>(&self, what: impl FnOnce(&Answers<'_>) -> T + Send + 'static) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.ask(what)
    }
}

fn received(peer: &str, one: Explained) -> Vec<Value> {
    let theirs = one.paths.into_iter().filter(|path| path.peer.as_deref() == Some(peer));
    let row = |path: ExplainedPath| json!({"dst": one.prefix, "used": path.used, "route": path.route, "because": path.because});
    theirs.map(row).collect()
}

fn advertised(peer: &str, one: Explained) -> Vec<Value> {
    let told = one.told.iter().any(|(to, words)| to == peer && words.starts_with("told:"));
    let best = one.paths.into_iter().next().filter(|_| told);
    best.map(|path| json!({"dst": one.prefix, "from": path.peer, "route": path.route})).into_iter().collect()
}

/// Starts the lane; answers with where to send what is wanted. The speaker starts with the first plan.
///
/// # Errors
/// If no thread can be started.
pub fn start(
    cell: BgpCell,
    news: Sender<Input>,
    store: StoreCell,
) -> anyhow::Result<mpsc::Sender<Option<Arc<BgpPlan>>>> {
    let (plans, to_do) = mpsc::channel();
    let passwords = Passwords { store, runtime: Handle::current(), known: BTreeMap::new(), warned: BTreeSet::new() };
    let mut lane = Lane { cell, news, passwords, wanted: None, told: None };
    thread::Builder::new().name("bgp-lane".into()).spawn(move || lane.work(&to_do)).context("cannot start a thread")?;
    Ok(plans)
}

struct Lane {
    cell: BgpCell,
    news: Sender<Input>,
    passwords: Passwords,
    wanted: Option<Arc<BgpPlan>>,
    /// What the speaker was told to be.
    told: Option<Setup>,
}

impl Lane {
    fn work(&mut self, to_do: &mpsc::Receiver<Option<Arc<BgpPlan>>>) {
        loop {
            let has_passwords = self.wanted.as_ref().is_some_and(|plan| !plan.passwords.is_empty());
            let next = if has_passwords {
                to_do.recv_timeout(READ_AGAIN)
            } else {
                to_do.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            };
            match next {
                // Only the last one counts.
                Ok(plan) => self.wanted = to_do.try_iter().last().unwrap_or(plan),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            let setup = self.wanted.clone().map(|plan| (resolved(&plan, &mut self.passwords), plan.restarted));
            if setup.as_ref().map(|(setup, _)| setup) != self.told.as_ref() {
                self.told = setup.as_ref().map(|(setup, _)| setup.clone());
                self.tell(setup);
            }
        }
    }

    fn tell(&self, setup: Option<(Setup, bool)>) {
        let mut speaker = self.cell.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*speaker, setup) {
            (Some(speaker), Some((setup, _))) => drop(speaker.set_up(setup)),
            // Sessions end with a word, as nothing is to be kept.
            (Some(speaker), None) => drop(speaker.set_up(Setup::empty(speaker_rib()))),
            (None, Some((setup, restarted))) => match Speaker::start(setup, restarted, seed()) {
                Ok((started, reports)) => {
                    *speaker = Some(started);
                    let news = self.news.clone();
                    let listens =
                        thread::Builder::new().name("bgp-news".into()).spawn(move || hand_on(&reports, &news));
                    if let Err(error) = listens {
                        tracing::warn!("what BGP brings is not heard: {error}");
                    }
                }
                Err(error) => tracing::warn!("BGP cannot be started: {error}"),
            },
            (None, None) => {}
        }
    }
}

/// Where passwords are read, and what was read last.
struct Passwords {
    store: StoreCell,
    runtime: Handle,
    known: BTreeMap<PasswordSource, Password>,
    warned: BTreeSet<String>,
}

impl Passwords {
    /// A password as it is now.
    fn read(&mut self, source: &PasswordSource) -> Result<Password, String> {
        let found = match source {
            PasswordSource::File(path) => of_file(path),
            PasswordSource::Secret { name, key } => {
                let asked = match self.store.get() {
                    Some(store) => self.runtime.block_on(store.secret(name, key)),
                    None => return self.known.get(source).cloned().ok_or("the store is not there yet".to_owned()),
                };
                match asked {
                    Ok(Some(text)) => {
                        password(&text).ok_or_else(|| format!("the value {key} of the Secret {name} is empty"))
                    }
                    Ok(None) => Err(format!("there is no Secret {name} with a value {key}")),
                    // Whoever has a password keeps it while nobody can be asked.
                    Err(fault) if fault.is_passing() => match self.known.get(source) {
                        Some(password) => return Ok(password.clone()),
                        None => Err(format!("the Secret {name} cannot be read: {fault}")),
                    },
                    Err(fault) => Err(format!("the Secret {name} cannot be read: {fault}")),
                }
            }
        };
        match &found {
            Ok(password) => drop(self.known.insert(source.clone(), password.clone())),
            Err(_) => drop(self.known.remove(source)),
        }
        found
    }

    /// Tells of what is wrong, once as long as it is.
    fn warn(&mut self, wrong: BTreeSet<String>) {
        for why in wrong.difference(&self.warned) {
            tracing::warn!("BGP: {why}");
        }
        self.warned = wrong;
    }
}

/// With nobody to speak to it says nothing.
fn speaker_rib() -> ripstop_bgp::rib::RibConfig {
    let id = std::net::Ipv4Addr::LOCALHOST;
    ripstop_bgp::rib::RibConfig { router_id: id, cluster_id: id, multipath: 1, med: ripstop_bgp::rib::MedScope::SameAs }
}

/// What is wanted, with passwords.
fn resolved(plan: &BgpPlan, passwords: &mut Passwords) -> Setup {
    let mut setup = plan.setup.clone();
    let mut wrong = BTreeSet::new();
    for (of, source) in &plan.passwords {
        let read = passwords.read(source);
        wrong.extend(read.as_ref().err().cloned());
        match of {
            PasswordOf::Peer(key) => {
                let mut peers = setup.peers.iter_mut();
                let Some(peer) = peers.find(|peer| peer.key() == *key) else { continue };
                match read {
                    Ok(password) => peer.session.socket.password = Some(password),
                    Err(why) => peer.shut_down = Some(why),
                }
            }
            PasswordOf::Range(range) => match read {
                Ok(password) => {
                    let ranges = setup.ranges.iter_mut().filter(|one| one.listen.range == *range);
                    ranges.for_each(|one| one.listen.template.socket.password = Some(password.clone()));
                }
                Err(_) => setup.ranges.retain(|one| one.listen.range != *range),
            },
        }
    }
    passwords.warn(wrong);
    setup
}

fn of_file(path: &str) -> Result<Password, String> {
    let path = Path::new(path);
    let found = std::fs::metadata(path)
        .map_err(|error| format!("the password file {} cannot be read: {error}", path.display()))?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(format!("the password file {} is no file of at most {MAX_FILE} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the password file {} cannot be read: {error}", path.display()))?;
    password(&text).ok_or_else(|| format!("the password file {} is empty", path.display()))
}

/// A password without the end of its line; none if that is all.
fn password(text: &str) -> Option<Password> {
    let password = text.trim_end_matches(['\r', '\n']);
    (!password.is_empty()).then(|| Password(password.to_owned()))
}

/// Hands on what the speaker tells, as fast as the core takes it.
fn hand_on(reports: &Reports, news: &Sender<Input>) {
    let mut last = BgpInput::default();
    loop {
        let report = match reports.next(LOOK) {
            Ok(report) => report,
            Err(mpsc::RecvTimeoutError::Timeout) if !news.is_closed() => continue,
            Err(_) => return,
        };
        let input = said(report);
        let same = (input.settled, &input.faults) == (last.settled, &last.faults);
        if same && input.routes.is_empty() {
            continue;
        }
        last = BgpInput { routes: Vec::new(), ..input.clone() };
        if !parts(input).into_iter().all(|part| news.blocking_send(Input::Bgp(part)).is_ok()) {
            return;
        }
    }
}

fn said(report: Report) -> BgpInput {
    BgpInput {
        routes: report.routes.into_iter().map(|route| (route.prefix, route.next_hops.to_vec())).collect(),
        // What is still to be told belongs to it.
        settled: report.settled && !report.more,
        faults: report.faults.into_iter().map(Into::into).collect(),
    }
}

/// An input in parts, of which the last says what holds behind all of them.
fn parts(input: BgpInput) -> Vec<BgpInput> {
    let BgpInput { routes, settled, faults } = input;
    let mut parts: Vec<BgpInput> = routes
        .chunks(PART)
        .map(|routes| BgpInput { routes: routes.to_vec(), settled: false, faults: faults.clone() })
        .collect();
    match parts.last_mut() {
        Some(last) => last.settled = settled,
        None => parts.push(BgpInput { routes, settled, faults }),
    }
    parts
}

/// Different from start to start.
fn seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_routes_are_several_inputs_and_the_last_says_that_it_is_all() {
        let route = |n: u32| (Prefix::host(std::net::Ipv4Addr::from_bits(n).into()), Vec::new());
        let input = BgpInput { routes: (0..2_500).map(route).collect(), settled: true, faults: vec!["x".into()] };
        let parts = parts(input.clone());
        assert_eq!(parts.iter().map(|part| part.settled).collect::<Vec<_>>(), [false, false, true]);
        assert!(parts.iter().all(|part| part.faults == input.faults));
        assert_eq!(parts.into_iter().flat_map(|part| part.routes).collect::<Vec<_>>(), input.routes);
        let none = BgpInput { settled: true, ..BgpInput::default() };
        assert_eq!(super::parts(none.clone()), [none]);
    }

    #[test]
    fn a_password_is_read_anew_and_one_that_is_not_there_is_named() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (store, runtime) = (StoreCell::default(), runtime.handle().clone());
        let mut passwords = Passwords { store, runtime, known: BTreeMap::new(), warned: BTreeSet::new() };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = PasswordSource::File(path.to_str().unwrap().into());
        assert!(passwords.read(&file).unwrap_err().contains("cannot be read"));
        std::fs::write(&path, "one\n").unwrap();
        assert_eq!(passwords.read(&file), Ok(Password("one".into())));
        std::fs::write(&path, "two").unwrap();
        assert_eq!(passwords.read(&file), Ok(Password("two".into())));
        std::fs::write(&path, "\n").unwrap();
        assert!(passwords.read(&file).unwrap_err().contains("is empty"));
        let secret = PasswordSource::Secret { name: "bgp".into(), key: "tor".into() };
        assert_eq!(passwords.read(&secret), Err("the store is not there yet".to_owned()));
        passwords.known.insert(secret.clone(), Password("kept".into()));
        assert_eq!(passwords.read(&secret), Ok(Password("kept".into())), "whoever has one keeps it");
    }
}
