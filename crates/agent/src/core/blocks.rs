//! Networks in mode `blocks`: how many blocks this node wants of each pool, and what is done when they are full.
//!
//! A pod that finds no address in its pools' blocks makes a need. A need is met by what this node offered to others, then by
//! a further block, then by an address that another node offers. In a pool without a free block each node keeps a few
//! of its free addresses on offer, so that the last address of the pool finds a pod wherever that is.
//!
//! Invariants: nothing here gives an address out (the lease book does) or decides whose it is (the engines do). With the
//! store away needs wait, and pods go on getting addresses of the blocks that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_cni_spec::{Code, Error, TypedCall};
use ripstop_ipam::ranges::{ClaimKey, RangeEvent, RangeRequest, Slot, start_of};
use ripstop_ipam::{LeaseFault, LeaseRequest, LendingEvent, RangeUsage, Window};
use ripstop_objects::{Network, Pool, RangeMode};
use ripstop_tables::{StoreKind, StoreState};
use ripstop_types::{Family, Millis, Prefix, Revision};

use super::borrowing::{Ask, inside, lends};
use super::{Core, status};

/// How many addresses of one pool a node keeps on offer where the pool has no free block.
const OFFERS: u128 = 4;

/// How long an empty block stays this node's, in milliseconds.
pub(super) const BLOCK_REST_MS: u64 = 60_000;

/// How long a borrowed address that no pod has stays this node's, in milliseconds: a pod that was told to try again comes
/// back for it.
pub(super) const BORROWED_REST_MS: u64 = 5_000;

/// What is known of this node's blocks besides the engines.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// How many blocks are wanted of each pool.
    pub(super) targets: BTreeMap<Slot, u32>,
    /// Blocks that pods with fixed addresses need.
    pub(super) preferred: BTreeMap<Slot, Prefix>,
    /// Addresses that waiting calls lack, as of the last pass over them.
    needs: Vec<Need>,
    pub(super) asks: BTreeMap<ClaimKey, Ask>,
    /// The blocks the lending engine was told of last.
    pub(super) told: Vec<(ClaimKey, Revision)>,
    /// Empty blocks that are given back once nothing of them is on offer any more.
    pub(super) retiring: BTreeSet<ClaimKey>,
    /// Since when a block or a borrowed address has been without a pod.
    idle: BTreeMap<ClaimKey, Millis>,
    /// Pools without a free block.
    exhausted: BTreeSet<Slot>,
}

/// One address that a waiting call lacks.
#[derive(Debug)]
struct Need {
    network: Arc<str>,
    pools: Vec<Prefix>,
    holder: Arc<str>,
}

/// Why a call has no address, and whether it waits for one.
pub(super) enum Lack {
    /// It may come.
    Wait(Error),
    /// It will not.
    Never(Error),
}

impl Core {
    /// What this node wants of a network in mode `blocks`: an address of its own, and blocks.
    pub(super) fn block_requests(&self, network: &Network) -> Vec<RangeRequest> {
        let mut requests = Vec::new();
        for family in network.spec.families() {
            requests.extend(node_request(network, family));
            requests.extend(network.spec.pools(family).filter_map(|pool| self.pool_request(network, &pool)));
        }
        requests
    }

    pub(super) fn pool_request(&self, network: &Network, pool: &Pool) -> Option<RangeRequest> {
        let rules = network.spec.blocks.as_ref()?;
        let family = pool.range.family();
        let mut request = RangeRequest::new(network.name.as_str(), pool.range, rules.len.get(family));
        request.blocks = Some(0);
        let slot = Slot::of(&request);
        let target = self.blocks.targets.get(&slot).copied();
        request.blocks = Some(target.unwrap_or_else(|| base(network, pool)).min(rules.max_per_node));
        request.preferred = self.blocks.preferred.get(&slot).copied();
        let excluded = network.spec.exclude.iter().filter(|range| range.len() <= request.len).copied();
        request.exclude = excluded.chain(rules.node_ranges.iter()).filter(|range| range.family() == family).collect();
        request.exclude.retain(|range| range.overlaps(&pool.range));
        Some(request)
    }

    /// Which addresses a pod may get: those of its pools, within what the runtime asked for.
    pub(super) fn pool_windows(&self, typed: &TypedCall, network: &Network, request: &LeaseRequest) -> Vec<Window> {
        let mut windows = Vec::new();
        for family in network.spec.families() {
            let asked: Vec<Window> =
                request.within.iter().copied().filter(|window| Family::of(window.first) == family).collect();
            if request.fixed.iter().any(|ip| Family::of(*ip) == family) {
                windows.extend(asked);
                continue;
            }
            for pool in self.pools_of(typed, network, family) {
                let whole = Window::of(&pool);
                let cut = |window: &Window| {
                    let cut = Window { first: window.first.max(whole.first), last: window.last.min(whole.last) };
                    (cut.first <= cut.last).then_some(cut)
                };
                windows.extend(asked.iter().filter_map(cut));
                windows.extend(asked.is_empty().then_some(whole));
            }
        }
        windows
    }

    fn pools_of(&self, typed: &TypedCall, network: &Network, family: Family) -> Vec<Prefix> {
        let pod = typed.call.args().and_then(|args| args.pod.as_ref());
        let namespace = pod.map(|pod| pod.namespace.to_string());
        let object = pod.and_then(|pod| self.tables.cluster.pods.get(pod));
        let of_object = object.into_iter().flat_map(|pod| &pod.labels);
        let mut labels: BTreeMap<String, String> =
            of_object.map(|(key, value)| (key.to_string(), value.to_string())).collect();
        // A runtime that says more knows more.
        labels.extend(typed.conf.extra.labels.clone());
        network.spec.pools_for(family, namespace.as_deref(), &labels)
    }

    /// A call found no address: notes what it lacks, and says what it waits for.
    pub(super) fn lacks(
        &mut self,
        typed: &TypedCall,
        network: &Network,
        request: &LeaseRequest,
        fault: &LeaseFault,
    ) -> Option<Lack> {
        match fault {
            LeaseFault::Outside { ip, .. } | LeaseFault::Lent { ip, .. } => {
                Some(self.lacks_fixed(network, request, *ip))
            }
            LeaseFault::NoRange { .. } | LeaseFault::Full { .. } | LeaseFault::WindowOutside { .. } => {
                let holder: Arc<str> = request.holder().into();
                let mut lack = None;
                for family in self.book.lacks(request, self.at.wall) {
                    let pools = self.pools_of(typed, network, family);
                    let in_windows = |pool: &Prefix| {
                        request.within.iter().any(|window| pool.contains(window.first) || pool.contains(window.last))
                    };
                    let pools: Vec<Prefix> = pools.into_iter().filter(in_windows).collect();
                    if pools.is_empty() {
                        let text = format!(
                            "{holder}: no pool of network {} has addresses in the ranges asked for",
                            network.name
                        );
                        return Some(Lack::Never(Error::new(Code::AddressRefused, text)));
                    }
                    lack.get_or_insert(Lack::Wait(self.want_sentence(network, family, &pools, &holder)));
                    self.blocks.needs.push(Need { network: request.network.clone(), pools, holder: holder.clone() });
                }
                lack
            }
            _ => None,
        }
    }

    /// What a call without an address is told if it waits too long.
    fn want_sentence(&self, network: &Network, family: Family, pools: &[Prefix], holder: &str) -> Error {
        let pools_text = pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let name = &network.name;
        if self.tables.store != StoreState::Here {
            let text = format!(
                "{holder}: this node's blocks of {pools_text} are full, and a further address is the store's to give: {}",
                status::store_sentence(&self.tables)
            );
            return Error::new(Code::TryAgainLater, text);
        }
        let spent = pools.iter().all(|pool| self.cannot_grow(network, pool));
        let lends = network.spec.blocks.as_ref().is_some_and(|rules| lends(rules, family));
        if !spent {
            let text = format!("{holder}: this node's blocks of {pools_text} are full; a further one is being claimed");
            return Error::new(Code::TryAgainLater, text);
        }
        let offered = self
            .lending
            .offers()
            .any(|key| *key.network == *name.as_str() && pools.iter().any(|pool| pool.covers(&key.range)));
        let text = if lends && offered {
            return Error::new(Code::TryAgainLater, format!("{holder}: an address of {pools_text} is being borrowed"));
        } else if lends {
            format!(
                "{holder}: {pools_text} of network {name}: this node can claim no further block, and no node offers an address; remove pods, or add a pool"
            )
        } else {
            format!(
                "{holder}: {pools_text} of network {name}: this node can claim no further block, and nodes lend none; remove pods, or add a pool"
            )
        };
        Error::new(Code::NoFreeAddress, text)
    }

    /// How many blocks of a pool are this node's or are about to be.
    pub(super) fn owned_in(&self, slot: &Slot) -> u32 {
        let owned = self.engine.owned().into_iter().filter(|owned| slot.has(&owned.key) && owned.phase != "releasing");
        u32::try_from(owned.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn slot_of(network: &Network, pool: &Prefix) -> Slot {
        let len = network.spec.blocks.as_ref().map(|rules| rules.len.get(pool.family()));
        Slot { network: network.name.as_str().into(), family: pool.family(), pool: Some(*pool), len }
    }

    /// Whether this node gets no further block of a pool.
    fn cannot_grow(&self, network: &Network, pool: &Prefix) -> bool {
        let Some(rules) = &network.spec.blocks else { return true };
        let slot = Self::slot_of(network, pool);
        self.owned_in(&slot) >= rules.max_per_node || self.engine.is_exhausted(&slot) != Some(false)
    }

    /// Before a pass over the calls.
    pub(super) fn forget_needs(&mut self) {
        self.blocks.needs.clear();
        self.blocks.asks.values_mut().for_each(|ask| ask.wanted = false);
    }

    /// After it: does what brings the addresses that are lacking, and offers others what is left.
    pub(super) fn serve_blocks(&mut self) {
        let unwanted: Vec<ClaimKey> =
            self.blocks.asks.iter().filter(|(_, ask)| !ask.wanted).map(|(key, _)| key.clone()).collect();
        for key in unwanted {
            self.blocks.asks.remove(&key);
            self.lending_event(&LendingEvent::Cancel(key));
        }
        if !self.tables.networks.values().any(|row| row.value.spec.range_mode == RangeMode::Blocks) || self.held {
            return;
        }
        let needs = std::mem::take(&mut self.blocks.needs);
        let mut coming: BTreeSet<ClaimKey> =
            self.lending.expected().chain(self.lending.coming_back()).cloned().collect();
        coming.retain(|key| !self.blocks.asks.contains_key(key));
        for need in &needs {
            self.serve(need, &mut coming);
        }
        self.blocks.needs = needs;
        self.keep_offers();
    }

    fn serve(&mut self, need: &Need, coming: &mut BTreeSet<ClaimKey>) {
        let Some(network) = self.network_named(&need.network).cloned() else { return };
        let fits =
            |key: &ClaimKey| key.network == need.network && need.pools.iter().any(|pool| pool.covers(&key.range));
        self.blocks.retiring.retain(|block| !fits(block));
        let arriving = coming.iter().find(|key| fits(key)).cloned();
        if let Some(key) = arriving {
            coming.remove(&key);
            return;
        }
        let claiming = |phase: &str| !matches!(phase, "held" | "in doubt" | "releasing");
        if self.engine.owned().iter().any(|owned| fits(&owned.key) && claiming(owned.phase)) {
            return;
        }
        let offered = self.lending.offering().find(|key| fits(key)).cloned();
        if let Some(key) = offered {
            return self.lending_event(&LendingEvent::TakeBack(key));
        }
        // A block that waits to be opened is enough for many.
        if self.blocks.told.iter().any(|(block, _)| fits(block) && !self.lending.is_open(block)) {
            return;
        }
        let growing = need.pools.iter().find(|pool| !self.cannot_grow(&network, pool)).copied();
        if let Some(pool) = growing {
            return self.want_more(&network, &pool);
        }
        let Some(rules) = &network.spec.blocks else { return };
        let may_borrow = need.pools.first().is_some_and(|pool| lends(rules, pool.family()));
        if may_borrow && let Some(key) = self.best_offer(fits) {
            self.lending_event(&LendingEvent::Borrow { key, holder: need.holder.clone() });
        }
    }

    /// One more block of a pool than there are.
    fn want_more(&mut self, network: &Network, pool: &Prefix) {
        let slot = Self::slot_of(network, pool);
        let target = self.owned_in(&slot) + 1;
        self.blocks.targets.insert(slot, target);
        let pool = network.spec.pools(pool.family()).find(|other| other.range == *pool);
        if let Some(request) = pool.and_then(|pool| self.pool_request(network, &pool)) {
            self.range_event(&RangeEvent::Want(request));
        }
    }

    /// The offer that this node takes first: nodes begin at different ones, so that they seldom meet.
    fn best_offer(&self, fits: impl Fn(&ClaimKey) -> bool) -> Option<ClaimKey> {
        let offers: Vec<&ClaimKey> = self.lending.offers().filter(|key| fits(key)).collect();
        let count = offers.len();
        let start = usize::try_from(start_of(&self.tables.node, count as u128)).unwrap_or(0);
        offers.get(start % count.max(1)).map(|key| (*key).clone())
    }

    /// In pools without a free block, a few of this node's free addresses are anybody's.
    fn keep_offers(&mut self) {
        let networks: Vec<_> = self.tables.networks.values().map(|row| row.value.clone()).collect();
        for network in networks {
            let Some(rules) = &network.spec.blocks else { continue };
            for family in network.spec.families().filter(|family| lends(rules, *family)) {
                for pool in network.spec.pools(family) {
                    self.keep_offers_of(&network, &pool.range);
                }
            }
        }
    }

    fn keep_offers_of(&mut self, network: &Network, pool: &Prefix) {
        let slot = Self::slot_of(network, pool);
        let fits = |key: &ClaimKey| key.network == slot.network && pool.covers(&key.range);
        let offering: Vec<ClaimKey> = self.lending.offering().filter(|key| fits(key)).cloned().collect();
        let scarce = self.blocks.exhausted.contains(&slot) && self.tables.store == StoreState::Here;
        if !scarce {
            if self.tables.store == StoreState::Here {
                offering.into_iter().for_each(|key| self.lending_event(&LendingEvent::TakeBack(key)));
            }
            return;
        }
        if self.blocks.needs.iter().any(|need| need.network == slot.network && need.pools.contains(pool)) {
            return;
        }
        let usage: Vec<RangeUsage> =
            self.book.usage().filter(|usage| usage.open && self.is_block_in(usage, &slot)).collect();
        let free: u128 = usage.iter().map(|usage| usage.rested + usage.cooling).fold(0, u128::saturating_add);
        let mut on_offer = offering.len() as u128;
        let wanted = (free + on_offer).div_ceil(2).min(OFFERS);
        let others = self.lending.offers().any(fits);
        while on_offer < wanted {
            let even_cooling = on_offer == 0 && !others;
            let Some(ip) = self.spare(network, pool, even_cooling) else { return };
            if !self.book.close(ip) {
                return;
            }
            on_offer += 1;
            let key = ClaimKey::new(network.name.as_str(), Prefix::host(ip));
            self.lending_event(&LendingEvent::Offer(key));
        }
    }

    /// An address of an own block, not one that is borrowed itself.
    fn spare(&mut self, network: &Network, pool: &Prefix, even_cooling: bool) -> Option<IpAddr> {
        let blocks: Vec<Prefix> = self
            .blocks
            .told
            .iter()
            .map(|(block, _)| block)
            .filter(|block| *block.network == *network.name.as_str())
            .map(|block| block.range)
            .collect();
        let (name, wall) = (network.name.as_str(), self.at.wall);
        let inside = blocks.into_iter().filter(|block| pool.covers(block));
        let mut found = inside.filter_map(|block| self.book.spare(name, &block, even_cooling, wall));
        found.next()
    }

    fn is_block_in(&self, usage: &RangeUsage, slot: &Slot) -> bool {
        let key = ClaimKey { network: usage.network.clone(), range: usage.range };
        slot.has(&key) && self.blocks.told.iter().any(|(block, _)| *block == key)
    }

    /// Every second: what is idle goes back, what is wanted is counted anew.
    pub(super) fn tick_blocks(&mut self) {
        self.lending_event(&LendingEvent::Tick);
        if self.held || !self.tables.knows(StoreKind::Claims) {
            return;
        }
        self.tend_borrowed();
        let networks: Vec<_> = self.tables.networks.values().map(|row| row.value.clone()).collect();
        self.blocks.exhausted.clear();
        for network in networks.iter().filter(|network| network.spec.blocks.is_some()) {
            for pool in network.spec.families().flat_map(|family| network.spec.pools(family)).collect::<Vec<_>>() {
                self.tend_pool(network, &pool);
            }
        }
        self.release_unused();
        let known: BTreeSet<ClaimKey> =
            self.blocks.told.iter().map(|(key, _)| key).chain(self.lending.borrowed()).cloned().collect();
        self.blocks.idle.retain(|key, _| known.contains(key));
    }

    fn tend_pool(&mut self, network: &Network, pool: &Pool) {
        let slot = Self::slot_of(network, &pool.range);
        if self.engine.is_exhausted(&slot) == Some(true) {
            self.blocks.exhausted.insert(slot.clone());
        }
        let needed =
            self.blocks.needs.iter().any(|need| need.network == slot.network && need.pools.contains(&pool.range));
        let (has, base) = (self.owned_in(&slot), base(network, pool));
        let blocks: Vec<ClaimKey> =
            self.blocks.told.iter().map(|(key, _)| key).filter(|key| slot.has(key)).cloned().collect();
        let mut left = has;
        for block in blocks {
            let used = self.is_used(&block) || needed;
            if used {
                self.blocks.retiring.remove(&block);
            }
            if self.rests(&block, used, BLOCK_REST_MS) && left > base {
                left -= 1;
                self.retire(&block);
            }
        }
        if !needed {
            // What was wanted and could not be had is not wanted for ever.
            self.blocks.preferred.remove(&slot);
            let target = self.blocks.targets.get(&slot).copied().unwrap_or(base);
            let settled = target.min(left.max(base));
            if settled != target {
                self.blocks.targets.insert(slot, settled);
                self.range_event_of(network, pool);
            }
        }
        self.look_ahead(network, pool, has);
    }

    /// One more block before the last address is gone, while most of the pool is free.
    fn look_ahead(&mut self, network: &Network, pool: &Pool, has: u32) {
        let slot = Self::slot_of(network, &pool.range);
        let Some(rules) = network.spec.blocks.as_ref().filter(|rules| has > 0 && has < rules.max_per_node) else {
            return;
        };
        let len = rules.len.get(pool.range.family());
        let claimed =
            self.engine.claims().filter(|(key, stored)| slot.has(key) && !stored.claim.state.is_lending()).count();
        if (claimed as u128).saturating_mul(2) >= pool.range.count_of(len) {
            return;
        }
        let usage = self.book.usage().filter(|usage| self.is_block_in(usage, &slot));
        let free: u128 = usage.map(|usage| usage.rested + usage.cooling).fold(0, u128::saturating_add);
        let size = 1u128.checked_shl(u32::from(pool.range.family().bits() - len)).unwrap_or(u128::MAX);
        if free * 8 < size && self.engine.owned().iter().all(|owned| !slot.has(&owned.key) || owned.phase == "held") {
            self.want_more(network, &pool.range);
        }
    }

    fn range_event_of(&mut self, network: &Network, pool: &Pool) {
        if let Some(request) = self.pool_request(network, pool) {
            self.range_event(&RangeEvent::Want(request));
        }
    }

    /// Whether pods of this node or others have addresses of a block, or had until now.
    fn is_used(&self, block: &ClaimKey) -> bool {
        let lent = || {
            let rows = self.lending.rows();
            rows.iter().any(|row| row.phase == "lent" && inside(&row.key, block))
        };
        let cooling = || self.book.usage().any(|usage| usage.range == block.range && usage.cooling > 0);
        self.book.leases_in(&block.range).next().is_some() || cooling() || lent()
    }

    /// Whether something has been without a pod for so long.
    pub(super) fn rests(&mut self, key: &ClaimKey, used: bool, for_ms: u64) -> bool {
        if used {
            self.blocks.idle.remove(key);
            return false;
        }
        let since = *self.blocks.idle.entry(key.clone()).or_insert(self.at.now);
        self.at.now.since(since) >= for_ms
    }

    /// An empty block goes back: first no pod gets an address of it, then what is on offer comes back, then it goes.
    fn retire(&mut self, block: &ClaimKey) {
        let closed: Vec<ClaimKey> = self.lending.closed().filter(|key| inside(key, block)).cloned().collect();
        let is_new = self.blocks.retiring.insert(block.clone());
        for key in &closed {
            self.lending_event(&LendingEvent::TakeBack(key.clone()));
        }
        if !is_new && closed.is_empty() {
            self.blocks.retiring.remove(block);
            self.want_fewer_blocks(block);
            self.range_event(&RangeEvent::Release(block.clone()));
        }
    }

    /// A block is given back, and not to be replaced.
    pub(super) fn want_fewer_blocks(&mut self, block: &ClaimKey) {
        let Some(network) = self.network_named(&block.network).cloned() else { return };
        let pool = network.spec.pools(block.range.family()).find(|pool| pool.range.covers(&block.range));
        let Some(pool) = pool.filter(|_| network.spec.blocks.is_some()) else { return };
        let slot = Self::slot_of(&network, &pool.range);
        let left = self.owned_in(&slot).saturating_sub(1);
        self.blocks.targets.insert(slot, left);
        self.range_event_of(&network, &pool);
    }

    /// Blocks of pools that are no more, and of earlier runs: they go when no pod has an address of them.
    fn release_unused(&mut self) {
        let unused: Vec<ClaimKey> = self.engine.unused().cloned().collect();
        for key in unused {
            let Some(network) = self.network_named(&key.network).cloned() else { continue };
            let busy = self.is_used(&key) || self.lending.closed().any(|other| inside(other, &key));
            if network.spec.blocks.is_none() {
                continue;
            }
            if !busy {
                self.range_event(&RangeEvent::Release(key));
                continue;
            }
            // Pods have addresses of it: where it is a block of a pool, it is this node's again.
            let family = key.range.family();
            let pool = network.spec.pools(family).find(|pool| pool.range.covers(&key.range));
            let is_block = network.spec.blocks.as_ref().is_some_and(|rules| rules.len.get(family) == key.range.len());
            if let Some(pool) = pool.filter(|_| is_block && !self.engine.owned().iter().any(|owned| owned.key == key)) {
                self.blocks.preferred.insert(Self::slot_of(&network, &pool.range), key.range);
                self.want_more(&network, &pool.range);
            }
        }
    }
}

/// How many blocks of a pool a node has at least: one of the network's own range, so that the first pod need not wait.
fn base(network: &Network, pool: &Pool) -> u32 {
    u32::from(network.spec.ranges.iter().any(|range| range == pool.range))
}

/// The node's own address.
fn node_request(network: &Network, family: Family) -> Option<RangeRequest> {
    let rules = network.spec.blocks.as_ref()?;
    let mut request = RangeRequest::new(network.name.as_str(), rules.node_ranges.get(family)?, family.bits());
    request.blocks = Some(1);
    request.exclude = network.spec.exclude.iter().filter(|range| range.overlaps(&request.pool)).copied().collect();
    Some(request)
}
