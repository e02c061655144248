//! The forwarder of the backend `udp`: its TUN device, and what it goes by, said on its control socket.
//!
//! A set-up is said whole. Steps that follow each other become one set-up, made of the one in force. Not here: the
//! forwarder's start, which is its supervisor's.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use ripstop_forwarder::control::{Peer, Setup};
use ripstop_forwarder::{Client, ClientFault};
use ripstop_netmodel::{Key, Link, Ns, Object};
use ripstop_plan::Action;
use ripstop_types::IfName;

use super::Applier;
use super::run::{Run, mismatch};
use super::space::find_link;
use crate::error::Fault;
use crate::wire;
use crate::wire::link::RawLink;

/// How long the forwarder may take to answer: as long pods may have to wait for their interface.
const PATIENCE: Duration = Duration::from_secs(1);

impl Applier {
    /// Holds the carrier of every TUN device of ours that is there. A forwarder gives what holds its own: a queue that is
    /// opened beside those that are read would take packets until it holds.
    pub(super) fn hold_all(&mut self, socket: &Path) {
        let Ok(replies) = self.route.dump(&wire::link::dump()) else { return };
        let links: Vec<RawLink> = replies.iter().filter_map(RawLink::read).collect();
        let forwarded = connect(socket).ok().and_then(|mut client| {
            let device = client.get().ok()??.device;
            Some((device, client.hold().ok()??))
        });
        self.holds.extend(forwarded);
        for link in links.iter().filter(|link| link.is_ours() && link.tun) {
            self.hold(&link.name);
        }
    }

    /// Holds a device's carrier, if it is not held. Without it only the death of a forwarder costs more.
    pub(super) fn hold(&mut self, link: &IfName) {
        if self.holds.contains_key(link) {
            return;
        }
        match ripstop_forwarder::hold(link) {
            Ok(held) => drop(self.holds.insert(link.clone(), held)),
            Err(error) => tracing::debug!("{link}: {error}; its nexthops go with a forwarder that dies"),
        }
    }
}

/// What became of steps, by their places.
type Results = Vec<(usize, Result<(), Fault>)>;

impl Run<'_> {
    /// Makes a TUN device. It stays when its mark is on it.
    pub(super) fn create_tun(&mut self, i: usize, link: &Link) -> Result<bool, Fault> {
        let made = ripstop_forwarder::make(&link.name).map_err(|error| tun_fault(&error))?;
        let index = |run: &mut Self| find_link(&mut run.applier.route, &link.name);
        let there = index(self)?.ok_or_else(|| Fault::NoLink { link: link.name.clone() })?;
        let answers = self.applier.route.batch(vec![wire::link::set_group(there.index, wire::link::MARK_GROUP)]);
        if let Some(error) = answers.into_iter().find_map(|answer| answer.result.err()) {
            return Err(self.refused(i, &error));
        }
        let held = made.keep(&link.name).map_err(|error| tun_fault(&error))?;
        self.applier.holds.insert(link.name.clone(), held);
        self.learn(link, &there, true);
        self.finish_link(i, link, &there, false)
    }

    /// Says what waits to the forwarder.
    pub(super) fn flush_forwarder(&mut self) {
        if self.forwarder.is_empty() || self.stopped() {
            return;
        }
        let mut asked = std::mem::take(&mut self.forwarder);
        let steps = self.steps;
        // What hangs on the device of another is not said.
        asked.retain(|i| match (&steps[*i].key, steps[*i].action) {
            (Key::Forwarder { link } | Key::ForwarderPeer { link, .. }, Action::Create | Action::Update) => {
                match self.index(&Ns::Host, link) {
                    Ok(_) => true,
                    Err(fault) => {
                        self.settle(*i, Err(fault));
                        false
                    }
                }
            }
            _ => true,
        });
        for (i, result) in self.say(&asked) {
            self.settle(i, result);
        }
    }

    fn say(&self, asked: &[usize]) -> Results {
        let all = |result: &dyn Fn(usize) -> Result<(), Fault>| asked.iter().map(|i| (*i, result(*i))).collect();
        let client = match self.applier.forwarder.as_deref().map(connect) {
            Some(Ok(client)) => client,
            // Where nobody forwards there is nothing to remove.
            Some(Err(fault)) => {
                return all(&|i| if self.steps[i].action == Action::Delete { Ok(()) } else { Err(fault.clone()) });
            }
            None => return all(&|_| Err(Fault::Unsupported("nobody said where the forwarder answers".into()))),
        };
        self.change(client, asked).unwrap_or_else(|fault| all(&|_| Err(fault.clone())))
    }

    /// Changes the set-up in force. Where the whole is refused because its parts contradict each other, what fits is said.
    fn change(&self, mut client: Client, asked: &[usize]) -> Result<Results, Fault> {
        let before = client.get().map_err(|fault| fault_of(&fault))?;
        let mut draft = Draft::of(before.clone());
        let mut results: BTreeMap<usize, Result<(), Fault>> =
            asked.iter().map(|i| (*i, draft.take(self.key(*i), self.object(*i)))).collect();
        if let Some(setup) = draft.setup()
            && setup.check().is_err()
        {
            draft = Draft::of(before.clone());
            for i in asked {
                let tried = draft.clone();
                let result = draft.take(self.key(*i), self.object(*i));
                let contradiction = draft.setup().and_then(|setup| setup.check().err());
                let result =
                    result.and(contradiction.map_or(Ok(()), |fault| Err(Fault::Forwarder(fault.to_string().into()))));
                if result.is_err() {
                    draft = tried;
                }
                results.insert(*i, result);
            }
        }
        match draft.setup() {
            Some(setup) => client.set(&setup).map_err(|fault| fault_of(&fault))?,
            None if before.is_some() => client.clear().map_err(|fault| fault_of(&fault))?,
            None => {}
        }
        Ok(results.into_iter().collect())
    }

    fn key(&self, i: usize) -> &Key {
        &self.steps[i].key
    }

    /// What is to be there after a step.
    fn object(&self, i: usize) -> Option<&Object> {
        let step = &self.steps[i];
        step.after.as_ref().filter(|_| step.action != Action::Delete).map(|entry| &entry.object)
    }
}

/// A set-up that is being changed.
#[derive(Debug, Clone)]
struct Draft {
    base: Option<Setup>,
    peers: BTreeMap<String, Peer>,
}

impl Draft {
    fn of(setup: Option<Setup>) -> Self {
        let peers = setup.iter().flat_map(|setup| &setup.peers).map(|peer| (peer.name.clone(), peer.clone())).collect();
        Self { base: setup, peers }
    }

    fn take(&mut self, key: &Key, wanted: Option<&Object>) -> Result<(), Fault> {
        match (key, wanted) {
            (Key::Forwarder { .. }, Some(Object::Forwarder(forwarder))) => {
                let listen = forwarder.listen.clone();
                self.base = Some(Setup { device: forwarder.link.clone(), listen, peers: Vec::new() });
            }
            (Key::Forwarder { link }, None) => {
                self.base.take_if(|base| base.device == *link);
            }
            (Key::ForwarderPeer { .. }, Some(Object::ForwarderPeer(peer))) if self.base.is_some() => {
                let name = peer.peer.to_string();
                let (also_from, ranges) = (peer.also_from.clone(), peer.ranges.clone());
                self.peers.insert(name.clone(), Peer { name, to: peer.to, also_from, ranges });
            }
            (Key::ForwarderPeer { .. }, Some(Object::ForwarderPeer(_))) => {
                return Err(Fault::Forwarder("the forwarder has no device yet".into()));
            }
            (Key::ForwarderPeer { peer, .. }, None) => {
                self.peers.remove(&**peer);
            }
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    fn setup(&self) -> Option<Setup> {
        self.base.clone().map(|base| Setup { peers: self.peers.values().cloned().collect(), ..base })
    }
}

/// A connection to the forwarder.
pub(crate) fn connect(socket: &Path) -> Result<Client, Fault> {
    Client::connect_within(socket, PATIENCE).map_err(|fault| match fault {
        ClientFault::Io(error) => {
            let path = socket.display();
            let text = format!("no forwarder answers at {path} ({error}): start `ripstop udp-forward` (systemctl enable --now ripstop-udp-forward)");
            Fault::Forwarder(text.into())
        }
        other => fault_of(&other),
    })
}

fn fault_of(fault: &ClientFault) -> Fault {
    Fault::Forwarder(fault.to_string().into())
}

/// Why there is no TUN device.
fn tun_fault(error: &io::Error) -> Fault {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let cause = match errno {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Some("this kernel has no TUN devices: modprobe tun"),
        libc::EPERM | libc::EACCES => Some("the agent needs CAP_NET_ADMIN, and /dev/net/tun"),
        _ => None,
    };
    // The name is taken, as everywhere else.
    let errno = if errno == libc::EBUSY { libc::EEXIST } else { errno };
    let text = crate::error::errno_text(errno);
    Fault::Refused { errno, text: text.into(), cause: cause.map(Into::into) }
}
