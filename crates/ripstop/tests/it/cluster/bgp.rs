//! Backend `bgp`: the nodes' own sessions bring the routes between pods, and routers of others take part.

use std::time::Duration;

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Families, Lab, Options, Target, Wiring};
use serde_json::Value;

use super::{lab, pods, range_of, rows, until};

/// Nodes that say what they reach by BGP.
pub fn options(name: &str, nodes: u32) -> Options {
    Options { nodes, backend: Backend::Bgp, ..Options::named(name) }
}

/// The states of a node's sessions, by address.
pub fn sessions(lab: &Lab, node: u32) -> Vec<(String, String)> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    rows(lab, node, "/v1/bgp/peers").iter().map(|row| (text(row, "peer"), text(row, "state"))).collect()
}

/// What the kernel of a node has of ours.
pub fn routes(lab: &Lab, node: u32, family: &str) -> String {
    let line = ["ip", family, "route", "show", "proto", "82"];
    lab.exec(&Target::Node(node), &line).unwrap()
}

#[test]
fn nodes_learn_each_others_ranges_in_both_families_and_nothing_is_wrapped() {
    for (name, wiring) in [("t-bgp-r", Wiring::Routed), ("t-bgp-b", Wiring::Bridge)] {
        let Some(lab) = lab(Options { families: Families::Dual, wiring, ..options(name, 3) }) else { return };
        pods(&lab);
        let prober = lab.probe(200, &Pairs::All).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let report = prober.stop().unwrap();
        assert!(report.received > 0 && report.errors.is_empty(), "{report:?}");
        assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
        assert_eq!(report.pairs.len(), 12, "every pair in both families");
        let all: Vec<(String, String)> =
            ["172.30.1.12", "172.30.1.13"].map(|peer| (peer.to_owned(), "established".to_owned())).into();
        assert_eq!(sessions(&lab, 1), all);
        let paths = rows(&lab, 1, "/v1/paths");
        assert_eq!(paths.len(), 4);
        for path in &paths {
            assert_eq!((&path["device"], &path["state"]), (&"eth0".into(), &"realised".into()), "{path}");
        }
        let range = range_of(&lab, "n2");
        let family = if range.contains(':') { "-6" } else { "-4" };
        let known = routes(&lab, 1, family);
        assert!(known.contains(&format!("{range} nhid")), "{known}");
        lab.down().unwrap();
    }
}

#[test]
fn a_node_that_leaves_takes_its_routes_along_and_one_that_comes_brings_its_own() {
    let Some(lab) = lab(options("t-bgp-come", 2)) else { return };
    pods(&lab);
    let third = lab.node_add().unwrap();
    until("the nodes have a route to the new one", || {
        let paths = rows(&lab, 1, "/v1/paths");
        paths.iter().any(|path| path["peer"] == "n3" && path["state"] == "realised")
    });
    lab.pod_add(&ripstop_lab::PodSpec::new("p3", third)).unwrap();
    until("pods reach those of the new node", || super::talks(&lab, "p1", "p3"));
    lab.down().unwrap();
}
