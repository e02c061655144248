//! What it takes to decide about all pods of a large cluster, and to say why.
//!
//! Decided is in this process, by the crate that the agent decides with, for all pods as if they were on one node. Memory is what the process
//! has grown by in the first round, without the objects themselves.

use anyhow::Result;
use ripstop_conformance::policy::large::{many_namespaces, one_namespace};
use ripstop_oracle::policy::World;
use ripstop_policy::Policies;

use crate::cpu;
use crate::report::{Goal, Table, verdict};
use crate::scene::checkpoint;
use crate::stat::Spread;

/// Measures all clusters.
pub fn clusters(rounds: usize) -> Result<(Vec<Goal>, Vec<Table>)> {
    let clusters = [
        Cluster {
            title: "25,000 namespaces, 75,000 policies, 100,000 pods",
            world: many_namespaces(25_000),
            most_memory: Some(250.0),
        },
        Cluster {
            title: "one namespace, 10,000 policies, 10,000 pods",
            world: one_namespace(10_000),
            most_memory: None,
        },
    ];
    let mut table = Table::new(&["decided from empty", "CPU seconds: min / median / max", "memory, MB"]);
    let mut goals = Vec::new();
    for cluster in &clusters {
        let mut seconds = Vec::new();
        let mut memory = 0.0;
        for round in 0..rounds {
            checkpoint()?;
            let (took, grown) = decide(&cluster.world)?;
            seconds.push(took);
            if round == 0 {
                memory = grown;
            }
        }
        let spread = Spread::of(&seconds);
        table.row(&[cluster.title.into(), spread.to_string(), format!("{memory:.0}")]);
        goals.push(cluster.goal(spread.median, memory));
    }
    Ok((goals, vec![table]))
}

/// Objects of a cluster, and what is to be reached.
struct Cluster {
    title: &'static str,
    world: World,
    most_memory: Option<f64>,
}

impl Cluster {
    fn goal(&self, seconds: f64, memory: f64) -> Goal {
        let fits = self.most_memory.is_none_or(|most| memory <= most);
        let most = self.most_memory.map(|most| format!(", {most:.0} MB")).unwrap_or_default();
        Goal {
            what: format!("policies: {}, from empty", self.title),
            reach: format!("≤ 1 s of one core{most}"),
            ours: format!("{seconds:.2} s, {memory:.0} MB"),
            rival: "–".into(),
            ratio: "–".into(),
            met: verdict(seconds <= 1.0 && fits),
        }
    }
}

/// Decides about a cluster: CPU seconds, and MB.
fn decide(world: &World) -> Result<(f64, f64)> {
    let resident = || cpu::memory(std::process::id(), "VmRSS");
    give_back();
    let (memory, used) = (resident()?, cpu::own()?);
    let mut policies = Policies::new(None);
    world.nodes.iter().for_each(|node| policies.put_node(node));
    world.namespaces.iter().for_each(|namespace| policies.put_namespace(namespace));
    world.pods.iter().for_each(|pod| policies.put_pod(pod));
    world.policies.iter().for_each(|policy| policies.put_policy(policy));
    policies.decide();
    let took = cpu::own()?.saturating_sub(used).as_secs_f64();
    // MiB.
    Ok((took, (resident()? - memory) * 1.048_576))
}

/// What the rounds before have left goes back to the kernel, so that growth is growth.
fn give_back() {
    // SAFETY: it takes a number and moves nothing that is in use (malloc_trim(3)).
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
