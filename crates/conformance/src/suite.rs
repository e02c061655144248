//! A run: which cases, on which host, how many at a time, and cleaning up behind them.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::call::Call;
use crate::case::{Case, Row, Stop, Verdict};
use crate::cases::GROUPS;
use crate::options::{Host, Options};
use crate::scene::{Scene, World};
use crate::spec::Sentence;
use crate::subject::Subject;
use crate::version::{Verb, Version};
use crate::{interrupt, space};

/// The most time a set-up or tear-down command may take.
const HOOK: Duration = Duration::from_secs(60);

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options are wrong: a sentence.
    #[error("{0}")]
    Usage(String),
    /// Namespaces need root.
    #[error("{0}")]
    NotPermitted(String),
    /// The suite itself cannot run here: a sentence.
    #[error("{0}")]
    Failed(String),
    /// The user wanted to stop, and everything is cleaned up.
    #[error("interrupted")]
    Interrupted,
}

/// Id and sentence of every case, in the order in which they run.
pub fn cases() -> impl Iterator<Item = (&'static str, &'static Sentence)> {
    all().map(|case| (case.id, case.cite))
}

fn all() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().copied().flatten()
}

/// Runs the cases that were asked for, and gives a row for each in the order of [`cases`]. `seen` is told each row as it
/// comes.
///
/// # Errors
/// See [`Error`]. A plugin that fails is none: its rows say so.
pub fn run(options: &Options, seen: &(dyn Fn(&Row) + Sync)) -> Result<Vec<Row>, Error> {
    let chosen = chosen(&options.only)?;
    let subject = Subject::read(options).map_err(Error::Usage)?;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotPermitted("network namespaces can be made by root only; run it as root".into()));
    }
    let _prepared =
        space::prepare().map_err(|error| Error::Failed(format!("/run/netns cannot be prepared: {error}")))?;
    space::sweep();
    in_world(options, subject, &chosen, seen)
}

fn chosen(only: &[String]) -> Result<Vec<&'static Case>, Error> {
    let names = |case: &Case, word: &str| case.id == word || case.id.split('.').next() == Some(word);
    if let Some(word) = only.iter().find(|word| !all().any(|case| names(case, word))) {
        return Err(Error::Usage(format!("--only {word}: there is no case or group of this name; --list names them")));
    }
    Ok(all().filter(|case| only.is_empty() || only.iter().any(|word| names(case, word))).collect())
}

fn in_world(
    options: &Options,
    mut subject: Subject,
    chosen: &[&'static Case],
    seen: &(dyn Fn(&Row) + Sync),
) -> Result<Vec<Row>, Error> {
    let stopped = |stop: Stop| match stop {
        Stop::Interrupted => Error::Interrupted,
        Stop::Fail(why) | Stop::Skip(why) | Stop::Differs(why) | Stop::Unclaimed(why) => Error::Failed(why),
    };
    let world = match &options.host {
        Host::Own => World::own().map_err(stopped)?,
        Host::Path(path) => existing(Some(path))?,
        Host::Machine => existing(None)?,
    };
    let shared = options.host != Host::Own || options.setup.is_some();
    let rows = hook(&world, options.setup.as_deref(), "--setup", false).and_then(|()| {
        subject.claims = claims(&Scene::new(&subject, &world)).map_err(stopped)?;
        let jobs = if shared { 1 } else { options.jobs.max(1) };
        let rows = run_all(&subject, shared.then_some(&world), chosen, jobs, seen);
        if interrupt::happened() { Err(Error::Interrupted) } else { Ok(rows) }
    });
    let down = hook(&world, options.teardown.as_deref(), "--teardown", true);
    if options.setup.is_some() {
        world.end_programs();
    }
    match rows {
        Ok(rows) => down.map(|()| rows),
        Err(error) => Err(error),
    }
}

fn existing(path: Option<&Path>) -> Result<World, Error> {
    let named = path.unwrap_or(Path::new("this machine")).display();
    World::existing(path).map_err(|error| Error::Usage(format!("--netns {named}: {error}")))
}

/// What VERSION names; nothing where it does not answer as specified, which is a failure of cases about VERSION.
fn claims(scene: &Scene<'_>) -> Verdict<Vec<String>> {
    let asked = Version::of(scene.subject().conf["cniVersion"].as_str().unwrap_or_default());
    let probe = Call::plain(scene, Verb::Version, asked.unwrap_or(Version::V1_1_0));
    match probe.result() {
        Ok(answer) => {
            let list = answer["supportedVersions"].as_array().into_iter().flatten();
            Ok(list.filter_map(|version| version.as_str().map(str::to_owned)).collect())
        }
        Err(Stop::Interrupted) => Err(Stop::Interrupted),
        Err(_) => Ok(Vec::new()),
    }
}

fn run_all(
    subject: &Subject,
    shared: Option<&World>,
    chosen: &[&'static Case],
    jobs: usize,
    seen: &(dyn Fn(&Row) + Sync),
) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !interrupt::happened() {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = chosen.get(number) else { break };
                    let begun = Instant::now();
                    let verdict = run_one(subject, shared, case);
                    if let Some(row) = Row::of(case.id, case.cite, verdict, begun.elapsed()) {
                        seen(&row);
                        if let Ok(mut rows) = rows.lock() {
                            rows.insert(number, row);
                        }
                    }
                }
            });
        }
    });
    rows.into_inner().map(|rows| rows.into_values().collect()).unwrap_or_default()
}

fn run_one(subject: &Subject, shared: Option<&World>, case: &Case) -> Verdict {
    let own;
    let world = match shared {
        Some(world) => world,
        None => {
            own = World::own()?;
            &own
        }
    };
    let scene = Scene::new(subject, world);
    let verdict = (case.run)(&scene);
    if shared.is_some() {
        scene.clean();
    }
    verdict
}

/// Runs a command of the user in the host's namespace; what it starts in the background goes on. `finish`: also where
/// the user wants to stop.
fn hook(world: &World, command: Option<&str>, option: &str, finish: bool) -> Result<(), Error> {
    let Some(text) = command else { return Ok(()) };
    let failed = |why: String| Error::Failed(format!("{option} {text:?}: {why}"));
    let mut command = Command::new("/bin/sh");
    command.args(["-c", text]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    if let Some(path) = world.path() {
        command.env("CONFORMANCE_NETNS", path);
    }
    let mut child = world.place().spawn(&mut command).map_err(|error| failed(error.to_string()))?;
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(format!("it ended with {status}"))),
            Ok(None) if begun.elapsed() > HOOK || (interrupt::happened() && !finish) => {
                if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                let _ = child.wait();
                let stopped = interrupt::happened() && !finish;
                return Err(if stopped { Error::Interrupted } else { failed(format!("not done in {HOOK:?}")) });
            }
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(error) => return Err(failed(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_as_many_cases_and_sentences_as_promised() {
        let ids: BTreeSet<&str> = cases().map(|(id, _)| id).collect();
        let sentences: BTreeSet<&str> = cases().map(|(_, cite)| cite.text).collect();
        assert_eq!(ids.len(), cases().count(), "two cases have one id");
        assert!(ids.len() >= 300, "{} cases", ids.len());
        assert!(sentences.len() >= 100, "{} sentences", sentences.len());
    }

    #[test]
    fn ids_are_a_group_and_words() {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        for (id, _) in cases() {
            let (group, what) = id.split_once('.').unwrap();
            assert!([group, what].iter().all(|part| !part.is_empty() && part.chars().all(word)), "{id}");
        }
    }

    #[test]
    fn a_case_or_a_group_is_chosen_by_name() {
        let ids = |only: &[&str]| chosen(&only.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(ids(&["add.interface-exists"]).unwrap().len(), 1);
        assert!(ids(&["del"]).unwrap().iter().all(|case| case.id.starts_with("del.")));
        assert!(matches!(ids(&["nosuch"]), Err(Error::Usage(_))));
    }
}
