//! What a Service of type LoadBalancer asks of whoever gives addresses, as it is written: fields, and annotations of ours and MetalLB's.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, validate_dns_name};

use super::service::Judge;
use super::tree::shown;
use crate::ObjectLabels;
use crate::kubernetes::RawMetadata;
use crate::service::{BALANCER_IPS_ANNOTATIONS, Balancer, POOL_ANNOTATIONS, SHARING_ANNOTATIONS};

/// Longest key by which Services share an address.
const MAX_KEY: usize = 253;

/// The fields of its `spec`.
pub(super) struct Fields<'s> {
    pub ip: Option<&'s str>,
    pub class: Option<&'s str>,
    pub family_policy: Option<&'s str>,
    /// Its selector, where its external policy is Local.
    pub local: Option<&'s ObjectLabels>,
}

impl Judge {
    pub(super) fn balancer(&mut self, fields: &Fields<'_>, metadata: &RawMetadata) -> Balancer {
        let said = |names: &[&'static str]| {
            let found = names.iter().find_map(|name| Some((*name, metadata.annotations.get(*name)?)));
            found
                .filter(|(_, text)| !text.is_empty())
                .map(|(name, text)| (format!("metadata.annotations[{name}]"), text))
        };
        let pool = said(&POOL_ANNOTATIONS).and_then(|(path, name)| {
            let valid = validate_dns_name("a name", name).is_ok();
            if !valid {
                self.fault(&path, format!("found {}", shown(name)), "the name of an AddressPool");
            }
            valid.then(|| name.clone())
        });
        let sharing = said(&SHARING_ANNOTATIONS).and_then(|(path, key)| {
            let valid = key.len() <= MAX_KEY && !key.chars().any(char::is_control);
            if !valid {
                self.fault(&path, format!("found {}", shown(key)), "a key of at most 253 characters");
            }
            valid.then(|| key.clone())
        });
        let mut addresses: Vec<IpAddr> = Vec::new();
        let of_field = fields.ip.filter(|text| !text.is_empty()).map(|text| ("spec.loadBalancerIP".to_owned(), text));
        let annotated = said(&BALANCER_IPS_ANNOTATIONS);
        let annotated = annotated.iter().flat_map(|(path, text)| text.split(',').map(|ip| (path.clone(), ip.trim())));
        // The field has room for one address; who names two does so by annotation, which then counts.
        let annotated: Vec<(String, &str)> = annotated.collect();
        let wanted = if annotated.is_empty() { of_field.into_iter().collect() } else { annotated };
        for (path, text) in wanted {
            let Some(ip) = self.address(&path, text) else { continue };
            match addresses.iter().any(|other| Family::of(*other) == Family::of(ip)) {
                true => self.fault(&path, format!("found {ip}"), "one address of each family"),
                false => addresses.push(ip),
            }
        }
        Balancer {
            class: fields.class.filter(|class| !class.is_empty()).map(Arc::from),
            addresses,
            pool,
            sharing,
            local: fields.local.map(canonical),
            needs_both: fields.family_policy == Some("RequireDualStack"),
            labels: metadata.labels.clone(),
        }
    }
}

/// `app=web,tier=front`
fn canonical(selector: &ObjectLabels) -> Arc<str> {
    selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",").into()
}
