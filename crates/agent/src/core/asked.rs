//! What a runtime asks for beside addresses: rates (`bandwidth`), and ports of the host (`portMappings`), which are one pod's.

use std::sync::Arc;

use ripstop_cni_spec::{Code, Error, TypedCall};
use ripstop_ipam::Attachment;
use ripstop_tables::{Bandwidth, HostPort, PodRow, PodState, Shaping};

use super::Core;

/// Limits that an ADD asks for.
pub(super) fn bandwidth(typed: &TypedCall) -> Bandwidth {
    let shaping = |rate: &ripstop_cni_spec::runtime_config::Rate| Shaping {
        rate: rate.bits_per_second,
        // Without a burst, what passes in 10 ms: enough for a timer tick at full rate.
        burst: rate.burst_bits.unwrap_or(rate.bits_per_second / 100),
    };
    let asked = &typed.conf.runtime.bandwidth;
    Bandwidth { ingress: asked.ingress.as_ref().map(shaping), egress: asked.egress.as_ref().map(shaping) }
}

/// Ports of the host that an ADD asks for.
pub(super) fn host_ports(typed: &TypedCall) -> Vec<HostPort> {
    let asked = typed.conf.runtime.port_mappings.iter();
    asked
        .filter_map(|mapping| {
            let protocol = mapping.protocol.to_uppercase().parse().ok()?;
            Some(HostPort { ip: mapping.host_ip, protocol, port: mapping.host_port, to: mapping.container_port })
        })
        .collect()
}

impl Core {
    /// Why an ADD cannot have the ports that it asks for: another pod has one of them.
    pub(super) fn taken_port(&self, typed: &TypedCall, attachment: &Attachment) -> Option<Error> {
        let others = |row: &&Arc<PodRow>| row.attachment != *attachment && row.state != PodState::Gone;
        host_ports(typed).into_iter().find_map(|port| {
            let mut rows = self.tables.pods.values().filter(others);
            let (holder, held) =
                rows.find_map(|row| Some((row.owner(), row.host_ports.iter().find(|held| held.overlaps(&port))?)))?;
            let text = format!("host port {port} cannot be given: {holder} has {held}");
            Some(Error::new(Code::PortTaken, text))
        })
    }
}
