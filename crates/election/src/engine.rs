//! One node's part.

mod grants;
mod rest;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ripstop_types::{Mac, NodeName};

use rest::Rest;

use crate::message::{Message, Votes};
use crate::peer::Peer;
use crate::table::{ALL_ELECT, Table};
use crate::{Action, Timing};

/// When an address that this node speaks for is announced, from the moment it does.
const ANNOUNCED: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// How long an address that a foreign machine has is left alone.
const CONTESTED: Duration = Duration::from_secs(10);

/// What a node has to do with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// It may not have it, or waits until grants to others have ended.
    Idle,
    /// It has asked whether somebody speaks, and waits for an answer.
    Probing {
        /// Until when.
        until: Duration,
    },
    /// It speaks.
    Owner {
        /// Since when.
        since: Duration,
        /// How often it was announced.
        announced: usize,
    },
    /// It votes for another and speaks on until that one does.
    Yielding {
        /// At the longest.
        until: Duration,
    },
    /// Somebody else answers for it.
    Contested {
        /// When to look again.
        until: Duration,
    },
}

/// Whom votes may go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Ballot {
    /// Whom a majority of the electors sees.
    live: Vec<NodeName>,
    /// Of these, whom a majority has seen for the settle time.
    steady: Vec<NodeName>,
    /// Which votes of each elector are known, where some are not steady.
    known: Vec<(u64, u64)>,
}

/// A node's part in the choice of owners.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Engine {
    me: NodeName,
    timing: Timing,
    run: u64,
    table: Table,
    electors: BTreeSet<NodeName>,
    digest: u64,
    /// Votes that a majority has.
    pub(crate) need: usize,
    /// How old a vote must be where somebody may have a grant from before it.
    pub(crate) wait: Duration,
    peers: BTreeMap<NodeName, Peer>,
    claims: BTreeMap<IpAddr, Claim>,
    seq: u64,
    sent: VecDeque<(u64, Duration)>,
    votes: Arc<Votes>,
    generation: u64,
    leaves: bool,
    next: Duration,
    look: Duration,
    started: Duration,
    /// When it last began to speak for an address.
    begun: Duration,
    /// Who watches whom, as the table says.
    watchers: BTreeMap<NodeName, BTreeSet<NodeName>>,
    /// What the votes were made of; nothing where they must be made anew.
    ballot: Option<Ballot>,
    /// What holds where no address waits for grants and nothing was said that is new; none: all has to be looked at.
    rest: Option<Rest>,
}

impl Engine {
    /// A node that knows of no candidate. `run` is greater at each start of the program.
    #[must_use]
    pub fn new(now: Duration, me: NodeName, run: u64, timing: Timing) -> Self {
        Self {
            me,
            timing,
            run,
            table: Table::default(),
            electors: BTreeSet::new(),
            digest: 0,
            need: 1,
            wait: timing.detection + timing.margin,
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
            seq: 0,
            sent: VecDeque::new(),
            votes: Arc::default(),
            generation: 0,
            leaves: false,
            next: now,
            look: now,
            started: now,
            begun: now,
            watchers: BTreeMap::new(),
            ballot: None,
            rest: None,
        }
    }

    /// Other candidates, addresses or endpoints.
    pub fn set(&mut self, now: Duration, table: Table) -> Vec<Action> {
        let mut actions = Vec::new();
        let digest = table.digest();
        let others = digest != self.digest;
        if others {
            // What electors said was said of other candidates.
            self.peers.retain(|node, _| table.candidates.contains_key(node));
            self.peers.values_mut().for_each(|peer| peer.generation = 0);
            for node in table.candidates.keys() {
                self.peers.entry(node.clone()).or_default();
            }
        }
        (self.electors, self.digest) = (table.electors(), digest);
        self.need = table.majority(self.timing.lone_speaks);
        self.claims.retain(|address, claim| {
            let stays = table.addresses.contains_key(address);
            if !stays && matches!(claim, Claim::Owner { .. } | Claim::Yielding { .. }) {
                actions.push(Action::Silence(*address));
            }
            stays
        });
        for address in table.addresses.keys() {
            self.claims.entry(*address).or_insert(Claim::Idle);
        }
        self.watchers = table.candidates.keys().map(|node| (node.clone(), table.watchers(node))).collect();
        (self.table, self.ballot, self.rest) = (table, None, None);
        self.settle(now, &mut actions);
        if others {
            self.tell(now, &mut actions);
        }
        actions
    }

    /// This node is drained or its interface is not well (`true`), or it can serve again.
    pub fn set_leaving(&mut self, now: Duration, leaves: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.leaves != leaves {
            self.leaves = leaves;
            self.settle(now, &mut actions);
            self.tell(now, &mut actions);
        }
        actions
    }

    /// A message has come.
    pub fn received(&mut self, now: Duration, message: &Message) -> Vec<Action> {
        let mut actions = Vec::new();
        let (detection, counts) = (self.timing.detection, message.list == self.digest);
        if message.from == self.me {
            return actions;
        }
        let basis = (message.echo.0 == self.run).then(|| self.sent_at(message.echo.1)).flatten();
        let Some(peer) = self.peers.get_mut(&message.from) else { return actions };
        let Some(is_news) = peer.take(&self.me, now, message, (basis, counts), detection) else { return actions };
        if is_news {
            self.rest = None;
        }
        for address in &message.speaks {
            if let Some(claim @ Claim::Yielding { .. }) = self.claims.get_mut(address) {
                *claim = Claim::Idle;
                self.rest = None;
                actions.push(Action::Silence(*address));
            }
        }
        // Most messages only say that their sender is still there.
        if self.rest.is_none() || now >= self.look {
            self.settle(now, &mut actions);
        }
        actions
    }

    /// Somebody on the segment said, asked or not, that it has an address.
    pub fn heard(&mut self, now: Duration, address: IpAddr, mac: Mac) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(claim) = self.claims.get(&address).copied() else { return actions };
        let holder = self.table.candidates.iter().find(|(_, of)| **of == mac).map(|(node, _)| node);
        if holder == Some(&self.me) {
            return actions;
        }
        let speaks = matches!(claim, Claim::Owner { .. } | Claim::Yielding { .. });
        let until = match holder {
            None => now + CONTESTED,
            // It stops when its grants end; in a pair, without grants, the better one stays.
            Some(other) if speaks => {
                let better = self.table.winner(address, [&self.me, other]) == Some(other);
                if self.need > 1 || !better {
                    return actions;
                }
                now + self.timing.detection
            }
            Some(_) if matches!(claim, Claim::Probing { .. }) => now + self.timing.interval,
            Some(_) => return actions,
        };
        if holder.is_none() && !matches!(claim, Claim::Contested { .. }) {
            actions.push(Action::Conflict(address, mac));
        }
        if speaks {
            actions.push(Action::Silence(address));
        }
        self.claims.insert(address, Claim::Contested { until });
        self.look = self.look.min(until);
        self.rest = None;
        actions
    }

    /// When [`Self::tick`] should come; sooner does no harm.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.next.min(self.look)
    }

    /// Time has passed. Messages that came meanwhile are handed in before.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if now >= self.look || now >= self.next {
            self.settle(now, &mut actions);
        }
        if now >= self.next {
            self.tell(now, &mut actions);
        }
        actions
    }

    /// Whether this node may answer for an address at this moment: asked before every answer, with the time as it is then.
    #[must_use]
    pub fn may_speak(&self, now: Duration, address: IpAddr) -> bool {
        match self.claims.get(&address) {
            Some(Claim::Owner { .. }) => self.granted(now, address).is_some_and(|until| now < until),
            Some(Claim::Yielding { until }) => now < *until,
            _ => false,
        }
    }

    /// What this node has to do with an address.
    #[must_use]
    pub fn claim(&self, address: IpAddr) -> Option<Claim> {
        self.claims.get(&address).copied()
    }

    /// Whom this node votes for.
    #[must_use]
    pub fn choice(&self, address: IpAddr) -> Option<&NodeName> {
        self.votes.get(&address)
    }

    /// Whether it speaks for no address: a node that was drained may go.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        !self.claims.values().any(|claim| matches!(claim, Claim::Owner { .. } | Claim::Yielding { .. }))
    }

    /// Candidates that this node sees alive, of those that it can judge: each hears it, too.
    #[must_use]
    pub fn sees(&self, now: Duration) -> BTreeSet<NodeName> {
        let alive = |(node, peer): &(&NodeName, &Peer)| {
            let judged = || self.judges(node) || !self.is_missed(now, node, |watcher| watcher.sees.contains(node));
            **node == self.me || peer.is_there(now, self.timing.detection) && judged()
        };
        self.peers.iter().filter(alive).map(|(node, _)| node.clone()).collect()
    }

    /// Those of them that were away less than the settle time ago.
    fn recent(&self, now: Duration, sees: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        let back = |node: &NodeName| {
            let own = self.peers.get(node).and_then(|peer| peer.back);
            let calm = |watcher: &Peer| watcher.sees.contains(node) && !watcher.recent.contains(node);
            *node != self.me
                && (own.is_some_and(|back| now < back + self.timing.settle)
                    || !self.judges(node) && self.is_missed(now, node, calm))
        };
        sees.iter().filter(|node| back(node)).cloned().collect()
    }

    /// Candidates whose last message is a detection time old, and since when it is: what they were granted has ended, as a grant
    /// counts from a message of theirs.
    fn silent(&self, now: Duration) -> BTreeMap<NodeName, Duration> {
        let ended = |peer: &Peer| peer.heard.map(|heard| heard + self.timing.detection).filter(|ended| *ended <= now);
        let others = self.peers.iter().filter(|(node, _)| **node != self.me);
        others.filter_map(|(node, peer)| Some((node.clone(), ended(peer)?))).collect()
    }

    /// Whether its own eyes are enough.
    fn judges(&self, node: &NodeName) -> bool {
        self.table.candidates.len() <= ALL_ELECT || self.watches(node)
    }

    /// Whether most of those who watch a node, and are heard, do not say so of it.
    fn is_missed(&self, now: Duration, node: &NodeName, says: impl Fn(&Peer) -> bool) -> bool {
        let heard = self.watchers.get(node).into_iter().flatten().filter_map(|watcher| self.peers.get(watcher));
        let heard: Vec<&Peer> = heard.filter(|peer| peer.is_fresh(now, self.timing.detection)).collect();
        let missing = heard.iter().filter(|peer| !says(peer)).count();
        2 * missing > heard.len()
    }

    fn sent_at(&self, seq: u64) -> Option<Duration> {
        let at = self.sent.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        self.sent.get(at).map(|(_, time)| *time)
    }

    /// Tells all that need to know; the next time is an interval later.
    fn tell(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.seq += 1;
        self.next = now + self.timing.interval;
        self.sent.push_back((self.seq, now));
        while self.sent.front().is_some_and(|(_, time)| *time + self.timing.detection <= now) {
            self.sent.pop_front();
        }
        // As it was noted when this node voted, which is always just before.
        let own = self.peers.get(&self.me);
        let [sees, recent] = own.map(|own| [own.sees.clone(), own.recent.clone()]).unwrap_or_default();
        let silent: BTreeSet<NodeName> = own.map(|own| own.silent.keys().cloned().collect()).unwrap_or_default();
        let speaks = self.begun(now);
        let all = self.electors.contains(&self.me);
        for (node, peer) in &self.peers {
            if *node == self.me || !(all || self.electors.contains(node) || self.watches(node)) {
                continue;
            }
            let message = Message {
                from: self.me.clone(),
                run: self.run,
                seq: self.seq,
                list: self.digest,
                echo: (peer.run, peer.seq),
                knows: peer.generation,
                generation: self.generation,
                votes: (peer.knows != self.generation).then(|| self.votes.clone()),
                sees: sees.clone(),
                recent: recent.clone(),
                silent: silent.clone(),
                leaves: self.leaves,
                speaks: speaks.clone(),
            };
            actions.push(Action::Send(node.clone(), message));
        }
    }

    /// Addresses for which it began to speak within the last detection time.
    fn begun(&self, now: Duration) -> Vec<IpAddr> {
        let lately = |since: Duration| now < since + self.timing.detection;
        if !lately(self.begun) {
            return Vec::new();
        }
        let began = |claim: &Claim| matches!(claim, Claim::Owner { since, .. } if lately(*since));
        self.claims.iter().filter(|(_, claim)| began(claim)).map(|(address, _)| *address).collect()
    }

    fn watches(&self, node: &NodeName) -> bool {
        self.watchers.get(node).is_some_and(|watchers| watchers.contains(&self.me))
    }

    /// Votes anew if something is different, and does what follows for each address.
    fn settle(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let sees = self.sees(now);
        let recent = self.recent(now, &sees);
        let silent = self.silent(now);
        let told = self
            .peers
            .get(&self.me)
            .is_some_and(|own| (&own.sees, &own.recent) == (&sees, &recent) && own.silent.keys().eq(silent.keys()));
        if let Some(own) = self.peers.get_mut(&self.me) {
            (own.heard, own.leaves) = (Some(now), self.leaves);
            (own.sees, own.recent, own.silent) = (sees, recent, silent);
        }
        let ballot = self.ballot(now);
        let votes = (self.ballot.as_ref() != Some(&ballot)).then(|| self.vote(now, &ballot));
        self.ballot = Some(ballot);
        let changed = votes.filter(|votes| self.generation == 0 || *self.votes != *votes);
        let changes = changed.is_some();
        if let Some(votes) = changed {
            self.yield_to_others(now, &votes);
            self.generation += 1;
            self.rest = None;
            self.votes = Arc::new(votes);
            if let Some(own) = self.peers.get_mut(&self.me) {
                (own.basis, own.known) = (Some(now), self.started);
                own.change(&self.me, now, &self.votes, true);
                own.generation = self.generation;
            }
        }
        let began = (self.rest.is_none() || now >= self.look) && self.evaluate(now, actions);
        if changes || began || !told {
            self.tell(now, actions);
        }
    }

    /// Votes of such a ballot: for one that is steady, or has the votes already, before one that came back. Who has voted for another
    /// does not join a majority for one that is not steady, so votes come to rest.
    fn vote(&self, now: Duration, ballot: &Ballot) -> Votes {
        let Ballot { live, steady, .. } = ballot;
        let choice = |address: IpAddr| {
            if steady.len() == live.len() {
                return self.table.winner(address, live);
            }
            let Some(trusted) = self.table.winner(address, steady) else { return self.table.winner(address, live) };
            let kept =
                self.votes.get(&address).filter(|node| live.contains(node) && self.has_votes(now, address, node));
            self.table.winner(address, [trusted].into_iter().chain(kept))
        };
        let addresses = self.table.addresses.keys();
        addresses.filter_map(|address| Some((*address, choice(*address)?.clone()))).collect()
    }

    /// Whether a majority votes for a node, itself among them, as this one knows it.
    fn has_votes(&self, now: Duration, address: IpAddr, node: &NodeName) -> bool {
        let votes = |peer: &&Peer| peer.vote(address) == Some(node);
        self.peers.get(node).as_ref().is_some_and(votes) && self.voters(now).filter(votes).count() >= self.need
    }

    /// What this node speaks for and does not vote for itself any more goes on for as long as it was granted.
    fn yield_to_others(&mut self, now: Duration, votes: &Votes) {
        for (address, claim) in self.claims.clone() {
            if matches!(claim, Claim::Owner { .. }) && votes.get(&address) != Some(&self.me) {
                let until = self.granted(now, address).unwrap_or(now).min(now + self.timing.detection);
                self.claims.insert(address, Claim::Yielding { until });
            }
        }
    }

    /// Electors that are heard, this node among them.
    fn voters(&self, now: Duration) -> impl Iterator<Item = &Peer> {
        let heard = move |node: &NodeName, peer: &Peer| *node == self.me || peer.is_fresh(now, self.timing.detection);
        let electors = self.electors.iter().filter_map(|node| Some((node, self.peers.get(node)?)));
        electors.filter(move |(node, peer)| heard(node, peer)).map(|(_, peer)| peer)
    }

    /// Candidates that this node sees, that see a majority of the electors, and that do not leave. Whether one does it says itself, so
    /// all who see it mean the same.
    fn ballot(&self, now: Duration) -> Ballot {
        let own = self.peers.get(&self.me).map(|own| &own.sees);
        let reaches = |peer: &Peer| peer.sees.intersection(&self.electors).count() >= self.need;
        let seen = |node: &&NodeName| {
            let peer = self.peers.get(*node).filter(|_| own.is_some_and(|sees| sees.contains(*node)));
            peer.is_some_and(|peer| !peer.leaves && reaches(peer))
        };
        let live: Vec<NodeName> = self.table.candidates.keys().filter(seen).cloned().collect();
        let calm = |node: &&NodeName| {
            let (mut seen, mut recent) = (0, 0);
            for peer in self.voters(now).filter(|peer| peer.sees.contains(*node)) {
                (seen, recent) = (seen + 1, recent + usize::from(peer.recent.contains(*node)));
            }
            2 * recent < seen
        };
        let steady: Vec<NodeName> = live.iter().filter(calm).cloned().collect();
        // Where all are steady it does not matter who has the votes.
        let matter = steady.len() < live.len();
        let known =
            if matter { self.voters(now).map(|peer| (peer.run, peer.generation)).collect() } else { Vec::new() };
        Ballot { live, steady, known }
    }

    /// Does what time and votes allow, and notes when to look again. True if this node began to speak for something.
    fn evaluate(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        if let Some(look) = self.rests_until(now) {
            self.look_again(now, look);
            return false;
        }
        let mut began = false;
        let mut rest = Some(Rest::default());
        let (mut look, mut granted) = (Duration::MAX, Duration::MAX);
        let addresses: Vec<(IpAddr, Claim)> = self.claims.iter().map(|(address, claim)| (*address, *claim)).collect();
        for (address, claim) in addresses {
            let (after, next) = self.step(now, address, claim, actions);
            began |= matches!((claim, after), (Claim::Idle | Claim::Probing { .. }, Claim::Owner { .. }));
            look = look.min(next);
            match after {
                Claim::Owner { since, .. } => {
                    self.begun = self.begun.max(since);
                    granted = granted.min(self.granted(now, address).unwrap_or(now));
                    rest = rest.zip(self.supporters(address)).map(|(rest, supporters)| rest.with(supporters));
                }
                Claim::Idle | Claim::Probing { .. } if self.votes.get(&address) == Some(&self.me) => rest = None,
                _ => {}
            }
            if after != claim {
                self.claims.insert(address, after);
            }
        }
        self.rest = rest.map(|rest| rest.until(look));
        let look = look.min(granted);
        self.look_again(now, look);
        began
    }

    /// Looks at everything again at that time, or when somebody's silence or return says something.
    fn look_again(&mut self, now: Duration, look: Duration) {
        let others = self.peers.iter().filter(|(node, _)| **node != self.me);
        let silent = others.flat_map(|(_, peer)| [peer.heard, peer.hears]).flatten();
        let silences = silent.map(|heard| heard + self.timing.detection).filter(|at| *at > now);
        let returns = self.peers.values().filter_map(|peer| peer.back).map(|back| back + self.timing.settle);
        self.look = silences.chain(returns.filter(|at| *at > now)).fold(look, Duration::min);
    }

    /// What becomes of one address, and when to look at it again, besides when its grants end.
    fn step(&self, now: Duration, address: IpAddr, claim: Claim, actions: &mut Vec<Action>) -> (Claim, Duration) {
        let mine = self.votes.get(&address) == Some(&self.me);
        let entitled = || self.entitled(now, address).filter(|_| mine);
        match claim {
            Claim::Owner { since, announced } => {
                let until = self.granted(now, address).unwrap_or(now);
                if until <= now {
                    actions.push(Action::Silence(address));
                    return (Claim::Idle, now + self.timing.interval);
                }
                self.announce(now, address, since, announced, actions)
            }
            Claim::Yielding { until } if until <= now => {
                actions.push(Action::Silence(address));
                (Claim::Idle, now + self.timing.interval)
            }
            Claim::Contested { until } if until <= now => self.step(now, address, Claim::Idle, actions),
            Claim::Yielding { until } | Claim::Contested { until } => (claim, until),
            Claim::Idle => match entitled() {
                Some((when, true)) if when <= now => self.begin(now, address, actions),
                Some((when, _)) if when <= now => {
                    actions.push(Action::Probe(address));
                    let until = now + self.timing.probe;
                    (Claim::Probing { until }, until)
                }
                Some((when, _)) => (Claim::Idle, when),
                None => (Claim::Idle, Duration::MAX),
            },
            Claim::Probing { until } => match entitled() {
                Some((when, _)) if when <= now && until <= now => self.begin(now, address, actions),
                Some((when, _)) if when <= now => (claim, until),
                _ => (Claim::Idle, now + self.timing.interval),
            },
        }
    }

    fn begin(&self, now: Duration, address: IpAddr, actions: &mut Vec<Action>) -> (Claim, Duration) {
        actions.push(Action::Speak(address));
        self.announce(now, address, now, 0, actions)
    }

    fn announce(
        &self,
        now: Duration,
        address: IpAddr,
        since: Duration,
        announced: usize,
        actions: &mut Vec<Action>,
    ) -> (Claim, Duration) {
        let due = ANNOUNCED.iter().filter(|after| since + **after <= now).count();
        if due > announced {
            actions.push(Action::Announce(address));
        }
        let next = ANNOUNCED.get(due).map_or(Duration::MAX, |after| since + *after);
        (Claim::Owner { since, announced: due }, next)
    }
}

#[cfg(test)]
impl Engine {
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaves
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.seq
    }
}
