//! Calls that reach an agent.

use std::os::unix::net::UnixListener;
use std::process::Command;

use ripstop_cni_spec::{CniVersion, Verb};
use serde_json::{Value, json};

use crate::agent::{Agent, answer, failure, outcome};
use crate::program::{Run, programs};

pub fn config(version: &str) -> Value {
    json!({"cniVersion": version, "name": "net", "type": "ripstop-cni", "cni.dev/valid-attachments": []})
}

#[test]
fn each_verb_of_each_version_passes_through() {
    let agent = Agent::honest();
    for program in programs() {
        for version in CniVersion::ALL {
            for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Version) {
                let run = Run::complete(program, verb.as_str(), &agent.socket(), &config(version.as_str())).end();
                if !version.has(verb) {
                    assert!(run.refusal(1).contains(verb.as_str()));
                    assert_eq!(run.error()["cniVersion"], version.as_str());
                    continue;
                }
                assert_eq!((run.status, run.stderr.as_str()), (Some(0), ""), "{verb} {version}: {run:?}");
                if verb == Verb::Add {
                    let result: Value = serde_json::from_str(&run.stdout).unwrap();
                    assert_eq!(result, json!({"cniVersion": version}));
                } else {
                    assert_eq!(run.stdout, "", "{verb} prints nothing");
                }
            }
        }
    }
}

#[test]
fn the_request_has_what_the_runtime_gave() {
    for program in programs() {
        let agent = Agent::honest();
        let text = "{\n\t\"cniVersion\": \"1.0.0\",\r\n\"name\": \"net\", \"type\": \"t\", \"mtu\": 1400\n}\n";
        let run = Run::complete(program, "ADD", &agent.socket(), &Value::Null)
            .input(text)
            .env("CNI_ARGS", "K8S_POD_NAME=web;K8S_POD_NAMESPACE=shop")
            .env("CNI_NETNS_OVERRIDE", "1")
            .end();
        assert_eq!(run.status, Some(0), "{run:?}");
        let request = agent.requests().remove(0);
        assert_eq!((request.protocol, request.attempt, request.id.len()), (1, 1, 32));
        assert!(request.timeout_ms > 0 && request.timeout_ms <= 10_000);
        let call = request.decode().unwrap();
        assert!(call.netns_override);
        assert_eq!(call.conf.mtu, Some(1400));
        assert_eq!(call.call.netns(), Some("/run/netns/c-1"));
        assert_eq!(call.call.attachment().unwrap().to_string(), "c-1/eth0");
        assert_eq!(call.call.args().unwrap().pod.as_ref().unwrap().to_string(), "shop/web");
    }
}

#[test]
fn the_socket_comes_from_the_configuration_unless_the_environment_has_it() {
    let agent = Agent::honest();
    for program in programs() {
        let mut config = config("1.1.0");
        config["socket"] = agent.socket().to_str().unwrap().into();
        let run = Run::complete(program, "DEL", &agent.socket(), &config).without("RIPSTOP_CNI_SOCKET").end();
        assert_eq!(run.status, Some(0), "{run:?}");
        config["agentTimeout"] = "0s".into();
        let run = Run::complete(program, "DEL", "/nowhere/at/all".as_ref(), &config).end();
        assert!(run.refusal(11).contains("/nowhere/at/all"));
    }
}

#[test]
fn an_error_of_the_agent_is_printed_in_the_version_of_the_call() {
    let agent = Agent::start(|_, _, stream| answer(stream, &failure(104, "no address is free in 10.244.1.0/24")));
    for program in programs() {
        let run = Run::complete(program, "ADD", &agent.socket(), &config("0.4.0")).end();
        assert_eq!(
            run.error(),
            json!({"cniVersion": "0.4.0", "code": 104, "msg": "no address is free in 10.244.1.0/24"})
        );
    }
}

#[test]
fn the_largest_configuration_and_answer_pass() {
    let agent = Agent::start(|_, request, stream| {
        let call = request.decode().unwrap();
        let mut result = outcome(request);
        let padding = "x".repeat(900 << 10);
        let text = json!({"cniVersion": call.conf.version, "padding": padding}).to_string();
        result.result = Some(serde_json::value::RawValue::from_string(text).unwrap());
        answer(stream, &result);
    });
    let mut config = config("1.1.0");
    config["_comment"] = "y".repeat(900 << 10).into();
    for program in programs() {
        let run = Run::complete(program, "ADD", &agent.socket(), &config).end();
        assert_eq!(run.status, Some(0));
        assert!(run.stdout.len() > 900 << 10);
    }
}

#[test]
fn a_hundred_calls_at_once_are_a_hundred_requests() {
    for program in programs() {
        let agent = Agent::honest();
        std::thread::scope(|scope| {
            for n in 0..100 {
                let socket = agent.socket();
                scope.spawn(move || {
                    let run = Run::complete(program, "ADD", &socket, &config("1.1.0"))
                        .env("CNI_CONTAINERID", format!("c-{n}"))
                        .end();
                    assert_eq!(run.status, Some(0), "{run:?}");
                });
            }
        });
        let requests = agent.requests();
        let ids: std::collections::BTreeSet<_> = requests.iter().map(|r| r.id.clone()).collect();
        let containers: std::collections::BTreeSet<_> = requests.iter().map(|r| r.env.container_id.clone()).collect();
        assert_eq!((requests.len(), ids.len(), containers.len()), (100, 100, 100));
        assert!(requests.iter().all(|r| r.attempt == 1));
    }
}

#[test]
fn version_is_answered_without_an_agent() {
    for program in programs() {
        for (input, echoed) in [
            (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
            (r#"{"cniVersion":"a \"quoted\" one"}"#, "a \"quoted\" one"),
            ("{}", "1.1.0"),
            ("", "1.1.0"),
            (" \n", "1.1.0"),
        ] {
            let run = Run::new(program, "VERSION").input(input).end();
            assert_eq!(run.status, Some(0), "{run:?}");
            let printed: Value = serde_json::from_str(&run.stdout).unwrap();
            assert_eq!(
                printed,
                json!({"cniVersion": echoed, "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]})
            );
        }
        assert!(Run::new(program, "VERSION").input("{").end().refusal(6).contains("standard input"));
    }
}

#[test]
fn a_person_gets_a_line_and_a_runtime_an_error() {
    for program in programs() {
        let none = Run::new(program, "").without("CNI_COMMAND").end();
        assert!(none.refusal(4).starts_with("CNI_COMMAND is not set"));
        let version = Run::new(program, "").arg("--version").end();
        assert_eq!(
            (version.status, version.stdout),
            (Some(0), concat!("ripstop-cni ", env!("CARGO_PKG_VERSION"), "\n").into())
        );
        let help = Run::new(program, "").arg("--help").end();
        assert_eq!((help.status, help.stdout.lines().count()), (Some(0), 1));
        let wrong = Run::new(program, "").arg("--frobnicate").end();
        assert_eq!((wrong.status, wrong.stdout.as_str(), &wrong.stderr), (Some(2), "", &help.stdout));

        // script(1) gives the plugin a terminal.
        let terminal = Command::new("script").args(["-qec"]).arg(program).arg("/dev/null").output();
        match terminal {
            Ok(output) => {
                assert_eq!(output.status.code(), Some(2), "{output:?}");
                assert!(String::from_utf8_lossy(&output.stdout).contains("CNI_COMMAND"), "{output:?}");
            }
            Err(e) => println!("SKIPPED: the line for a person at a terminal: script: {e}"),
        }
    }
}

#[test]
fn a_runtime_that_does_not_listen_is_no_signal() {
    let agent = Agent::honest();
    for program in programs() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(program);
        command.env_clear().env("CNI_COMMAND", "VERSION").stdin(std::process::Stdio::null()).stdout(writer);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("broken pipe"), "{output:?}");
    }
    drop(agent);
}

#[test]
fn an_agent_that_comes_late_is_waited_for() {
    for program in programs() {
        let dir = tempfile::TempDir::new().unwrap();
        let socket = dir.path().join("cni.sock");
        let late = socket.clone();
        let agent = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(150));
            let (mut stream, _) = UnixListener::bind(late).unwrap().accept().unwrap();
            std::io::BufRead::read_until(&mut std::io::BufReader::new(&stream), b'\n', &mut Vec::new()).unwrap();
            answer(&mut stream, &ripstop_cni_spec::wire::Response::done());
        });
        let run = Run::complete(program, "DEL", &socket, &config("1.1.0")).end();
        assert_eq!(run.status, Some(0), "{run:?}");
        agent.join().unwrap();
    }
}
