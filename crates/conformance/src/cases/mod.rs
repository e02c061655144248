//! The cases, one module a group. Ids and groups are stable: checks outside rely on them.
//!
//! A case is a small function that makes what it needs through its [`Scene`] and says with [`need!`] what has to hold.
//! Where a table gives one function several values, each stands for a rule of its own.

mod add;
mod capability;
mod chain;
mod check;
mod concurrent;
mod config;
mod crash;
mod del;
mod delegate;
mod environment;
mod errors;
mod gc;
mod kernel;
mod leftovers;
mod multi;
mod packet;
mod result;
mod status;
mod version;

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::call::Call;
use crate::case::{Case, Stop, Verdict, fail};
use crate::result::Attached;
use crate::scene::Scene;
use crate::version::{Verb, Version};

/// All cases in the order in which they run.
pub const GROUPS: &[&[Case]] = &[
    version::CASES,
    environment::CASES,
    config::CASES,
    result::CASES,
    kernel::CASES,
    packet::CASES,
    add::CASES,
    chain::CASES,
    del::CASES,
    check::CASES,
    gc::CASES,
    status::CASES,
    errors::CASES,
    multi::CASES,
    concurrent::CASES,
    crash::CASES,
    delegate::CASES,
    capability::CASES,
    leftovers::CASES,
];

/// How long the kernel and the plugin may take to clean up behind an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A network interface that nobody has.
const ABSENT: &str = "absent0";

/// On every claimed version that has an operation; a reason names the version.
fn on_versions(scene: &Scene<'_>, verb: Verb, mut judge: impl FnMut(Version) -> Verdict) -> Verdict {
    for version in scene.versions(verb)? {
        judge(version).map_err(|stop| match stop {
            Stop::Fail(why) => Stop::Fail(format!("in {version}: {why}")),
            other => other,
        })?;
    }
    Ok(())
}

/// On the result of an ADD in every claimed version.
fn on_results<'a>(scene: &'a Scene<'a>, mut judge: impl FnMut(&Attached) -> Verdict) -> Verdict {
    on_versions(scene, Verb::Add, |version| judge(&scene.attach_in(version)?))
}

/// Again and again, until it holds or time is over.
fn eventually<T>(mut look: impl FnMut() -> Verdict<T>) -> Verdict<T> {
    let begun = Instant::now();
    loop {
        match look() {
            Err(Stop::Fail(_)) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

/// What must work, or a reason.
fn works<T, E: Display>(what: impl Display, done: Result<T, E>) -> Verdict<T> {
    done.or_else(|error| fail(format!("{what}: {error}")))
}

/// A call of a verb that would succeed, with whatever must stand before it.
fn ready<'a>(scene: &'a Scene<'a>, verb: Verb, judge: impl FnOnce(Call<'a>) -> Verdict) -> Verdict {
    match verb {
        Verb::Add => judge(scene.call(Verb::Add, &scene.pod()?)?),
        Verb::Del => judge(scene.del(&scene.attach()?)),
        Verb::Check => {
            scene.newest(Verb::Check)?;
            let attached = scene.attach()?;
            judge(scene.check(&attached)?)
        }
        Verb::Gc => judge(scene.gc(&[])?),
        Verb::Status | Verb::Version => judge(scene.plain(verb)?),
    }
}

/// The text of a value that should be a string, for reasons.
fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
}
