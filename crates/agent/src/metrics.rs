//! Metrics in Prometheus' text format (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;

use ripstop_plan::Plan;

use crate::core::Core;

/// What is counted as it happens.
#[derive(Debug, Default)]
pub struct Metrics {
    inputs: BTreeMap<&'static str, u64>,
    steps: BTreeMap<(&'static str, &'static str), u64>,
    replies_ok: u64,
    replies_failed: u64,
}

impl Metrics {
    /// An input was taken in.
    pub fn count_input(&mut self, name: &'static str) {
        *self.inputs.entry(name).or_default() += 1;
    }

    /// Steps were sent out.
    pub fn count_steps(&mut self, lane: &'static str, plan: &Plan) {
        for step in &plan.steps {
            *self.steps.entry((lane, step.action.as_str())).or_default() += 1;
        }
    }

    /// A runtime was answered.
    pub fn count_reply(&mut self, ok: bool) {
        if ok {
            self.replies_ok += 1;
        } else {
            self.replies_failed += 1;
        }
    }

    /// Everything as text.
    pub fn render(&self, core: &Core) -> String {
        let mut out = String::new();
        let status = core.status();
        let inputs = self.inputs.iter().map(|(name, n)| (format!("kind=\"{name}\""), *n)).collect();
        family(&mut out, "ripstop_inputs_total", "counter", "Inputs taken in, by kind.", inputs);
        let steps =
            self.steps.iter().map(|((lane, action), n)| (format!("lane=\"{lane}\",action=\"{action}\""), *n)).collect();
        family(&mut out, "ripstop_plan_steps_total", "counter", "Plan steps sent out, by lane and action.", steps);
        let replies =
            vec![("result=\"ok\"".to_owned(), self.replies_ok), ("result=\"error\"".to_owned(), self.replies_failed)];
        family(&mut out, "ripstop_cni_replies_total", "counter", "Answers to runtimes, by result.", replies);
        let gauges = [
            ("ripstop_ready", "Whether pods can be added.", u64::from(status.ready)),
            ("ripstop_pods", "Pods of this node.", count(status.pods)),
            ("ripstop_peers", "Other nodes known.", count(status.peers)),
            ("ripstop_networks", "Networks known.", count(status.networks)),
            ("ripstop_failed_objects", "Objects that could not be written.", count(status.failed.len())),
            ("ripstop_refused_objects", "Objects left as they are.", count(status.refused.len())),
            ("ripstop_kernel_objects", "Objects of ours, as last read or written.", count(core.applied().len())),
        ];
        for (name, help, value) in gauges {
            family(&mut out, name, "gauge", help, vec![(String::new(), value)]);
        }
        let leased = core.ipam().into_iter().map(|row| (range_label(&row), row.leased)).collect();
        family(&mut out, "ripstop_range_leased_addresses", "gauge", "Leased addresses, by range.", leased);
        let usable = core.ipam().into_iter().map(|row| (range_label(&row), row.usable)).collect();
        family(&mut out, "ripstop_range_usable_addresses", "gauge", "Addresses for pods, by range.", usable);
        out
    }
}

fn range_label(row: &crate::core::IpamView) -> String {
    format!("network=\"{}\",range=\"{}\"", row.network, row.range)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn family(out: &mut String, name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}
