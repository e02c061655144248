//! IPIP by programs: what leaves by our own link gets an outer header there and goes to an uplink; what an uplink receives from
//! a known peer loses it and goes on as received by our own link (`c/ipip.c`).
//!
//! Programs, maps and their places at links are pinned in a folder that bears the version of the programs. Who comes later with
//! the same ones takes them up as they are; with others, attaches those beside them, and then removes the first: no packet is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use aya::{EbpfLoader, Pod, include_bytes_aligned};

use crate::{Fault, make_folder};

/// The programs, as the compiler wrote them.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ipip.o"));

/// First bytes of the hardware addresses that name peers (`IPIP_MARK`).
const MARK: [u8; 2] = [0x02, 0x49];

/// Name of the pin of the program at our own link, and of its place there.
const OUT: &str = "out";
/// The same at uplinks: the place's name is followed by the uplink's.
const IN: &str = "in";

/// What holds for all packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Our own link: index and name.
    pub link: (u32, String),
    /// Its hardware address.
    pub mac: [u8; 6],
    /// This node's outer address.
    pub local: Ipv4Addr,
    /// Names of links by which packets of peers come.
    pub uplinks: BTreeSet<String>,
}

/// The hardware address that a peer's permanent neighbour has on our own link: it says where the outer header leads.
#[must_use]
pub fn mac_of(peer: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = peer.octets();
    [MARK[0], MARK[1], a, b, c, d]
}

/// `struct ipip_config`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
struct Config {
    local: [u8; 4],
    link: u32,
    mac: [u8; 6],
    unused: [u8; 2],
}

/// `struct ipip_peer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Peer {
    link: u32,
}

// SAFETY: whole numbers without gaps between them.
unsafe impl Pod for Config {}
// SAFETY: the same.
unsafe impl Pod for Peer {}

/// The programs of one network namespace, as far as they are in the kernel. Its calls are for a thread in that namespace.
#[derive(Debug, Clone)]
pub struct Tunnel {
    /// Folder of all versions.
    base: PathBuf,
}

impl Tunnel {
    /// Pinned below this folder.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { base: folder.join("ipip") }
    }

    /// What holds now; none where the programs are not there, not at all their links, or of another version. Names of links are
    /// those that they were attached by.
    #[must_use]
    pub fn read(&self) -> Option<Setup> {
        let config: Array<_, Config> = Map::Array(self.map("CONFIG")?).try_into().ok()?;
        let config = config.get(&0, 0).ok()?;
        let (mut out, mut uplinks) = (None, BTreeSet::new());
        for entry in std::fs::read_dir(self.folder()).ok()?.flatten() {
            let name = entry.file_name().into_string().ok()?;
            let Some((place, link)) = name.split_once('@') else { continue };
            match place {
                // That of a link that is gone stays, and is nothing.
                OUT if is_at(&entry.path(), link, TcAttachType::Egress) => out = Some(link.to_owned()),
                IN if is_at(&entry.path(), link, TcAttachType::Ingress) => _ = uplinks.insert(link.to_owned()),
                _ => {}
            }
        }
        Some(Setup { link: (config.link, out?), mac: config.mac, local: config.local.into(), uplinks })
    }

    /// Makes it so, whatever was there.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set(&self, setup: &Setup) -> Result<(), Fault> {
        let folder = self.folder();
        make_folder(&folder)?;
        let out = folder.join(format!("{OUT}@{}", setup.link.1));
        if ["CONFIG", "PEERS"].iter().any(|name| self.map(name).is_none())
            || ![OUT, IN].iter().all(|name| folder.join(name).exists())
        {
            self.load()?;
        } else if !is_at(&out, &setup.link.1, TcAttachType::Egress) {
            // What a link that is gone left says nothing of this one's peers.
            for peer in self.peers().into_keys() {
                self.remove_peer(peer)?;
            }
        }
        let config = Config { local: setup.local.octets(), link: setup.link.0, mac: setup.mac, unused: [0; 2] };
        let map = self.map("CONFIG").ok_or_else(|| self.lost("CONFIG"))?;
        let mut map: Array<_, Config> =
            Map::Array(map).try_into().map_err(|error| Fault::of("the map CONFIG", &error))?;
        map.set(0, config, 0).map_err(|error| Fault::of("the map CONFIG", &error))?;
        self.place(OUT, &setup.link.1, TcAttachType::Egress)?;
        for uplink in &setup.uplinks {
            self.place(IN, uplink, TcAttachType::Ingress)?;
        }
        let wanted: BTreeSet<String> = setup.uplinks.iter().map(|name| format!("{IN}@{name}")).collect();
        for name in self.pins(&folder).into_iter().filter(|name| name.starts_with("in@") && !wanted.contains(name)) {
            remove(&folder.join(name))?;
        }
        self.remove_versions(|version| version == folder)
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// A pin stays.
    pub fn clear(&self) -> Result<(), Fault> {
        self.remove_versions(|_| false)?;
        // The folders of a namespace that has no other programs.
        for folder in [Some(&*self.base), self.base.parent()].into_iter().flatten() {
            let _ = std::fs::remove_dir(folder);
        }
        Ok(())
    }

    /// The outer addresses of peers, with the indices of uplinks to them.
    #[must_use]
    pub fn peers(&self) -> BTreeMap<Ipv4Addr, u32> {
        self.map("PEERS").map(entries).unwrap_or_default()
    }

    /// Knows a peer's address, and by which uplink packets go there.
    ///
    /// # Errors
    /// There are no programs, or the kernel refused it.
    pub fn add_peer(&self, address: Ipv4Addr, uplink: u32) -> Result<(), Fault> {
        self.peer_map()?
            .insert(address.octets(), Peer { link: uplink }, 0)
            .map_err(|error| Fault::of("the map PEERS", &error))
    }

    /// Knows it no more.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn remove_peer(&self, address: Ipv4Addr) -> Result<(), Fault> {
        if !self.peers().contains_key(&address) {
            return Ok(());
        }
        self.peer_map()?.remove(&address.octets()).map_err(|error| Fault::of("the map PEERS", &error))
    }

    fn folder(&self) -> PathBuf {
        self.base.join(version())
    }

    fn map(&self, name: &str) -> Option<MapData> {
        MapData::from_pin(self.folder().join(name)).ok()
    }

    fn peer_map(&self) -> Result<HashMap<MapData, [u8; 4], Peer>, Fault> {
        let map = self.map("PEERS").ok_or_else(|| self.lost("PEERS"))?;
        Map::HashMap(map).try_into().map_err(|error| Fault::of("the map PEERS", &error))
    }

    fn lost(&self, name: &str) -> Fault {
        Fault(format!("there is no map {name} in {}", self.folder().display()).into())
    }

    /// Loads the programs and pins them with their maps. Peers known to another version are known to this one.
    fn load(&self) -> Result<(), Fault> {
        let folder = self.folder();
        for name in self.pins(&folder) {
            remove(&folder.join(name))?;
        }
        let mut loaded = EbpfLoader::new()
            .load(OBJECT)
            .map_err(|error| Fault::of("the kernel refused the programs of ipip", &error))?;
        for name in ["CONFIG", "PEERS"] {
            let map = loaded.map(name).ok_or_else(|| self.lost(name))?;
            map.pin(folder.join(name)).map_err(|error| Fault::of(&format!("pinning the map {name}"), &error))?;
        }
        for (name, pin) in [("ipip_out", OUT), ("ipip_in", IN)] {
            let program = loaded.program_mut(name).ok_or_else(|| self.lost(name))?;
            let program: &mut SchedClassifier =
                program.try_into().map_err(|error| Fault::of(&format!("the program {name}"), &error))?;
            program.load().map_err(|error| Fault::of(&format!("the kernel refused the program {name}"), &error))?;
            program.pin(folder.join(pin)).map_err(|error| Fault::of(&format!("pinning {name}"), &error))?;
        }
        let others = self.versions().into_iter().filter(|version| *version != folder);
        for map in others.filter_map(|version| MapData::from_pin(version.join("PEERS")).ok()) {
            for (address, uplink) in entries(map) {
                self.add_peer(address, uplink)?;
            }
        }
        Ok(())
    }

    /// Attaches a program to a link, before those of others, unless it is there.
    fn place(&self, program: &str, name: &str, at: TcAttachType) -> Result<(), Fault> {
        let what = format!("attaching a program of ipip to {name}");
        let pin = self.folder().join(format!("{program}@{name}"));
        if is_at(&pin, name, at) {
            return Ok(());
        }
        remove(&pin)?;
        let mut program =
            SchedClassifier::from_pin(self.folder().join(program)).map_err(|error| Fault::of(&what, &error))?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(name, at, options).map_err(|error| Fault::of(&what, &error))?;
        let link = program.take_link(id).map_err(|error| Fault::of(&what, &error))?;
        let link = FdLink::try_from(link).map_err(|error| Fault::of(&what, &error))?;
        link.pin(&pin).map_err(|error| Fault::of(&what, &error))?;
        Ok(())
    }

    fn versions(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.base).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    fn pins(&self, folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    fn remove_versions(&self, stays: impl Fn(&Path) -> bool) -> Result<(), Fault> {
        for folder in self.versions().into_iter().filter(|folder| !stays(folder)) {
            for name in self.pins(&folder) {
                remove(&folder.join(name))?;
            }
            std::fs::remove_dir(&folder).map_err(|error| Fault::of(&folder.display().to_string(), &error))?;
        }
        Ok(())
    }
}

/// By what versions of the programs differ: their bytes (FNV-1a, 64 bits).
fn version() -> String {
    let hash = OBJECT
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn entries(map: MapData) -> BTreeMap<Ipv4Addr, u32> {
    let Ok(map) = HashMap::<_, [u8; 4], Peer>::try_from(Map::HashMap(map)) else { return BTreeMap::new() };
    map.iter().flatten().map(|(address, peer)| (address.into(), peer.link)).collect()
}

/// Whether the place that is pinned is at the link that has this name now.
fn is_at(pin: &Path, name: &str, at: TcAttachType) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin).map(FdLink::from) else { return false };
    let Ok(program) = link.info().map(|info| info.program_id()) else { return false };
    SchedClassifier::query_tcx(name, at).is_ok_and(|(_, there)| there.iter().any(|info| info.id() == program))
}

fn remove(pin: &Path) -> Result<(), Fault> {
    match std::fs::remove_file(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::of(&pin.display().to_string(), &error))
        }
        _ => Ok(()),
    }
}
