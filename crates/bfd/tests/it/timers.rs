//! Timers: negotiation, polls, detection, jitter, demand mode, silence.

use std::time::Duration;

use ripstop_bfd::packet::Packet;
use ripstop_bfd::{Action, Diagnostic, Engine, SessionConfig, State, Timers};

use super::rules::{System, near, sent};

const MS: Duration = Duration::from_millis(1);

/// The packets that go within this time while the peer says the same again and again.
fn during(system: &mut System, time: Duration, packet: Packet) -> Vec<(Duration, Packet)> {
    let (end, mut all) = (system.now + time, Vec::new());
    while system.now < end {
        system.now += MS;
        let mut actions = system.hear(&packet);
        actions.extend(system.engine.tick(system.now));
        actions.retain(|action| is_of(action, system.id.0));
        all.extend(sent(&actions).into_iter().map(|packet| (system.now, packet)));
    }
    all
}

fn gaps(packets: &[(Duration, Packet)]) -> Vec<Duration> {
    packets.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

#[test]
fn a_session_that_is_not_up_tells_and_keeps_a_second_at_least() {
    let mut system = System::new();
    let start = system.now;
    let mut times = Vec::new();
    while system.now < start + 20 * Duration::from_secs(1) {
        system.now += MS;
        let all = system.engine.tick(system.now);
        for packet in sent(&all.into_iter().filter(|action| is_of(action, system.id.0)).collect::<Vec<_>>()) {
            assert_eq!((packet.desired_min_tx, packet.state, packet.yours), (1_000_000, State::Down, 0));
            times.push((system.now, packet));
        }
    }
    assert!(times[0].0 <= start + 101 * MS, "the first goes soon");
    assert!(gaps(&times).iter().all(|gap| (750 * MS..=1001 * MS).contains(gap)), "{:?}", gaps(&times));
    assert!(times.len() >= 20);
}

fn is_of(action: &Action, discriminator: u32) -> bool {
    matches!(action, Action::Send { id, .. } if id.0 == discriminator)
}

#[test]
fn the_slower_of_both_wishes_is_the_interval_with_jitter() {
    for (required, least, most) in [(20_000, 37, 51), (200_000, 149, 201)] {
        let mut system = System::new();
        system.bring(State::Up);
        let packet = Packet { required_min_rx: required, last: true, ..system.packet(State::Up) };
        let sent = during(&mut system, 4000 * MS, packet);
        let gaps = gaps(&sent[2..]);
        assert!(gaps.iter().all(|gap| (least * MS..=most * MS).contains(gap)), "{required}: {gaps:?}");
        let (shortest, longest) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
        assert!(*longest - *shortest > most * MS / 10, "without jitter: {gaps:?}");
    }
}

#[test]
fn with_a_multiplier_of_one_the_next_packet_goes_a_tenth_sooner() {
    let mut engine = Engine::new(3);
    let timers = Timers::every(100 * MS, 1);
    let config = SessionConfig::single_hop(4, near().destination, near().source, timers);
    let mut system = System::new();
    system.engine = {
        system.id = engine.add(system.now, config).unwrap();
        engine
    };
    system.bring(State::Up);
    let packet = Packet { last: true, ..system.packet(State::Up) };
    let gaps = gaps(&during(&mut system, 6000 * MS, packet)[2..]);
    assert!(gaps.iter().all(|gap| (75 * MS..=91 * MS).contains(gap)), "{gaps:?}");
}

#[test]
fn a_peer_that_wants_nothing_is_sent_nothing() {
    let mut system = System::new();
    system.bring(State::Up);
    let packet = Packet { required_min_rx: 0, last: true, ..system.packet(State::Up) };
    assert_eq!(during(&mut system, 3000 * MS, packet), []);
    // It is sent to again as soon as it wants.
    let packet = Packet { required_min_rx: 50_000, ..packet };
    assert!(during(&mut system, 200 * MS, packet).len() >= 3);
}

#[test]
fn a_peer_in_demand_mode_is_sent_polls_only() {
    let mut system = System::new();
    system.bring(State::Up);
    let packet = Packet { demand: true, ..system.packet(State::Up) };
    // The poll about the timers of a session that is up is not answered yet.
    let polls = during(&mut system, 500 * MS, packet);
    assert!(polls.len() > 5 && polls.iter().all(|(_, packet)| packet.poll && !packet.demand), "{polls:?}");
    let packet = Packet { last: true, ..packet };
    assert_eq!(during(&mut system, 2000 * MS, packet), []);
    assert!(system.engine.view(system.id).unwrap().remote_demand);
    assert_eq!(system.state(), State::Up, "the peer is heard all the same");
    // It is still missed when it is silent.
    system.now += 4000 * MS;
    let told = sent(&system.engine.tick(system.now));
    assert!(told.iter().any(|packet| packet.diagnostic == Diagnostic::DETECTION_TIME_EXPIRED), "{told:?}");
}

#[test]
fn a_passive_session_waits_until_it_is_spoken_to() {
    let mut system = System::new();
    let timers = Timers::every(50 * MS, 3);
    let config = SessionConfig::single_hop(4, near().destination, "192.0.2.40".parse().unwrap(), timers);
    let id = system.engine.add(system.now, SessionConfig { passive: true, ..config }).unwrap();
    for _ in 0..50 {
        system.now += 100 * MS;
        assert!(!system.engine.tick(system.now).iter().any(|action| is_of(action, id.0)));
    }
    let arrival = ripstop_bfd::Arrival { source: "192.0.2.40".parse().unwrap(), ..near() };
    let actions = system.engine.received(system.now, &arrival, &system.packet(State::Down).bytes());
    assert_eq!(sent(&actions)[0].state, State::Init);
}

/// Detection: the peer's multiplier times the slower of what it sends and what this system takes.
#[test]
fn silence_is_noticed_after_the_detection_time_and_no_sooner() {
    for (multiplier, desired, detection) in
        [(3, 10_000, 150), (5, 20_000, 250), (2, 400_000, 800), (255, 50_000, 12_750)]
    {
        let mut system = System::new();
        system.bring(State::Up);
        let packet = Packet { multiplier, desired_min_tx: desired, last: true, ..system.packet(State::Up) };
        system.hear(&packet);
        let detection = detection * MS;
        assert_eq!(system.engine.view(system.id).unwrap().detection, detection);
        let heard = system.now;
        let changed = loop {
            system.now = system.engine.due().unwrap().max(system.now);
            let actions = system.engine.tick(system.now);
            if let Some(Action::Changed { state, diagnostic, .. }) =
                actions.iter().find(|action| matches!(action, Action::Changed { .. }))
            {
                break (*state, *diagnostic, sent(&actions)[0]);
            }
            assert!(system.now < heard + detection);
        };
        assert_eq!(system.now, heard + detection);
        assert_eq!((changed.0, changed.1), (State::Down, Diagnostic::DETECTION_TIME_EXPIRED));
        // The peer's discriminator is forgotten, and the peer is told at once.
        assert_eq!((changed.2.yours, changed.2.state, changed.2.desired_min_tx), (0, State::Down, 1_000_000));
    }
}

#[test]
fn a_session_that_came_up_polls_until_it_is_answered() {
    let mut system = System::new();
    system.bring(State::Up);
    let packet = system.packet(State::Up);
    let asked = during(&mut system, 300 * MS, packet);
    assert!(asked.len() >= 5 && asked.iter().all(|(_, packet)| packet.poll && packet.desired_min_tx == 50_000));
    let packet = Packet { last: true, ..packet };
    system.hear(&packet);
    let packet = Packet { last: false, ..packet };
    assert!(during(&mut system, 300 * MS, packet).iter().all(|(_, packet)| !packet.poll));
}

/// What the peer might not bear yet holds only when it has answered; what is easier for it holds at once.
#[test]
fn changed_timers_hold_when_the_peer_knows_them() {
    let mut system = System::new();
    system.bring(State::Up);
    let answer = Packet { last: true, desired_min_tx: 10_000, required_min_rx: 10_000, ..system.packet(State::Up) };
    system.hear(&answer);
    let slower = Timers::every(400 * MS, 3);
    let told = sent(&system.engine.set_timers(system.now, system.id, slower).unwrap());
    assert_eq!((told[0].poll, told[0].desired_min_tx, told[0].required_min_rx), (true, 400_000, 400_000));
    let view = |system: &System| system.engine.view(system.id).unwrap();
    assert_eq!((view(&system).interval, view(&system).detection), (50 * MS, 1200 * MS), "sends as before");
    let packet = Packet { last: false, ..answer };
    assert!(during(&mut system, 300 * MS, packet).len() >= 5);
    system.hear(&answer);
    assert_eq!(view(&system).interval, 400 * MS);
    let faster = Timers::every(20 * MS, 3);
    system.engine.set_timers(system.now, system.id, faster).unwrap();
    assert_eq!((view(&system).interval, view(&system).detection), (20 * MS, 1200 * MS), "is as patient as before");
    system.hear(&answer);
    assert_eq!((view(&system).interval, view(&system).detection), (20 * MS, 60 * MS));
    assert_eq!(system.state(), State::Up);
}

/// An answer to the first poll says nothing about timers that changed after it.
#[test]
fn timers_that_change_during_a_poll_need_another() {
    let mut system = System::new();
    system.bring(State::Up);
    let packet = Packet { desired_min_tx: 10_000, required_min_rx: 10_000, ..system.packet(State::Up) };
    system.engine.set_timers(system.now, system.id, Timers::every(400 * MS, 3)).unwrap();
    system.hear(&Packet { last: true, ..packet });
    assert_eq!(system.engine.view(system.id).unwrap().interval, 50 * MS);
    let next = during(&mut system, 200 * MS, packet);
    let polls: Vec<bool> = next.iter().map(|(_, packet)| packet.poll).collect();
    assert!(polls.len() >= 3 && !polls[0] && polls[1..].iter().all(|poll| *poll), "{polls:?}");
    system.hear(&Packet { last: true, ..packet });
    assert_eq!(system.engine.view(system.id).unwrap().interval, 400 * MS);
}

#[test]
fn a_way_known_to_be_down_is_told_as_such() {
    let mut system = System::new();
    system.bring(State::Up);
    let actions = system.engine.path_down(system.now, system.id);
    assert_eq!((system.state(), sent(&actions)[0].diagnostic), (State::Down, Diagnostic::PATH_DOWN));
    assert_eq!(system.engine.path_down(system.now, system.id), []);
}

/// A peer that once asked for a packet an hour is no reason to be silent when it comes back.
#[test]
fn what_a_lost_peer_asked_for_is_forgotten() {
    let mut system = System::new();
    let packet = Packet { required_min_rx: u32::MAX, desired_min_tx: 1000, ..system.packet(State::AdminDown) };
    system.hear(&packet);
    assert!(system.engine.view(system.id).unwrap().interval > Duration::from_secs(4000));
    system.now += Duration::from_secs(4);
    system.engine.tick(system.now);
    assert_eq!(system.engine.view(system.id).unwrap().interval, Duration::from_secs(1));
    assert!(system.engine.due().unwrap() <= system.now + Duration::from_secs(1));
}
