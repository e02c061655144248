//! What `x_tables` tells of its tables without a program: `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`
//! (linux/netfilter_ipv4/ip_tables.h). Asking for a table that is not there would make it, so only those are asked for that are.

use std::os::fd::{AsRawFd, OwnedFd};

use ripstop_netmodel::{FORWARD_CHAIN, IPTABLES_PREFIX, IptablesBackend, IptablesTable};
use ripstop_types::Family;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::has_chain;
use crate::netlink::Socket;

/// The same for IPv6.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// Bytes of `struct ipt_getinfo`, and of what stands before the entries in `struct ipt_get_entries`.
const INFO: usize = 84;
const ENTRIES: usize = 40;
/// Longest name of a table, with its end.
const NAME: usize = 32;
/// More is not read to look for a name.
const MOST: usize = 256 << 20;

/// How its tables look: hooks, their places, count and size of the entries.
pub(crate) type Look = Vec<(IptablesTable, Option<Vec<u8>>)>;

/// How the tables of a family look now.
pub(super) fn look(family: Family) -> Look {
    let names = names(family);
    let there = IptablesTable::BOTH.into_iter().filter(|table| names.iter().any(|name| name == table.as_str()));
    there.map(|table| (table, info(family, table.as_str()))).collect()
}

/// Whether something in its tables bears a name of ours.
pub(super) fn has_ours(family: Family) -> bool {
    let tables = IptablesTable::BOTH.map(IptablesTable::as_str);
    names(family).iter().filter(|name| tables.contains(&name.as_str())).any(|table| {
        let prefix = IPTABLES_PREFIX.as_bytes();
        let other = FORWARD_CHAIN.as_bytes();
        let Some(entries) = entries(family, table) else { return false };
        entries.windows(prefix.len()).enumerate().any(|(at, some)| {
            let rest = entries.get(at..at + other.len() + 1);
            some == prefix && rest.is_none_or(|rest| !(rest.starts_with(other) && rest.last() == Some(&0)))
        })
    })
}

/// Where iptables' rules are: kubelet's, or else anybody's. The rule of the images that come with a choosing `iptables`: kubelet makes a
/// chain in the table `mangle`; where neither backend has one, the backend that has rules counts.
pub(crate) fn preferred(nft: &mut Socket) -> Option<IptablesBackend> {
    const HINTS: [&str; 2] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"];
    let mut in_nft =
        |table: &str, chain: &str| Family::BOTH.into_iter().any(|family| has_chain(nft, family, table, chain));
    if HINTS.into_iter().any(|hint| in_nft("mangle", hint)) {
        return Some(IptablesBackend::Nft);
    }
    let has_hint = |family: Family| {
        let is_there = names(family).iter().any(|name| name == "mangle");
        let entries = is_there.then(|| entries(family, "mangle")).flatten().unwrap_or_default();
        HINTS.iter().any(|hint| entries.windows(hint.len()).any(|some| some == hint.as_bytes()))
    };
    if Family::BOTH.into_iter().any(has_hint) {
        return Some(IptablesBackend::Legacy);
    }
    // The program makes these with the first rule of a table.
    let tables = [("filter", "FORWARD"), ("filter", "INPUT"), ("nat", "PREROUTING"), ("nat", "POSTROUTING")];
    if tables.into_iter().any(|(table, chain)| in_nft(table, chain)) {
        return Some(IptablesBackend::Nft);
    }
    let has_rules =
        |family: Family| names(family).iter().any(|name| count(family, name).is_some_and(|count| count > 0));
    Family::BOTH.into_iter().any(has_rules).then_some(IptablesBackend::Legacy)
}

/// The tables that are there.
pub(crate) fn names(family: Family) -> Vec<String> {
    let name = if family == Family::V4 { "ip_tables_names" } else { "ip6_tables_names" };
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    text.lines().map(ToOwned::to_owned).collect()
}

/// Entries of a table beside those that every table has: one for each hook, and the last.
fn count(family: Family, table: &str) -> Option<u32> {
    let info = info(family, table)?;
    let number = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let hooks = number(NAME)?.count_ones();
    number(NAME + 44)?.checked_sub(hooks + 1)
}

fn info(family: Family, table: &str) -> Option<Vec<u8>> {
    let mut data = vec![0; INFO];
    data[..table.len()].copy_from_slice(table.as_bytes());
    ask(family, GET_INFO, &mut data).then_some(data)
}

fn entries(family: Family, table: &str) -> Option<Vec<u8>> {
    // Between two questions it may have become another size.
    for _ in 0..8 {
        let info = info(family, table)?;
        let size = info.get(INFO - 4..)?.try_into().map(u32::from_ne_bytes).ok()? as usize;
        if size > MOST {
            return None;
        }
        let mut data = vec![0; ENTRIES + size];
        data[..table.len()].copy_from_slice(table.as_bytes());
        data[NAME..NAME + 4].copy_from_slice(&info[INFO - 4..]);
        if ask(family, GET_ENTRIES, &mut data) {
            data.drain(..ENTRIES);
            return Some(data);
        }
    }
    None
}

fn ask(family: Family, option: i32, data: &mut [u8]) -> bool {
    let Some(socket) = socket(family) else { return false };
    let level = if family == Family::V4 { libc::SOL_IP } else { libc::SOL_IPV6 };
    let Ok(mut length) = libc::socklen_t::try_from(data.len()) else { return false };
    // SAFETY: the buffer lives through the call and is as long as is said; the kernel writes no more than that.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, data.as_mut_ptr().cast(), &raw mut length) };
    result == 0 && length as usize == data.len()
}

fn socket(family: Family) -> Option<OwnedFd> {
    let domain = if family == Family::V4 { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(domain, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW)).ok()
}
