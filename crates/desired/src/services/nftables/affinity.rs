//! Session affinity: what a Service's port needs so that a client keeps its endpoint.
//!
//! A part for each port of such a Service and family. Its maps say which endpoint a client went to last: one for the Service's
//! endpoints everywhere, one for those of this node, where a policy asks for them. The first packet of a connection goes where its
//! client's entry says; without one it is drawn as always. What it got is learned when the packet leaves, by where its connection
//! went at first, so that packets need no mark. So all addresses of a Service share a map.
//!
//! An entry is refreshed by each new connection and goes after the Service's time without one. One that names an endpoint which has
//! left is taken out: [`NftValues`] says which there may be.

use std::collections::BTreeSet;

use ripstop_netmodel::{NFT_SERVICES_TABLE, NftPart, NftValues};
use ripstop_nft::model::{Chain, Name, Part as TablePart, Rule, Set, Value, Verdict, build::*, part_of};
use ripstop_services::{Backend, Decision, Entry};
use ripstop_types::Family;

use crate::Part;
use crate::ruleset::address_type;
use crate::services::Reach;
use crate::services::frame::{frontend, table_family, table_name, with_ports};

/// Clients that a map holds; of more the last ones have no affinity. Nobody can fill the kernel's memory with addresses.
const CLIENTS: u32 = 65_536;

impl Reach {
    /// The map of the table that says which chain draws.
    pub(super) fn chosen(self) -> &'static str {
        match self {
            Self::Cluster => "chosen",
            Self::Local => "chosen-local",
        }
    }
}

/// The affinity of a Service's port in a family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Affinity {
    family: Family,
    /// The part: named by the Service and its port, so that no two have the same.
    name: Name,
    seconds: u32,
}

impl Affinity {
    /// `None` where the Service asks for none. Names that the API would not take have none either.
    pub(super) fn of(family: Family, decision: &Decision) -> Option<Self> {
        let seconds = decision.affinity?;
        let service = &decision.service;
        let name: Name = format!("affinity/{}_{}_{}", service.namespace, service.name, decision.port).parse().ok()?;
        let fits = part_of(&name).as_ref() == Some(&name) && name.as_str().len() <= LONGEST;
        fits.then_some(Self { family, name, seconds })
    }

    /// The chain that sends a client where it went before.
    pub(super) fn chain(&self, reach: Reach) -> Option<Name> {
        match reach {
            Reach::Cluster => Some(self.name.clone()),
            Reach::Local => self.within("local"),
        }
    }

    /// What remembers where packets to a frontend went.
    pub(super) fn learning(&self, decision: &Decision) -> Option<Verdict> {
        let chain = match (decision.entry, decision.inside_is_local) {
            (Entry::Local, _) => "learn-by-source",
            (_, true) => "learn-local",
            (_, false) => "learn",
        };
        self.within(chain).map(Verdict::Jump)
    }

    fn within(&self, what: &str) -> Option<Name> {
        format!("{}/{what}", self.name).parse().ok()
    }

    /// The part, and which endpoints its maps may name: those of the cluster, and of this node.
    pub(super) fn add_to(&self, part: &mut Part, cluster: &BTreeSet<Backend>, local: &BTreeSet<Backend>) {
        let Some(definition) = self.part() else { return };
        let values = |map: Name, of: &BTreeSet<Backend>| NftValues {
            family: table_family(self.family),
            table: table_name(),
            map,
            values: of.iter().map(|backend| vec![backend.ip.into(), Value::Service(backend.port)]).collect(),
            found: false,
        };
        part.add(NftPart::from(definition));
        for (reach, of) in [(Reach::Cluster, cluster), (Reach::Local, local)] {
            if let Some(map) = self.chain(reach) {
                part.add(values(map, of));
            }
        }
    }

    /// The same chains whatever the Service's policies, so that no chain goes while something leads there.
    fn part(&self) -> Option<TablePart> {
        let family = self.family;
        let ip = address_type(family);
        let map = || Set::map([ip], [ip, ripstop_nft::model::Type::InetService]).timeout().dynamic().size(CLIENTS);
        let mut part = TablePart::new(table_family(family), NFT_SERVICES_TABLE, &self.name);
        let (learn, learn_local) = (self.within("learn")?, self.within("learn-local")?);
        for (reach, learn) in [(Reach::Cluster, &learn), (Reach::Local, &learn_local)] {
            let name = self.chain(reach)?;
            let choose = Chain::regular().rules([
                Rule::new([with_ports(), dnat_port_map(family, saddr(family), &name)]),
                Rule::new([frontend(family).vmap(reach.chosen())]),
                Rule::new([drop()]),
            ]);
            let went = update_map(&name, saddr(family), (daddr(family), th::dport()), Some(self.seconds));
            let learns = Chain::regular().rule(Rule::new([with_ports(), went]));
            part = part.set(&name, map()).chain(&name, choose).chain(learn, learns);
        }
        let by_source = Chain::regular().rules([
            Rule::new([saddr(family).in_set("pods"), goto(&learn)]),
            Rule::new([fib::saddr_type().is(FibAddrType::LOCAL), goto(&learn)]),
            Rule::new([goto(&learn_local)]),
        ]);
        Some(part.chain(self.within("learn-by-source")?, by_source))
    }
}

/// Longest name of a part in bytes: with it the userdata of a set still has room for what nft wants to know
/// (`NFT_USERDATA_MAXLEN` is 256). The API's names are shorter.
const LONGEST: usize = 220;
