//! The lane of BGP: hands what is wanted to the speaker, and what that tells to the core.
//!
//! It reads passwords from files, each time something else is wanted: a password that is not there shuts its peer down.
//!
//! Not here: who is a peer, and what a route leads to.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use ripstop_bgp::session::Password;
use ripstop_bgp::wire::NextHop;
use ripstop_objects::bgp::PasswordSource;
use ripstop_speaker::bgp::{Answers, Explained, ExplainedPath, Report, Reports, Setup, Speaker};
use ripstop_tables::{BgpInput, Input};
use ripstop_types::Prefix;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;

use crate::core::{BgpPlan, PasswordOf};

/// Longest password file that is read, in bytes; a password is far shorter.
const MAX_FILE: u64 = 4_096;

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
pub fn start(cell: BgpCell, news: Sender<Input>) -> anyhow::Result<mpsc::Sender<Option<Arc<BgpPlan>>>> {
    let (plans, to_do) = mpsc::channel();
    thread::Builder::new()
        .name("bgp-lane".into())
        .spawn(move || work(&to_do, &cell, &news))
        .context("cannot start a thread")?;
    Ok(plans)
}

fn work(to_do: &mpsc::Receiver<Option<Arc<BgpPlan>>>, cell: &BgpCell, news: &Sender<Input>) {
    while let Ok(plan) = to_do.recv() {
        // Only the last one counts.
        let plan = to_do.try_iter().last().unwrap_or(plan);
        let mut speaker = cell.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*speaker, plan) {
            (Some(speaker), Some(plan)) => drop(speaker.set_up(resolved(&plan))),
            // Sessions end with a word, as nothing is to be kept.
            (Some(speaker), None) => drop(speaker.set_up(Setup::empty(speaker_rib()))),
            (None, Some(plan)) => match Speaker::start(resolved(&plan), plan.restarted, seed()) {
                Ok((started, reports)) => {
                    *speaker = Some(started);
                    let news = news.clone();
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

/// With nobody to speak to it says nothing.
fn speaker_rib() -> ripstop_bgp::rib::RibConfig {
    let id = std::net::Ipv4Addr::LOCALHOST;
    ripstop_bgp::rib::RibConfig { router_id: id, cluster_id: id, multipath: 1, med: ripstop_bgp::rib::MedScope::SameAs }
}

/// What is wanted, with passwords.
fn resolved(plan: &BgpPlan) -> Setup {
    let mut setup = plan.setup.clone();
    for (of, source) in &plan.passwords {
        let read = read(source);
        if let Err(why) = &read {
            tracing::warn!("BGP: {why}");
        }
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
    setup
}

fn read(PasswordSource::File(path): &PasswordSource) -> Result<Password, String> {
    let path = Path::new(&**path);
    let found = std::fs::metadata(path)
        .map_err(|error| format!("the password file {} cannot be read: {error}", path.display()))?;
    if !found.is_file() || found.len() > MAX_FILE {
        return Err(format!("the password file {} is no file of at most {MAX_FILE} bytes", path.display()));
    }
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the password file {} cannot be read: {error}", path.display()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(format!("the password file {} is empty", path.display()));
    }
    Ok(Password(password.to_owned()))
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
    let hops = |hops: &[NextHop]| hops.iter().map(|hop| hop.address()).collect::<Vec<IpAddr>>();
    BgpInput {
        routes: report.routes.into_iter().map(|route| (route.prefix, hops(&route.next_hops))).collect(),
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
}
