//! Links: made, taken over, removed.

use ripstop_netmodel::{Key, LINK_PREFIX, Link, LinkKind, Ns, Object, TAKEN_MARK, Veth, link_of_table};
use ripstop_plan::Action;

use super::run::{Run, is_without_ipv6, mismatch};
use super::space::{Known, find_link, read_link};
use crate::error::Fault;
use crate::netlink::NetlinkError;
use crate::netlink::uapi::IFF_UP;
use crate::wire;
use crate::wire::link::RawLink;

use std::os::fd::{AsFd, AsRawFd};

/// Drivers of the links we make.
const KINDS: [&str; 6] = ["veth", "bridge", "vxlan", "ipip", "tun", "ifb"];

impl Run<'_> {
    /// Makes a link, or makes the one that is there so.
    pub(super) fn make_link(&mut self, i: usize, link: &Link) -> Result<bool, Fault> {
        if is_taken(link) && link.ns == Ns::Host {
            return self.mark_taken(i, link);
        }
        if !link.name.as_str().starts_with(LINK_PREFIX) || link.ns != Ns::Host {
            let why = format!("links are made in the node's own namespace under names that begin with {LINK_PREFIX}");
            return Err(Fault::Unsupported(why.into()));
        }
        self.flush(&Ns::Host);
        self.applier.own.begin_link(&link.name);
        if self.steps[i].action == Action::Update
            && let Some(there) = find_link(&mut self.applier.route, &link.name)?
        {
            self.check_ours(i, &there, link)?;
            return self.set_link(i, link, &there);
        }
        match self.create_link(i, link) {
            Err(Fault::Refused { errno: libc::EEXIST, text, .. }) => self.take_over(i, link, &text),
            result => result,
        }
    }

    fn create_link(&mut self, i: usize, link: &Link) -> Result<bool, Fault> {
        if link.kind == LinkKind::Tun {
            return self.create_tun(i, link);
        }
        let peer_ns = match &link.kind {
            LinkKind::Veth(veth) => self.space(&veth.ns)?.pod.as_ref().map(|pod| pod.netns.as_fd().as_raw_fd()),
            _ => None,
        };
        let master = self.master(link)?;
        let Some(create) = wire::link::create(link, master, peer_ns) else {
            return Err(Fault::Unsupported("links of this kind are not made by us".into()));
        };
        let [created, shown] = <[_; 2]>::try_from(self.applier.route.batch(vec![create, wire::link::get(&link.name)]))
            .map_err(|_| mismatch())?;
        created.result.map_err(|error| self.refused(i, &error))?;
        let made = shown.replies.first().and_then(RawLink::read);
        let made = made.ok_or_else(|| Fault::NoLink { link: link.name.clone() })?;
        self.learn(link, &made, true);
        if link.up && matches!(link.kind, LinkKind::Veth(_)) {
            self.starting.push((i, made.index));
        }
        self.finish_link(i, link, &made, true)
    }

    /// Brings pairs up that were just made: when the tables at their ingress stand, so that nothing a pod sends passes
    /// unlooked at. Without its table a link stays down.
    pub(super) fn start_links(&mut self) {
        if self.stopped() {
            return;
        }
        for (i, index) in std::mem::take(&mut self.starting) {
            if self.is_unguarded(i) {
                self.settle(i, Err(Fault::NotRun));
            } else {
                self.push(i, &Ns::Host, wire::link::up(index));
            }
        }
    }

    /// Whether the table at a link's ingress was refused.
    fn is_unguarded(&self, link: usize) -> bool {
        let Key::Link { name: link, .. } = &self.steps[link].key else { return false };
        self.steps.iter().zip(&self.results).any(|(step, result)| match &step.key {
            Key::NftTable { family, name } => {
                step.action != Action::Delete
                    && link_of_table(*family, name.as_str()).as_ref() == Some(link)
                    && !matches!(result, Some(Ok(())))
            }
            _ => false,
        })
    }

    /// Remembers a link and, of a pair just made, its other end.
    pub(super) fn learn(&mut self, link: &Link, made: &RawLink, fresh: bool) {
        self.spaces.entry(Ns::Host).or_default().links.insert(link.name.clone(), made.into());
        if let (LinkKind::Veth(veth), Some(index), true) = (&link.kind, made.peer_index, fresh) {
            let known = Known { index, mac: Some(veth.mac), mtu: link.mtu };
            self.spaces.entry(veth.ns.clone()).or_default().links.insert(veth.name.clone(), known);
        }
    }

    fn master(&mut self, link: &Link) -> Result<Option<u32>, Fault> {
        link.master.as_ref().map(|master| self.index(&Ns::Host, master)).transpose()
    }

    fn set_link(&mut self, i: usize, link: &Link, there: &RawLink) -> Result<bool, Fault> {
        self.learn(link, there, false);
        self.finish_link(i, link, there, false)
    }

    /// Everything but the making: mark, master, MTU, address, up.
    pub(super) fn finish_link(&mut self, i: usize, link: &Link, there: &RawLink, fresh: bool) -> Result<bool, Fault> {
        let mut messages = Vec::new();
        if let Some(altname) = link.altname.as_deref()
            && !there.altnames.iter().any(|name| **name == *altname)
        {
            if let Some(old) = there.mark() {
                messages.push(wire::link::remove_altname(there.index, old));
            }
            messages.push(wire::link::add_altname(there.index, altname));
        }
        if let (LinkKind::Vxlan { local, .. }, Some((_, _, found))) = (&link.kind, there.vxlan)
            && *local != found
        {
            messages.push(wire::link::set_vxlan_source(there.index, *local));
        }
        if let (LinkKind::Ipip { local }, Some(found)) = (&link.kind, there.ipip)
            && *local != found
        {
            messages.push(wire::link::set_ipip_source(there.index, *local));
        }
        let master = match (&link.master, there.master) {
            (Some(_), _) => self.master(link)?.filter(|wanted| there.master != Some(*wanted)),
            (None, Some(_)) => Some(0),
            (None, None) => None,
        };
        let mut wanted = link.clone();
        if wanted.mac == there.mac {
            wanted.mac = None;
        }
        // Of what we make, only this changes its address only while down.
        if wanted.mac.is_some() && !fresh && matches!(link.kind, LinkKind::Ifb { .. }) {
            messages.push(wire::link::down(there.index));
        }
        if !fresh && wanted.mtu == Some(there.mtu) {
            wanted.mtu = None;
        }
        messages.extend(wire::link::settings(&wanted, there.index, fresh, master));
        messages.push(wire::link::get_by_index(there.index));
        let answers = self.applier.route.batch(messages);
        if let Some(mut left) = answers.last().and_then(|answer| answer.replies.first()).and_then(RawLink::read) {
            if self.starting.iter().any(|(_, index)| *index == left.index) {
                left.flags |= IFF_UP;
            }
            // That a bridge is taken over is a fact about the host, which is read again.
            if !is_taken(link) {
                self.applier.own.set_link(&left);
            }
        }
        self.set_offload(link)?;
        let key = &self.steps[i].key;
        let mut faults = answers.into_iter().filter_map(|answer| answer.result.err());
        match faults.find(|error| !is_without_ipv6(key, error)) {
            Some(error) => Err(self.explain(i, link, error)),
            None => {
                if link.kind == LinkKind::Tun {
                    self.applier.hold(&link.name);
                }
                Ok(true)
            }
        }
    }

    /// Whether checksums are left to what is below.
    fn set_offload(&self, link: &Link) -> Result<(), Fault> {
        let Some(on) = link.tx_checksum else { return Ok(()) };
        let done = crate::ethtool::tx_checksum(&link.name)
            .and_then(|is| if is == on { Ok(()) } else { crate::ethtool::set_tx_checksum(&link.name, on) });
        done.map_err(|error| Fault::Refused {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            text: "the kernel refused to change checksum offload".into(),
            cause: None,
        })
    }

    /// An alternative name that is taken: by whom.
    fn explain(&mut self, i: usize, link: &Link, error: NetlinkError) -> Fault {
        if error.errno == libc::EEXIST
            && let Some(altname) = &link.altname
            && let Ok(Some(holder)) = read_link(&mut self.applier.route, wire::link::get_by_altname(altname))
        {
            return Fault::Foreign { holder: format!("the name {altname} of link {}", holder.name).into() };
        }
        self.refused(i, &error)
    }

    /// Marks another network's bridge, which is never made.
    fn mark_taken(&mut self, i: usize, link: &Link) -> Result<bool, Fault> {
        self.flush(&Ns::Host);
        let there = find_link(&mut self.applier.route, &link.name)?;
        let there = there.ok_or_else(|| Fault::NoLink { link: link.name.clone() })?;
        self.check_ours(i, &there, link)?;
        if !marked(&there, link) {
            return Err(Fault::Foreign { holder: format!("a link {} of another hardware address", there.name).into() });
        }
        self.finish_link(i, link, &there, false)
    }

    /// A VXLAN device of another name that has the identifier, the port and the very hardware address that are wanted is the
    /// one whose peers know this node by it: it becomes ours as it is, and goes on carrying packets.
    fn adopt(&mut self, link: &Link) -> Result<Option<RawLink>, Fault> {
        let LinkKind::Vxlan { vni, port, .. } = link.kind else { return Ok(None) };
        let replies = self.applier.route.dump(&wire::link::dump())?;
        let is_it = |there: &RawLink| {
            let place = there.vxlan.map(|(vni, port, _)| (vni, port));
            place == Some((vni, port)) && there.mac.is_some() && there.mac == link.mac && there.mark().is_none()
        };
        let Some(there) = replies.iter().filter_map(RawLink::read).find(is_it) else { return Ok(None) };
        let rename = || wire::link::rename(there.index, &link.name);
        match self.applier.route.call(rename()) {
            Ok(_) => {}
            // Up to Linux 6.1 a link that is up keeps its name.
            Err(error) if error.errno == libc::EBUSY => {
                let messages = vec![wire::link::down(there.index), rename(), wire::link::up(there.index)];
                for answer in self.applier.route.batch(messages) {
                    answer.result?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        find_link(&mut self.applier.route, &link.name)
    }

    /// The name is taken, or the other end's is.
    fn take_over(&mut self, i: usize, link: &Link, text: &str) -> Result<bool, Fault> {
        let there = match find_link(&mut self.applier.route, &link.name)? {
            None => self.adopt(link)?,
            there => there,
        };
        let Some(there) = there else {
            let cause = match &link.kind {
                LinkKind::Veth(veth) => {
                    Some(format!("there is an interface {} in {} already", veth.name, veth.ns).into())
                }
                LinkKind::Vxlan { .. } => Some("another VXLAN device has this network identifier and port".into()),
                LinkKind::Ipip { local } => Some(format!("another IPIP device takes packets to {local}").into()),
                _ => None,
            };
            return Err(Fault::Refused { errno: libc::EEXIST, text: text.into(), cause });
        };
        self.check_ours(i, &there, link)?;
        if self.is_what_is_wanted(&there, link)? {
            return self.set_link(i, link, &there);
        }
        // Ours, but of other parts that cannot be changed: a VTEP of another network, a pair whose other end is elsewhere.
        if !marked(&there, link) {
            return Err(Fault::Foreign { holder: format!("a link {} without a mark of ours", there.name).into() });
        }
        let faults = self.applier.reaper.remove(&[there.index].into());
        if let Some(error) = faults.get(&there.index) {
            return Err(self.refused(i, error));
        }
        self.create_link(i, link)
    }

    /// Fails if the link is of another kind or names another owner than the step's.
    fn check_ours(&self, i: usize, there: &RawLink, link: &Link) -> Result<(), Fault> {
        let kind = there.kind.as_deref().unwrap_or("device");
        if kind != driver(&link.kind) {
            return Err(Fault::Foreign { holder: format!("a link {} of kind {kind}", there.name).into() });
        }
        match (there.mark(), link.altname.as_deref()) {
            (Some(found), Some(wanted)) if found != wanted && self.before_altname(i, link) != Some(found) => {
                Err(Fault::Foreign { holder: format!("a link {} of {found}", there.name).into() })
            }
            _ => Ok(()),
        }
    }

    /// The mark the link had when it came to this step, as far as the plan says: a change may change it, in several steps.
    fn before_altname(&self, i: usize, link: &Link) -> Option<&str> {
        self.steps[..=i].iter().rev().find_map(|step| match step.before.as_deref().map(|entry| &entry.object) {
            Some(Object::Link(before)) if before.name == link.name && before.ns == link.ns => before.altname.as_deref(),
            _ => None,
        })
    }

    /// Whether the link that is there can become the wanted one by settings.
    fn is_what_is_wanted(&mut self, there: &RawLink, link: &Link) -> Result<bool, Fault> {
        match &link.kind {
            LinkKind::Veth(veth) => self.has_other_end(there, veth),
            LinkKind::Vxlan { vni, port, local } => Ok(there
                .vxlan
                .is_some_and(|(found, at, source)| (found, at, source.is_ipv4()) == (*vni, *port, local.is_ipv4()))),
            LinkKind::Ipip { .. } => Ok(there.ipip.is_some() && marked(there, link)),
            LinkKind::Tun => Ok(there.tun && marked(there, link)),
            LinkKind::Ifb { index } => Ok(marked(there, link) && there.index == *index),
            _ => Ok(marked(there, link)),
        }
    }

    /// Whether the other end has the wanted name and address in the wanted namespace.
    fn has_other_end(&mut self, there: &RawLink, veth: &Veth) -> Result<bool, Fault> {
        let other = find_link(self.socket(&veth.ns)?, &veth.name)?;
        Ok(other.is_some_and(|other| {
            other.kind.as_deref() == Some("veth")
                && other.mac == Some(veth.mac)
                && other.peer_index == Some(there.index)
                && there.peer_index == Some(other.index)
        }))
    }

    /// Hands a link to the reaper when it is ours.
    pub(super) fn remove_link(&mut self, i: usize) -> Result<bool, Fault> {
        let step = &self.steps[i];
        let Key::Link { name, .. } = &step.key else { return Err(mismatch()) };
        let Some(there) = find_link(&mut self.applier.route, name)? else { return Ok(true) };
        let kind = there.kind.as_deref().unwrap_or("device");
        if there.is_taken() {
            self.check_empty(&there)?;
        } else if !name.as_str().starts_with(LINK_PREFIX) || !KINDS.contains(&kind) {
            return Err(Fault::Foreign { holder: format!("a link {name} of kind {kind}").into() });
        }
        let before = match step.before.as_deref().map(|entry| &entry.object) {
            Some(Object::Link(before)) => before.altname.as_deref(),
            _ => None,
        };
        if let (Some(found), Some(expected)) = (there.mark(), before)
            && found != expected
        {
            return Err(Fault::Foreign { holder: format!("a link {name} of {found}").into() });
        }
        self.spaces.entry(Ns::Host).or_default().links.remove(name);
        self.applier.holds.remove(name);
        // The same link twice is removed once; making the same name again comes after the removal.
        self.departing.push((i, there.index));
        Ok(false)
    }

    /// Fails while a bridge that was taken over has a port: a pod of the network before hangs on it.
    fn check_empty(&mut self, bridge: &RawLink) -> Result<(), Fault> {
        let replies = self.applier.route.dump(&wire::link::dump())?;
        let ports = replies.iter().filter_map(RawLink::read).filter(|link| link.master == Some(bridge.index)).count();
        match ports {
            0 => Ok(()),
            _ => Err(Fault::Unsupported(format!("{} is kept while {ports} links are its ports", bridge.name).into())),
        }
    }
}

/// Whether this is another network's bridge, to be marked and left as it is.
fn is_taken(link: &Link) -> bool {
    link.altname.as_deref().is_some_and(|name| name.starts_with(TAKEN_MARK))
}

/// Whether a link carries a mark of ours that is not another object's, or the step's hardware address.
fn marked(there: &RawLink, link: &Link) -> bool {
    let named = link.altname.as_deref().is_some_and(|wanted| there.altnames.iter().any(|name| **name == *wanted));
    let addressed = link.mac.is_some() && there.mac == link.mac;
    named || addressed || (there.is_ours() && there.mark().is_none()) || (link.altname.is_none() && link.mac.is_none())
}

fn driver(kind: &LinkKind) -> &str {
    match kind {
        LinkKind::Veth(_) | LinkKind::VethPeer => "veth",
        LinkKind::Bridge => "bridge",
        LinkKind::Vxlan { .. } => "vxlan",
        LinkKind::Ipip { .. } => "ipip",
        LinkKind::Tun => "tun",
        LinkKind::Ifb { .. } => "ifb",
        LinkKind::Loopback => "device",
        LinkKind::Other(kind) => kind,
    }
}
