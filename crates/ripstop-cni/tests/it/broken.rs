//! Agents that are not there, go away, or answer nonsense.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use ripstop_cni_spec::wire::Response;
use serde_json::Value;
use tempfile::TempDir;

use crate::agent::{Agent, answer, outcome};
use crate::calls::config;
use crate::program::{Run, programs};

fn hasty(version: &str) -> Value {
    let mut config = config(version);
    config["agentTimeout"] = "200ms".into();
    config
}

#[test]
fn without_an_agent_the_runtime_is_told_to_come_again() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    for program in programs() {
        for verb in ["ADD", "DEL", "CHECK", "GC"] {
            let said = Run::complete(program, verb, &socket, &hasty("1.1.0")).end().refusal(11);
            assert!(said.contains("within 200 ms"), "{said}");
            assert!(said.contains(socket.to_str().unwrap()) && said.contains("no such file"), "{said}");
            assert!(said.contains("is not running on this node"), "{said}");
        }
        let said = Run::complete(program, "STATUS", &socket, &config("1.1.0")).end().refusal(50);
        assert!(said.contains("no such file") && said.contains("tried 1 times"), "{said}");
    }
}

#[test]
fn a_socket_that_nobody_listens_on_is_named_as_such() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    drop(UnixListener::bind(&socket).unwrap());
    for program in programs() {
        let said = Run::complete(program, "ADD", &socket, &hasty("1.1.0")).end().refusal(11);
        assert!(said.contains("connection refused") && said.contains("stopped or is restarting"), "{said}");
    }
}

#[test]
fn a_lost_connection_is_the_same_call_again() {
    for program in programs() {
        let agent = Agent::start(|n, request, stream| match n {
            1 => {}
            2 => stream.write_all(b"{\"protocol\":1,").unwrap(),
            _ => answer(stream, &outcome(request)),
        });
        let run = Run::complete(program, "ADD", &agent.socket(), &config("1.1.0")).end();
        assert_eq!(run.status, Some(0), "{run:?}");
        let requests = agent.requests();
        assert_eq!(requests.iter().map(|r| r.attempt).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(requests.iter().all(|r| r.id == requests[0].id));
        assert!(requests.windows(2).all(|w| w[0].timeout_ms >= w[1].timeout_ms));
    }
}

#[test]
fn an_agent_that_always_goes_away_is_given_up() {
    for program in programs() {
        let agent = Agent::start(|_, _, _| {});
        // Long enough for several attempts on a machine that is busy.
        let mut config = config("1.1.0");
        config["agentTimeout"] = "1s".into();
        let said = Run::complete(program, "ADD", &agent.socket(), &config).end().refusal(11);
        assert!(said.contains("closed the connection without an answer") && said.contains("its log"), "{said}");
        assert!(agent.requests().len() > 1);
        let said = Run::complete(program, "STATUS", &agent.socket(), &config).end().refusal(50);
        assert!(said.contains("closed the connection"), "{said}");
    }
}

#[test]
fn an_agent_that_says_nothing_is_given_up() {
    let agent = Agent::start(|_, _, stream| {
        let _ = stream.read(&mut [0]);
    });
    for program in programs() {
        for (verb, code) in [("ADD", 11), ("DEL", 11), ("STATUS", 50)] {
            let said = Run::complete(program, verb, &agent.socket(), &hasty("1.1.0")).end().refusal(code);
            assert!(said.contains("has not answered") && said.contains("overloaded, hangs"), "{said}");
        }
    }
}

#[test]
fn a_full_queue_is_waited_out_in_vain() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut waiting = Vec::new();
    // Connections that nobody accepts fill the queue; the one too many would block.
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            while let Ok(stream) = connect_nonblocking(&socket) {
                waiting.push(stream);
            }
        });
        filler.join().unwrap();
    });
    for program in programs() {
        let said = Run::complete(program, "ADD", &socket, &hasty("1.1.0")).end().refusal(11);
        assert!(said.contains("the queue of the socket is full") && said.contains("hangs"), "{said}");
    }
}

fn connect_nonblocking(path: &std::path::Path) -> Result<rustix::fd::OwnedFd, rustix::io::Errno> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[test]
fn answers_that_are_none_are_not_asked_for_again() {
    let long = format!("{{\"protocol\":1,\"x\":\"{}\"}}\n", "x".repeat(1 << 20));
    for (line, word) in [
        ("{\"protocol\":7,\"result\":{}}\n", "version 7"),
        ("HTTP/1.1 400 Bad Request\n", "not of this protocol"),
        ("{\"protocol\":1,\"error\":5}\n", "cannot be decoded"),
        ("{\"protocol\":1}\n", "without a result"),
        (long.as_str(), "longer than"),
    ] {
        let text = line.to_owned();
        let agent = Agent::start(move |_, _, stream| {
            let _ = stream.write_all(text.as_bytes());
        });
        for program in programs() {
            let said = Run::complete(program, "ADD", &agent.socket(), &config("1.1.0")).end().refusal(101);
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(agent.requests().len(), 2, "each program asked once");
    }
}

#[test]
fn an_agent_may_refuse_before_it_has_read_all() {
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let refusal = ripstop_cni_spec::Error::new(ripstop_cni_spec::Code::TryAgainLater, "starting");
            answer(&mut stream, &Response::failed(refusal));
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let mut config = config("1.1.0");
    config["_comment"] = "y".repeat(900 << 10).into();
    for program in programs() {
        assert!(Run::complete(program, "ADD", &socket, &config).end().refusal(11).contains("starting"));
    }
}

#[test]
fn a_socket_path_that_cannot_be_one_is_refused_at_once() {
    let dir = TempDir::new().unwrap();
    for program in programs() {
        let long = dir.path().join("x".repeat(120));
        let said = Run::complete(program, "ADD", &long, &config("1.1.0")).end().refusal(7);
        assert!(said.contains("at most 107 bytes"), "{said}");
        let said = Run::complete(program, "ADD", "/dev/null/sock".as_ref(), &hasty("1.1.0")).end().refusal(11);
        assert!(said.contains("is not that of the agent's socket"), "{said}");
    }
}

#[test]
fn one_who_may_not_connect_is_told_so_at_once() {
    // Permissions stop nobody who is root; setpriv drops that for the plugin.
    let dir = TempDir::new().unwrap();
    let socket = dir.path().join("cni.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for program in programs() {
        // The build may lie where only its owner can go.
        let copy = dir.path().join("plugin");
        std::fs::copy(program, &copy).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.arg(&copy).env("CNI_COMMAND", "DEL").env("CNI_CONTAINERID", "c").env("CNI_IFNAME", "eth0");
        command.env("RIPSTOP_CNI_SOCKET", &socket);
        let config_file = dir.path().join("config");
        std::fs::write(&config_file, config("1.1.0").to_string()).unwrap();
        match command.stdin(std::fs::File::open(config_file).unwrap()).output() {
            Ok(output) if output.stderr.is_empty() => {
                let said = String::from_utf8(output.stdout).unwrap();
                assert_eq!(output.status.code(), Some(1));
                assert!(said.contains("\"code\":108") && said.contains("as root"), "{said}");
            }
            other => println!("SKIPPED: the plugin without permission: setpriv: {other:?}"),
        }
    }
}
