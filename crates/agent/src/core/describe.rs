//! The text of `ripstop describe`: one object with everything this agent knows of it.

use std::fmt::Write;

use ripstop_netmodel::Key;
use ripstop_types::Owner;

use super::{BalancerView, Core};

impl Core {
    /// A node, pod, network or Service as text; `None` where it is not known here.
    #[must_use]
    pub fn describe(&self, kind: &str, name: &str) -> Option<String> {
        match kind {
            "node" => self.describe_node(name),
            "pod" => self.describe_pod(name),
            "service" => self.describe_service(name),
            "network" => self.describe_network(name),
            _ => None,
        }
    }

    fn describe_node(&self, name: &str) -> Option<String> {
        let node = self.nodes().into_iter().find(|node| node.name == name)?;
        let mut out = String::new();
        line(&mut out, "Name", &node.name);
        line(&mut out, "Version", &node.version);
        line(&mut out, "Ready", if node.ready { "true" } else { "false" });
        if let Some(reason) = &node.reason {
            line(&mut out, "Reason", reason);
        }
        line(&mut out, "Addresses", &join(&node.addresses));
        line(&mut out, "Ranges", &join(&node.ranges));
        line(&mut out, "Receives", &join(&node.receives));
        for path in self.paths().into_iter().filter(|path| path.peer == name) {
            let device = path.device.as_deref().unwrap_or("none");
            let backend = path.backend.as_deref().unwrap_or("none");
            line(&mut out, &format!("Path IPv{}", path.family), &format!("{backend} by {device}, {}", path.state));
        }
        self.objects_of(&mut out, &Owner::node(&name.parse().ok()?));
        Some(out)
    }

    fn describe_pod(&self, name: &str) -> Option<String> {
        let wanted: ripstop_types::PodName = name.parse().ok()?;
        let row = self.tables.pods.values().find(|row| row.pod.as_ref() == Some(&wanted))?;
        let view = self.pods().into_iter().find(|pod| pod.container == row.attachment.container.as_str())?;
        let mut out = String::new();
        line(&mut out, "Name", &wanted.to_string());
        line(&mut out, "Node", &view.node);
        line(&mut out, "State", &view.state);
        line(&mut out, "Network", &view.network);
        line(&mut out, "Addresses", &join(&view.ips));
        line(&mut out, "MAC", &view.mac);
        line(&mut out, "MTU", &view.mtu.to_string());
        line(&mut out, "Interface", &format!("{} in {}", view.interface, view.netns));
        line(&mut out, "Host side", &view.host_interface);
        line(&mut out, "Container", &view.container);
        self.objects_of(&mut out, &row.owner());
        Some(out)
    }

    fn describe_service(&self, name: &str) -> Option<String> {
        let view = self.services().into_iter().find(|view| format!("{}/{}", view.namespace, view.name) == name)?;
        let mut out = String::new();
        line(&mut out, "Name", name);
        line(&mut out, "Type", &view.kind);
        line(&mut out, "ClusterIPs", &join(&view.ips));
        line(&mut out, "Ports", &join(&view.ports));
        if self.tables.serves() {
            line(&mut out, "Endpoints", &view.endpoints.to_string());
            line(&mut out, "Realised", &format!("{} by {}", view.realised, view.proxy));
        } else {
            line(&mut out, "Served by", "another proxy, if there is one: this agent serves no Services (proxy none)");
        }
        if let Some(reason) = view.reason.as_ref().filter(|_| self.tables.serves()) {
            line(&mut out, "Reason", reason);
        }
        let balanced = self.load_balancers().into_iter();
        balanced
            .filter(|row| (&row.namespace, &row.name) == (&view.namespace, &view.name))
            .for_each(|row| self.describe_address(&mut out, &row));
        Some(out)
    }

    /// An address, and what it is by: lines that say nothing of it are left out.
    fn describe_address(&self, out: &mut String, row: &BalancerView) {
        line(out, "Address", &row.ip.map_or_else(|| "none".into(), |ip| ip.to_string()));
        if let Some(pool) = &row.pool {
            line(out, "  Pool", pool);
        }
        if !row.shared.is_empty() {
            line(out, "  Shared with", &join(&row.shared));
        }
        if let Some(prefix) = &row.told {
            line(out, "  Told by BGP", prefix);
        }
        if let Some(link) = &row.interface {
            let since = |since: u64| format!(", for {} s", self.at.wall.0.saturating_sub(since) / 1_000);
            let owner = row.owner.as_deref().unwrap_or("nobody");
            line(out, "  Answered by", &format!("{owner} on {link}{}", row.since.map(since).unwrap_or_default()));
        }
        line(out, "  Why", row.reason.as_deref().unwrap_or("unknown"));
    }

    fn describe_network(&self, name: &str) -> Option<String> {
        let network = self.networks().into_iter().find(|network| network.name == name)?;
        let mut out = String::new();
        line(&mut out, "Name", &network.name);
        line(&mut out, "Ranges", &join(&network.ranges));
        line(&mut out, "Range mode", &network.range_mode);
        line(&mut out, "Wiring", &network.wiring);
        line(&mut out, "Backend", &network.backend);
        line(&mut out, "Pod MTU", &network.mtu.map_or_else(|| "not known yet".to_owned(), |mtu| mtu.to_string()));
        line(&mut out, "Masquerade", if network.masquerade { "true" } else { "false" });
        for range in self.ipam().into_iter().filter(|range| range.network == name) {
            let text = format!("{}, {} of {} leased", range.phase, range.leased, range.usable);
            line(&mut out, &format!("Own {}", range.range), &text);
        }
        for reason in self.not_ready_for(name) {
            line(&mut out, "Not ready", &reason);
        }
        self.objects_of(&mut out, &Owner::network(name));
        Some(out)
    }

    /// Every object that exists because of an owner, with its state.
    fn objects_of(&self, out: &mut String, owner: &Owner) {
        let _ = writeln!(out, "Objects:");
        let mut any = false;
        for (key, _) in self.desired.model().iter().filter(|(_, entry)| entry.owner.as_ref() == Some(owner)) {
            any = true;
            let _ = writeln!(out, "  {key}  ({})", self.state_of(key));
        }
        if !any {
            let _ = writeln!(out, "  none");
        }
    }

    fn state_of(&self, key: &Key) -> String {
        if let Some(failure) = self.failed.get(key) {
            return format!("failed: {}", failure.why);
        }
        if self.applied.get(key).is_some() { "realised".into() } else { "pending".into() }
    }
}

fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{:<14} {value}", format!("{name}:"));
}

fn join(values: &[impl ToString]) -> String {
    if values.is_empty() {
        return "none".into();
    }
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
