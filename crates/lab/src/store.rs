//! The store's server of a lab, which outlives the command that started it: `ripstop store serve` on the host, or etcd in
//! the router's network namespace, where nodes reach it over their cables.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::layout::{self, Layout, MEMBER, ROUTER};
use crate::machine::{spawn_detached, tail};
use crate::options::{Options, StoreKind};
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::space::{self, Place};
use crate::state::State;

const READY_LIMIT: Duration = Duration::from_secs(10);
/// etcd elects itself before it answers.
const ETCD_READY_LIMIT: Duration = Duration::from_secs(30);

/// Starts the servers that do not run, records them, and returns when they can be asked.
pub fn start(layout: &Layout, programs: &Programs, options: &Options) -> Result<()> {
    let running = State::load(layout)?.store;
    let runs = |member: u16| running.get(&member).is_some_and(|server| server.alive());
    match options.store {
        StoreKind::Embedded if runs(0) => Ok(()),
        StoreKind::Embedded => {
            let socket = layout.store_socket();
            // A socket left by a killed server would look like a live one's.
            let _ = std::fs::remove_file(&socket);
            let mut command = Command::new(&programs.ripstop);
            command.args(["store", "serve", "--socket"]).arg(&socket).arg("--file").arg(layout.store_file());
            let child = spawn(layout, 0, &Place::host(), &mut command)?;
            wait(layout, child, READY_LIMIT, || UnixStream::connect(&socket).is_ok())
        }
        StoreKind::Etcd => {
            let netns = layout.netns_path(ROUTER);
            let mut members = Vec::new();
            for member in (0..options.etcd_members).filter(|member| !runs(*member)) {
                let place = Place::host().in_netns(&netns)?;
                members.push((member, spawn(layout, member, &place, &mut etcd(layout, options, member))?));
            }
            for (member, child) in members {
                let healthy = || space::in_netns(&netns, || is_healthy(member)).unwrap_or(false);
                wait(layout, child, ETCD_READY_LIMIT, healthy)?;
            }
            Ok(())
        }
    }
}

fn etcd(layout: &Layout, options: &Options, member: u16) -> Command {
    let program = std::env::var_os("RIPSTOP_ETCD").filter(|value| !value.is_empty());
    let mut command = Command::new(program.map_or_else(|| "etcd".into(), PathBuf::from));
    let anywhere = if options.families.v4() { "0.0.0.0" } else { "[::]" };
    // Members speak to each other on the router's loopback: that is nobody's business but theirs.
    let peers = |member| format!("http://127.0.0.1:{}", layout::etcd_port(member) + 1);
    let all: Vec<String> = (0..options.etcd_members).map(|other| format!("m{other}={}", peers(other))).collect();
    command.args(["--name", &format!("m{member}"), "--logger", "zap", "--log-level", "warn"]);
    command.arg("--data-dir").arg(layout.etcd_dir().join(format!("m{member}")));
    let scheme = options.etcd_scheme();
    command.arg("--listen-client-urls").arg(format!("{scheme}://{anywhere}:{}", layout::etcd_port(member)));
    command.arg("--advertise-client-urls").arg(layout::etcd_endpoint(scheme, member, 1, options.families.v4()));
    command.arg("--listen-metrics-urls").arg(format!("http://127.0.0.1:{}", layout::etcd_metrics_port(member)));
    command.args(["--listen-peer-urls", &peers(member), "--initial-advertise-peer-urls", &peers(member)]);
    command.args(["--initial-cluster", &all.join(",")]).args(&options.etcd_args);
    command
}

/// Asks a member for its health, from where the calling thread is.
fn is_healthy(member: u16) -> bool {
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), layout::etcd_metrics_port(member));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /health HTTP/1.0\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(r#""health":"true""#)
}

fn spawn(layout: &Layout, member: u16, place: &Place, command: &mut Command) -> Result<Child> {
    command.env(MEMBER, layout.lab()).stdout(Stdio::null());
    let child = spawn_detached(place, command, &layout.store_log())?;
    let id = i32::try_from(child.id()).ok().and_then(ProcessId::of);
    State::update(layout, |state| {
        // One that ended at once is found by its silence.
        state.store.extend(id.map(|id| (member, id)));
        Ok(())
    })?;
    Ok(child)
}

fn wait(layout: &Layout, mut child: Child, limit: Duration, answers: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !answers() {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() >= deadline {
            let how = ended.map_or("it does not answer".to_owned(), |status| format!("it ended: {status}"));
            let log = tail(&layout.store_log(), 20);
            return Err(LabError::Away(format!("the store did not start, {how}\n{log}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
