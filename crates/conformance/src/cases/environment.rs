//! The parameters in the environment: which are required, and what they may be.

use super::ready;
use crate::call::Call;
use crate::case::{Case, Verdict, case, need, skip};
use crate::look;
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del, Gc};

const CID: &str = "CNI_CONTAINERID";
const NETNS: &str = "CNI_NETNS";
const IFNAME: &str = "CNI_IFNAME";
const COMMAND: &str = "CNI_COMMAND";
const ARGS: &str = "CNI_ARGS";

pub const CASES: &[Case] = &[
    case("environment.command-missing", &spec::BY_ENV, |s| missing(s, Add, COMMAND)),
    case("environment.command-empty", &spec::COMMAND, |s| set(s, Add, COMMAND, "")),
    case("environment.command-unknown", &spec::COMMAND, |s| set(s, Add, COMMAND, "UPDATE")),
    case("environment.command-lower-case", &spec::COMMAND, |s| set(s, Add, COMMAND, "add")),
    case("environment.command-unknown-code", &spec::E4, |s| code(s, COMMAND, "UPDATE")),
    case("environment.command-unknown-named", &spec::E4_NAMES, |s| named(s, COMMAND, "UPDATE")),
    case("environment.add-without-container", &spec::ADD_REQUIRED, |s| missing(s, Add, CID)),
    case("environment.add-without-netns", &spec::ADD_REQUIRED, |s| missing(s, Add, NETNS)),
    case("environment.add-without-interface", &spec::ADD_REQUIRED, |s| missing(s, Add, IFNAME)),
    case("environment.del-without-container", &spec::DEL_REQUIRED, |s| missing(s, Del, CID)),
    case("environment.del-without-interface", &spec::DEL_REQUIRED, |s| missing(s, Del, IFNAME)),
    case("environment.check-without-container", &spec::CHECK_REQUIRED, |s| missing(s, Check, CID)),
    case("environment.check-without-netns", &spec::CHECK_REQUIRED, |s| missing(s, Check, NETNS)),
    case("environment.check-without-interface", &spec::CHECK_REQUIRED, |s| missing(s, Check, IFNAME)),
    case("environment.gc-without-path", &spec::GC_REQUIRED, |s| missing(s, Gc, "CNI_PATH")),
    case("environment.container-missing-code", &spec::E4, |s| missing_code(s, CID)),
    case("environment.netns-missing-code", &spec::E4, |s| missing_code(s, NETNS)),
    case("environment.interface-missing-code", &spec::E4, |s| missing_code(s, IFNAME)),
    case("environment.container-missing-named", &spec::E4_NAMES, |s| missing_named(s, CID)),
    case("environment.netns-missing-named", &spec::E4_NAMES, |s| missing_named(s, NETNS)),
    case("environment.interface-missing-named", &spec::E4_NAMES, |s| missing_named(s, IFNAME)),
    case("environment.container-empty", &spec::CID_EMPTY, |s| set(s, Add, CID, "")),
    case("environment.netns-empty", &spec::NETNS, |s| set(s, Add, NETNS, "")),
    case("environment.interface-empty", &spec::IFNAME, |s| set(s, Add, IFNAME, "")),
    case("environment.container-begins-with-hyphen", &spec::CID_CHARS, |s| set(s, Add, CID, "-a")),
    case("environment.container-begins-with-dot", &spec::CID_CHARS, |s| set(s, Add, CID, ".a")),
    case("environment.container-begins-with-underscore", &spec::CID_CHARS, |s| set(s, Add, CID, "_a")),
    case("environment.container-with-slash", &spec::CID_CHARS, |s| set(s, Add, CID, "a/b")),
    case("environment.container-with-space", &spec::CID_CHARS, |s| set(s, Add, CID, "a b")),
    case("environment.container-with-line-break", &spec::CID_CHARS, |s| set(s, Add, CID, "a\nb")),
    case("environment.container-with-colon", &spec::CID_CHARS, |s| set(s, Add, CID, "a:b")),
    case("environment.container-beyond-ascii", &spec::CID_CHARS, |s| set(s, Add, CID, "a\u{e4}")),
    case("environment.container-is-a-path-upwards", &spec::CID_CHARS, |s| set(s, Add, CID, "../a")),
    case("environment.container-invalid-for-del", &spec::CID_CHARS, |s| set(s, Del, CID, "a/../b")),
    case("environment.container-invalid-for-check", &spec::CID_CHARS, |s| set(s, Check, CID, "a b")),
    case("environment.container-invalid-code", &spec::E4, |s| code(s, CID, "a/b")),
    case("environment.container-invalid-named", &spec::E4_NAMES, |s| named(s, CID, "a/b")),
    case("environment.container-with-dot-hyphen-underscore", &spec::CID_CHARS, |s| taken(s, CID, "a.b-c_d")),
    case("environment.container-of-one-letter", &spec::CID, |s| taken(s, CID, "a")),
    case("environment.container-begins-with-digit", &spec::CID_CHARS, |s| taken(s, CID, "0a")),
    case("environment.container-in-capitals", &spec::CID_CHARS, |s| taken(s, CID, "ABC")),
    case("environment.container-of-64-digits", &spec::CID, |s| {
        taken(s, CID, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
    }),
    case("environment.interface-too-long", &spec::IFNAME, |s| set(s, Add, IFNAME, "abcdefghijklmnop")),
    case("environment.interface-is-dot", &spec::IFNAME, |s| set(s, Add, IFNAME, ".")),
    case("environment.interface-is-two-dots", &spec::IFNAME, |s| set(s, Add, IFNAME, "..")),
    case("environment.interface-with-slash", &spec::IFNAME, |s| set(s, Add, IFNAME, "a/b")),
    case("environment.interface-with-colon", &spec::IFNAME, |s| set(s, Add, IFNAME, "a:b")),
    case("environment.interface-with-space", &spec::IFNAME, |s| set(s, Add, IFNAME, "a b")),
    case("environment.interface-with-tab", &spec::IFNAME, |s| set(s, Add, IFNAME, "a\tb")),
    case("environment.interface-with-line-break", &spec::IFNAME, |s| set(s, Add, IFNAME, "a\nb")),
    case("environment.interface-invalid-code", &spec::E4, |s| code(s, IFNAME, "a/b")),
    case("environment.interface-invalid-named", &spec::E4_NAMES, |s| named(s, IFNAME, "a/b")),
    case("environment.interface-invalid-for-del", &spec::IFNAME, |s| set(s, Del, IFNAME, "a/b")),
    case("environment.interface-of-15-letters", &spec::ADD_CREATE, |s| taken(s, IFNAME, "abcdefghijklmno")),
    case("environment.interface-with-punctuation", &spec::ADD_CREATE, |s| taken(s, IFNAME, "a-b_c.1")),
    case("environment.interface-begins-with-digit", &spec::ADD_CREATE, |s| taken(s, IFNAME, "1net")),
    case("environment.interface-in-capitals", &spec::ADD_CREATE, |s| taken(s, IFNAME, "NET1")),
    case("environment.netns-does-not-exist", &spec::NETNS_PATH, |s| set(s, Add, NETNS, "/run/netns/no-such-netns")),
    case("environment.netns-is-a-folder", &spec::NETNS_PATH, |s| set(s, Add, NETNS, "/run/netns")),
    case("environment.netns-is-a-file", &spec::NETNS_PATH, |s| set(s, Add, NETNS, "/proc/version")),
    case("environment.netns-is-of-another-kind", &spec::NETNS_PATH, |s| set(s, Add, NETNS, "/proc/self/ns/uts")),
    case("environment.netns-is-a-name", &spec::NETNS_PATH, |s| set(s, Add, NETNS, "no-such-netns")),
    case("environment.args-absent", &spec::ADD_OPTIONAL, |s| ready(s, Add, |call| call.unset(ARGS).result().map(drop))),
    case("environment.args-empty", &spec::ARGS, |s| ready(s, Add, |call| call.env(ARGS, "").result().map(drop))),
    case("environment.args-of-pairs", &spec::ARGS_PAIRS, |s| args(s, "IgnoreUnknown=1;FOO=BAR;ABC=123")),
    case("environment.args-of-kubernetes", &spec::GENERIC_ARGS, |s| {
        args(
            s,
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=f00;K8S_POD_UID=u",
        )
    }),
    case("environment.args-without-value", &spec::ARGS_PAIRS, |s| set(s, Add, ARGS, "IgnoreUnknown=1;FOO")),
    case("environment.path-absent", &spec::ADD_OPTIONAL, path_absent),
    case("environment.path-absent-for-del", &spec::DEL_OPTIONAL, path_absent_for_del),
    case("environment.path-of-several-folders", &spec::PATH_SEPARATOR, path_of_several),
    case("environment.other-variables", &spec::BY_ENV, |s| {
        ready(s, Add, |call| call.env("CNI_OTHER", "x").env("LANG", "xx_XX").result().map(drop))
    }),
];

/// The call must be refused without a variable.
fn missing(scene: &Scene<'_>, verb: Verb, variable: &str) -> Verdict {
    ready(scene, verb, |call| call.unset(variable).refused(&format!("{variable} is missing")).map(drop))
}

fn missing_code(scene: &Scene<'_>, variable: &str) -> Verdict {
    ready(scene, Add, |call| call.unset(variable).refused(&format!("{variable} is missing"))?.code(&[4]))
}

fn missing_named(scene: &Scene<'_>, variable: &str) -> Verdict {
    ready(scene, Add, |call| call.unset(variable).refused(&format!("{variable} is missing"))?.says(variable))
}

/// The call must be refused with a value, and must have made nothing.
fn set(scene: &Scene<'_>, verb: Verb, variable: &str, value: &str) -> Verdict {
    if verb != Add {
        return ready(scene, verb, |call| spoiled(call, variable, value).refused(&why(variable, value)).map(drop));
    }
    let pod = scene.pod()?;
    spoiled(scene.call(Add, &pod)?, variable, value).refused(&why(variable, value))?;
    let made: Vec<String> = look::links(pod.place())?.into_iter().map(|link| link.name).filter(|n| n != "lo").collect();
    need!(made.is_empty(), "ADD was refused, and the container has {made:?}");
    Ok(())
}

fn code(scene: &Scene<'_>, variable: &str, value: &str) -> Verdict {
    ready(scene, Add, |call| spoiled(call, variable, value).refused(&why(variable, value))?.code(&[4]))
}

fn named(scene: &Scene<'_>, variable: &str, value: &str) -> Verdict {
    ready(scene, Add, |call| spoiled(call, variable, value).refused(&why(variable, value))?.says(variable))
}

fn spoiled<'a>(call: Call<'a>, variable: &str, value: &str) -> Call<'a> {
    call.env(variable, value)
}

fn why(variable: &str, value: &str) -> String {
    format!("{variable} is {value:?}")
}

/// ADD, then DEL, must succeed with a value; the interface is there in between.
fn taken(scene: &Scene<'_>, variable: &str, value: &str) -> Verdict {
    let pod = scene.pod()?;
    let name = if variable == IFNAME { value } else { &scene.subject().ifname };
    scene.call(Add, &pod)?.env(variable, value).result()?;
    need!(look::find(pod.place(), name)?.is_some(), "ADD succeeded, and the container has no interface {name}");
    scene.call(Del, &pod)?.env(variable, value).done()
}

fn args(scene: &Scene<'_>, text: &str) -> Verdict {
    let pod = scene.pod()?;
    scene.call(Add, &pod)?.env(ARGS, text).result()?;
    scene.call(Del, &pod)?.env(ARGS, text).done()
}

fn delegates_nothing(scene: &Scene<'_>) -> Verdict {
    match scene.subject().delegate() {
        Some(ipam) => skip(format!("the configuration delegates to {ipam}, which is found by CNI_PATH")),
        None => Ok(()),
    }
}

fn path_absent(scene: &Scene<'_>) -> Verdict {
    delegates_nothing(scene)?;
    ready(scene, Add, |call| call.unset("CNI_PATH").result().map(drop))
}

fn path_absent_for_del(scene: &Scene<'_>) -> Verdict {
    delegates_nothing(scene)?;
    ready(scene, Del, |call| call.unset("CNI_PATH").done())
}

fn path_of_several(scene: &Scene<'_>) -> Verdict {
    let path = format!("/no/such/folder:{}:/proc", scene.subject().path);
    ready(scene, Add, |call| call.env("CNI_PATH", path).result().map(drop))
}
