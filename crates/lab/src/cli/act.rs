//! What each command does.

use std::ffi::OsString;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    CaptureArgs, FaultAction, K8sAction, K8sUpArgs, LabAction, LabCommand, PodAction, PodAddArgs, ProbeArgs, UpArgs,
    labels, print,
};
use crate::clean;
use crate::error::{LabError, Result};
use crate::images;
use crate::init::Program;
use crate::interrupt;
use crate::lab::Lab;
use crate::options::{Families, Options};
use crate::pods::PodSpec;
use crate::probe::{Pairs, Prober};
use crate::programs::Programs;
use crate::target::Target;
use crate::{attached, node::Node};

const NAP: Duration = Duration::from_millis(10);

/// Does what was asked and returns the exit code of a success.
pub(super) fn act(command: LabCommand) -> Result<ExitCode> {
    let name = command.name;
    match command.action {
        LabAction::Up(args) => up(args, name)?,
        LabAction::Down => clean::down(&name)?,
        LabAction::Status(args) => print::status(&Lab::open(&name)?, args.output)?,
        LabAction::Pod(PodAction::Add(args)) => pod_add(&Lab::open(&name)?, args)?,
        LabAction::Pod(PodAction::Del { pod }) => Lab::open(&name)?.pod_del(&pod)?,
        LabAction::Pod(PodAction::List(args)) => print::pods(&Lab::open(&name)?.pods()?, args.output)?,
        LabAction::Exec(args) => {
            clean::need_root()?;
            let lab = Lab::open(&name)?;
            let place = lab.place(&args.target)?;
            return attached::run(&place, &name, &args.command).map(ExitCode::from);
        }
        LabAction::Probe(args) => return probe(&Lab::open(&name)?, &args),
        LabAction::Capture(args) => capture(&Lab::open(&name)?, &args)?,
        LabAction::K8s(K8sAction::Up(args)) => kubernetes_up(args, name)?,
        LabAction::K8s(K8sAction::Down) => clean::down(&name)?,
        LabAction::K8s(K8sAction::Image { out }) => {
            let programs = Programs::find(&Options::named(&name))?;
            images::product(&out, &programs.ripstop, programs.plugin()?)?;
            print::lines([images::RIPSTOP.to_owned()].iter())?;
        }
        LabAction::K8s(K8sAction::Kubectl { args }) => return kubectl(&Lab::open(&name)?, args).map(ExitCode::from),
        LabAction::Demo => {
            clean::need_root()?;
            interrupt::watch();
            return crate::demo::run();
        }
        LabAction::Fault(action) => fault(&Lab::open(&name)?, &action)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(args: UpArgs, name: String) -> Result<()> {
    interrupt::watch();
    let lab = Lab::up(&args.options(name))?.keep();
    let state = lab.state()?;
    let nodes: Vec<String> =
        state.nodes().map(|(_, node)| node.addresses().next().map(|ip| ip.to_string()).unwrap_or_default()).collect();
    print::talk(format_args!("lab {}: {} nodes ready: {}", state.lab, nodes.len(), nodes.join(" ")));
    Ok(())
}

fn kubernetes_up(args: K8sUpArgs, name: String) -> Result<()> {
    interrupt::watch();
    clean::need_root()?;
    let (cni, proxy) = (args.cni, args.proxy);
    let lab = Lab::up(&args.options(name).with_kubernetes(cni)?.served_by(proxy)?)?.keep();
    let name = lab.layout().lab();
    print::talk(format_args!("ripstop lab --name {name} k8s kubectl -- get nodes"));
    print::lines([format!("KUBECONFIG={}", lab.kubeconfig().display())].iter())
}

/// kubectl with this command's own input, output and exit status.
fn kubectl(lab: &Lab, args: Vec<OsString>) -> Result<u8> {
    clean::need_root()?;
    let argv: Vec<OsString> = lab.kubectl()?.into_iter().chain(args).collect();
    attached::run(&lab.place(&Target::Control)?, lab.layout().lab(), &argv)
}

fn pod_add(lab: &Lab, args: PodAddArgs) -> Result<()> {
    let pod = lab.pod_add(&PodSpec {
        name: args.pod,
        namespace: args.namespace,
        node: args.node,
        labels: labels(args.labels),
        ..PodSpec::default()
    })?;
    print::lines(pod.ips().iter())
}

/// Probes for a time or until interrupted, and prints what was found either way.
fn probe(lab: &Lab, args: &ProbeArgs) -> Result<ExitCode> {
    clean::need_root()?;
    interrupt::watch();
    let pairs = lab.endpoints(&pairs(&args.pairs)?, args.family.unwrap_or(Families::Dual))?;
    let prober = Prober::start(args.rate, &pairs)?;
    wait(args.time, || false);
    let report = prober.stop()?;
    print::probe(&report, args.output.output)?;
    let cut_short = args.time.is_some() && interrupt::happened();
    Ok(if cut_short { ExitCode::from(LabError::Interrupted.exit_code()) } else { ExitCode::SUCCESS })
}

/// Captures for a time or until interrupted, which is how a capture without a time ends.
fn capture(lab: &Lab, args: &CaptureArgs) -> Result<()> {
    clean::need_root()?;
    interrupt::watch();
    let capture = lab.capture_to(&args.target, args.interface.as_deref(), &args.out)?;
    wait(args.time, || capture.ended());
    let summary = capture.stop()?;
    let file = args.out.display();
    print::talk(format_args!("{} packets in {file}, {} dropped", summary.packets, summary.dropped));
    Ok(())
}

/// Waits for a time, the user's interruption, or another reason.
fn wait(time: Option<Duration>, over: impl Fn() -> bool) {
    let start = Instant::now();
    while !interrupt::happened() && !over() && time.is_none_or(|time| start.elapsed() < time) {
        let left = time.map_or(NAP, |time| time.saturating_sub(start.elapsed()));
        thread::sleep(left.min(NAP));
    }
}

/// `all`, or pairs `A:B` separated by commas.
fn pairs(text: &str) -> Result<Pairs> {
    if text == "all" {
        return Ok(Pairs::All);
    }
    let pair = |text: &str| match text.split_once(':') {
        Some((from, to)) => Ok((from.parse()?, to.parse()?)),
        None => Err(LabError::usage(format!("--pairs {text:?} is not `all` or `A:B,…`"))),
    };
    text.split(',').map(pair).collect::<Result<_>>().map(Pairs::Of)
}

fn fault(lab: &Lab, action: &FaultAction) -> Result<()> {
    clean::need_root()?;
    match action {
        FaultAction::Cut { target: Target::Node(node) } => lab.node(*node).cut(),
        FaultAction::Cut { target: Target::Outside } => lab.plug_outside(false),
        FaultAction::Cut { target } => refuse("cut", target, "node/N and outside have a cable"),
        FaultAction::Kill { target: Target::Node(node) | Target::Agent(node), hold } => {
            lab.node(*node).kill_agent(*hold)
        }
        FaultAction::Kill { target: Target::Forwarder(node), hold } => {
            lab.node(*node).signal(Program::Forwarder, libc::SIGKILL, *hold)
        }
        FaultAction::Kill { target: Target::Store, .. } => lab.store_signal(Signal::KILL),
        FaultAction::Kill { target, .. } => refuse("kill", target, PROGRAMS),
        FaultAction::Pause { target: Target::Node(node) | Target::Agent(node) } => lab.node(*node).pause_agent(),
        FaultAction::Pause { target: Target::Forwarder(node) } => {
            lab.node(*node).signal(Program::Forwarder, libc::SIGSTOP, false)
        }
        FaultAction::Pause { target: Target::Store } => lab.store_signal(Signal::STOP),
        FaultAction::Pause { target } => refuse("pause", target, PROGRAMS),
        FaultAction::Off { target: Target::Node(node) } => lab.node(*node).off(),
        FaultAction::Off { target } => refuse("switch off", target, "node/N has a switch"),
        FaultAction::Heal { target: Target::Node(node) } => heal_node(lab.node(*node)),
        FaultAction::Heal { target: Target::Agent(node) } => heal_agent(lab.node(*node)),
        FaultAction::Heal { target: Target::Forwarder(node) } => heal_forwarder(lab.node(*node)),
        FaultAction::Heal { target: Target::Outside } => lab.plug_outside(true),
        FaultAction::Heal { target: Target::Store } => lab.store_heal(),
        FaultAction::Heal { target } => {
            refuse("heal", target, "node/N, agent/N, forwarder/N, outside and store can be broken")
        }
    }
}

const PROGRAMS: &str = "node/N and agent/N mean the agent, forwarder/N the forwarder, store the store";

fn heal_node(node: Node<'_>) -> Result<()> {
    node.on()?;
    node.mend()?;
    heal_forwarder(node)?;
    heal_agent(node)
}

/// Lets the forwarder run, as [`heal_agent`] does the agent.
fn heal_forwarder(node: Node<'_>) -> Result<()> {
    let report = node.report_of(Program::Forwarder)?;
    if report.starts > 0 {
        node.release(Program::Forwarder)?;
    }
    match report.pid {
        Some(_) => node.signal(Program::Forwarder, libc::SIGCONT, false),
        None => Ok(()),
    }
}

/// Lets the agent run, whether it was killed for good, paused or neither, and returns when it is ready.
fn heal_agent(node: Node<'_>) -> Result<()> {
    let report = node.report()?;
    if report.starts == 0 {
        // A lab without agents.
        return Ok(());
    }
    node.release_agent()?;
    if report.pid.is_some() {
        node.resume_agent()?;
    }
    node.wait_ready(Duration::from_secs(30))
}

fn refuse(what: &str, target: &Target, accepted: &str) -> Result<()> {
    Err(LabError::usage(format!("cannot {what} {target}: {accepted}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_all_or_named() {
        assert_eq!(pairs("all").unwrap(), Pairs::All);
        let two = Pairs::Of(vec![
            (Target::Pod("a".into()), Target::Pod("b".into())),
            (Target::Pod("a".into()), Target::Outside),
        ]);
        assert_eq!(pairs("a:b,a:outside").unwrap(), two);
        for text in ["", "a", "a:b,c"] {
            assert_eq!(pairs(text).unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
