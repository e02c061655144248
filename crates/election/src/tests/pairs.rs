//! Two candidates: one alone speaks, and when they meet again one stops.

use super::world::{Event, Setting, World, address, mac};
use crate::Timing;

fn settled(setting: Setting) -> (World, usize) {
    let mut world = World::new(setting);
    world.run(1_500).unwrap();
    let owner = world.owned().unwrap()[0];
    (world, owner)
}

#[test]
fn a_lone_survivor_speaks() {
    let (mut world, owner) = settled(Setting::of(2));
    world.happen(&Event::Kill(owner));
    world.run(world.setting.back_within()).unwrap();
    assert_eq!(world.owned().unwrap(), [1 - owner]);
}

#[test]
fn without_the_preference_a_lone_survivor_is_silent() {
    let setting = Setting::of(2);
    let timing = Timing { lone_speaks: false, ..setting.timing };
    let (mut world, owner) = settled(Setting { timing, ..setting });
    world.happen(&Event::Kill(owner));
    world.run(2_000).unwrap();
    assert_eq!(world.speakers(address(0)), Vec::<usize>::new());
    world.happen(&Event::Start(owner));
    world.run(world.setting.back_within()).unwrap();
    world.owned().unwrap();
}

/// Cut off from each other both speak, each to its own side. When the link is back one does, after a detection time at most.
#[test]
fn a_pair_that_meets_again_has_one_owner() {
    let (mut world, owner) = settled(Setting::of(2));
    world.happen(&Event::Links(0));
    world.run(1_000).unwrap();
    assert_eq!(world.speakers(address(0)), [0, 1]);
    world.happen(&Event::Links(u32::MAX));
    let most = u64::try_from(world.setting.timing.detection.as_millis()).unwrap();
    world.run(world.setting.back_within()).unwrap();
    assert_eq!(world.owned().unwrap(), [owner]);
    let (mut world, owner) = settled(Setting::of(2));
    world.happen(&Event::Links(0));
    world.run(1_000).unwrap();
    world.happen(&Event::Links(u32::MAX));
    // From the first messages on the better one is known.
    world.run(most + 40).unwrap();
    assert_eq!(world.owned().unwrap(), [owner]);
}

/// An announcement of the better one is heeded at once.
#[test]
fn the_lesser_one_of_a_pair_stops_at_the_others_announcement() {
    let (mut world, owner) = settled(Setting::of(2));
    world.happen(&Event::Links(0));
    world.run(1_000).unwrap();
    let lesser = 1 - owner;
    let now = world.clock(lesser);
    world.engines[lesser].as_mut().unwrap().heard(now, address(0), mac(owner));
    assert!(!world.speaks(lesser, address(0)));
    let now = world.clock(owner);
    world.engines[owner].as_mut().unwrap().heard(now, address(0), mac(lesser));
    assert!(world.speaks(owner, address(0)), "the better one goes on");
}
