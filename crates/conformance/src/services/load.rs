//! The cases as they are embedded in the program: read once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use ripstop_objects::service::{EndpointSlice, Service};
use ripstop_oracle::services::World;
use ripstop_oracle::services::health::Answer;
use serde_json::{Map, Value};

use super::case::{Case, Health, RawCase, RawFile, RawHealth, RawStep, Step, Store};
use super::text;

const SHARED: (&str, &str) = ("shared.yaml", include_str!("cases/shared.yaml"));

macro_rules! files {
    ($($name:literal)+) => {
        const FILES: &[(&str, &str)] = &[$(($name, include_str!(concat!("cases/", $name))),)+];
    };
}

files! {
    "01-cluster-ip.yaml" "02-headless.yaml" "03-node-port.yaml" "04-load-balancer.yaml" "05-external-ip.yaml"
    "06-source-ranges.yaml" "07-external-policy.yaml" "08-internal-policy.yaml" "09-conditions.yaml" "10-topology.yaml"
    "11-affinity.yaml" "12-slices.yaml" "13-reject.yaml" "14-hairpin.yaml" "15-masquerade.yaml" "16-health.yaml"
    "17-conntrack.yaml" "18-sysctls.yaml" "19-invalid.yaml" "20-proxy-name.yaml" "21-start.yaml" "22-names.yaml"
}

/// Every case, in order of the points.
///
/// # Errors
/// The file, the case and what is wrong with it. The tests see to it that nothing is.
pub fn cases() -> Result<&'static [Case], String> {
    static CASES: OnceLock<Result<Vec<Case>, String>> = OnceLock::new();
    CASES.get_or_init(read_all).as_deref().map_err(Clone::clone)
}

fn read_all() -> Result<Vec<Case>, String> {
    let shared = read_file(SHARED)?;
    let world = shared.world.ok_or("shared.yaml: no world")?;
    let mut cases = Vec::new();
    let mut ids = BTreeSet::new();
    for file in FILES {
        let read = read_file(*file)?;
        let mut objects = shared.objects.clone();
        objects.extend(read.objects);
        let templates = Templates { objects, world: &world };
        for raw in read.cases {
            let id = raw.id.clone();
            let named = |why: String| format!("{}: {id}: {why}", file.0);
            if !ids.insert(id.clone()) {
                return Err(named("two cases have this id".into()));
            }
            let cite =
                raw.cite.clone().or_else(|| read.cite.clone()).ok_or_else(|| named("it cites nothing".into()))?;
            let kube_proxy = raw.kube_proxy.clone().told(&shared.reasons).map_err(named)?;
            let steps = templates.steps(raw).map_err(named)?;
            cases.push(Case { point: read.point, cite, steps, kube_proxy, id: id.clone() });
        }
    }
    Ok(cases)
}

fn read_file((name, text): (&str, &str)) -> Result<RawFile, String> {
    serde_saphyr::from_str(text).map_err(|error| format!("{name}: {error}"))
}

/// What cases are made of.
struct Templates<'a> {
    objects: BTreeMap<String, Value>,
    world: &'a Value,
}

impl Templates<'_> {
    fn steps(&self, raw: RawCase) -> Result<Vec<Step>, String> {
        let mut objects = BTreeMap::new();
        let mut world = self.world.clone();
        let mut steps = Vec::new();
        for (number, raw) in std::iter::once(raw.first).chain(raw.steps).enumerate() {
            let step = self.step(raw, &mut objects, &mut world);
            steps.push(step.map_err(|why| if number == 0 { why } else { format!("step {number}: {why}") })?);
        }
        Ok(steps)
    }

    fn step(&self, raw: RawStep, objects: &mut BTreeMap<String, Value>, world: &mut Value) -> Result<Step, String> {
        for name in &raw.without {
            objects.remove(name).ok_or_else(|| format!("without {name}: it is not there"))?;
        }
        for name in &raw.added {
            let object = self.objects.get(name).ok_or_else(|| format!("use {name}: there is no such object"))?;
            objects.insert(name.clone(), object.clone());
        }
        for (name, patch) in &raw.with {
            merge(objects.get_mut(name).ok_or_else(|| format!("with {name}: it is not there"))?, patch);
        }
        merge(world, &Value::Object(raw.world));
        let world = read_world(world.clone(), objects)?;
        let packets = raw.packets.iter().map(|text| text::all_expected(text, &world)).collect::<Result<Vec<_>, _>>()?;
        Ok(Step {
            wait: raw.wait,
            restart: raw.restart,
            store: raw.store.map(|store| store == Store::Back),
            packets: packets.concat(),
            health: raw.health.into_iter().map(health).collect(),
            flows: raw.flows.iter().map(|line| text::flow(line)).collect::<Result<_, _>>()?,
            knowledge: raw.knowledge,
            sysctls: raw.sysctls,
            objects: objects.values().cloned().collect(),
            world,
        })
    }
}

fn read_world(world: Value, objects: &BTreeMap<String, Value>) -> Result<World, String> {
    let mut world: World = serde_json::from_value(world).map_err(|error| format!("the world: {error}"))?;
    for (name, object) in objects {
        let named = |why: String| format!("object {name}: {why}");
        let faults = match object["kind"].as_str() {
            Some("Service") => {
                let (service, faults) = Service::from_value(object.clone()).map_err(named)?;
                world.services.push(service);
                faults
            }
            Some("EndpointSlice") => {
                let (slice, faults) = EndpointSlice::from_value(object.clone()).map_err(named)?;
                world.slices.push(slice);
                faults
            }
            _ => return Err(named("it is neither a Service nor an EndpointSlice".into())),
        };
        if let Some(fault) = faults.iter().next() {
            return Err(named(fault.to_string()));
        }
    }
    Ok(world)
}

fn health(raw: RawHealth) -> Health {
    let answer = raw.status.map(|status| Answer { status, local: raw.local });
    Health { port: raw.port, path: raw.path, family: raw.family, answer }
}

/// A JSON merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::case::POINTS;
    use super::*;

    #[test]
    fn there_are_as_many_cases_as_promised_and_enough_for_each_point() {
        let cases = cases().unwrap();
        assert!(cases.len() >= 400, "{} cases", cases.len());
        for (place, name) in POINTS.iter().enumerate() {
            let count = cases.iter().filter(|case| case.point == place + 1).count();
            assert!(count >= 8, "{count} cases of point {}, {name}", place + 1);
        }
    }

    #[test]
    fn every_case_expects_something_and_no_two_the_same() {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        let mut same = Vec::new();
        for case in cases().unwrap() {
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(case.id.contains('/'), "{}", case.id);
            assert!(case.id.split('/').all(|part| !part.is_empty() && part.chars().all(word)), "{}", case.id);
            let expects = |step: &Step| {
                !step.packets.is_empty()
                    || !step.health.is_empty()
                    || !step.flows.is_empty()
                    || step.knowledge.is_some()
                    || step.sysctls.is_some()
            };
            assert!(case.steps.iter().any(expects), "{} expects nothing", case.id);
            if let Some(other) = seen.insert(format!("{:?}", case.steps), &case.id) {
                same.push((other, &case.id));
            }
        }
        assert!(same.is_empty(), "the same: {same:?}");
    }

    #[test]
    fn patches_change_add_and_remove() {
        let mut value = serde_json::json!({"a": {"b": 1, "c": [1, 2]}, "d": 1});
        merge(&mut value, &serde_json::json!({"a": {"b": null, "c": [3]}, "e": {"f": 1}}));
        assert_eq!(value, serde_json::json!({"a": {"c": [3]}, "d": 1, "e": {"f": 1}}));
    }
}
