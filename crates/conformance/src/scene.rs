//! What one case sees: a host, the containers it makes there, and the plugin to call.
//!
//! A host that the suite makes is a network namespace with an uplink `eth0` to another one, the outside, and plugins'
//! files of its own. It is new for each case unless an agent lives in it; then the case detaches all it attached.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::call::Call;
use crate::case::{Stop, Verdict, skip};
use crate::process;
use crate::result::Attached;
use crate::space::{Place, Space};
use crate::subject::Subject;
use crate::version::{Verb, Version};

static CONTAINER: AtomicU64 = AtomicU64::new(1);

/// A host, where plugins run.
#[derive(Debug)]
pub struct World {
    place: Place,
    /// What the suite made: the host, and what lies behind its uplink.
    own: Option<(Space, Space)>,
}

impl World {
    /// A new host with an uplink.
    pub fn own() -> Verdict<Self> {
        let made = || -> io::Result<Self> {
            let (host, outside) = (Space::new()?, Space::new()?);
            let place = host.place()?.with_own_files()?;
            Ok(Self { place, own: Some((host, outside)) })
        };
        let world = made().map_err(|error| Stop::Skip(format!("a host cannot be made: {error}")))?;
        if let Some((_, outside)) = &world.own {
            let here = format!(
                "link set lo up\nlink add eth0 type veth peer name eth0 netns {}\nlink set eth0 up\n\
                 addr add 192.0.2.2/24 dev eth0\nroute add default via 192.0.2.1\naddr add 2001:db8::2/64 dev eth0 nodad\n",
                outside.path().display()
            );
            let there = "link set lo up\nlink set eth0 up\naddr add 192.0.2.1/24 dev eth0\n\
                         addr add 2001:db8::1/64 dev eth0 nodad\n";
            process::tool(&world.place, "ip", &["-batch", "-"], &here)?;
            process::tool(&Self::place_of(outside)?, "ip", &["-batch", "-"], there)?;
        }
        Ok(world)
    }

    /// The namespace at a path, or this machine's own.
    pub fn existing(path: Option<&Path>) -> io::Result<Self> {
        let place = path.map_or_else(|| Ok(Place::machine()), Place::at)?;
        Ok(Self { place, own: None })
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The path of a host that the suite made.
    pub fn path(&self) -> Option<&Path> {
        self.own.as_ref().map(|(host, _)| host.path())
    }

    /// What lies behind the uplink of a host that the suite made.
    pub fn outside(&self) -> Verdict<Place> {
        match &self.own {
            Some((_, outside)) => Self::place_of(outside),
            None => skip("the host is not the suite's: nothing is known about its uplink"),
        }
    }

    fn place_of(space: &Space) -> Verdict<Place> {
        space.place().map_err(|error| Stop::Skip(format!("a namespace cannot be opened: {error}")))
    }

    /// Ends what still runs in a host that the suite made.
    pub fn end_programs(&self) {
        if let Some((_, outside)) = &self.own {
            let outside = outside.place().ok().and_then(|place| place.inode());
            crate::space::end_all(&self.place.inode().into_iter().chain(outside).collect::<Vec<_>>());
        }
    }
}

/// An attachment that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    container: String,
    ifname: String,
    netns: String,
}

/// What one case sees.
pub struct Scene<'a> {
    subject: &'a Subject,
    world: &'a World,
    notes: Mutex<Vec<Note>>,
}

/// A container without an interface.
#[derive(Debug)]
pub struct Pod {
    space: Space,
    container: String,
    place: Place,
}

impl Pod {
    pub fn container(&self) -> &str {
        &self.container
    }

    /// The path of its namespace.
    pub fn netns(&self) -> String {
        self.space.path().display().to_string()
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its namespace is given up, and with it what was in it; the path is an ordinary file.
    pub fn hollow(self) -> Self {
        self.space.hollow();
        Self { place: Place::machine(), ..self }
    }

    /// Its namespace is given up, and with it what was in it; the path is gone.
    pub fn vanish(self) -> Gone {
        self.space.vanish();
        Gone { netns: self.netns(), container: self.container }
    }
}

/// A container whose namespace is gone.
#[derive(Debug)]
pub struct Gone {
    pub netns: String,
    pub container: String,
}

impl<'a> Scene<'a> {
    pub fn new(subject: &'a Subject, world: &'a World) -> Self {
        Self { subject, world, notes: Mutex::default() }
    }

    pub fn subject(&self) -> &'a Subject {
        self.subject
    }

    pub fn world(&self) -> &'a World {
        self.world
    }

    /// Where the plugin runs.
    pub fn place(&self) -> &'a Place {
        self.world.place()
    }

    /// Remembers an attachment that was asked for.
    pub fn note(&self, container: &str, ifname: &str, netns: &str) {
        let note = Note { container: container.into(), ifname: ifname.into(), netns: netns.into() };
        if let Ok(mut notes) = self.notes.lock()
            && !notes.contains(&note)
        {
            notes.push(note);
        }
    }

    /// Detaches all that was asked to be attached, for cases that share a host.
    pub fn clean(&self) {
        let notes = self.notes.lock().map(|notes| notes.clone()).unwrap_or_default();
        for note in notes.iter().filter(|note| !note.container.is_empty() && !note.ifname.is_empty()) {
            let version = self.subject.newest(Verb::Del).unwrap_or(Version::V0_4_0);
            let mut call = Call::plain(self, Verb::Del, version)
                .env("CNI_CONTAINERID", &note.container)
                .env("CNI_IFNAME", &note.ifname);
            if Path::new(&note.netns).exists() {
                call = call.env("CNI_NETNS", &note.netns);
            }
            // Whether DEL works is a case of its own.
            let _ = call.in_any_case().run();
        }
    }

    /// A new container.
    pub fn pod(&self) -> Verdict<Pod> {
        let number = CONTAINER.fetch_add(1, Ordering::Relaxed);
        let made = || -> io::Result<Pod> {
            let space = Space::new()?;
            let place = space.place()?;
            Ok(Pod { space, place, container: format!("conformance-{}-{number}", std::process::id()) })
        };
        made().map_err(|error| Stop::Skip(format!("a container's namespace cannot be made: {error}")))
    }

    /// The newest claimed version that has an operation.
    pub fn newest(&self, verb: Verb) -> Verdict<Version> {
        self.subject.newest(verb).ok_or_else(|| unclaimed(verb))
    }

    /// All claimed versions that have an operation, oldest first.
    pub fn versions(&self, verb: Verb) -> Verdict<Vec<Version>> {
        let versions: Vec<Version> = self.subject.versions().into_iter().filter(|version| version.has(verb)).collect();
        if versions.is_empty() { Err(unclaimed(verb)) } else { Ok(versions) }
    }

    /// A call for a pod in the newest version that has the operation.
    pub fn call(&'a self, verb: Verb, pod: &Pod) -> Verdict<Call<'a>> {
        Ok(Call::attached(self, verb, self.newest(verb)?, pod))
    }

    /// A call without attachment.
    pub fn plain(&'a self, verb: Verb) -> Verdict<Call<'a>> {
        Ok(Call::plain(self, verb, self.newest(verb)?))
    }

    /// A new container that is attached.
    pub fn attach(&'a self) -> Verdict<Attached> {
        self.attach_in(self.newest(Verb::Add)?)
    }

    /// A new container that is attached in a version.
    pub fn attach_in(&'a self, version: Version) -> Verdict<Attached> {
        self.attach_as(version, |call| call)
    }

    /// A new container that is attached by a call that is not the usual.
    pub fn attach_as(&'a self, version: Version, change: impl FnOnce(Call<'a>) -> Call<'a>) -> Verdict<Attached> {
        let pod = self.pod()?;
        let result = change(Call::attached(self, Verb::Add, version, &pod)).result()?;
        Ok(Attached { pod, version, ifname: self.subject.ifname.clone(), result })
    }

    /// A pod that has an interface and addresses; the case is skipped where the configuration yields none.
    pub fn addressed(&'a self) -> Verdict<Attached> {
        let attached = self.attach()?;
        if attached.ips()?.is_empty() {
            return skip("the configuration yields no addresses");
        }
        Ok(attached)
    }

    /// CHECK of what was attached, with its result.
    pub fn check(&'a self, attached: &Attached) -> Verdict<Call<'a>> {
        self.newest(Verb::Check)?;
        if !attached.version.has(Verb::Check) {
            return skip("the container was attached in a version without CHECK");
        }
        let call = Call::attached(self, Verb::Check, attached.version, &attached.pod);
        Ok(call.ifname(&attached.ifname).prev(&attached.result))
    }

    /// DEL of what was attached, with its result.
    pub fn del(&'a self, attached: &Attached) -> Call<'a> {
        let call = Call::attached(self, Verb::Del, attached.version, &attached.pod).ifname(&attached.ifname);
        if attached.version >= Version::V0_4_0 { call.prev(&attached.result) } else { call }
    }

    /// GC that keeps these attachments: container and interface.
    pub fn gc(&'a self, keep: &[(&str, &str)]) -> Verdict<Call<'a>> {
        let list: Vec<Value> = keep
            .iter()
            .map(|(container, ifname)| serde_json::json!({"containerID": container, "ifname": ifname}))
            .collect();
        Ok(self.plain(Verb::Gc)?.conf("cni.dev/valid-attachments", list))
    }
}

fn unclaimed(verb: Verb) -> Stop {
    Stop::Unclaimed(format!("the plugin claims no version that has {verb}"))
}
