//! What is on the host and not ours.

use ripstop_netmodel::*;
use ripstop_types::Family;

use crate::support::*;

#[test]
fn links_addresses_and_default_routes_of_the_host() {
    on_a_node(|mut node| {
        uplink();
        ip("link set up0 mtu 9000");
        ip("addr add 192.0.2.2/24 dev up0");
        ip("link add down0 type bridge");
        ip("route add default via 192.0.2.7 metric 100");
        ip("route add default dev up1 metric 20");
        ip("-6 route add default via 2001:db8::7");
        node.make(&[link("rip0", LinkKind::Bridge, 1).into()]);
        let facts = node.observer.facts().unwrap();
        assert_eq!(facts.links.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["down0", "up0", "up1"]);
        let up0 = &facts.links[&name("up0")];
        assert!(up0.running && up0.mtu == 9000 && up0.mac.is_some());
        let expected = [("192.0.2.1", 24), ("192.0.2.2", 24), ("2001:db8::1", 64)].map(|(ip, len)| (addr(ip), len));
        assert_eq!(up0.addresses, expected);
        assert!(!facts.links[&name("down0")].running);
        assert_eq!(facts.default_links[&Family::V4], name("up1"));
        assert_eq!(facts.default_links[&Family::V6], name("up0"));
        assert!(facts.ipv6);
        let has_it = std::path::Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
        assert_eq!(facts.bridge_netfilter.is_some(), has_it);
    });
}

/// Asking makes nothing, and the answer is what making one shows.
#[test]
fn whether_there_are_shaping_devices_is_known() {
    on_a_node(|mut node| {
        let links = || run("ip", &["-o", "link", "show"]);
        let before = links();
        let facts = node.observer.facts().unwrap();
        assert_eq!(links(), before);
        let made = std::process::Command::new("ip").args(["link", "add", "type", "ifb"]).output().unwrap();
        assert_eq!(facts.ifb, made.status.success());
    });
}

#[test]
fn chains_of_others_that_drop_what_is_forwarded() {
    on_a_node(|mut node| {
        let rules = "
            table ip filter {
                chain FORWARD { type filter hook forward priority 0; policy drop; }
                chain INPUT { type filter hook input priority 0; policy drop; }
            }
            table inet firewalld {
                chain filter_FORWARD {
                    type filter hook forward priority 10; policy accept;
                    ct state established accept
                    counter reject with icmpx admin-prohibited
                }
            }
            table inet fine {
                chain forward {
                    type filter hook forward priority 0; policy accept;
                    ip saddr 10.0.0.1 drop
                }
                chain early {
                    type filter hook forward priority 1; policy accept;
                    drop
                    accept
                }
            }
            table bridge other {
                chain forward { type filter hook forward priority 0; policy drop; }
            }
            table inet ripstop {
                chain forward { type filter hook forward priority 0; policy drop; }
            }
        ";
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rules).unwrap();
        run("nft", &["-f", file.path().to_str().unwrap()]);
        let facts = node.observer.facts().unwrap();
        let drop = |family: &str, table: &str, chain: &str, iptables| ForeignDrop {
            family: family.into(),
            table: table.into(),
            chain: chain.into(),
            iptables,
            docker_user: false,
        };
        assert_eq!(
            facts.foreign_drops,
            [drop("inet", "firewalld", "filter_FORWARD", false), drop("ip", "filter", "FORWARD", true)]
        );
    });
}
