//! A pod that must have one certain address, in mode `blocks`: it may be on offer, in a block of nobody, or in another node's.

use std::net::IpAddr;

use ripstop_cni_spec::{Code, Error};
use ripstop_ipam::ranges::{ClaimKey, RangeEvent, Slot};
use ripstop_ipam::{LeaseRequest, LendingEvent};
use ripstop_objects::{Network, Pool};
use ripstop_types::{Family, Prefix};

use super::Core;
use super::blocks::Lack;
use super::borrowing::{Ask, inside, lends};

impl Core {
    /// An address that a pod must have is not free in this node's blocks.
    pub(super) fn lacks_fixed(&mut self, network: &Network, request: &LeaseRequest, ip: IpAddr) -> Lack {
        let (holder, name) = (request.holder(), network.name.as_str());
        let refuse = |text: String| Lack::Never(Error::new(Code::AddressRefused, text));
        let wait = |text: String| Lack::Wait(Error::new(Code::TryAgainLater, text));
        let pools: Vec<Pool> = network.spec.pools(Family::of(ip)).collect();
        let Some(pool) = pools.iter().find(|pool| pool.range.contains(ip)) else {
            let pools: Vec<String> = pools.iter().map(|pool| pool.range.to_string()).collect();
            return refuse(format!(
                "{holder}: address {ip} is in no pool of network {name}, which has {}",
                pools.join(", ")
            ));
        };
        if network.spec.is_for_nodes(&Prefix::host(ip)) {
            return refuse(format!("{holder}: address {ip} is not for pods: nodes have their own addresses there"));
        }
        if network.spec.excludes(ip) {
            return refuse(format!("{holder}: address {ip} is not for pods: it is excluded"));
        }
        let key = ClaimKey::new(name, Prefix::host(ip));
        if let Some(by) = self.blocks.asks.get_mut(&key).and_then(|ask| ask.denied.take()) {
            return refuse(format!("{holder}: address {ip} is held by {by}; remove that pod or ask for another"));
        }
        if let Some(block) = self.blocks.told.iter().map(|(block, _)| block).find(|block| inside(&key, block)).cloned()
        {
            self.blocks.retiring.remove(&block);
            if self.lending.rows().iter().any(|row| row.key == key && row.phase == "lent") {
                let by = self.borrower_of(&key);
                return refuse(format!("{holder}: address {ip} is held by {by}; remove that pod or ask for another"));
            }
            self.lending_event(&LendingEvent::TakeBack(key));
            return wait(format!("{holder}: address {ip} is on offer to other nodes and is being taken back"));
        }
        let Some(lender) = self.lender_of(name, ip) else { return self.want_block_of(network, pool, ip, &holder) };
        let node = lender.claim.claimant.node.clone();
        if node == self.tables.node {
            return wait(format!("{holder}: the block of {ip} is not ready yet"));
        }
        if !network.spec.blocks.as_ref().is_some_and(|rules| lends(rules, Family::of(ip))) {
            return refuse(format!(
                "{holder}: address {ip} is in a block of node {node}, and strictAffinity keeps it there"
            ));
        }
        let now = self.at.now;
        let ask = self.blocks.asks.entry(key.clone()).or_insert(Ask { denied: None, not_before: now, wanted: true });
        ask.wanted = true;
        if now >= ask.not_before {
            self.lending_event(&LendingEvent::Ask { key, holder: holder.as_str().into() });
        }
        wait(format!(
            "{holder}: address {ip} is in a block of node {node}, which was asked for it and has not answered"
        ))
    }

    fn borrower_of(&self, key: &ClaimKey) -> String {
        let stored = self.engine.claims().find(|(other, _)| *other == key).map(|(_, stored)| &stored.claim);
        match stored.map(|claim| (&claim.claimant.node, claim.holder.as_deref())) {
            Some((node, Some(holder))) => format!("{holder} of node {node}"),
            Some((node, None)) => format!("node {node}"),
            None => "another node".into(),
        }
    }

    /// An address of no node: its block becomes this one's.
    fn want_block_of(&mut self, network: &Network, pool: &Pool, ip: IpAddr, holder: &str) -> Lack {
        let text = format!("{holder}: the block of address {ip} is being claimed");
        let wait = Lack::Wait(Error::new(Code::TryAgainLater, text));
        let Some(rules) = &network.spec.blocks else { return wait };
        let Some(mut request) = self.pool_request(network, pool) else { return wait };
        let slot = Slot::of(&request);
        let block = Prefix::containing(ip, request.len);
        let has = self.owned_in(&slot);
        if has >= rules.max_per_node {
            let text = format!(
                "{holder}: address {ip} is in a block of nobody, and this node has its {has} blocks (maxPerNode)"
            );
            return Lack::Never(Error::new(Code::AddressRefused, text));
        }
        if request.preferred != block || request.blocks.is_none_or(|wanted| wanted <= has) {
            self.blocks.preferred.extend(block.map(|block| (slot.clone(), block)));
            self.blocks.targets.insert(slot, has + 1);
            (request.preferred, request.blocks) = (block, Some(has + 1));
            self.range_event(&RangeEvent::Want(request));
        }
        wait
    }
}
