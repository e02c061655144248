//! The error object: its keys, its codes, and that nothing else is said on standard output.

use serde_json::Value;

use super::{on_versions, shown};
use crate::call::{Call, Reply};
use crate::case::{Case, Verdict, case, fail, need, skip};
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del, Gc, Status};

/// The codes that the specification gives a meaning.
const WELL_KNOWN: [u64; 10] = [1, 2, 3, 4, 5, 6, 7, 11, 50, 51];

pub const CASES: &[Case] = &[
    case("errors.status-is-not-zero", &spec::EXIT, |s| all(s, |_, _| Ok(()))),
    case("errors.object-on-stdout", &spec::ERROR_OUT, |s| {
        all(s, |reply, _| reply.refused("it must")?.object().map(drop))
    }),
    case("errors.has-its-keys", &spec::E_KEYS, |s| {
        all(s, |_, object| {
            for key in ["code", "msg"] {
                need!(object.get(key).is_some(), "the error has no {key}: {object}");
            }
            Ok(())
        })
    }),
    case("errors.version-in-use", &spec::E_VERSION, version_in_use),
    case("errors.code-is-a-number", &spec::E_CODE, |s| {
        all(s, |_, object| {
            need!(object["code"].as_u64().is_some_and(|code| code > 0), "code is {}", object["code"]);
            Ok(())
        })
    }),
    case("errors.code-is-well-known-or-own", &spec::E_RESERVED, |s| {
        all(s, |_, object| {
            let code = object["code"].as_u64().unwrap_or_default();
            need!(code >= 100 || WELL_KNOWN.contains(&code), "code {code} is reserved and has no meaning");
            Ok(())
        })
    }),
    case("errors.code-of-an-existing-interface", &spec::E_FREE, |s| {
        let attached = s.attach()?;
        let reply = s.call(Add, &attached.pod)?.run()?;
        reply.refused("the interface exists")?;
        let code = object(&reply)?["code"].as_u64().unwrap_or_default();
        // 4, if the name is called invalid, or the plugin's own.
        need!(code >= 100 || [4, 7, 11].contains(&code), "code {code} does not say that an interface exists");
        Ok(())
    }),
    case("errors.message-is-text", &spec::E_MSG, |s| {
        all(s, |_, object| {
            need!(object["msg"].as_str().is_some_and(|msg| !msg.trim().is_empty()), "msg is {}", object["msg"]);
            Ok(())
        })
    }),
    case("errors.details-are-text", &spec::E_DETAILS, |s| {
        all(s, |_, object| {
            let details = object.get("details");
            need!(details.is_none_or(Value::is_string), "details is {}", shown(details));
            Ok(())
        })
    }),
    case("errors.no-result-beside", &spec::OUTPUT_JSON, |s| {
        all(s, |_, object| {
            let part = ["interfaces", "ips", "routes"].into_iter().find(|key| object.get(key).is_some());
            need!(part.is_none(), "the error has {} of a result", part.unwrap_or_default());
            Ok(())
        })
    }),
    case("errors.logs-go-elsewhere", &spec::STDERR, |s| {
        all(s, |reply, _| {
            let text = String::from_utf8_lossy(&reply.ended.stdout);
            let text = text.trim();
            need!(text.starts_with('{') && text.ends_with('}'), "{} printed more than an object: {text}", reply.what);
            Ok(())
        })
    }),
    case("errors.of-check", &spec::CHECK_MISSING, |s| {
        s.newest(Check)?;
        let attached = s.attach()?;
        s.del(&attached).done()?;
        s.check(&attached)?.refused("it was deleted")?.object().map(drop)
    }),
    case("errors.of-check-of-an-unknown-container", &spec::E3, unknown_container),
    case("errors.of-gc", &spec::GC_CONTINUE, |s| {
        s.newest(Gc)?;
        s.gc(&[])?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?.object().map(drop)
    }),
    case("errors.of-status-have-its-codes", &spec::E50, |s| status_code(s, &[50, 51])),
];

/// Calls that every plugin must refuse.
fn refused<'a>(scene: &'a Scene<'a>) -> Verdict<Vec<Reply>> {
    let pod = scene.pod()?;
    let add = scene.call(Add, &pod)?;
    let del = scene.call(Del, &pod)?;
    let calls: Vec<Call<'a>> = vec![
        add.clone().conf("cniVersion", "99.0.0"),
        add.clone().conf("name", "a/net"),
        add.clone().stdin(&[b"{"]),
        add.clone().env("CNI_CONTAINERID", "a/b"),
        add.clone().ifname("a/b"),
        add.clone().unset("CNI_CONTAINERID"),
        add.env("CNI_NETNS", "/no/such/netns"),
        del.conf("cniVersion", "99.0.0"),
    ];
    let replies: Vec<Reply> = calls.iter().map(Call::run).collect::<Verdict<_>>()?;
    for reply in &replies {
        reply.refused("its parameters are invalid")?;
    }
    Ok(replies)
}

fn object(reply: &Reply) -> Verdict<Value> {
    reply.refused("it must")?.object().cloned()
}

/// Judges every refusal.
fn all(scene: &Scene<'_>, judge: impl Fn(&Reply, &Value) -> Verdict) -> Verdict {
    for reply in refused(scene)? {
        judge(&reply, &object(&reply)?)?;
    }
    Ok(())
}

fn version_in_use(scene: &Scene<'_>) -> Verdict {
    on_versions(scene, Add, |version| {
        let pod = scene.pod()?;
        let call = Call::attached(scene, Add, version, &pod).env("CNI_NETNS", "/no/such/netns");
        let reply = call.run()?;
        let printed = object(&reply)?["cniVersion"].clone();
        need!(printed == version.to_string(), "the error's cniVersion is {printed}");
        Ok(())
    })
}

/// Nothing was ever attached, so only the parameters can tell.
fn unknown_container(scene: &Scene<'_>) -> Verdict {
    let version = scene.newest(Check)?;
    let pod = scene.pod()?;
    let prev = serde_json::json!({ "cniVersion": version.to_string(), "interfaces": [], "ips": [], "routes": [] });
    let refusal = scene.call(Check, &pod)?.prev(&prev).refused("the container is unknown")?;
    match refusal.object()?["code"].as_u64() {
        Some(3) => Ok(()),
        // Every plugin may say what it finds missing in words of its own.
        Some(100..) => skip("the plugin has a code of its own for this"),
        other => fail(format!("the container is unknown, and the error's code is {other:?}")),
    }
}

/// A plugin that cannot serve ADD: without its delegate.
fn status_code(scene: &Scene<'_>, codes: &[u64]) -> Verdict {
    scene.newest(Status)?;
    if scene.subject().delegate().is_none() {
        return skip("nothing can be taken away from the plugin: the configuration delegates nothing");
    }
    let call = scene.plain(Status)?.ipam(|ipam| drop(ipam.insert("type".into(), super::ABSENT.into())));
    call.refused("its delegate is missing")?.code(codes)
}
