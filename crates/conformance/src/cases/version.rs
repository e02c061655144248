//! VERSION, and whether what it claims is true.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::on_versions;
use crate::call::Call;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::scene::Scene;
use crate::spec;
use crate::version::{Verb, Version};

pub const CASES: &[Case] = &[
    case("version.succeeds", &spec::COMMAND, |scene| probe(scene).run()?.done()),
    case("version.prints-one-object", &spec::VERSION_OUT, |scene| probe(scene).result().map(drop)),
    case("version.has-both-keys", &spec::V_KEYS, both_keys),
    case("version.echoes-the-input", &spec::V_ECHO, echoes),
    case("version.echoes-an-unknown-protocol", &spec::VERSION_IN, unknown_protocol),
    case("version.lists-strings", &spec::V_LIST, |scene| claims(scene).map(drop)),
    case("version.lists-each-once", &spec::CLAIMS, each_once),
    case("version.lists-versions-of-three-numbers", &spec::SEMVER, three_numbers),
    case("version.lists-the-configured", &spec::CONF_VERSION, lists_configured),
    case("version.needs-the-command-only", &spec::VERSION_REQUIRED, needs_command_only),
    case("version.takes-all-parameters", &spec::BY_ENV, takes_all),
    case("version.takes-a-whole-configuration", &spec::FIELDS_EXTRA, |scene| {
        let call = probe(scene);
        let text = call.text();
        call.stdin(&[text.as_bytes()]).result().map(drop)
    }),
    case("version.answers-the-same-again", &spec::INVOCATION, same_again),
    case("version.refuses-what-is-no-json", &spec::E6_VERSION, |scene| {
        probe(scene).stdin(&[b"{\"cniVersion\": "]).refused("its input ends in the middle")?.code(&[6])
    }),
    case("version.changes-nothing", &spec::V_KEYS, changes_nothing),
    case("version.claims-what-add-takes", &spec::SELECTED_VERSION, claims_are_true),
    case("version.unclaimed-is-refused", &spec::E1, unclaimed_is_refused),
];

/// VERSION as a runtime asks.
fn probe<'a>(scene: &'a Scene<'a>) -> Call<'a> {
    let version = scene.subject().newest(Verb::Version).unwrap_or(Version::V1_1_0);
    let input = json!({ "cniVersion": version.to_string() }).to_string();
    Call::plain(scene, Verb::Version, version).stdin(&[input.as_bytes()])
}

fn asked(scene: &Scene<'_>, version: &str) -> Verdict<Value> {
    let input = json!({ "cniVersion": version }).to_string();
    probe(scene).stdin(&[input.as_bytes()]).result()
}

fn claims(scene: &Scene<'_>) -> Verdict<Vec<String>> {
    let answer = probe(scene).result()?;
    let list = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
    need!(!list.is_empty(), "supportedVersions is no list with entries: {}", answer["supportedVersions"]);
    let texts: Vec<String> = list.iter().filter_map(|entry| entry.as_str().map(str::to_owned)).collect();
    need!(texts.len() == list.len(), "supportedVersions has entries that are no strings: {}", Value::from(list));
    Ok(texts)
}

fn both_keys(scene: &Scene<'_>) -> Verdict {
    let answer = probe(scene).result()?;
    need!(answer["cniVersion"].is_string(), "cniVersion is no string: {}", answer["cniVersion"]);
    need!(answer["supportedVersions"].is_array(), "supportedVersions is no list: {}", answer["supportedVersions"]);
    Ok(())
}

fn echoes(scene: &Scene<'_>) -> Verdict {
    on_versions(scene, Verb::Version, |version| {
        let answer = asked(scene, &version.to_string())?;
        let printed = &answer["cniVersion"];
        need!(*printed == version.to_string(), "asked with cniVersion {version}, it printed {printed}");
        Ok(())
    })
}

fn unknown_protocol(scene: &Scene<'_>) -> Verdict {
    let answer = asked(scene, "9.9.9")?;
    need!(answer["cniVersion"] == "9.9.9", "asked with cniVersion 9.9.9, it printed {}", answer["cniVersion"]);
    Ok(())
}

fn each_once(scene: &Scene<'_>) -> Verdict {
    let claims = claims(scene)?;
    let distinct: BTreeSet<&String> = claims.iter().collect();
    need!(distinct.len() == claims.len(), "supportedVersions names one twice: {claims:?}");
    Ok(())
}

fn three_numbers(scene: &Scene<'_>) -> Verdict {
    let claims = claims(scene)?;
    for claim in &claims {
        let parts: Vec<&str> = claim.split('.').collect();
        let numbers = parts.iter().all(|part| part.parse::<u32>().is_ok());
        need!(parts.len() == 3 && numbers, "supportedVersions has {claim:?}, which is not MAJOR.MINOR.PATCH");
    }
    Ok(())
}

fn lists_configured(scene: &Scene<'_>) -> Verdict {
    let configured = scene.subject().conf["cniVersion"].as_str().unwrap_or_default().to_owned();
    let claims = claims(scene)?;
    need!(claims.contains(&configured), "the configuration is of version {configured}, the plugin has {claims:?}");
    Ok(())
}

fn needs_command_only(scene: &Scene<'_>) -> Verdict {
    probe(scene).unset("CNI_PATH").result().map(drop)
}

fn takes_all(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let plain = probe(scene).result()?;
    let call = probe(scene)
        .env("CNI_CONTAINERID", pod.container())
        .env("CNI_NETNS", pod.netns())
        .ifname("eth0")
        .env("CNI_ARGS", "FOO=BAR");
    let answer = call.result()?;
    need!(answer == plain, "with the parameters of an attachment it printed {answer}, without {plain}");
    need!(look::find(pod.place(), "eth0")?.is_none(), "it made an interface");
    Ok(())
}

fn same_again(scene: &Scene<'_>) -> Verdict {
    let (first, second) = (probe(scene).result()?, probe(scene).result()?);
    need!(first == second, "first {first}, then {second}");
    Ok(())
}

fn changes_nothing(scene: &Scene<'_>) -> Verdict {
    let before = look::snapshot(scene.place())?;
    probe(scene).run()?.done()?;
    let after = look::snapshot(scene.place())?;
    let new: Vec<&String> = after.symmetric_difference(&before).collect();
    need!(new.is_empty(), "the host changed: {new:?}");
    Ok(())
}

fn claims_are_true(scene: &Scene<'_>) -> Verdict {
    on_versions(scene, Verb::Add, |version| scene.attach_in(version).map(drop))
}

fn unclaimed_is_refused(scene: &Scene<'_>) -> Verdict {
    let claimed = &scene.subject().claims;
    let Some(version) = Version::ALL.into_iter().find(|version| !claimed.contains(&version.to_string())) else {
        return skip("the plugin claims every version that the suite knows");
    };
    let pod = scene.pod()?;
    Call::attached(scene, Verb::Add, version, &pod).refused("it does not claim this version")?.code(&[1])
}
