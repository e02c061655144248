//! Faults planted into what the product wants: the cases must see each of them.
//!
//! They are not picked by hand but follow from what is wanted: each rule is left out once, each set, map and chain is emptied, entries and
//! elements are one less or lead elsewhere, in each family. What cannot be seen is named with its reason; that list is held to as well.
//!
//! - `nftables`: in the simulator, and what needs more than one packet with real ones.
//! - `iptables`, `ipvs`, `policies`: with real packets; a sample in the normal tier, all of them in the long one.

mod iptables;
mod ipvs;
mod nftables;
mod policies;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use ripstop_conformance::services::scene::{Node as Place, Scene};
use ripstop_conformance::services::{Case, DataPlane, Stop, cases, run_case};
use ripstop_netmodel::Model;
use ripstop_oracle::services::World;
use ripstop_planes::{Applied, Compiler, Spoil, wanted};
use ripstop_types::Family;

/// Rules choose endpoints by chance, so a case may pass once although the fault is there: as often it is looked for before it counts as
/// not seen. Where one endpoint of three is at fault and four packets choose, six runs all miss once in 16,000 times.
const RUNS: usize = 6;

/// A fault. Its name begins with the family.
pub struct Fault {
    name: String,
    spoil: Spoil,
}

impl Fault {
    fn new(name: String, spoil: impl Fn(&mut Model) + Send + Sync + 'static) -> Self {
        Self { name, spoil: Arc::new(spoil) }
    }

    /// The name without the family.
    fn what(&self) -> &str {
        self.name.split_once(' ').unwrap().1
    }

    fn family(&self) -> Family {
        if self.name.starts_with("ip6") { Family::V6 } else { Family::V4 }
    }

    fn is_in(&self, list: &[(&str, &str)]) -> bool {
        list.iter().any(|(begin, _)| self.what().starts_with(begin) || self.name.starts_with(begin))
    }
}

/// The first case that finds something wrong.
fn found_in(plane: &mut dyn DataPlane, cases: &mut [Case]) -> Option<String> {
    let by = cases.iter().position(|case| matches!(run_case(plane, case), Err(Stop::Fail(_))))?;
    // What sees one fault may see the next.
    cases[..=by].rotate_right(1);
    Some(cases[0].id.clone())
}

/// A case, and what is wanted in it.
struct Known {
    case: &'static Case,
    models: OnceCell<Vec<Model>>,
}

impl Known {
    /// Its world before it has any Service.
    fn empty(&self) -> Option<World> {
        let world = self.case.steps.first()?.world.clone();
        Some(World { services: Vec::new(), slices: Vec::new(), ..world })
    }

    /// Whether the fault changes anything that packets of its family come by here.
    fn can_show(&self, fault: &Fault, compiler: Compiler) -> bool {
        let packets = || self.case.steps.iter().flat_map(|step| &step.packets);
        let models = || {
            let steps = self.case.steps.iter();
            let models = steps.filter_map(|step| wanted(compiler, &step.world, &Model::new()).ok());
            models.collect()
        };
        let is_spoilt = |model: &Model| {
            let mut other = model.clone();
            (fault.spoil)(&mut other);
            other != *model
        };
        packets().any(|packet| packet.packet.family() == fault.family())
            && self.models.get_or_init(models).iter().any(is_spoilt)
    }
}

/// Looks for cases that see faults in real packets.
struct Search {
    compiler: Compiler,
    scene: Scene<'static>,
    applied: Rc<RefCell<Applied>>,
    /// What could not be written. No packet says anything then.
    refused: Rc<RefCell<Option<String>>>,
    cases: Vec<Known>,
}

impl Search {
    /// `None`, with the reason told, where it cannot be.
    fn by(compiler: Compiler) -> Option<Self> {
        let applied = Rc::new(RefCell::new(Applied::by(compiler)));
        let refused = Rc::new(RefCell::new(None));
        let (follower, told) = (applied.clone(), refused.clone());
        let install = move |world: &World, place: &Place<'_>| {
            follower.borrow_mut().follow(world, place).map_err(|stop| match stop {
                Stop::Fail(why) => {
                    *told.borrow_mut() = Some(why.clone());
                    Stop::Skip(why)
                }
                other => other,
            })
        };
        let scene = crate::made(Scene::new(Box::new(install)))?;
        let known = |case| Known { case, models: OnceCell::new() };
        Some(Self { compiler, scene, applied, refused, cases: cases().unwrap().iter().map(known).collect() })
    }

    /// The first case that sees it, beginning with these groups.
    fn found_by(&mut self, fault: &Fault, likely: &[&str], again: bool) -> Result<Option<String>, String> {
        self.applied.borrow_mut().fault = Some(fault.spoil.clone());
        let is_likely = |known: &Known| likely.iter().any(|group| known.case.id.starts_with(group));
        let (first, then): (Vec<usize>, Vec<usize>) = (0..self.cases.len()).partition(|at| is_likely(&self.cases[*at]));
        for at in first.into_iter().chain(then) {
            let known = &self.cases[at];
            if !known.can_show(fault, self.compiler) {
                continue;
            }
            let mut is_seen = || {
                // What a run left in the kernel, such as the endpoint of each client, must not hide the fault from the next.
                let cleared = known.empty().map_or(Ok(()), |world| self.scene.install(&world));
                matches!(cleared.and_then(|()| run_case(&mut self.scene, known.case)), Err(Stop::Fail(_)))
            };
            let seen = is_seen() && (!again || is_seen());
            if let Some(why) = self.refused.borrow_mut().take() {
                return Err(format!("it cannot be written: {why}"));
            }
            if seen {
                let known = self.cases.remove(at);
                let by = known.case.id.clone();
                // What sees one fault may see the next.
                self.cases.insert(0, known);
                return Ok(Some(by));
            }
        }
        Ok(None)
    }

    /// Every fault is seen, but for those of a list, which must not be.
    fn judge(&mut self, faults: &[Fault], unseen: &[(&str, &str)], likely: fn(&Fault) -> &'static [&'static str]) {
        let (mut found, mut wrong) = (0, BTreeMap::new());
        let mut by_case: BTreeSet<String> = BTreeSet::new();
        for fault in faults {
            let is_unseen = fault.is_in(unseen);
            let begun = std::time::Instant::now();
            // Of what must not be seen nothing is believed at once: a busy machine loses a packet.
            let runs = if is_unseen { 1 } else { RUNS };
            let mut by = Ok(None);
            for _ in 0..runs {
                by = self.found_by(fault, likely(fault), is_unseen);
                if by != Ok(None) {
                    break;
                }
            }
            println!("{}: {by:?} {:.1?}", fault.name, begun.elapsed());
            match by {
                Ok(Some(by)) => {
                    found += 1;
                    if is_unseen {
                        wrong.insert(&fault.name, format!("is said to be seen by no case, and {by} sees it"));
                    }
                    by_case.insert(by);
                }
                Ok(None) if is_unseen => {}
                Ok(None) => drop(wrong.insert(&fault.name, "no case sees it".into())),
                Err(why) => drop(wrong.insert(&fault.name, why)),
            }
        }
        println!("{} faults: {found} found, by {} cases", faults.len(), by_case.len());
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Some of them, but none of a list, each of which takes a run of every case; in the long tier all.
fn sample(mut faults: Vec<Fault>, count: usize, unseen: &[(&str, &str)]) -> Vec<Fault> {
    if !crate::is_long() {
        faults.retain(|fault| !fault.is_in(unseen));
    }
    spread(faults, count)
}

/// All of them in the long tier; else some, the same each time.
fn spread<T>(all: Vec<T>, count: usize) -> Vec<T> {
    let step = if crate::is_long() { 1 } else { all.len().div_ceil(count).max(1) };
    all.into_iter().step_by(step).collect()
}
