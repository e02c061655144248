//! What commands print.

use std::fmt::{Arguments, Display};
use std::io::Write;

use serde::Serialize;

use super::OutputForm;
use crate::error::{Attempt, Result};
use crate::init::Program;
use crate::lab::Lab;
use crate::probe::Report;
use crate::state::{Machine, Pod, State};

/// One line of talk.
pub(super) fn talk(text: Arguments<'_>) {
    // Nobody to talk to is no failure.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// One line of data for each item.
pub(super) fn lines<T: Display>(items: impl Iterator<Item = T>) -> Result<()> {
    let text: String = items.map(|item| format!("{item}\n")).collect();
    data(text.as_bytes())
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(value).map_err(std::io::Error::other).attempt(|| "write JSON".into())?;
    text.push(b'\n');
    data(&text)
}

/// Rows under a head, columns as wide as their widest cell.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> Result<()> {
    data(format_table(head, rows).as_bytes())
}

pub(super) fn pods(pods: &[Pod], form: OutputForm) -> Result<()> {
    let rows: Vec<PodRow<'_>> = pods.iter().map(PodRow::from).collect();
    if form == OutputForm::Json {
        return json(&rows);
    }
    let cells = rows.iter().map(|row| {
        let ips: Vec<String> = row.ips.iter().map(ToString::to_string).collect();
        vec![row.namespace.into(), row.name.into(), row.node.clone(), ips.join(","), row.mac.unwrap_or("-").into()]
    });
    table(&["NAMESPACE", "NAME", "NODE", "IPS", "MAC"], &cells.collect::<Vec<_>>())
}

pub(super) fn status(lab: &Lab, form: OutputForm) -> Result<()> {
    let state = lab.state()?;
    let status = Status::of(lab, &state);
    if form == OutputForm::Json {
        return json(&status);
    }
    let dash = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
    let rows = status.nodes.iter().map(|node| {
        vec![
            node.name.clone(),
            node.subnet.to_string(),
            node.addresses.join(","),
            match (node.init, node.plugged) {
                (None, _) => "-",
                (Some(_), true) => "plugged",
                (Some(_), false) => "cut",
            }
            .into(),
            dash(node.init),
            dash(node.agent),
            dash(node.forwarder),
            node.starts.to_string(),
            if node.ready { "yes".into() } else { node.reason.clone().unwrap_or("no".into()) },
        ]
    });
    table(
        &["NODE", "SUBNET", "ADDRESSES", "CABLE", "INIT", "AGENT", "FORWARDER", "STARTS", "READY"],
        &rows.collect::<Vec<_>>(),
    )?;
    lines([format!("store {}, {} pods", dash(status.store), status.pods.len())].iter())
}

/// A prober's report: totals, then each pair.
pub(super) fn probe(report: &Report, form: OutputForm) -> Result<()> {
    if form == OutputForm::Json {
        return json(report);
    }
    let micros = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let row = |from: &str, to: &str, family: &str, numbers: [u64; 4], gap: f64, p50, p99| {
        let head = [from, to, family].map(str::to_owned);
        let tail = [format!("{gap:.1}"), micros(p50), micros(p99)];
        head.into_iter().chain(numbers.map(|number| number.to_string())).chain(tail).collect::<Vec<_>>()
    };
    let mut rows: Vec<Vec<String>> = report
        .pairs
        .iter()
        .map(|p| {
            let numbers = [p.sent, p.received, p.lost, p.dup];
            row(&p.from, &p.to, &p.family, numbers, p.max_gap_ms, p.rtt_p50_us, p.rtt_p99_us)
        })
        .collect();
    let numbers = [report.sent, report.received, report.lost, report.dup];
    rows.push(row("all", "", "", numbers, report.max_gap_ms, report.rtt_p50_us, report.rtt_p99_us));
    table(&["FROM", "TO", "IP", "SENT", "RECEIVED", "LOST", "DUP", "GAP ms", "P50 µs", "P99 µs"], &rows)?;
    for error in &report.errors {
        talk(format_args!("{error}"));
    }
    Ok(())
}

/// A pod as a flat object.
#[derive(Debug, Serialize)]
struct PodRow<'a> {
    namespace: &'a str,
    name: &'a str,
    node: String,
    ips: &'a [std::net::IpAddr],
    mac: Option<&'a str>,
    mtu: Option<u32>,
    interface: Option<&'a str>,
    netns: &'a str,
    network: Option<&'a str>,
    container: &'a str,
    labels: &'a std::collections::BTreeMap<String, String>,
    sandbox: Option<i32>,
}

impl<'a> From<&'a Pod> for PodRow<'a> {
    fn from(pod: &'a Pod) -> Self {
        let attachment = pod.attachment.as_ref();
        Self {
            namespace: &pod.namespace,
            name: &pod.name,
            node: crate::layout::node_name(pod.node),
            ips: pod.ips(),
            mac: attachment.and_then(|attachment| attachment.mac.as_deref()),
            mtu: attachment.and_then(|attachment| attachment.mtu),
            interface: attachment.map(|attachment| attachment.interface.as_str()),
            netns: &pod.netns,
            network: attachment.map(|attachment| attachment.network.as_str()),
            container: &pod.container,
            labels: &pod.labels,
            sandbox: pod.sandbox.map(|sandbox| sandbox.pid),
        }
    }
}

/// A lab as `lab status -o json` shows it.
#[derive(Debug, Serialize)]
struct Status<'a> {
    name: String,
    ready: bool,
    store: Option<i32>,
    nodes: Vec<NodeRow>,
    pods: Vec<PodRow<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    name: String,
    subnet: u32,
    addresses: Vec<String>,
    plugged: bool,
    init: Option<i32>,
    agent: Option<i32>,
    forwarder: Option<i32>,
    starts: u64,
    ready: bool,
    reason: Option<String>,
}

impl<'a> Status<'a> {
    fn of(lab: &Lab, state: &'a State) -> Self {
        Self {
            name: state.lab.clone(),
            ready: state.ready,
            store: state.store.values().find(|store| store.alive()).map(|store| store.pid),
            nodes: state.nodes().map(|(number, machine)| NodeRow::of(lab, state, number, machine)).collect(),
            pods: state.pods.values().map(PodRow::from).collect(),
        }
    }
}

impl NodeRow {
    fn of(lab: &Lab, state: &State, number: u32, machine: &Machine) -> Self {
        let node = lab.node(number);
        let init = machine.init.filter(|init| init.alive());
        let report = init.and_then(|_| node.report().ok()).unwrap_or_default();
        let ready = match (init, state.options.agents) {
            (None, _) => Err("switched off".to_owned()),
            (Some(_), false) => Ok(()),
            (Some(_), true) => lab.agent_ready(number),
        };
        Self {
            name: node.name(),
            subnet: machine.subnet,
            addresses: machine.addresses().map(|ip| ip.to_string()).collect(),
            plugged: node.plugged(),
            init: init.map(|init| init.pid),
            agent: init.and(report.pid).and_then(|_| node.agent().ok().flatten()).map(|agent| agent.pid),
            forwarder: init.and_then(|_| node.process(Program::Forwarder).ok().flatten()).map(|process| process.pid),
            starts: report.starts,
            ready: ready.is_ok(),
            reason: ready.err(),
        }
    }
}

fn format_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(head.get(column).map(|cell| cell.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let print = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = print(&mut head.iter().copied());
    for row in rows {
        text += &print(&mut row.iter().map(String::as_str));
    }
    text
}

fn data(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().lock().write_all(bytes) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.attempt(|| "write to standard output".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "longer".into()], vec!["bbbb".into(), "x".into()]];
        assert_eq!(format_table(&["N", "VALUE"], &rows), "N     VALUE\na     longer\nbbbb  x\n");
    }
}
