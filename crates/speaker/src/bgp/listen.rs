//! Where peers connect to, and the keys that their packets must be signed with.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use ripstop_bgp::session::Password;
use ripstop_types::Millis;

use crate::tcp;

/// How long after an address that cannot be listened at is tried again.
const AGAIN: u64 = 5_000;

/// The address, and the length of a prefix if it stands for one.
pub type KeyOf = (IpAddr, Option<u8>);

/// Listeners with their keys.
#[derive(Debug, Default)]
pub struct Listeners {
    wanted: Vec<SocketAddr>,
    open: BTreeMap<SocketAddr, TcpListener>,
    keys: BTreeMap<KeyOf, Password>,
    faults: BTreeMap<SocketAddr, String>,
    key_faults: BTreeMap<KeyOf, String>,
    again: Option<Millis>,
}

impl Listeners {
    /// Takes what is wanted now; listeners that are new or gone.
    pub fn set_up(&mut self, now: Millis, listen: &[SocketAddr], keys: BTreeMap<KeyOf, Password>) {
        self.wanted = listen.to_vec();
        self.open.retain(|address, _| listen.contains(address));
        let gone: Vec<KeyOf> = self.keys.keys().filter(|of| !keys.contains_key(of)).copied().collect();
        let new = keys.iter().filter(|(of, key)| self.keys.get(of) != Some(key));
        let new: Vec<(KeyOf, Password)> = new.map(|(of, key)| (*of, key.clone())).collect();
        self.key_faults.retain(|of, _| keys.contains_key(of));
        for (address, listener) in &self.open {
            for of in gone.iter().filter(|of| of.0.is_ipv4() == address.is_ipv4()) {
                // It may not have been set.
                let _ = tcp::set_key(listener, of.0, of.1, None);
            }
            set_keys(&mut self.key_faults, *address, listener, &new);
        }
        self.keys = keys;
        self.open_all(now);
    }

    /// When [`Self::open_all`] is due.
    pub fn due(&self) -> Option<Millis> {
        self.again
    }

    /// Opens what is wanted and not open.
    pub fn open_all(&mut self, now: Millis) {
        self.faults.clear();
        let all: Vec<(KeyOf, Password)> = self.keys.iter().map(|(of, key)| (*of, key.clone())).collect();
        for address in self.wanted.iter().filter(|address| !self.open.contains_key(address)).collect::<Vec<_>>() {
            match tcp::wait_at(*address) {
                Ok(listener) => {
                    set_keys(&mut self.key_faults, *address, &listener, &all);
                    self.open.insert(*address, listener);
                }
                Err(error) => {
                    self.faults.insert(*address, format!("cannot listen at {address}: {error}"));
                }
            }
        }
        self.again = (!self.faults.is_empty()).then(|| now.plus(AGAIN));
    }

    /// The listeners that are open.
    pub fn open(&self) -> impl Iterator<Item = (&SocketAddr, &TcpListener)> {
        self.open.iter()
    }

    /// A connection that came to a listener.
    pub fn accept(&self, at: &SocketAddr) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let Some(listener) = self.open.get(at) else { return Ok(None) };
        match listener.accept() {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What cannot be done.
    pub fn faults(&self) -> Vec<String> {
        self.faults.values().chain(self.key_faults.values()).cloned().collect()
    }
}

fn set_keys(
    faults: &mut BTreeMap<KeyOf, String>,
    address: SocketAddr,
    listener: &TcpListener,
    keys: &[(KeyOf, Password)],
) {
    for (of, key) in keys.iter().filter(|(of, _)| of.0.is_ipv4() == address.is_ipv4()) {
        if let Err(error) = tcp::set_key(listener, of.0, of.1, Some(key)) {
            faults.insert(*of, format!("the password of {} cannot be used: {error}", of.0));
        }
    }
}
