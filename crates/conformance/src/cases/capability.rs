//! Capabilities that the configuration declares, by the conventions, and wishes in `CNI_ARGS`.

use serde_json::{Value, json};

use super::add::asks_for;
use super::del::can_ask;
use super::kernel::link_of;
use crate::call::Call;
use crate::case::{Case, Verdict, case, need, skip};
use crate::result::{Attached, text};
use crate::scene::Scene;
use crate::spec;
use crate::version::Verb;

use Verb::{Add, Check, Del};

const MAC: &str = "0a:52:5e:00:53:07";

pub const CASES: &[Case] = &[
    case("capability.declared-but-not-requested", &spec::CAPABILITY, |s| {
        s.call(Add, &s.pod()?)?.without("runtimeConfig").result().map(drop)
    }),
    case("capability.ips-are-given", &spec::C_IPS, |s| {
        let wanted = free(s, "ips")?;
        let attached = with(s, "ips", wanted.clone())?;
        let got: Vec<Value> =
            attached.list("ips").iter().map(|ip| ip.get("address").cloned().unwrap_or_default()).collect();
        let bare = |value: &Value| text(value).split('/').next().unwrap_or_default().to_owned();
        for ip in wanted.as_array().into_iter().flatten() {
            need!(got.iter().any(|got| bare(got) == bare(ip)), "asked for {ip}, it has {got:?}");
        }
        Ok(())
    }),
    case("capability.ips-taken-are-refused", &spec::C_IPS, |s| {
        let wanted = free(s, "ips")?;
        let _holder = with(s, "ips", wanted.clone())?;
        let pod = s.pod()?;
        runtime(s.call(Add, &pod)?, "ips", wanted).refused("the address is taken").map(drop)
    }),
    case("capability.ips-malformed-are-refused", &spec::C_MALFORMED, |s| malformed(s, "ips", json!(["nowhere"]))),
    case("capability.ips-pass-check", &spec::CHECK_PARAMETERS, |s| {
        s.newest(Check)?;
        let wanted = free(s, "ips")?;
        let attached = with(s, "ips", wanted.clone())?;
        runtime(s.check(&attached)?, "ips", wanted).done()
    }),
    case("capability.mac-is-given", &spec::C_MAC, |s| {
        declared(s, "mac")?;
        let attached = with(s, "mac", MAC.into())?;
        let mac = link_of(&attached)?.mac;
        need!(mac == MAC, "asked for the MAC {MAC}, it has {mac}");
        Ok(())
    }),
    case("capability.mac-is-in-the-result", &spec::R_MAC, |s| {
        declared(s, "mac")?;
        let attached = with(s, "mac", MAC.into())?;
        let mac = attached.interface()?.get("mac").cloned().unwrap_or_default();
        need!(mac == MAC, "asked for the MAC {MAC}, the result has {mac}");
        Ok(())
    }),
    case("capability.mac-malformed-is-refused", &spec::C_MALFORMED, |s| malformed(s, "mac", "0a:52".into())),
    case("capability.dns-is-in-the-result", &spec::C_DNS, |s| {
        declared(s, "dns")?;
        let attached = with(s, "dns", json!({ "servers": ["192.0.2.53"], "searches": ["example.org"] }))?;
        let dns = &attached.result["dns"];
        need!(dns["nameservers"] == json!(["192.0.2.53"]), "asked for the resolver 192.0.2.53, the result has {dns}");
        need!(dns["search"] == json!(["example.org"]), "asked for example.org, the result has {dns}");
        Ok(())
    }),
    case("capability.bandwidth-is-taken", &spec::C_BANDWIDTH, |s| {
        declared(s, "bandwidth")?;
        let rates = json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000 });
        let attached = with(s, "bandwidth", rates.clone())?;
        runtime(s.del(&attached), "bandwidth", rates).done()
    }),
    case("capability.bandwidth-malformed-is-refused", &spec::C_MALFORMED, |s| {
        malformed(s, "bandwidth", json!({ "ingressRate": "fast" }))
    }),
    case("capability.ranges-malformed-are-refused", &spec::C_RANGES, |s| {
        malformed(s, "ipRanges", json!([[{ "subnet": "nowhere" }]]))
    }),
    case("capability.wished-address-is-given", &spec::C_ARG_IP, |s| {
        can_ask(s)?;
        let attached = s.addressed()?;
        let wanted = attached.ip()?.to_string();
        s.del(&attached).done()?;
        let got = asks_for(s, &s.pod()?, &wanted)?;
        need!(got.as_deref() == Some(wanted.as_str()), "asked for {wanted}, got {got:?}");
        Ok(())
    }),
    case("capability.wished-address-malformed-is-refused", &spec::C_ARG_IP, |s| {
        can_ask(s)?;
        s.call(Add, &s.pod()?)?.env("CNI_ARGS", "IgnoreUnknown=1;IP=nowhere").refused("IP is no address").map(drop)
    }),
];

fn declared(scene: &Scene<'_>, capability: &str) -> Verdict {
    if scene.subject().capabilities.iter().any(|declared| declared == capability) {
        return Ok(());
    }
    skip(format!("the configuration does not declare the capability {capability}"))
}

/// Adds an argument to those of the user.
fn runtime<'a>(call: Call<'a>, capability: &str, value: Value) -> Call<'a> {
    let mut all = call.scene().subject().cap_args.clone();
    all.insert(capability.into(), value);
    call.conf("runtimeConfig", all)
}

fn with<'a>(scene: &'a Scene<'a>, capability: &str, value: Value) -> Verdict<Attached> {
    scene.attach_as(scene.newest(Add)?, |call| runtime(call, capability, value))
}

fn malformed(scene: &Scene<'_>, capability: &str, value: Value) -> Verdict {
    declared(scene, capability)?;
    let why = format!("{capability} is {value}");
    let pod = scene.pod()?;
    runtime(scene.call(Add, &pod)?, capability, value).refused(&why).map(drop)
}

/// Addresses that were had and given back, as the capability writes them.
fn free(scene: &Scene<'_>, capability: &str) -> Verdict<Value> {
    declared(scene, capability)?;
    let attached = scene.addressed()?;
    let ips: Vec<String> = attached.ips()?.iter().map(|ip| format!("{}/{}", ip.addr, ip.length)).collect();
    scene.call(Del, &attached.pod)?.done()?;
    Ok(json!(ips))
}
