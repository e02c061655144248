//! Metrics in the text format of OpenMetrics 1.0, which Prometheus reads.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use ripstop_plan::Plan;

use crate::core::Core;

/// What Prometheus is told the text is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Names of labels with their values, which have no limit to what they may say.
type Labels<const N: usize> = [(&'static str, String); N];

/// What is counted as it happens.
#[derive(Debug, Default)]
pub struct Metrics {
    inputs: Family<Labels<1>, Counter>,
    steps: Family<Labels<2>, Counter>,
    replies: Family<Labels<1>, Counter>,
}

impl Metrics {
    /// An input was taken in.
    pub fn count_input(&self, name: &'static str) {
        self.inputs.get_or_create(&[("kind", name.to_owned())]).inc();
    }

    /// Steps were sent out.
    pub fn count_steps(&self, lane: &'static str, plan: &Plan) {
        for steps in plan.steps.chunk_by(|a, b| a.action == b.action) {
            let Some(first) = steps.first() else { continue };
            let labels = [("lane", lane.to_owned()), ("action", first.action.as_str().to_owned())];
            self.steps.get_or_create(&labels).inc_by(steps.len() as u64);
        }
    }

    /// A runtime was answered.
    pub fn count_reply(&self, ok: bool) {
        self.replies.get_or_create(&result(ok)).inc();
    }

    /// Everything as text.
    pub fn render(&self, core: &Core) -> String {
        let mut registry = Registry::with_prefix("ripstop");
        // There from the start, so that the first failure is a change and no new line.
        for ok in [true, false] {
            drop(self.replies.get_or_create(&result(ok)));
        }
        registry.register("inputs", "Inputs taken in, by kind", self.inputs.clone());
        registry.register("plan_steps", "Plan steps sent out, by lane and action", self.steps.clone());
        registry.register("cni_replies", "Answers to runtimes, by result", self.replies.clone());
        let status = core.status();
        let [probed, narrow, without_offload] = core.probe_counts();
        for (name, help, value) in [
            ("ready", "Whether pods can be added", usize::from(status.ready)),
            ("pods", "Pods of this node", status.pods),
            ("peers", "Other nodes known", status.peers),
            ("networks", "Networks known", status.networks),
            ("failed_objects", "Objects that could not be written", status.failed.len()),
            ("refused_objects", "Objects left as they are", status.refused.len()),
            ("probed_ways", "Ways to peers that are probed", probed),
            ("narrow_ways", "Ways that carry shorter packets than their links here take", narrow),
            (
                "tunnels_without_checksum_offload",
                "Tunnel devices whose checksums are completed before they send",
                without_offload,
            ),
            ("kernel_objects", "Objects of ours, as last read or written", core.applied().len()),
        ] {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        let (leased, usable) = (Family::default(), Family::default());
        for row in core.ipam() {
            let labels = [("network", row.network.to_string()), ("range", row.range.to_string())];
            set(&leased, &labels, row.leased);
            set(&usable, &labels, row.usable);
        }
        registry.register("range_leased_addresses", "Leased addresses, by range", leased);
        registry.register("range_usable_addresses", "Addresses for pods, by range", usable);
        registry.register("refused_packets", "Packets that policies refused, by policy and rule", refused(core));
        encoded(&registry)
    }
}

fn refused(core: &Core) -> Family<Labels<5>, Counter> {
    let packets: Family<Labels<5>, Counter> = Family::default();
    for row in core.drops() {
        let text = |text: Option<String>| text.unwrap_or_default();
        let labels = [
            ("kind", row.kind.unwrap_or_default().to_owned()),
            ("namespace", text(row.namespace)),
            ("name", text(row.name)),
            ("direction", text(row.direction)),
            ("rule", text(row.rule.map(|rule| rule.to_string()))),
        ];
        // Several rows have no policy.
        packets.get_or_create(&labels).inc_by(row.packets);
    }
    packets
}

fn result(ok: bool) -> Labels<1> {
    [("result", if ok { "ok" } else { "error" }.to_owned())]
}

fn set<L>(family: &Family<L, Gauge>, labels: &L, value: u64)
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet,
{
    family.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn encoded(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, registry);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_forge_a_line() {
        let mut registry = Registry::default();
        let family: Family<Labels<1>, Gauge> = Family::default();
        set(&family, &[("name", "a\"} 7\nb\\".to_owned())], 3);
        registry.register("x", "Help", family);
        let expected = "# HELP x Help.\n# TYPE x gauge\nx{name=\"a\\\"} 7\\nb\\\\\"} 3\n# EOF\n";
        assert_eq!(encoded(&registry), expected);
    }
}
