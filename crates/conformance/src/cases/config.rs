//! The configuration on standard input: well-formed or not, its version, its name, its other keys.

use serde_json::{Value, json};

use super::ready;
use crate::call::{Call, Refusal};
use crate::case::{Case, Stop, Verdict, case, fail, need, skip};
use crate::look;
use crate::scene::Scene;
use crate::spec;
use crate::version::{Verb, Version};

use Verb::{Add, Check, Del, Gc, Status};

const UNKNOWN_KEY: &str = "x-conformance";
const UNKNOWN_VALUE: &str = "an-unknown-value";

pub const CASES: &[Case] = &[
    case("config.input-empty", &spec::BY_STDIN, |s| malformed(s, Add, b"")),
    case("config.input-cut-off", &spec::IN_JSON, |s| malformed(s, Add, b"{\"cniVersion\": \"1.0.0\", \"name\": ")),
    case("config.input-no-json", &spec::IN_JSON, |s| malformed(s, Add, b"name: net")),
    case("config.input-a-list", &spec::ADD_STDIN, |s| malformed(s, Add, b"[]")),
    case("config.input-a-string", &spec::ADD_STDIN, |s| malformed(s, Add, b"\"net\"")),
    case("config.input-a-number", &spec::ADD_STDIN, |s| malformed(s, Add, b"7")),
    case("config.input-null", &spec::ADD_STDIN, |s| malformed(s, Add, b"null")),
    case("config.input-an-empty-object", &spec::ADD_STDIN, |s| malformed(s, Add, b"{}")),
    case("config.input-with-a-comment", &spec::IN_JSON, |s| around(s, "// a comment\n", "")),
    case("config.input-with-a-second-object", &spec::IN_JSON, |s| around(s, "", "{}")),
    case("config.input-with-a-tail", &spec::IN_JSON, |s| around(s, "", " tail")),
    case("config.input-not-utf8", &spec::IN_JSON, not_utf8),
    case("config.input-cut-off-code", &spec::E6, |s| {
        ready(s, Add, |call| call.stdin(&[b"{\"cniVersion\":"]).refused("its input is cut off")?.code(&[6]))
    }),
    case("config.input-cut-off-for-del", &spec::E6, |s| malformed(s, Del, b"{")),
    case("config.input-cut-off-for-check", &spec::E6, |s| malformed(s, Check, b"{")),
    case("config.input-cut-off-for-gc", &spec::E6, |s| malformed(s, Gc, b"{")),
    case("config.input-cut-off-for-status", &spec::STATUS_STDIN, |s| malformed(s, Status, b"{")),
    case("config.input-in-two-parts", &spec::BY_STDIN, in_parts),
    case("config.input-with-white-space", &spec::IN_JSON, |s| taken_around(s, " \n\t", "\n\n ")),
    case("config.input-of-256-kib", &spec::BY_STDIN, |s| taken_around(s, "", &" ".repeat(256 << 10))),
    case("config.input-with-escapes", &spec::IN_JSON, escapes),
    case("config.version-unknown-for-add", &spec::E1, |s| version(s, Add, json!("99.0.0"), &[1])),
    case("config.version-unknown-for-del", &spec::E1, |s| version(s, Del, json!("99.0.0"), &[1])),
    case("config.version-unknown-for-check", &spec::E1, |s| version(s, Check, json!("99.0.0"), &[1])),
    case("config.version-unknown-for-gc", &spec::E1, |s| version(s, Gc, json!("99.0.0"), &[1])),
    case("config.version-unknown-for-status", &spec::E1, |s| version(s, Status, json!("99.0.0"), &[1])),
    case("config.version-no-version", &spec::E6_VERSION, |s| version(s, Add, json!("newest"), &[1, 6, 7])),
    case("config.version-a-number", &spec::E6_VERSION, |s| version(s, Add, json!(1.0), &[1, 6, 7])),
    case("config.version-a-list", &spec::E6_VERSION, |s| version(s, Add, json!(["1.0.0"]), &[1, 6, 7])),
    case("config.version-missing", &spec::SELECTED_VERSION, version_missing),
    case("config.version-before-check", &spec::CHECK_PROBE, |s| too_old(s, Check, Version::V0_3_1)),
    case("config.version-before-gc", &spec::GC_WAY, |s| too_old(s, Gc, Version::V1_0_0)),
    case("config.version-before-status", &spec::STATUS_WAY, |s| too_old(s, Status, Version::V1_0_0)),
    case("config.name-missing", &spec::INSERTED_NAME, |s| name(s, &Value::Null)),
    case("config.name-empty", &spec::NAME, |s| name(s, &json!(""))),
    case("config.name-a-number", &spec::NAME, |s| name(s, &json!(7))),
    case("config.name-begins-with-hyphen", &spec::NAME_CHARS, |s| name(s, &json!("-net"))),
    case("config.name-begins-with-dot", &spec::NAME_CHARS, |s| name(s, &json!(".net"))),
    case("config.name-begins-with-underscore", &spec::NAME_CHARS, |s| name(s, &json!("_net"))),
    case("config.name-with-space", &spec::NAME_CHARS, |s| name(s, &json!("a net"))),
    case("config.name-beyond-ascii", &spec::NAME_CHARS, |s| name(s, &json!("n\u{e9}t"))),
    case("config.name-with-slash", &spec::NAME_PATH, |s| name(s, &json!("a/net"))),
    case("config.name-is-a-path-upwards", &spec::NAME_PATH, |s| name(s, &json!("../net"))),
    case("config.name-invalid-code", &spec::E7_VALIDATION, |s| {
        ready(s, Add, |call| call.conf("name", "a/net").refused("the name is \"a/net\"")?.code(&[7]))
    }),
    case("config.name-missing-code", &spec::E7, |s| {
        ready(s, Add, |call| call.without("name").refused("the name is missing")?.code(&[7]))
    }),
    case("config.name-with-dot-hyphen-underscore", &spec::NAME_CHARS, |s| name_taken(s, "a.b-c_d")),
    case("config.name-begins-with-digit", &spec::NAME_CHARS, |s| name_taken(s, "0net")),
    case("config.type-missing", &spec::TYPE, type_missing),
    case("config.unknown-key", &spec::UNKNOWN_FIELDS, |s| unknown(s).map(drop)),
    case("config.unknown-key-code", &spec::E2, |s| match unknown(s)? {
        Some(refusal) => refusal.code(&[2]),
        None => skip("the plugin takes unknown fields"),
    }),
    case("config.unknown-key-named", &spec::E2_NAMES, |s| match unknown(s)? {
        Some(refusal) => refusal.says(UNKNOWN_KEY).and(refusal.says(UNKNOWN_VALUE)),
        None => skip("the plugin takes unknown fields"),
    }),
    case("config.args-of-others", &spec::C_ARGS_IGNORED, |s| {
        let args = json!({ "cni": { "labels": [{ "key": "app", "value": "web" }], "others": 7 }, "org.example": [1] });
        ready(s, Add, |call| call.conf("args", args).result().map(drop))
    }),
    case("config.reserved-key", &spec::RESERVED, |s| {
        ready(s, Add, |call| call.conf("cni.dev/other", json!({ "a": 1 })).result().map(drop))
    }),
    case("config.runtime-config-empty", &spec::RUNTIME_CONFIG, |s| {
        ready(s, Add, |call| call.conf("runtimeConfig", json!({})).result().map(drop))
    }),
    case("config.resolvers-respected", &spec::SEMANTICS, resolvers),
    case("config.refused-add-leaves-nothing", &spec::DEL_AFTER_FAILED_ADD, refused_leaves_nothing),
];

fn malformed(scene: &Scene<'_>, verb: Verb, input: &[u8]) -> Verdict {
    let shown = String::from_utf8_lossy(input).into_owned();
    ready(scene, verb, |call| call.stdin(&[input]).refused(&format!("its input is {shown:?}")).map(drop))
}

/// A good configuration with something before and behind that makes it none.
fn around(scene: &Scene<'_>, before: &str, behind: &str) -> Verdict {
    ready(scene, Add, |call| {
        let text = format!("{before}{}{behind}", call.text());
        call.stdin(&[text.as_bytes()]).refused("its input is not one JSON object").map(drop)
    })
}

fn taken_around(scene: &Scene<'_>, before: &str, behind: &str) -> Verdict {
    ready(scene, Add, |call| {
        let text = format!("{before}{}{behind}", call.text());
        call.stdin(&[text.as_bytes()]).result().map(drop)
    })
}

fn not_utf8(scene: &Scene<'_>) -> Verdict {
    ready(scene, Add, |call| {
        let call = call.conf("name", "NAME");
        let text = call.text();
        let (head, tail) = text.split_once("NAME").unwrap_or_default();
        let bytes = [head.as_bytes(), b"net\xff", tail.as_bytes()].concat();
        call.stdin(&[&bytes]).refused("the name is no UTF-8").map(drop)
    })
}

fn in_parts(scene: &Scene<'_>) -> Verdict {
    ready(scene, Add, |call| {
        let text = call.text();
        let (head, tail) = text.split_at(text.len() / 2);
        call.stdin(&[head.as_bytes(), tail.as_bytes()]).result().map(drop)
    })
}

fn escapes(scene: &Scene<'_>) -> Verdict {
    ready(scene, Add, |call| {
        let text = call.text().replacen("\"name\"", "\"\\u006eame\"", 1);
        call.stdin(&[text.as_bytes()]).result().map(drop)
    })
}

fn version(scene: &Scene<'_>, verb: Verb, version: Value, codes: &[u64]) -> Verdict {
    let why = format!("cniVersion is {version}");
    ready(scene, verb, |call| call.conf("cniVersion", version).refused(&why)?.code(codes))
}

/// Runtimes always insert a version: without one, any answer is right that is one.
fn version_missing(scene: &Scene<'_>) -> Verdict {
    ready(scene, Add, |call| {
        let reply = call.without("cniVersion").run()?;
        if reply.succeeded() {
            reply.result().map(drop)
        } else {
            reply.refused("there is no version")?.code(&[1, 6, 7])
        }
    })
}

/// The operation, with a configuration of a version that did not have it.
fn too_old(scene: &Scene<'_>, verb: Verb, version: Version) -> Verdict {
    scene.newest(verb)?;
    if !scene.subject().versions().contains(&version) {
        return Err(Stop::Unclaimed(format!("the plugin does not claim {version}")));
    }
    let why = format!("{version} has no {verb}");
    if verb == Check {
        let attached = scene.attach_in(version)?;
        let call = Call::attached(scene, Check, version, &attached.pod).prev(&attached.result);
        return call.refused(&why)?.code(&[1]);
    }
    let call = Call::plain(scene, verb, version).conf("cni.dev/valid-attachments", json!([]));
    call.refused(&why)?.code(&[1])
}

/// A name, or null for none, that must be refused.
fn name(scene: &Scene<'_>, name: &Value) -> Verdict {
    ready(scene, Add, |call| {
        let call = if name.is_null() { call.without("name") } else { call.conf("name", name.clone()) };
        call.refused(&format!("the name is {name}")).map(drop)
    })
}

fn name_taken(scene: &Scene<'_>, name: &str) -> Verdict {
    let pod = scene.pod()?;
    scene.call(Add, &pod)?.conf("name", name).result()?;
    scene.call(Del, &pod)?.conf("name", name).done()
}

/// The plugin is running already: without its name, any answer is right that is one.
fn type_missing(scene: &Scene<'_>) -> Verdict {
    ready(scene, Add, |call| {
        let reply = call.without("type").run()?;
        if reply.succeeded() { reply.result().map(drop) } else { reply.refused("there is no type")?.code(&[2, 6, 7]) }
    })
}

/// An unknown key must be taken or refused; the refusal, if it was.
fn unknown(scene: &Scene<'_>) -> Verdict<Option<Refusal>> {
    let pod = scene.pod()?;
    let reply = scene.call(Add, &pod)?.conf(UNKNOWN_KEY, UNKNOWN_VALUE).run()?;
    if reply.succeeded() {
        reply.result()?;
        return Ok(None);
    }
    reply.refused("there is an unknown key").map(Some)
}

fn resolvers(scene: &Scene<'_>) -> Verdict {
    let dns =
        json!({ "nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["example.org"], "options": [] });
    let pod = scene.pod()?;
    let result = scene.call(Add, &pod)?.conf("dns", dns).result()?;
    let servers = &result["dns"]["nameservers"];
    match servers.as_array() {
        None => skip("the plugin does not consume `dns`"),
        Some(list) if list.is_empty() => skip("the plugin does not consume `dns`"),
        Some(list) if list.iter().any(|server| server == "192.0.2.53") => Ok(()),
        Some(_) => fail(format!("the configuration names the resolver 192.0.2.53, the result {servers}")),
    }
}

fn refused_leaves_nothing(scene: &Scene<'_>) -> Verdict {
    let pod = scene.pod()?;
    let before = look::snapshot(scene.place())?;
    scene.call(Add, &pod)?.conf("cniVersion", "99.0.0").refused("cniVersion is unknown")?;
    let after = look::snapshot(scene.place())?;
    let left: Vec<&String> = after.difference(&before).collect();
    need!(left.is_empty(), "a refused ADD left on the host: {left:?}");
    scene.call(Del, &pod)?.done()
}
