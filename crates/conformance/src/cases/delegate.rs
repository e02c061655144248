//! Delegation of addresses to another plugin. A spy stands before the real one in `CNI_PATH`: a shell script with its name
//! that writes down what it was given and what the real one said.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::ABSENT;
use crate::call::Call;
use crate::case::{Case, Verdict, case, fail, need, skip};
use crate::look;
use crate::scene::{Pod, Scene};
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del, Gc, Status};

pub const CASES: &[Case] = &[
    case("delegate.called-by-add", &spec::INVOKE_IPAM, |s| called(s, Add)),
    case("delegate.called-by-del", &spec::DELEGATE_VERBS, |s| called(s, Del)),
    case("delegate.called-by-check", &spec::CHECK_DELEGATED, |s| called(s, Check)),
    case("delegate.called-by-gc", &spec::GC_FORWARD, |s| called(s, Gc)),
    case("delegate.called-by-status", &spec::STATUS_DELEGATED, |s| called(s, Status)),
    case("delegate.found-in-the-first-folder", &spec::DELEGATE_LOOKUP, |s| {
        let (spy, _pod, _) = spied_add(s)?;
        need!(!spy.log().is_empty(), "the delegate in the first folder of CNI_PATH was not executed");
        Ok(())
    }),
    case("delegate.gets-the-parameters", &spec::DELEGATE_ENV, gets_parameters),
    case("delegate.gets-the-whole-environment", &spec::DELEGATE_SAME, gets_environment),
    case("delegate.gets-the-whole-configuration", &spec::DELEGATE_WHOLE, gets_configuration),
    case("delegate.gets-more-than-its-section", &spec::DELEGATE_NOT_JUST, |s| {
        let (spy, _pod, _) = spied_add(s)?;
        let given = spy.input("ADD")?;
        for key in ["cniVersion", "name", "type"] {
            need!(given.get(key).is_some(), "the delegate's configuration has no {key}");
        }
        Ok(())
    }),
    case("delegate.gets-it-by-stdin", &spec::DELEGATE_STDIN, |s| {
        let (spy, _pod, _) = spied_add(s)?;
        need!(spy.input("ADD")?.is_object(), "the delegate was given no JSON object");
        Ok(())
    }),
    case("delegate.its-addresses-are-the-result", &spec::IPAM_DETERMINES, its_addresses),
    case("delegate.its-addresses-are-on-the-interface", &spec::ASSIGN, on_interface),
    case("delegate.its-stderr-is-passed-on", &spec::DELEGATE_STDERR, |s| {
        let spy = Spy::new(s)?;
        let pod = s.pod()?;
        let reply = spy.before(s.call(Add, &pod)?).run()?;
        reply.done()?;
        let said = String::from_utf8_lossy(&reply.ended.stderr).into_owned();
        need!(said.contains(SAYS), "the delegate wrote to stderr, the plugin's has {said:?}");
        Ok(())
    }),
    case("delegate.add-fails-with-it", &spec::DELEGATE_ERROR, |s| fails(s, Add)),
    case("delegate.del-fails-with-it", &spec::DELEGATE_ERROR, |s| fails(s, Del)),
    case("delegate.check-fails-with-it", &spec::CHECK_DELEGATED, |s| fails(s, Check)),
    case("delegate.gc-fails-with-it", &spec::GC_CONTINUE, |s| fails(s, Gc)),
    case("delegate.status-fails-with-it", &spec::STATUS_DELEGATED_ERROR, |s| fails(s, Status)),
    case("delegate.add-that-fails-is-undone", &spec::DELEGATE_UNDO, |s| {
        let spy = Spy::new(s)?;
        spy.fail(Add)?;
        let pod = s.pod()?;
        spy.before(s.call(Add, &pod)?).refused("its delegate failed")?;
        let log = spy.log();
        need!(
            log.iter().skip_while(|verb| *verb != "ADD").any(|verb| verb == "DEL"),
            "the delegate saw {log:?}, no DEL"
        );
        Ok(())
    }),
    case("delegate.add-that-fails-leaves-no-interface", &spec::DELEGATE_ERROR, |s| {
        let spy = Spy::new(s)?;
        spy.fail(Add)?;
        let pod = s.pod()?;
        spy.before(s.call(Add, &pod)?).refused("its delegate failed")?;
        spy.before(s.call(Del, &pod)?).done()?;
        let left = look::find(pod.place(), &s.subject().ifname)?;
        need!(left.is_none(), "ADD failed and DEL succeeded, and the interface is there");
        Ok(())
    }),
    case("delegate.its-error-is-passed-on", &spec::DELEGATE_ERROR, |s| {
        let spy = Spy::new(s)?;
        spy.fail(Add)?;
        spy.before(s.call(Add, &s.pod()?)?).refused("its delegate failed")?.says(REFUSES)
    }),
    case("delegate.prints-no-json", &spec::DELEGATE_SUCCESS, |s| {
        let spy = Spy::new(s)?;
        fs::write(spy.dir.join("junk"), "").or_else(|error| skip(error.to_string()))?;
        spy.before(s.call(Add, &s.pod()?)?).refused("its delegate printed no JSON").map(drop)
    }),
    case("delegate.missing", &spec::IPAM_TYPE, |s| {
        delegating(s)?;
        let pod = s.pod()?;
        let call = s.call(Add, &pod)?;
        call.ipam(|ipam| drop(ipam.insert("type".into(), ABSENT.into()))).refused("there is no such delegate").map(drop)
    }),
    case("delegate.named-by-a-path", &spec::IPAM_TYPE_PATH, |s| {
        let name = format!("../{}", delegating(s)?);
        let pod = s.pod()?;
        let call = s.call(Add, &pod)?;
        call.ipam(|ipam| drop(ipam.insert("type".into(), name.into()))).refused("its delegate has a slash").map(drop)
    }),
    case("delegate.nowhere-in-the-path", &spec::PATH, |s| {
        delegating(s)?;
        s.call(Add, &s.pod()?)?.env("CNI_PATH", "/no/such/folder").refused("the delegate is not found").map(drop)
    }),
    case("delegate.missing-leaves-nothing", &spec::DEL_AFTER_FAILED_ADD, missing_leaves_nothing),
];

/// What the spy writes to standard error.
const SAYS: &str = "the spy of the suite was here";
/// The message of its error.
const REFUSES: &str = "the spy of the suite refuses";

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A folder with the spy; removed when dropped.
struct Spy {
    dir: PathBuf,
}

impl Spy {
    fn new(scene: &Scene<'_>) -> Verdict<Self> {
        let name = delegating(scene)?;
        let folders = scene.subject().path.split(':').map(Path::new);
        let Some(real) = folders.map(|folder| folder.join(&name)).find(|file| file.is_file()) else {
            return skip(format!("{name} is in no folder of CNI_PATH"));
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let spy = Self { dir: std::env::temp_dir().join(format!("conformance-{}-{number}", std::process::id())) };
        spy.install(&name, &real).or_else(|error| skip(format!("the spy cannot be installed: {error}")))?;
        Ok(spy)
    }

    fn install(&self, name: &str, real: &Path) -> std::io::Result<()> {
        let bin = self.dir.join("bin");
        fs::create_dir_all(&bin)?;
        let script = format!(
            "#!/bin/sh\n\
             d={dir}\n\
             echo \"$CNI_COMMAND\" >> $d/log\n\
             cat > $d/$CNI_COMMAND.in\n\
             env > $d/$CNI_COMMAND.env\n\
             echo '{SAYS}' >&2\n\
             if [ -e $d/fail-$CNI_COMMAND ]; then\n\
             echo '{{\"cniVersion\":\"1.0.0\",\"code\":100,\"msg\":\"{REFUSES}\"}}'; exit 1; fi\n\
             if [ -e $d/junk ]; then echo junk; exit 0; fi\n\
             {real} < $d/$CNI_COMMAND.in > $d/$CNI_COMMAND.out; s=$?\n\
             cat $d/$CNI_COMMAND.out; exit $s\n",
            dir = self.dir.display(),
            real = real.display(),
        );
        fs::write(bin.join(name), script)?;
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))
    }

    /// A call that finds the spy first.
    fn before<'a>(&self, call: Call<'a>) -> Call<'a> {
        let path = call.path();
        call.env("CNI_PATH", format!("{}:{path}", self.dir.join("bin").display()))
    }

    /// From now on it fails when called with an operation.
    fn fail(&self, verb: Verb) -> Verdict {
        fs::write(self.dir.join(format!("fail-{verb}")), "").or_else(|error| skip(error.to_string()))
    }

    /// The operations it saw.
    fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn input(&self, verb: &str) -> Verdict<Value> {
        self.json(&format!("{verb}.in"))
    }

    fn json(&self, file: &str) -> Verdict<Value> {
        let text = fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        serde_json::from_str(&text).or_else(|_| fail(format!("the delegate's {file} is no JSON: {text:?}")))
    }

    fn environment(&self, verb: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join(format!("{verb}.env"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Spy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The delegate's name; the case is skipped where there is none.
fn delegating(scene: &Scene<'_>) -> Verdict<String> {
    match scene.subject().delegate() {
        Some(name) => Ok(name.to_owned()),
        None => skip("the configuration delegates nothing"),
    }
}

fn spied_add(scene: &Scene<'_>) -> Verdict<(Spy, Pod, Value)> {
    let spy = Spy::new(scene)?;
    let pod = scene.pod()?;
    let result = spy.before(scene.call(Add, &pod)?).result()?;
    Ok((spy, pod, result))
}

/// A call of an operation behind an ADD, where the operation needs one.
fn behind_add(scene: &Scene<'_>, spy: &Spy, verb: Verb, judge: impl FnOnce(Call<'_>) -> Verdict) -> Verdict {
    scene.newest(verb)?;
    let pod = scene.pod()?;
    match verb {
        Add => judge(spy.before(scene.call(Add, &pod)?)),
        Gc => judge(spy.before(scene.gc(&[])?)),
        Status | Verb::Version => judge(spy.before(scene.plain(verb)?)),
        Del | Check => {
            let result = spy.before(scene.call(Add, &pod)?).result()?;
            judge(spy.before(scene.call(verb, &pod)?.prev(&result)))
        }
    }
}

fn called(scene: &Scene<'_>, verb: Verb) -> Verdict {
    scene.newest(verb)?;
    let spy = Spy::new(scene)?;
    behind_add(scene, &spy, verb, |call| call.done())?;
    let log = spy.log();
    need!(log.iter().any(|seen| seen == verb.name()), "the delegate saw {log:?}, no {verb}");
    Ok(())
}

fn fails(scene: &Scene<'_>, verb: Verb) -> Verdict {
    scene.newest(verb)?;
    let spy = Spy::new(scene)?;
    spy.fail(verb)?;
    behind_add(scene, &spy, verb, |call| call.refused("its delegate failed").map(drop))
}

fn gets_parameters(scene: &Scene<'_>) -> Verdict {
    let spy = Spy::new(scene)?;
    let pod = scene.pod()?;
    spy.before(scene.call(Add, &pod)?).env("CNI_ARGS", "IgnoreUnknown=1;FOO=BAR").result()?;
    let given = spy.environment("ADD");
    let wanted = [
        "CNI_COMMAND=ADD".to_owned(),
        format!("CNI_CONTAINERID={}", pod.container()),
        format!("CNI_NETNS={}", pod.netns()),
        format!("CNI_IFNAME={}", scene.subject().ifname),
        "CNI_ARGS=IgnoreUnknown=1;FOO=BAR".to_owned(),
    ];
    for line in wanted {
        need!(given.contains(&line), "the delegate's environment has no {line}");
    }
    Ok(())
}

fn gets_environment(scene: &Scene<'_>) -> Verdict {
    let spy = Spy::new(scene)?;
    spy.before(scene.call(Add, &scene.pod()?)?).env("CNI_OTHER", "x").env("OTHER", "y").result()?;
    let given = spy.environment("ADD");
    for line in ["CNI_OTHER=x", "OTHER=y"] {
        need!(given.iter().any(|other| other == line), "the delegate's environment has no {line}");
    }
    Ok(())
}

fn gets_configuration(scene: &Scene<'_>) -> Verdict {
    let spy = Spy::new(scene)?;
    let pod = scene.pod()?;
    let call = spy.before(scene.call(Add, &pod)?).conf("args", serde_json::json!({ "org.example": [1, 2] }));
    call.result()?;
    let sent: Value = serde_json::from_str(&call.text()).unwrap_or_default();
    let given = spy.input("ADD")?;
    need!(given == sent, "the plugin was given {sent}, the delegate {given}");
    Ok(())
}

fn addresses(result: &Value) -> Vec<String> {
    // Before 1.0.0 an address had its family beside it, before 0.3.0 each family had a key.
    let entries = result["ips"].as_array().into_iter().flatten();
    let mut list: Vec<String> = entries.filter_map(|ip| ip["address"].as_str().map(str::to_owned)).collect();
    list.sort();
    list
}

fn its_addresses(scene: &Scene<'_>) -> Verdict {
    let (spy, _pod, result) = spied_add(scene)?;
    let (given, printed) = (addresses(&spy.json("ADD.out")?), addresses(&result));
    need!(!given.is_empty() && given == printed, "the delegate gave {given:?}, the result has {printed:?}");
    Ok(())
}

fn on_interface(scene: &Scene<'_>) -> Verdict {
    let (spy, pod, _) = spied_add(scene)?;
    let link = look::find(pod.place(), &scene.subject().ifname)?;
    let mut there: Vec<String> = Vec::new();
    for address in link.iter().flat_map(|link| &link.addresses) {
        there.push(format!("{}/{}", address.ip, address.length));
    }
    for given in addresses(&spy.json("ADD.out")?) {
        need!(there.contains(&given), "the delegate gave {given}, the interface has {there:?}");
    }
    Ok(())
}

fn missing_leaves_nothing(scene: &Scene<'_>) -> Verdict {
    delegating(scene)?;
    let warm = scene.attach()?;
    scene.del(&warm).done()?;
    let before = super::eventually(|| look::snapshot(scene.place()))?;
    let pod = scene.pod()?;
    let call = scene.call(Add, &pod)?;
    call.ipam(|ipam| drop(ipam.insert("type".into(), ABSENT.into()))).refused("there is no such delegate")?;
    scene.call(Del, &pod)?.done()?;
    super::eventually(|| {
        let after = look::snapshot(scene.place())?;
        let left: Vec<&String> = after.difference(&before).collect();
        need!(left.is_empty(), "left on the host: {left:?}");
        Ok(())
    })
}
