//! What the kernel does behind its answer, and a pod's first packets need.
//!
//! Who is told that an interface is there sends at once. A lost question for a neighbour then costs a second.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ripstop_netmodel::{LinkKind, Ns, Object};
use ripstop_plan::Action;
use ripstop_types::IfName;

use super::run::Run;
use crate::netlink::uapi::RTN_LOCAL;
use crate::wire;
use crate::wire::route::RawRoute;

/// How long a busy kernel is waited for. What is not done by then comes about without us.
const PATIENCE: Duration = Duration::from_secs(1);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_micros(200);

impl Run<'_> {
    /// Waits until links and addresses that were made can be used.
    pub(super) fn wait_for_deferred_work(&mut self) {
        let steps = self.steps;
        let (mut links, mut addresses) = (Vec::new(), Vec::new());
        for (step, result) in steps.iter().zip(&self.results) {
            let (Action::Create, Some(Ok(())), Some(entry)) = (step.action, result, &step.after) else { continue };
            match &entry.object {
                Object::Link(link) if matches!(link.kind, LinkKind::Veth(_) | LinkKind::VethPeer) => links.push(link),
                Object::Address(address) if address.ns != Ns::Host && address.ip.is_ipv6() => addresses.push(address),
                _ => {}
            }
        }
        for link in links {
            for name in [Some(&link.name), link.master.as_ref()].into_iter().flatten() {
                self.activate(&link.ns, name);
            }
        }
        let begun = Instant::now();
        for address in addresses {
            while !self.is_delivered(&address.ns, address.ip) && begun.elapsed() < PATIENCE {
                thread::sleep(PAUSE);
            }
        }
    }

    /// An end of a pair drops what it is to send until the kernel has seen that both are up (`linkwatch_event`,
    /// net/core/link_watch.c), up to a second later, and so does a bridge that gets its first port. Being asked for the
    /// link does that work at once.
    fn activate(&mut self, ns: &Ns, name: &IfName) {
        if let Ok(socket) = self.socket(ns) {
            // What it answers does not matter: a link that is gone again starts nothing.
            let _ = socket.call(wire::link::get(name));
        }
    }

    /// Whether packets for an address reach its owner: an IPv6 address gets its local route by the work that would look
    /// for duplicates, also where nothing is looked for (`addrconf_dad_work`, net/ipv6/addrconf.c).
    fn is_delivered(&mut self, ns: &Ns, ip: IpAddr) -> bool {
        let Ok(socket) = self.socket(ns) else { return true };
        match socket.call(wire::route::get(ip)) {
            Ok(replies) => replies.iter().filter_map(RawRoute::read).any(|route| route.kind == RTN_LOCAL),
            // No route at all: not yet.
            Err(_) => false,
        }
    }
}
