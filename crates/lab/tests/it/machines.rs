//! Machines and their network.

use ripstop_lab::{Families, Lab, Options, PodSpec, Target};

use super::{bare, left_of, text, until, up};

fn pings(lab: &Lab, from: &Target, to: &str) -> bool {
    lab.output(from, &["ping", "-n", "-q", "-c", "1", "-W", "5", to]).unwrap().status.success()
}

#[test]
fn machines_reach_each_other_across_subnets_in_each_family() {
    for (families, name) in [(Families::V4, "net4"), (Families::V6, "net6"), (Families::Dual, "net46")] {
        let Some(options) = bare(name) else { return };
        let lab = up(&Options { nodes: 3, subnets: 2, families, ..options });
        let state = lab.state().unwrap();
        for machine in state.machines.values() {
            let addresses: Vec<_> = machine.addresses().collect();
            assert_eq!(addresses.len(), if families == Families::Dual { 2 } else { 1 });
            for address in addresses {
                assert!(pings(&lab, &Target::Node(1), &address.to_string()), "{address}");
                assert!(pings(&lab, &Target::Outside, &address.to_string()), "{address}");
            }
        }
        if families == Families::V6 {
            assert_eq!(lab.exec(&Target::Node(1), &["ip", "-4", "addr", "show", "dev", "eth0"]).unwrap(), "");
        }
    }
}

#[test]
fn the_router_does_not_know_pods() {
    let Some(options) = bare("router") else { return };
    let lab = up(&Options { subnets: 2, ..options });
    let routes = lab.exec(&Target::Router, &["ip", "route", "get", "10.244.1.5"]);
    assert!(routes.unwrap_err().to_string().contains("unreachable"));
}

#[test]
fn a_machine_has_its_own_names_devices_processes_and_folders() {
    let Some(options) = bare("own") else { return };
    let lab = up(&options);
    let sh = |script: &str| lab.exec(&Target::Node(2), &["sh", "-c", script]).unwrap();
    assert_eq!(sh("hostname; cat /etc/hostname").trim(), "n2\nn2");
    assert_eq!(sh("ls /sys/class/net").split_whitespace().collect::<Vec<_>>(), ["eth0", "lo"]);
    assert!(sh("cat /proc/1/cmdline").contains("lab-node-init"));
    assert_eq!(sh("ls /run").split_whitespace().collect::<Vec<_>>(), ["lock", "netns", "ripstop", "ripstop-lab"]);
    sh("echo run > /run/ripstop/x; echo var > /var/lib/ripstop/x; echo etc > /etc/ripstop/x");
    let dir = lab.layout().machine_dir("n2");
    for own in ["run", "var", "etc"] {
        assert_eq!(std::fs::read_to_string(dir.join(own).join("x")).unwrap(), format!("{own}\n"));
    }
    assert!(!lab.output(&Target::Node(1), &["cat", "/var/lib/ripstop/x"]).unwrap().status.success());
    assert!(sh("getent hosts n1").starts_with("172.30.1.11"));
    let listed = text(&std::process::Command::new("ip").arg("netns").output().unwrap().stdout);
    for name in ["rip-it-own-n1", "rip-it-own-n2", "rip-it-own-router", "rip-it-own-outside"] {
        assert!(listed.contains(name), "{listed}");
    }
}

#[test]
fn a_pod_has_its_own_network_and_appears_in_its_node() {
    let Some(options) = bare("pod") else { return };
    let lab = up(&options);
    let pod = lab.pod_add(&PodSpec::new("web", 1)).unwrap();
    assert_eq!(pod.container, "it-pod-web-1");
    let web = Target::Pod("web".into());
    assert_eq!(lab.exec(&web, &["hostname"]).unwrap(), "web\n");
    assert_eq!(lab.exec(&web, &["ls", "/sys/class/net"]).unwrap(), "lo\n");
    assert_eq!(lab.exec(&web, &["ls", "-A", "/run"]).unwrap(), "");
    let namespaces = lab.exec(&Target::Node(1), &["ip", "netns"]).unwrap();
    assert!(namespaces.contains("rip-it-pod-web"), "{namespaces}");
    let refused = lab.pod_add(&PodSpec::new("web", 2)).unwrap_err();
    assert_eq!(refused.to_string(), "pod web exists: default/web on n1");
    for name in ["n1", "outside", "router", "A", "", "a/b"] {
        assert_eq!(lab.pod_add(&PodSpec::new(name, 1)).unwrap_err().exit_code(), 2, "{name}");
    }
    assert_eq!(lab.pod_add(&PodSpec::new("x", 9)).unwrap_err().exit_code(), 2);

    // A daemon that left its terminal goes with the pod.
    lab.exec(&web, &["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo started"]).unwrap();
    lab.pod_del("web").unwrap();
    until("the end of the pod's processes", || {
        !lab.exec(&Target::Node(1), &["ps", "-e", "-o", "args"]).unwrap().contains("sleep 1000")
    });
    let namespaces = lab.exec(&Target::Node(1), &["ip", "netns"]).unwrap();
    assert!(!namespaces.contains("rip-it-pod-web"), "{namespaces}");
    assert_eq!(lab.pod_del("web").unwrap_err().exit_code(), 2);
    assert_eq!(lab.pod_add(&PodSpec::new("web", 2)).unwrap().container, "it-pod-web-2", "ids are not used again");
}

#[test]
fn labs_live_side_by_side_whatever_their_names() {
    let Some(options) = bare("twin") else { return };
    let short = up(&options);
    let long = up(&Options { name: "it-twin-x".into(), ..options });
    assert!(pings(&short, &Target::Node(1), "172.30.1.12") && pings(&long, &Target::Node(1), "172.30.1.12"));
    let refused = short.pod_add(&PodSpec::new("x-n7", 1)).unwrap_err();
    assert!(refused.to_string().contains("it-twin-x"), "{refused}");
    short.down().unwrap();
    assert_eq!(left_of("it-twin"), Vec::<String>::new());
    assert!(pings(&long, &Target::Node(1), "172.30.1.12"), "the other lab is whole");
    long.down().unwrap();
    assert_eq!(left_of("it-twin-x"), Vec::<String>::new());
}

#[test]
fn nodes_come_and_go() {
    let Some(options) = bare("grow") else { return };
    let lab = up(&options);
    assert_eq!(lab.node_add().unwrap(), 3);
    assert!(pings(&lab, &Target::Node(3), "172.30.1.11"));
    lab.pod_add(&PodSpec::new("web", 3)).unwrap();
    lab.node(3).remove().unwrap();
    assert!(lab.pods().unwrap().is_empty());
    assert_eq!(lab.node(3).off().unwrap_err().exit_code(), 2);
    assert_eq!(lab.node_add().unwrap(), 3);
}
