//! Settings of the node and the base of the ruleset.

use ripstop_fabric::egress;
use ripstop_netmodel::{Entry, NftElement, NftTable, Ns, Sysctl};
use ripstop_nft::model::{ElementBody, ElementKey, Key as ElementValue, Name, TableFamily};
use ripstop_tables::Tables;
use ripstop_types::{Family, Owner, Prefix};

use crate::network::is_plain_anyway;
use crate::{Part, ruleset};

/// Nothing until a network is known: a node without a network is left as it is.
pub(crate) fn objects(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    if tables.networks.is_empty() {
        return part.entries;
    }
    for family in families(tables) {
        let path = match family {
            Family::V4 => "net/ipv4/ip_forward",
            Family::V6 => "net/ipv6/conf/all/forwarding",
        };
        part.add(Sysctl { ns: Ns::Host, link: None, path: path.into(), value: "1".into() });
    }
    for table in ruleset::ruleset(tables) {
        part.add(NftTable { table });
    }
    for family in Family::BOTH {
        for prefix in egress::always_plain(family).into_iter().filter(|prefix| !is_plain_anyway(tables, prefix)) {
            part.add(interval(ruleset::sets(family).plain, prefix, &Owner::agent()));
        }
    }
    part.entries
}

/// The families of all networks.
fn families(tables: &Tables) -> impl Iterator<Item = Family> {
    Family::BOTH
        .into_iter()
        .filter(|family| tables.networks.values().any(|row| row.value.spec.ranges.get(*family).is_some()))
}

/// An element of an interval set of `inet ripstop`.
pub(crate) fn interval(set: &'static str, prefix: Prefix, owner: &Owner) -> NftElement {
    NftElement {
        key: ElementKey {
            family: TableFamily::Inet,
            table: Name::from(ripstop_netmodel::NFT_TABLE),
            set: Name::from(set),
            key: ElementValue::new(true, [prefix]),
        },
        body: ElementBody::comment(owner),
    }
}
