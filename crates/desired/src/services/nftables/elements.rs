//! What a Service adds so that packets are drawn to its endpoints: slots, and where clients keep their endpoints, affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Model, NFT_SERVICES_TABLE, NftPart, Object, RESET_MARK};
use ripstop_nft::model::{Data, KeyPart, Name, Part as TablePart, Value, Verdict, build::Mark};
use ripstop_services::{Backend, Frontend, Node, Target, decide, slots};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, Prefix, ServiceName};

use super::affinity::Affinity;
use super::chain_of;
use super::table::{self, PREPARED, draw, table};
use crate::Part;
use crate::services::elements::{self, Means, To, element, key_of, named, port};
use crate::services::frame::table_family;
use crate::services::{Reach, Rules, Scope};

/// The objects of a Service. `before` is what was wanted or found before: an endpoint that stays keeps its slot.
#[must_use]
pub fn objects(node: &Node, tables: &ServiceTables, name: &ServiceName, before: &Model) -> Vec<Entry> {
    let decided = decide(node, tables, name);
    let mut part = elements::objects(node, name, &decided, &mut Slots { before });
    let mut affinities = BTreeMap::new();
    for (frontend, decision) in &decided.frontends {
        let Some(affinity) = Affinity::of(Family::of(frontend.ip), decision) else { continue };
        for (target, scope) in [(Some(&decision.inside), Scope::Inside), (decision.outside.as_ref(), Scope::Outside)] {
            let Some(Target::Backends(backends)) = target else { continue };
            affinities.insert((affinity.clone(), Reach::of(decision, scope)), backends.clone());
        }
    }
    let nobody = Arc::default();
    for affinity in affinities.keys().map(|(affinity, _)| affinity).collect::<BTreeSet<_>>() {
        let of = |reach| affinities.get(&(affinity.clone(), reach)).unwrap_or(&nobody);
        affinity.add_to(&mut part, of(Reach::Cluster), of(Reach::Local));
    }
    part.entries
}

/// The tables, and what they know of this node.
#[must_use]
pub fn base(pods: &[Prefix], service_ranges: &[Prefix], rules: &Rules) -> Vec<Entry> {
    elements::base(pods, service_ranges, |family| table(family, rules)).entries
}

/// Endpoints in slots, of which a number is drawn.
struct Slots<'a> {
    before: &'a Model,
}

impl Means for Slots<'_> {
    fn leading(&mut self, part: &mut Part, to: &To<'_>) -> Verdict {
        let To { frontend, decision, scope, backends } = *to;
        let comment = decision.reset.then(|| format!("{RESET_MARK}{}", part.owner).as_str().into());
        let slots = assigned(frontend, scope, backends, self.before);
        for (slot, backend) in (scope.first()..).zip(&slots) {
            let to = vec![backend.ip.into(), Value::Service(backend.port)];
            let mut entry = element(frontend.ip, "endpoints", slot_key(frontend, slot), Some(Data::Values(to)));
            entry.body.comment.clone_from(&comment);
            part.add(entry);
        }
        let family = Family::of(frontend.ip);
        let Some(draws) = drawing(part, family, slots.len(), scope).map(Verdict::Goto) else { return Verdict::Drop };
        let reach = Reach::of(decision, scope);
        let affinity = Affinity::of(family, decision);
        let Some((chain, learning)) = affinity.and_then(|of| Some((of.chain(reach)?, of.learning(decision)?))) else {
            return draws;
        };
        part.add(elements::of(frontend, reach.chosen(), draws));
        let key = vec![frontend.ip.into(), port(frontend.port)];
        part.add(element(frontend.ip, table::learning(frontend.protocol), key, Some(Data::Verdict(learning))));
        Verdict::Goto(chain)
    }
}

/// The chain for so many endpoints, with the part it is in where the table has not got it.
fn drawing(part: &mut Part, family: Family, count: usize, scope: Scope) -> Option<Name> {
    let chain = chain_of(count, scope)?;
    if count > PREPARED {
        let drawing = TablePart::new(table_family(family), NFT_SERVICES_TABLE, &chain);
        part.add(NftPart::from(drawing.chain(&chain, draw(family, count, scope))));
    }
    Some(chain)
}

fn assigned(frontend: &Frontend, scope: Scope, wanted: &BTreeSet<Backend>, before: &Model) -> Vec<Backend> {
    let held = (scope.first()..).map_while(|slot| {
        let entry = before.get(&Key::NftElement(named(frontend.ip, "endpoints", slot_key(frontend, slot))))?;
        let Object::NftElement(element) = &entry.object else { return None };
        let Some(Data::Values(to)) = &element.body.data else { return None };
        match &to[..] {
            [Value::Ipv4(ip), Value::Service(port)] => Some(Backend { ip: (*ip).into(), port: *port }),
            [Value::Ipv6(ip), Value::Service(port)] => Some(Backend { ip: (*ip).into(), port: *port }),
            _ => None,
        }
    });
    slots::assign(&held.collect::<Vec<_>>(), wanted)
}

fn slot_key(frontend: &Frontend, slot: u32) -> Vec<KeyPart> {
    let mut key = key_of(frontend);
    key.push(KeyPart::Value(Mark(slot).into()));
    key
}
