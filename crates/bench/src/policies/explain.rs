//! What it takes to say why a connection is allowed or not, in this process, by what the agent answers with.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ripstop_objects::service::Protocol;
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_policy::Policies;
use ripstop_policy::explain::Question;
use ripstop_store::Kind;

use super::objects::{self, MEASURED};
use super::{MANY, Part, SELECTING, alone};
use crate::cpu::ms;
use crate::records::New;
use crate::report::Table;
use crate::services::load::Draw;
use crate::stat::quantile;

const QUESTIONS: usize = 1_000;
/// The measured pods, and one that policies name beside them.
const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 1, 3)];
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);

/// Measures it.
pub fn explain() -> Result<Part> {
    let mut table =
        Table::new(&["why, among 10,000 policies", "select both pods", "p50 ms", "p99 ms", "allowed", "not"]);
    let mut goals = Vec::new();
    for selecting in SELECTING {
        let policies = decided(selecting)?;
        let mut draw = Draw(3);
        let (mut times, mut allowed) = (Vec::new(), 0);
        for _ in 0..QUESTIONS {
            let source = [OWN[0], OTHER][draw.below(2) as usize];
            let port = [7000, 8000, 9000][draw.below(3) as usize] + u16::try_from(draw.below(100))?;
            let question = Question {
                source: source.into(),
                destination: OWN[1].into(),
                port: Some((Protocol::Tcp, port)),
                by_service: false,
            };
            let begun = Instant::now();
            let explanation = policies.explain(&question);
            times.push(ms(begun.elapsed()));
            allowed += usize::from(explanation.is_allowed());
        }
        ensure!(allowed > 0 && allowed < QUESTIONS, "{allowed} of {QUESTIONS} connections are allowed");
        let (p50, p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
        table.row(&[
            format!("{QUESTIONS} questions"),
            selecting.to_string(),
            format!("{p50:.3}"),
            format!("{p99:.3}"),
            allowed.to_string(),
            (QUESTIONS - allowed).to_string(),
        ]);
        let what = format!("why, {selecting} of {MANY} select both pods, p99");
        goals.push(alone(&what, "≤ 50 ms", format!("{p99:.3} ms"), p99 <= 50.0));
    }
    Ok((goals, vec![table]))
}

/// The policies between the measured pods of one node.
fn decided(selecting: u32) -> Result<Policies> {
    let mut policies = Policies::new("n1".parse().ok());
    let own = [("client", OWN[0]), ("near", OWN[1])];
    for (name, ip) in own {
        policies.put_pod(&pod(&objects::pod(name, "n1", MEASURED), ip.into())?);
    }
    let mut pods: Option<New> = None;
    for new in objects::others() {
        match (new.0, pods.take()) {
            (Kind::PodAddresses, Some(of)) => {
                let ip: IpAddr = new.2["ips"][0].as_str().context("an address")?.parse()?;
                policies.put_pod(&pod(&of, ip)?);
            }
            _ => pods = Some(new),
        }
    }
    for (_, _, value) in objects::policies(MANY, selecting) {
        match read(ObjectKind::NetworkPolicy, &value)? {
            ClusterObject::NetworkPolicy(policy) => policies.put_policy(&policy.spec),
            other => anyhow::bail!("{} is no policy", other.name()),
        }
    }
    policies.decide();
    Ok(policies)
}

fn pod((_, _, value): &New, ip: IpAddr) -> Result<ripstop_objects::KubePod> {
    match read(ObjectKind::Pod, value)? {
        ClusterObject::Pod(pod) => Ok(ripstop_objects::KubePod { ips: vec![ip], ..*pod }),
        other => anyhow::bail!("{} is no pod", other.name()),
    }
}

fn read(kind: ObjectKind, value: &serde_json::Value) -> Result<ClusterObject> {
    let read = ClusterObject::from_value(kind, value).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    Ok(read.0)
}
