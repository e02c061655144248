//! Two systems on a bad wire: what a session promises, whatever happens to its packets.

use std::time::Duration;

use proptest::prelude::*;
use ripstop_bfd::{Diagnostic, State, Timers};

use super::world::{Change, MS, World};

const SECOND: Duration = Duration::from_secs(1);

/// A wire that only takes its time.
fn steady(delay: Duration) -> impl FnMut(Duration, usize) -> Vec<Duration> {
    move |_, _| vec![delay]
}

/// A wire with faults, by a seed.
#[derive(Debug, Clone)]
struct Bad {
    seed: u64,
    /// Of a thousand packets, each way.
    lost: [u64; 2],
    doubled: u64,
    delay: Duration,
    /// Beyond the delay: packets overtake each other.
    varies: Duration,
}

impl Bad {
    fn most(&self) -> Duration {
        self.delay + self.varies
    }

    fn fate(&self) -> impl FnMut(Duration, usize) -> Vec<Duration> + use<> {
        let (bad, mut state) = (self.clone(), self.seed);
        let mut below = move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound.max(1)
        };
        move |_, side| {
            if below(1000) < bad.lost[side] {
                return Vec::new();
            }
            let copies = 1 + u64::from(below(1000) < bad.doubled);
            let varies = bad.varies.as_micros() as u64 + 1;
            (0..copies).map(|_| bad.delay + Duration::from_micros(below(varies))).collect()
        }
    }
}

fn timers() -> impl Strategy<Value = Timers> {
    (10..200u64, 10..200u64, 2..6u8).prop_map(|(tx, rx, multiplier)| Timers {
        desired_min_tx: Duration::from_millis(tx),
        required_min_rx: Duration::from_millis(rx),
        multiplier,
    })
}

fn bad(most_lost: u64) -> impl Strategy<Value = Bad> {
    let lost = [0..=most_lost, 0..=most_lost];
    (any::<u64>(), lost, 0..300u64, 0..30u64, 0..40u64).prop_map(|(seed, lost, doubled, delay, varies)| Bad {
        seed,
        lost,
        doubled,
        delay: Duration::from_millis(delay),
        varies: Duration::from_millis(varies),
    })
}

/// How long a side stays up after the other one fell, at most: its detection time, counted from what it heard last, which
/// was under way for a while. Where the other side was not up with it yet, that one's patience comes first.
fn law(world: &World, wire: &Bad) -> Result<(), TestCaseError> {
    let mut up: [Option<Duration>; 2] = [None; 2];
    let mut alone: Option<Duration> = None;
    let mut patience = 3 * SECOND;
    for change in &world.changes {
        let one_sided = up[0].is_some() != up[1].is_some();
        if let (true, Some(since)) = (one_sided, alone) {
            let lasted = change.at - since;
            prop_assert!(lasted <= patience + 2 * wire.most(), "up on one side for {lasted:?}: {:#?}", world.changes);
        }
        let were_both = up.iter().all(Option::is_some);
        up[change.side] = (change.state == State::Up).then_some(change.at);
        let is_alone = up[0].is_some() != up[1].is_some();
        if is_alone && alone.is_none() {
            alone = Some(change.at);
            // While one is not up both have the patience of slow packets.
            patience = if were_both { change.other } else { SLOWEST * 2 };
        } else if !is_alone {
            alone = None;
        }
    }
    Ok(())
}

/// The longest detection time there is while a side tells the interval of a second: five of them.
const SLOWEST: Duration = Duration::from_secs(5);

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// However bad the wire: nobody stays up alone, and when the wire is good again both come up and stay.
    #[test]
    fn no_side_stays_up_alone(
        seeds in any::<[u64; 2]>(), a in timers(), b in timers(), wire in bad(700),
    ) {
        let mut world = World::new(seeds, [a, b]);
        let mut fate = wire.fate();
        world.run(30 * SECOND, &mut fate);
        law(&world, &wire)?;
        let mut good = steady(wire.delay);
        world.run(world.now + 12 * SECOND, &mut good);
        prop_assert!(world.both(State::Up), "{:?}", world.changes);
        let fell = world.changes.len();
        world.run(world.now + 10 * SECOND, &mut good);
        prop_assert_eq!(world.changes.len(), fell);
    }

    /// The wire is cut, one way or both: each side that hears nothing falls within its detection time; the other hears that.
    #[test]
    fn a_cut_is_noticed_within_the_detection_time(
        seeds in any::<[u64; 2]>(), a in timers(), b in timers(), delay in 0..30u64,
        cut in prop::sample::select(vec![[true, true], [true, false], [false, true]]),
    ) {
        let delay = Duration::from_millis(delay);
        let mut world = World::new(seeds, [a, b]);
        world.run(5 * SECOND, &mut steady(delay));
        prop_assert!(world.both(State::Up));
        let detection = [0, 1].map(|side| world.view(side).detection);
        let (start, known) = (world.now, world.changes.len());
        let mut fate = |_: Duration, side: usize| if cut[side] { Vec::new() } else { vec![delay] };
        world.run(start + 10 * SECOND, &mut fate);
        let falls: Vec<Change> = world.changes[known..].to_vec();
        prop_assert_eq!(falls.iter().map(|change| change.state).collect::<Vec<_>>()[..2].to_vec(), vec![State::Down; 2]);
        for change in &falls[..2] {
            let deaf = cut[1 - change.side];
            let bound = if deaf { detection[change.side] } else { detection[1 - change.side] + delay };
            prop_assert!(change.at - start <= bound + delay, "{:?} after {:?}", change, start);
            let why = if change.diagnostic == Diagnostic::DETECTION_TIME_EXPIRED { deaf } else { !cut[1 - change.side] };
            prop_assert!(why, "{:?}", change);
        }
        // One hears the other and is not heard: it is never up again, nor is the other.
        prop_assert!(falls.iter().all(|change| change.state != State::Up));
    }

    /// Fewer losses in a row than the multiplier make no session fall, at a steady delay. A packet more does.
    #[test]
    fn no_loss_below_the_multiplier_is_a_failure(
        seeds in any::<[u64; 2]>(), a in timers(), b in timers(), delay in 0..30u64,
    ) {
        let mut world = World::new(seeds, [a, b]);
        let delay = Duration::from_millis(delay);
        world.run(5 * SECOND, &mut steady(delay));
        prop_assert!(world.both(State::Up));
        let known = world.changes.len();
        let most = [a, b].map(|timers| u64::from(timers.multiplier) - 1);
        let mut count = [0u64; 2];
        let mut fate = |_: Duration, side: usize| {
            count[side] += 1;
            if count[side].is_multiple_of(most[side] + 1) { vec![delay] } else { Vec::new() }
        };
        world.run(world.now + 20 * SECOND, &mut fate);
        prop_assert_eq!(&world.changes[known..], &[]);
    }

    /// Delays that vary by less than the margin that jitter and a lost packet leave make no session fall.
    #[test]
    fn a_wire_that_reorders_and_doubles_is_no_failure(
        seeds in any::<[u64; 2]>(), a in timers(), b in timers(), seed in any::<u64>(), delay in 0..30u64,
    ) {
        let interval = a.desired_min_tx.max(b.required_min_rx).min(b.desired_min_tx.max(a.required_min_rx));
        let wire = Bad { seed, lost: [0; 2], doubled: 300, delay: Duration::from_millis(delay), varies: interval };
        let mut world = World::new(seeds, [a, b]);
        world.run(5 * SECOND, &mut steady(wire.delay));
        let known = world.changes.len();
        world.run(world.now + 20 * SECOND, &mut wire.fate());
        prop_assert_eq!(&world.changes[known..], &[]);
    }

    /// Both sides use the same two intervals, whoever wants what, and send as often as that says.
    #[test]
    fn both_sides_agree_on_both_intervals(seeds in any::<[u64; 2]>(), a in timers(), b in timers()) {
        let mut world = World::new(seeds, [a, b]);
        let mut fate = steady(MS);
        world.run(5 * SECOND, &mut fate);
        let interval = |from: Timers, to: Timers| from.desired_min_tx.max(to.required_min_rx);
        let (there, back) = (interval(a, b), interval(b, a));
        prop_assert_eq!((world.view(0).interval, world.view(1).interval), (there, back));
        let detection = [back * u32::from(b.multiplier), there * u32::from(a.multiplier)];
        prop_assert_eq!([0, 1].map(|side| world.view(side).detection), detection);
        let before = world.sent;
        world.run(15 * SECOND, &mut fate);
        for (side, interval) in [there, back].into_iter().enumerate() {
            let expected = 10.0 / interval.as_secs_f64();
            let sent = (world.sent[side] - before[side]) as f64;
            prop_assert!((0.99 * expected..=1.35 * expected + 1.0).contains(&sent), "{sent} of {expected}");
        }
    }

    /// Timers are changed on both sides, as often as somebody likes: the session stays up and comes to the last ones.
    #[test]
    fn changed_timers_make_no_session_fall(
        seeds in any::<[u64; 2]>(), a in timers(), b in timers(),
        changes in prop::collection::vec((0..2usize, timers(), 0..400u64), 1..12),
    ) {
        let mut world = World::new(seeds, [a, b]);
        let mut fate = steady(MS);
        world.run(5 * SECOND, &mut fate);
        let (known, mut last) = (world.changes.len(), [a, b]);
        for (side, timers, pause) in changes {
            last[side] = timers;
            let now = world.now;
            world.act(side, &mut fate, |engine, id| engine.set_timers(now, id, timers).unwrap());
            world.run(world.now + Duration::from_millis(pause), &mut fate);
        }
        world.run(world.now + 5 * SECOND, &mut fate);
        prop_assert_eq!(&world.changes[known..], &[]);
        for side in [0, 1] {
            let interval = last[side].desired_min_tx.max(last[1 - side].required_min_rx);
            prop_assert_eq!(world.view(side).interval, interval);
            prop_assert_eq!(world.view(1 - side).detection, interval * u32::from(last[side].multiplier));
        }
    }
}

#[test]
fn a_session_of_ten_milliseconds_falls_within_thirty() {
    let fast = Timers::every(10 * MS, 3);
    let mut world = World::new([1, 2], [fast; 2]);
    world.run(3 * SECOND, &mut steady(Duration::from_micros(100)));
    assert!(world.both(State::Up));
    let known = world.changes.len();
    let start = world.now;
    world.run(start + SECOND, &mut |_, _| Vec::new());
    let after: Vec<Duration> = world.changes[known..].iter().map(|change| change.at - start).collect();
    assert!(after.len() == 2 && after.iter().all(|after| *after <= 31 * MS), "{after:?}");
}

/// A side that is held down on purpose says so, and the other one falls at once, not for a failure of the way.
#[test]
fn who_is_held_down_is_believed_at_once() {
    let mut world = World::new([1, 2], [Timers::every(50 * MS, 3); 2]);
    let mut fate = steady(MS);
    world.run(3 * SECOND, &mut fate);
    let (now, known) = (world.now, world.changes.len());
    world.act(0, &mut fate, |engine, id| engine.set_admin_down(now, id, true));
    world.run(now + 20 * SECOND, &mut fate);
    let [held, heard] = world.changes[known..] else { panic!("{:?}", world.changes) };
    assert_eq!(
        (held.state, heard.state, heard.diagnostic),
        (State::AdminDown, State::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN)
    );
    assert_eq!((heard.at - now, world.view(1).remote), (MS, State::AdminDown));
    let now = world.now;
    world.act(0, &mut fate, |engine, id| engine.set_admin_down(now, id, false));
    world.run(now + 2 * SECOND, &mut fate);
    assert!(world.both(State::Up), "{:?}", world.changes);
}

/// A system that was started again has another discriminator and knows nothing; its peer notices by what it says.
#[test]
fn a_peer_that_starts_again_is_noticed_sooner_than_by_silence() {
    let slow = Timers::every(500 * MS, 5);
    let mut world = World::new([1, 2], [slow; 2]);
    let mut fate = steady(MS);
    world.run(5 * SECOND, &mut fate);
    assert!(world.both(State::Up));
    let fresh = World::new([1, 99], [slow; 2]);
    let [_, engine] = fresh.engines;
    (world.engines[1], world.ids[1]) = (engine, fresh.ids[1]);
    let (start, known) = (world.now, world.changes.len());
    world.run(start + 5 * SECOND, &mut fate);
    let fall = world.changes[known..].iter().find(|change| change.side == 0).unwrap();
    assert_eq!((fall.state, fall.diagnostic), (State::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN));
    assert!(fall.at - start < 200 * MS, "{fall:?}");
    assert!(world.both(State::Up));
}
