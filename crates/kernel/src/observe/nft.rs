//! Tables of ours, their parts and elements: `ripstop`, those of Services, and one a pod's link.
//!
//! A table cannot be read back rule by rule in the model's words, but it carries a digest of what was written, and the
//! kernel's dump has a digest too: where both agree with the wanted table's, the wanted table is what is there. Where
//! they agree with each other only, what stands for a table of that digest is shown; otherwise a placeholder that equals
//! no table anybody wants.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_netmodel::{
    Entry, Key, Kind, Model, NftElement, NftPart, NftTable, NftValues, Object, RESET_MARK, is_own_table, link_of_table,
};
use ripstop_nft::decode::{Message as Decoded, Observation, ObservedPart, ObservedTable, messages};
use ripstop_nft::encode;
use ripstop_nft::model::{Chain, Comment, Data, ElementBody, ElementKey, Name, Part, Table, TableFamily, part_of};
use ripstop_types::Owner;

use crate::error::ObserveError;
use crate::netlink::uapi::{NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN, NFTA_GEN_ID};
use crate::netlink::{Message, NetlinkError, Socket};

/// So often is a reading begun anew when the ruleset changes meanwhile.
const TRIES: usize = 20;
/// The comment of the table that stands for one that is not as it was written.
const ALTERED: &str = "not as it was written";

/// Puts every table of ours and what is in it into the model, as far as it is asked for.
pub(super) fn ours(
    socket: &mut Socket,
    asked: impl Fn(Kind) -> bool,
    desired: &Model,
    model: &mut Model,
) -> Result<(), ObserveError> {
    let (elements, values, parts) = (asked(Kind::NftElement), asked(Kind::NftValues), asked(Kind::NftPart));
    if !elements && !values && !parts && !asked(Kind::NftTable) {
        return Ok(());
    }
    let observed = stable(socket, |socket, observation| {
        for (family, table) in read_definitions(socket, observation, None)? {
            let mut sets = if elements { observation.sets(family, &table) } else { Vec::new() };
            sets.extend(observation.dynamic_maps(family, &table).into_iter().filter(|_| values));
            sets.extend(observation.filled_sets(family, &table).into_iter().filter(|_| parts));
            for set in sets {
                read(socket, observation, |seq| encode::dump_elements(seq, family, &table, &set))?;
            }
        }
        Ok(())
    });
    for table in observed.map_err(fault)?.0.tables().into_iter().filter(is_ours) {
        insert(&table, &asked, desired, model);
        for (key, body) in table.elements {
            insert_element(key, body, model);
        }
    }
    Ok(())
}

/// Puts what is there under these keys into the model.
pub(super) fn keys(
    socket: &mut Socket,
    keys: &BTreeSet<&Key>,
    desired: &Model,
    model: &mut Model,
) -> Result<(), ObserveError> {
    let tables = keys.iter().filter_map(|key| match key {
        Key::NftTable { family, name } => Some((*family, name.clone())),
        Key::NftPart { family, table, .. } | Key::NftValues { family, table, .. } => Some((*family, table.clone())),
        _ => None,
    });
    let tables: BTreeSet<(TableFamily, Name)> = tables.collect();
    if !tables.is_empty() {
        let is_asked = |family, table: &Name, map: &Name| {
            keys.contains(&Key::NftValues { family, table: table.clone(), map: map.clone() })
        };
        let fills = |family, table: &Name, set: &Name| {
            let part = part_of(set).map(|name| Key::NftPart { family, table: table.clone(), name });
            part.is_some_and(|part| keys.contains(&part))
        };
        let observed = stable(socket, |socket, observation| {
            for (family, table) in read_definitions(socket, observation, Some(&tables))? {
                let maps = observation.dynamic_maps(family, &table);
                let filled = observation.filled_sets(family, &table);
                let maps = maps.iter().filter(|map| is_asked(family, &table, map));
                for set in maps.chain(filled.iter().filter(|set| fills(family, &table, set))) {
                    read(socket, observation, |seq| encode::dump_elements(seq, family, &table, set))?;
                }
            }
            Ok(())
        });
        let mut found = Model::new();
        for table in observed.map_err(fault)?.0.tables().into_iter().filter(is_ours) {
            insert(&table, |_| true, desired, &mut found);
        }
        let wanted = found.iter().filter(|(key, _)| keys.contains(key)).map(|(_, entry)| entry.clone());
        wanted.for_each(|entry| drop(model.insert_entry(entry)));
    }
    let wanted = keys.iter().filter_map(|key| match key {
        Key::NftElement(key) => Some(key),
        _ => None,
    });
    let wanted: BTreeSet<&ElementKey> = wanted.collect();
    let sets = wanted.iter().map(|key| (key.family, key.table.clone(), key.set.clone())).collect();
    for (key, body) in elements_of(socket, &sets).map_err(fault)? {
        if wanted.contains(&key) {
            insert_element(key, body, model);
        }
    }
    Ok(())
}

/// Parts by family, table and name.
type Parts = BTreeMap<(TableFamily, Name, Name), ObservedPart>;

/// The parts of these tables, with their chains and sets, and how many transactions there were when they were so; of their rules nothing is
/// read.
pub(crate) fn parts_of(
    socket: &mut Socket,
    tables: &BTreeSet<(TableFamily, Name)>,
) -> Result<(Parts, Option<u32>), NetlinkError> {
    let (observation, generation) = stable(socket, |socket, observation| {
        read(socket, observation, encode::dump_tables)?;
        let there: BTreeSet<_> = observation.tables().into_iter().map(|t| (t.family, t.name)).collect();
        for family in tables.iter().map(|(family, _)| *family).collect::<BTreeSet<_>>() {
            read(socket, observation, |seq| encode::dump_chains(seq, family))?;
        }
        for (family, table) in tables.intersection(&there) {
            read(socket, observation, |seq| encode::dump_sets(seq, *family, Some(table)))?;
        }
        Ok(())
    })?;
    let parts = observation.tables().into_iter().flat_map(|table| table.parts.into_values());
    Ok((parts.map(|part| ((part.family, part.table.clone(), part.name.clone()), part)).collect(), generation))
}

/// The elements of some sets, also of those that packets fill; a set that is not there has none.
pub(crate) fn elements_of(
    socket: &mut Socket,
    sets: &BTreeSet<(TableFamily, Name, Name)>,
) -> Result<BTreeMap<ElementKey, ElementBody>, NetlinkError> {
    if sets.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (observation, _) = stable(socket, |socket, observation| {
        read(socket, observation, encode::dump_tables)?;
        let there: BTreeSet<_> = observation.tables().into_iter().map(|t| (t.family, t.name)).collect();
        let tables: BTreeSet<_> = sets.iter().map(|(family, table, _)| (*family, table.clone())).collect();
        for (family, table) in tables.intersection(&there) {
            let family = *family;
            read(socket, observation, |seq| encode::dump_sets(seq, family, Some(table)))?;
        }
        for (family, table, set) in sets {
            if observation.has_set(*family, table, set) {
                read(socket, observation, |seq| encode::dump_elements(seq, *family, table, set))?;
            }
        }
        Ok(())
    })?;
    let tables = observation.tables().into_iter();
    Ok(tables.flat_map(|table| table.elements.into_iter().chain(table.learned)).collect())
}

/// Reads until the ruleset has the same generation before and behind, and says which.
fn stable(
    socket: &mut Socket,
    mut reading: impl FnMut(&mut Socket, &mut Observation) -> Result<(), NetlinkError>,
) -> Result<(Observation, Option<u32>), NetlinkError> {
    for _ in 0..TRIES {
        let before = generation(socket)?;
        let mut observation = Observation::new();
        match reading(socket, &mut observation) {
            // A table went while its sets were read.
            Err(error) if error.errno == libc::ENOENT => continue,
            result => result?,
        }
        if generation(socket)? == before {
            return Ok((observation, before));
        }
    }
    Err(NetlinkError::with_text(libc::EAGAIN, "the ruleset kept changing while it was read"))
}

/// How many transactions the namespace has seen, modulo 2³².
pub(crate) fn generation(socket: &mut Socket) -> Result<Option<u32>, NetlinkError> {
    let replies = socket.call(Message::new(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, 0, &[0; 4]))?;
    Ok(replies.first().and_then(|reply| reply.split::<4>()).and_then(|(_, attrs)| attrs.be32(NFTA_GEN_ID)))
}

/// Reads chains, rules and sets of tables of ours, all or these, and says which there are.
fn read_definitions(
    socket: &mut Socket,
    observation: &mut Observation,
    wanted: Option<&BTreeSet<(TableFamily, Name)>>,
) -> Result<Vec<(TableFamily, Name)>, NetlinkError> {
    read(socket, observation, encode::dump_tables)?;
    let tables = observation.tables().into_iter().filter(is_ours).map(|table| (table.family, table.name));
    let tables: Vec<_> = tables.filter(|table| wanted.is_none_or(|wanted| wanted.contains(table))).collect();
    let families: BTreeSet<TableFamily> = tables.iter().map(|(family, _)| *family).collect();
    for family in families {
        read(socket, observation, |seq| encode::dump_chains(seq, family))?;
        if family == TableFamily::Netdev && wanted.is_none() {
            // As many tables as pods, and few of others: one request for all.
            read(socket, observation, |seq| encode::dump_rules(seq, family, None))?;
            read(socket, observation, |seq| encode::dump_sets(seq, family, None))?;
        }
    }
    for (family, name) in tables.iter().filter(|(family, _)| *family != TableFamily::Netdev || wanted.is_some()) {
        read(socket, observation, |seq| encode::dump_rules(seq, *family, Some(name)))?;
        read(socket, observation, |seq| encode::dump_sets(seq, *family, Some(name)))?;
    }
    Ok(tables)
}

fn read(
    socket: &mut Socket,
    observation: &mut Observation,
    request: impl Fn(u32) -> Vec<u8>,
) -> Result<(), NetlinkError> {
    let bytes = socket.dump_bytes(request)?;
    let decoded = messages(&bytes).map_err(|error| NetlinkError::with_text(libc::EBADMSG, &error.to_string()))?;
    for received in decoded {
        // What is read of a whole family comes with that of others' tables, which this is not about.
        match &received.message {
            Decoded::Chain(chain) if !is_own_table(chain.family, &chain.table) => {}
            Decoded::Rule(rule) if !is_own_table(rule.family, &rule.table) => {}
            Decoded::Set(set) if !is_own_table(set.family, &set.table) => {}
            _ => observation.take(received.message),
        }
    }
    Ok(())
}

fn is_ours(table: &ObservedTable) -> bool {
    is_own_table(table.family, table.name.as_str())
}

/// Puts a table, its parts and the values of their maps into the model.
fn insert(table: &ObservedTable, asked: impl Fn(Kind) -> bool, desired: &Model, model: &mut Model) {
    if asked(Kind::NftTable) {
        insert_table(table, desired, model);
    }
    for part in table.parts.values() {
        if asked(Kind::NftPart) {
            insert_part(part, desired, model);
        }
        for map in part.learning_maps().filter(|_| asked(Kind::NftValues)) {
            let of_map = table.learned.iter().filter(|(key, _)| key.set == *map);
            let values = of_map.filter_map(|(_, body)| match &body.data {
                Some(Data::Values(values)) => Some(values.clone()),
                _ => None,
            });
            let (family, table, values) = (part.family, part.table.clone(), values.collect());
            model.insert(NftValues { family, table, map: map.clone(), values, found: true }, None);
        }
    }
}

fn insert_part(found: &ObservedPart, desired: &Model, model: &mut Model) {
    let key = Key::NftPart { family: found.family, table: found.table.clone(), name: found.name.clone() };
    let part = match desired.get(&key).map(|entry| &entry.object) {
        Some(Object::NftPart(wanted)) if encode::part_digest(&wanted.part) == found.digest => wanted.clone(),
        _ => {
            let part = Part::new(found.family, &found.table, &found.name);
            let chains = found.chains.iter().fold(part, |part, chain| part.chain(chain, Chain::regular()));
            NftPart::found(chains, found.digest)
        }
    };
    model.insert(part, found.comment.as_deref().map(Owner::from_mark));
}

fn insert_table(found: &ObservedTable, desired: &Model, model: &mut Model) {
    let key = Key::NftTable { family: found.family, name: found.name.clone() };
    let written = found.digest.filter(|_| found.intact);
    let (told, owner) = found.comment().map_or(("", None), |comment| match comment.rsplit_once(' ') {
        Some((told, owner)) => (told, Some(owner)),
        None => ("", Some(comment)),
    });
    let table = match (desired.get(&key).map(|entry| &entry.object), written) {
        (Some(Object::NftTable(wanted)), Some(digest)) if digest == encode::digest(&wanted.table) => wanted.clone(),
        (_, Some(digest)) => NftTable::written(found.family, &found.name, digest, told),
        (_, None) => NftTable { table: Table::new(found.family, &found.name).comment(Comment::from(ALTERED)) },
    };
    let owner = match link_of_table(found.family, found.name.as_str()) {
        None => Some(Owner::agent()),
        Some(_) => owner.map(Owner::from_mark),
    };
    model.insert(table, owner);
}

fn insert_element(key: ElementKey, body: ElementBody, model: &mut Model) {
    let mark = |comment: &Comment| Owner::from_mark(comment.as_str().trim_start_matches(RESET_MARK));
    let owner = body.comment.as_ref().map(mark);
    model.insert_entry(Entry { object: Object::NftElement(NftElement { key, body }), owner }.into());
}

fn fault(error: NetlinkError) -> ObserveError {
    ObserveError::new("nftables", error)
}
