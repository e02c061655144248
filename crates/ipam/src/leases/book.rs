//! The lease book: every lease of this node, and the free addresses of its ranges.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, Millis, Prefix};
use serde::{Deserialize, Serialize};

use super::fault::{ImportNote, LeaseFault};
use super::lease::{Attachment, HostLink, Lease, LeaseRequest, LeaseState, OwnRange, Sight, Window, mac_of};
use super::space::Space;

/// Every lease of this node, of one boot.
///
/// Leases and ranges are independent: a lease whose address is in no range of this node is kept, listed by
/// [`LeaseBook::strays`], and blocks its address when the range comes (again).
///
/// Serialised it holds everything, cooling addresses and cursors included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "BookState", from = "BookState")]
pub struct LeaseBook {
    boot: Arc<str>,
    cooldown_ms: u64,
    spaces: BTreeMap<Prefix, Space>,
    leases: BTreeMap<Attachment, Lease>,
    /// Holders of an address, the oldest lease first; more than one only after an import of contradicting rows.
    holders: BTreeMap<IpAddr, Vec<Attachment>>,
    /// Addresses of own ranges that are not the node's to give now.
    lent: BTreeSet<IpAddr>,
    /// When a look first found the host-side link gone.
    gone_since: BTreeMap<Attachment, Millis>,
}

/// Figures of one range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeUsage {
    /// Its network.
    pub network: Arc<str>,
    /// The range.
    pub range: Prefix,
    /// Whether new addresses are given from it.
    pub open: bool,
    /// Addresses for pods.
    pub usable: u128,
    /// Leased addresses.
    pub leased: u128,
    /// Released addresses that are given again later.
    pub cooling: u128,
    /// Addresses that are lent to other nodes, or offered to them.
    pub lent: u128,
    /// Addresses that can be given at once.
    pub rested: u128,
}

impl LeaseBook {
    /// How long a released address rests, unless told otherwise.
    pub const COOLDOWN_MS: u64 = 30_000;
    /// An attachment is an orphan when two looks at least this far apart found its link gone.
    pub const ORPHAN_MS: u64 = 10_000;

    /// An empty book for this boot.
    #[must_use]
    pub fn new(boot: &str, cooldown_ms: u64) -> Self {
        Self {
            boot: boot.into(),
            cooldown_ms,
            spaces: BTreeMap::new(),
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            lent: BTreeSet::new(),
            gone_since: BTreeMap::new(),
        }
    }

    /// A book of the rows found at start. Rows of another boot are void; all others are kept, contradictions included,
    /// and each contradiction is reported. Searches for free addresses begin behind the youngest lease.
    #[must_use]
    pub fn import(boot: &str, cooldown_ms: u64, rows: impl IntoIterator<Item = Lease>) -> (Self, Vec<ImportNote>) {
        let (mut book, mut notes) = (Self::new(boot, cooldown_ms), Vec::new());
        let mut rows: Vec<Lease> = rows.into_iter().collect();
        rows.sort_by(|a, b| (a.since, &a.attachment).cmp(&(b.since, &b.attachment)));
        for lease in rows {
            if *lease.boot != *boot {
                let (attachment, holder) = (lease.attachment.clone(), lease.holder());
                notes.push(ImportNote::OtherBoot { attachment, holder, ips: lease.ips });
                continue;
            }
            if let Some(known) = book.leases.get(&lease.attachment) {
                if known.ips != lease.ips {
                    let (attachment, kept) = (lease.attachment.clone(), known.ips.clone());
                    notes.push(ImportNote::Twice { attachment, kept, other: lease.ips });
                }
                continue;
            }
            for ip in &lease.ips {
                if let Some(older) = book.holder_of(*ip) {
                    let (older, younger) = (older.holder(), lease.holder());
                    notes.push(ImportNote::Duplicate { ip: *ip, older, attachment: lease.attachment.clone(), younger });
                }
            }
            book.insert(lease);
        }
        (book, notes)
    }

    /// The boot whose leases these are.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Sets how long released addresses rest from now on.
    pub fn set_cooldown(&mut self, cooldown_ms: u64) {
        self.cooldown_ms = cooldown_ms;
    }

    /// Sets this node's ranges. Known ranges keep their cursors and resting addresses; leases are never touched.
    ///
    /// # Errors
    /// [`LeaseFault::RangesOverlap`]: nothing was changed.
    pub fn set_ranges(&mut self, ranges: impl IntoIterator<Item = OwnRange>) -> Result<(), LeaseFault> {
        let mut spaces: BTreeMap<Prefix, Space> = BTreeMap::new();
        for own in ranges {
            if let Some(other) = spaces.keys().find(|other| other.overlaps(&own.prefix)) {
                return Err(LeaseFault::RangesOverlap(*other, own.prefix));
            }
            let prefix = own.prefix;
            let mut space = match self.spaces.get(&prefix) {
                Some(known) if known.own == own => known.clone(),
                Some(known) => known.with_rules_of(own),
                None => Space::new(own),
            };
            let known = self.spaces.contains_key(&prefix);
            let mut youngest: Option<(Millis, IpAddr)> = None;
            for (ip, holders) in self.holders.range(prefix.addr()..=prefix.last()) {
                space.take(*ip);
                let since = holders.first().and_then(|holder| self.leases.get(holder)).map(|lease| lease.since);
                youngest = youngest.max(since.map(|since| (since, *ip)));
            }
            self.lent.range(prefix.addr()..=prefix.last()).for_each(|ip| space.take(*ip));
            if let Some((_, ip)) = youngest.filter(|_| !known) {
                space.move_cursor(ip);
            }
            spaces.insert(prefix, space);
        }
        self.spaces = spaces;
        Ok(())
    }

    /// Gives an attachment one address in every family asked for, or none at all.
    ///
    /// The same attachment asking again gets what it has. If it has something else than it now asks for, a pending
    /// lease is exchanged and a held one refused. The lease is pending until [`Self::hold`].
    ///
    /// # Errors
    /// See [`LeaseFault`]; the book is unchanged.
    pub fn allocate(&mut self, request: &LeaseRequest, now: Millis) -> Result<Lease, LeaseFault> {
        request.check()?;
        let mut before = None;
        if let Some(lease) = self.leases.get(&request.attachment) {
            if request.satisfied_by(lease) {
                // An ADD is under way: whatever a look found before is past.
                self.gone_since.remove(&request.attachment);
                return Ok(lease.clone());
            }
            if lease.state == LeaseState::Held {
                let (network, has) = (Arc::clone(&lease.network), lease.ips.clone());
                return Err(LeaseFault::Different { holder: request.holder(), network, has });
            }
            before = self.remove(&request.attachment, None);
        }
        let found = self.find(request, now);
        match found {
            Ok(lease) => {
                for ip in &lease.ips {
                    self.spaces_of(*ip, |space| space.move_cursor(*ip));
                }
                self.insert(lease.clone());
                Ok(lease)
            }
            Err(fault) => {
                before.into_iter().for_each(|lease| self.insert(lease));
                Err(fault)
            }
        }
    }

    /// The interface of a pending lease was made, with this host-side link. Again for a held one: the link is replaced.
    ///
    /// # Errors
    /// [`LeaseFault::Unknown`].
    pub fn hold(&mut self, attachment: &Attachment, link: Option<HostLink>) -> Result<Lease, LeaseFault> {
        let lease = self.leases.get_mut(attachment).ok_or_else(|| LeaseFault::Unknown(attachment.clone()))?;
        lease.state = LeaseState::Held;
        lease.link = link;
        self.gone_since.remove(attachment);
        Ok(lease.clone())
    }

    /// Ends a lease: its addresses rest, then are free. `None` if there is none, which is no fault. Call it when the
    /// kernel's objects are gone.
    pub fn release(&mut self, attachment: &Attachment, now: Millis) -> Option<Lease> {
        self.remove(attachment, Some(now))
    }

    /// Keeps an address from own pods, whichever range it is of. `false`: one has it, and nothing is changed.
    pub fn close(&mut self, ip: IpAddr) -> bool {
        if self.holders.contains_key(&ip) {
            return false;
        }
        self.lent.insert(ip);
        self.spaces_of(ip, |space| space.take(ip));
        true
    }

    /// Notes at start that an address is not the node's to give, whoever has it.
    pub fn note_closed(&mut self, ip: IpAddr) {
        self.lent.insert(ip);
        self.spaces_of(ip, |space| space.take(ip));
    }

    /// Ends that: the address rests, then it is free.
    pub fn reopen(&mut self, ip: IpAddr, now: Millis) {
        if self.lent.remove(&ip) && !self.holders.contains_key(&ip) {
            let otherwise = self.cooldown_ms;
            self.spaces_of(ip, |space| space.release(ip, space.due(now, otherwise)));
        }
    }

    /// An address inside `pool` that could be lent: one that rested, or, if wanted, the one that rested longest.
    pub fn spare(&mut self, network: &str, pool: &Prefix, even_cooling: bool, now: Millis) -> Option<IpAddr> {
        self.spaces.values_mut().for_each(|space| space.expire(now));
        let spaces = || self.open_spaces(network, pool.family()).filter(|space| pool.covers(&space.own.prefix));
        let coolest = || spaces().filter_map(|space| space.coolest(&[])).min().map(|(_, ip)| ip);
        spaces().find_map(|space| space.free(&[])).or_else(|| if even_cooling { coolest() } else { None })
    }

    /// Families of a request in which no address can be given now; those of fixed addresses aside.
    pub fn lacks(&mut self, request: &LeaseRequest, now: Millis) -> Vec<Family> {
        let is_fixed = |family: &Family| request.fixed.iter().any(|ip| Family::of(*ip) == *family);
        let families: BTreeSet<Family> = request.families.iter().copied().filter(|family| !is_fixed(family)).collect();
        families.into_iter().filter(|family| self.next(request, *family, now).is_err()).collect()
    }

    /// Attachments of a network that the runtime no longer lists. The caller removes their links, then
    /// [releases](Self::release) them; attachments with an ADD under way belong into `valid`.
    #[must_use]
    pub fn unlisted(&self, network: &str, valid: &BTreeSet<Attachment>) -> Vec<Attachment> {
        let of_network = self.leases.values().filter(|lease| *lease.network == *network);
        of_network.map(|lease| &lease.attachment).filter(|attachment| !valid.contains(*attachment)).cloned().collect()
    }

    /// Ends every lease of a network that the runtime no longer lists, and gives them back in order.
    pub fn gc(&mut self, network: &str, valid: &BTreeSet<Attachment>, now: Millis) -> Vec<Lease> {
        let unlisted = self.unlisted(network, valid);
        unlisted.iter().filter_map(|attachment| self.release(attachment, now)).collect()
    }

    /// One look at the host-side link of every attachment. Names the orphans: attachments whose link was gone in this
    /// look and in one at least [`Self::ORPHAN_MS`] ago, and in all between. The caller removes what is left of them,
    /// then [releases](Self::release) them. Looks every 10 s find an orphan within 30 s.
    ///
    /// `now` should be monotonic; a step back makes an orphan later, never earlier.
    pub fn look(&mut self, now: Millis, mut see: impl FnMut(&Lease) -> Sight) -> Vec<Attachment> {
        let mut orphans = Vec::new();
        for (attachment, lease) in &self.leases {
            match see(lease) {
                Sight::Unknown => {}
                Sight::Present => drop(self.gone_since.remove(attachment)),
                Sight::Gone => {
                    let first = self.gone_since.entry(attachment.clone()).or_insert(now);
                    *first = (*first).min(now);
                    if now.since(*first) >= Self::ORPHAN_MS {
                        orphans.push(attachment.clone());
                    }
                }
            }
        }
        orphans
    }

    /// The lease of an attachment.
    #[must_use]
    pub fn get(&self, attachment: &Attachment) -> Option<&Lease> {
        self.leases.get(attachment)
    }

    /// The lease that has an address: the oldest, should there be several.
    #[must_use]
    pub fn holder_of(&self, ip: IpAddr) -> Option<&Lease> {
        self.leases.get(self.holders.get(&ip)?.first()?)
    }

    /// All leases, in order of attachment.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// Leases with an address inside `range`.
    pub fn leases_in(&self, range: &Prefix) -> impl Iterator<Item = &Lease> {
        let holders = self.holders.range(range.addr()..=range.last()).flat_map(|(_, holders)| holders);
        holders.filter_map(|holder| self.leases.get(holder))
    }

    /// Addresses that several leases name: oldest lease first.
    pub fn contested(&self) -> impl Iterator<Item = (IpAddr, Vec<&Lease>)> {
        let contested = self.holders.iter().filter(|(_, holders)| holders.len() > 1);
        contested.map(|(ip, holders)| (*ip, holders.iter().filter_map(|holder| self.leases.get(holder)).collect()))
    }

    /// Leases with an address in none of this node's ranges.
    pub fn strays(&self) -> impl Iterator<Item = (IpAddr, &Lease)> {
        let outside = |ip: &IpAddr| !self.spaces.keys().any(|range| range.contains(*ip));
        self.leases.values().flat_map(move |lease| {
            lease.ips.iter().copied().filter(outside).map(move |ip| (ip, lease)).collect::<Vec<_>>()
        })
    }

    /// This node's ranges.
    pub fn ranges(&self) -> impl Iterator<Item = &OwnRange> {
        self.spaces.values().map(|space| &space.own)
    }

    /// Figures of each range.
    pub fn usage(&self) -> impl Iterator<Item = RangeUsage> {
        self.spaces.values().map(|space| RangeUsage {
            network: Arc::clone(&space.own.network),
            range: space.own.prefix,
            open: space.own.open,
            usable: space.usable(&[]),
            leased: self.leased(space, &[]),
            cooling: space.cooling() as u128,
            lent: self.lent.range(space.own.prefix.addr()..=space.own.prefix.last()).count() as u128,
            rested: space.rested(),
        })
    }

    /// A lease for the request, not entered yet.
    fn find(&mut self, request: &LeaseRequest, now: Millis) -> Result<Lease, LeaseFault> {
        let mut families = request.families.clone();
        families.sort_unstable();
        families.dedup();
        let mut ips = Vec::with_capacity(families.len());
        for family in families {
            let fixed = request.fixed.iter().copied().find(|ip| Family::of(*ip) == family);
            ips.push(match fixed {
                Some(ip) => self.fixed(request, ip)?,
                None => self.next(request, family, now)?,
            });
        }
        let first = ips.first().copied();
        let derived = first.map(mac_of);
        if let Some(mac) = request.mac
            && let Some(by) = self.leases.values().find(|lease| lease.mac == mac && lease.network == request.network)
        {
            return Err(LeaseFault::MacTaken { holder: request.holder(), mac, by: by.holder() });
        }
        let none = || LeaseFault::NoFamily { holder: request.holder(), network: Arc::clone(&request.network) };
        Ok(Lease {
            attachment: request.attachment.clone(),
            pod: request.pod.clone(),
            network: Arc::clone(&request.network),
            ips,
            mac: request.mac.or(derived).ok_or_else(none)?,
            since: now,
            state: LeaseState::Pending,
            boot: Arc::clone(&self.boot),
            link: None,
        })
    }

    /// Whether a fixed address can be had.
    fn fixed(&self, request: &LeaseRequest, ip: IpAddr) -> Result<IpAddr, LeaseFault> {
        let holder = || request.holder();
        let windows = request.windows(Family::of(ip));
        if !windows.is_empty() && !windows.iter().any(|window| window.contains(ip)) {
            return Err(LeaseFault::OutsideWindow { holder: holder(), ip, windows: join(&windows) });
        }
        if let Some(by) = self.holder_of(ip) {
            return Err(LeaseFault::Taken { holder: holder(), ip, by: by.holder() });
        }
        if self.lent.contains(&ip) {
            return Err(LeaseFault::Lent { holder: holder(), ip });
        }
        let spaces = || self.open_spaces(&request.network, Family::of(ip));
        let Some(space) = spaces().find(|space| space.own.prefix.contains(ip)) else {
            let ranges = spaces().map(|space| space.own.prefix).collect();
            return Err(LeaseFault::Outside { holder: holder(), ip, ranges });
        };
        match space.reserves(ip) {
            Some(why) => Err(LeaseFault::Reserved { holder: holder(), ip, range: space.own.prefix, why }),
            None => Ok(ip),
        }
    }

    /// The next address of a family: one that rested, otherwise the one that rested longest.
    fn next(&mut self, request: &LeaseRequest, family: Family, now: Millis) -> Result<IpAddr, LeaseFault> {
        let windows = request.windows(family);
        self.spaces.values_mut().for_each(|space| space.expire(now));
        let spaces = || self.open_spaces(&request.network, family);
        let rested = spaces().find_map(|space| space.free(&windows));
        let coolest = || spaces().filter_map(|space| space.coolest(&windows)).min().map(|(_, ip)| ip);
        if let Some(ip) = rested.or_else(coolest) {
            return Ok(ip);
        }
        let ranges: Vec<Prefix> = spaces().map(|space| space.own.prefix).collect();
        let holder = request.holder();
        if ranges.is_empty() {
            return Err(LeaseFault::NoRange { holder, network: Arc::clone(&request.network), family });
        }
        if spaces().all(|space| space.spans(&windows).is_empty()) {
            return Err(LeaseFault::WindowOutside { holder, windows: join(&windows), ranges });
        }
        let leased = spaces().map(|space| self.leased(space, &windows)).sum();
        let usable = spaces().map(|space| space.usable(&windows)).fold(0, u128::saturating_add);
        let window = (!windows.is_empty()).then(|| join(&windows));
        Err(LeaseFault::Full { holder, ranges, leased, usable, window })
    }

    /// Ranges of a network and family from which new addresses are given.
    fn open_spaces(&self, network: &str, family: Family) -> impl Iterator<Item = &Space> {
        let fits = move |space: &&Space| {
            space.own.open && *space.own.network == *network && space.own.prefix.family() == family
        };
        self.spaces.values().filter(fits)
    }

    /// Count of leased addresses of a range.
    fn leased(&self, space: &Space, windows: &[Window]) -> u128 {
        let prefix = space.own.prefix;
        let ends = |(first, last): (u128, u128)| Some(prefix.nth(first)?..=prefix.nth(last)?);
        let ranges = space.spans(windows).into_iter().filter_map(ends);
        ranges.map(|range| self.holders.range(range).count() as u128).sum()
    }

    /// Runs on the ranges that contain an address.
    fn spaces_of(&mut self, ip: IpAddr, mut act: impl FnMut(&mut Space)) {
        self.spaces.values_mut().filter(|space| space.own.prefix.contains(ip)).for_each(&mut act);
    }

    fn insert(&mut self, lease: Lease) {
        for ip in &lease.ips {
            self.holders.entry(*ip).or_default().push(lease.attachment.clone());
            self.spaces_of(*ip, |space| space.take(*ip));
        }
        self.leases.insert(lease.attachment.clone(), lease);
    }

    /// Takes a lease out; its addresses rest from `at` on, or not at all.
    fn remove(&mut self, attachment: &Attachment, at: Option<Millis>) -> Option<Lease> {
        let lease = self.leases.remove(attachment)?;
        self.gone_since.remove(attachment);
        for ip in &lease.ips {
            let Some(holders) = self.holders.get_mut(ip) else { continue };
            holders.retain(|holder| holder != attachment);
            if holders.is_empty() {
                self.holders.remove(ip);
                let otherwise = self.cooldown_ms;
                if !self.lent.contains(ip) {
                    self.spaces_of(*ip, |space| space.release(*ip, at.and_then(|at| space.due(at, otherwise))));
                }
            }
        }
        Some(lease)
    }
}

impl LeaseRequest {
    /// Faults of the request itself.
    fn check(&self) -> Result<(), LeaseFault> {
        let (holder, network) = (|| self.holder(), || Arc::clone(&self.network));
        if self.families.is_empty() {
            return Err(LeaseFault::NoFamily { holder: holder(), network: network() });
        }
        for (n, ip) in self.fixed.iter().enumerate() {
            let family = Family::of(*ip);
            if !self.families.contains(&family) {
                return Err(LeaseFault::FamilyUnknown { holder: holder(), network: network(), ip: *ip, family });
            }
            if let Some(second) = self.fixed.iter().skip(n + 1).find(|other| Family::of(**other) == family) {
                return Err(LeaseFault::TwoOfFamily { holder: holder(), family, first: *ip, second: *second });
            }
        }
        Ok(())
    }

    /// Whether a lease gives all that is asked for.
    fn satisfied_by(&self, lease: &Lease) -> bool {
        let families: BTreeSet<Family> = lease.ips.iter().map(|ip| Family::of(*ip)).collect();
        let in_window = |ip: &IpAddr| {
            let windows = self.windows(Family::of(*ip));
            windows.is_empty() || windows.iter().any(|window| window.contains(*ip))
        };
        lease.network == self.network
            && families == self.families.iter().copied().collect()
            && self.fixed.iter().all(|ip| lease.ips.contains(ip))
            && lease.ips.iter().all(in_window)
            && self.mac.is_none_or(|mac| mac == lease.mac)
    }

    /// The windows of a family.
    fn windows(&self, family: Family) -> Vec<Window> {
        self.within.iter().copied().filter(|window| Family::of(window.first) == family).collect()
    }
}

fn join(windows: &[Window]) -> String {
    windows.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A book as it is written down.
#[derive(Serialize, Deserialize)]
struct BookState {
    boot: Arc<str>,
    cooldown_ms: u64,
    ranges: Vec<RangeState>,
    leases: Vec<Lease>,
    #[serde(default)]
    lent: Vec<IpAddr>,
    gone_since: Vec<(Attachment, Millis)>,
}

#[derive(Serialize, Deserialize)]
struct RangeState {
    #[serde(flatten)]
    own: OwnRange,
    cursor: Option<IpAddr>,
    cooling: Vec<(IpAddr, Millis)>,
}

impl From<LeaseBook> for BookState {
    fn from(book: LeaseBook) -> Self {
        let range = |space: &Space| RangeState {
            own: space.own.clone(),
            cursor: space.cursor(),
            cooling: space.cooling_rows().collect(),
        };
        Self {
            ranges: book.spaces.values().map(range).collect(),
            boot: book.boot,
            cooldown_ms: book.cooldown_ms,
            leases: book.leases.into_values().collect(),
            lent: book.lent.into_iter().collect(),
            gone_since: book.gone_since.into_iter().collect(),
        }
    }
}

impl From<BookState> for LeaseBook {
    fn from(state: BookState) -> Self {
        let (mut book, _) = Self::import(&state.boot, state.cooldown_ms, state.leases);
        book.lent = state.lent.into_iter().collect();
        for range in state.ranges {
            let mut space = Space::new(range.own);
            let prefix = space.own.prefix;
            for (ip, _) in book.holders.range(prefix.addr()..=prefix.last()) {
                space.take(*ip);
            }
            book.lent.range(prefix.addr()..=prefix.last()).for_each(|ip| space.take(*ip));
            range.cursor.into_iter().for_each(|ip| space.set_cursor(ip));
            for (ip, due) in range.cooling.into_iter().filter(|(ip, _)| !book.holders.contains_key(ip)) {
                space.release(ip, Some(due));
            }
            book.spaces.insert(prefix, space);
        }
        book.gone_since = state.gone_since.into_iter().collect();
        book
    }
}
