//! Environments and configurations that are refused before any agent is asked.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ripstop_cni_spec::Verb;
use serde_json::json;

use crate::calls::config;
use crate::program::{Run, programs};

/// If any of these cases asked an agent, it would be told of this path.
const NO_AGENT: &str = "/nowhere/cni.sock";

fn complete(program: &Path, verb: &str) -> Run {
    Run::complete(program, verb, NO_AGENT.as_ref(), &config("1.1.0"))
}

#[test]
fn a_missing_variable_is_named_for_each_verb() {
    for program in programs() {
        for verb in Verb::ALL {
            for name in verb.required() {
                for run in
                    [complete(program, verb.as_str()).without(name), complete(program, verb.as_str()).env(name, "")]
                {
                    let said = run.end().refusal(4);
                    assert!(said.starts_with(&format!("{name} is not set: {verb} requires")), "{said}");
                }
            }
        }
    }
}

#[test]
fn a_variable_that_is_wrong_is_named_with_its_value() {
    for program in programs() {
        for (name, value, rule) in [
            ("CNI_COMMAND", "UPDATE", "ADD, DEL, CHECK, GC, STATUS or VERSION"),
            ("CNI_IFNAME", "sixteen-bytes-xx", "1 to 15 bytes"),
            ("CNI_IFNAME", "a/b", "1 to 15 bytes"),
            ("CNI_IFNAME", "..", "1 to 15 bytes"),
            ("CNI_CONTAINERID", "../../etc", "a letter or digit"),
        ] {
            let said = complete(program, "ADD").env(name, value).end().refusal(4);
            assert!(said.contains(name) && said.contains(value) && said.contains(rule), "{said}");
        }
    }
}

#[test]
fn bytes_that_are_not_text_are_refused_with_the_variables_name() {
    for program in programs() {
        for name in ["CNI_COMMAND", "CNI_NETNS", "CNI_ARGS", "CNI_PATH", "RIPSTOP_CNI_SOCKET"] {
            let said = complete(program, "ADD").env(name, OsString::from_vec(b"a\xff\xfe".into())).end().refusal(4);
            assert!(said.starts_with(&format!("{name} is not valid UTF-8")), "{said}");
        }
        // Other variables are nobody's business.
        let said = complete(program, "STATUS").env("OTHER", OsString::from_vec(b"a\xff\xfe".into())).end().refusal(50);
        assert!(said.contains(NO_AGENT), "{said}");
    }
}

#[test]
fn a_configuration_that_is_not_json_is_code_6() {
    for program in programs() {
        for (input, word) in [
            (&b""[..], "it is empty"),
            (b" \n\t", "it is empty"),
            (b"{", "EOF"),
            (b"{\"name\":\"net\"} x", "trailing characters"),
            (b"{\"name\":\"\xff\"}", "utf-8"),
            (b"[]", "it must be a JSON object"),
            (b"[\"1.1.0\",\"net\",\"/s\",\"1s\"]", "it must be a JSON object"),
            (b"null", "it must be a JSON object"),
            (b"\"{}\"", "it must be a JSON object"),
            (b"{\"name\":7,\"cniVersion\":\"1.1.0\"}", "name must be a string"),
            (b"{\"name\":\"net\",\"cniVersion\":1.1}", "cniVersion must be a string"),
        ] {
            let said = complete(program, "ADD").input(input).end().refusal(6);
            assert!(said.contains("standard input") && said.contains(word), "{said}");
        }
        let said = complete(program, "ADD").input(" ".repeat(1 << 20)).end().refusal(6);
        assert!(said.contains("longer than"), "{said}");
        let deep = "[".repeat(500_000);
        complete(program, "ADD").input(deep).end().refusal(6);
    }
}

#[test]
fn a_configuration_of_another_world_is_refused() {
    for program in programs() {
        let end = |config: serde_json::Value| Run::complete(program, "ADD", NO_AGENT.as_ref(), &config).end();
        assert!(end(json!({"cniVersion": "1.1.0"})).refusal(7).contains("name is nothing"));
        assert!(end(json!({"cniVersion": "1.1.0", "name": "../x"})).refusal(7).contains("../x"));
        assert!(end(json!({"cniVersion": "1.1.0", "name": "n", "agentTimeout": "soon"})).refusal(7).contains("soon"));
        for version in ["0.2.0", "2.0.0", "", "latest"] {
            let said = end(json!({"cniVersion": version, "name": "net"})).refusal(1);
            assert!(said.contains(&format!("{version:?}")) && said.contains("supported are 0.3.0"), "{said}");
        }
        assert!(end(json!({"name": "net"})).refusal(1).contains("no cniVersion"));
    }
}

#[test]
fn a_closed_standard_input_is_code_5() {
    for program in programs() {
        let output = Command::new("sh")
            .args(["-c", "exec \"$0\" <&-"])
            .arg(program)
            .env_clear()
            .env("CNI_COMMAND", "STATUS")
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        // The C library's start opens /dev/null in place of a descriptor that is closed: then the input is empty.
        assert!(said.contains("\"code\":5") || said.contains("it is empty"), "{said}");
        assert_eq!(output.status.code(), Some(1));
    }
}
