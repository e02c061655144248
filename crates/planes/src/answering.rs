//! The agent's own lane of health checks in the node of a scene.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use ripstop_agent::health::{Faults, Listen, serve};
use ripstop_conformance::services::Stop;
use ripstop_desired::services::Rules;
use ripstop_kernel::Netns;
use ripstop_objects::ServicesConfig;
use ripstop_oracle::services::World;
use ripstop_services::health;
use tokio::sync::watch;

use crate::wanted::told;

/// Sockets are there much sooner.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the product answers to health checks in this world.
pub fn answers(world: &World, rules: &Rules) -> health::Plan {
    let (node, tables) = told(world, rules);
    let checks: Vec<_> = tables.services().filter_map(|service| health::check(&node, &tables, &service.name)).collect();
    let millis = |seconds: u64| seconds * 1_000;
    let mut plan = health::Plan {
        serves: true,
        addresses: node.node_port_addresses.iter().copied().collect(),
        is_live: health::is_live(world.proxy.pending_for.map(millis), millis(world.proxy.sync_period)),
        is_leaving: world.proxy.leaving,
        ..health::Plan::default()
    };
    plan.set_checks(checks.iter());
    plan
}

/// The lane on a thread, gone with this value.
pub struct Answering {
    plans: watch::Sender<Arc<health::Plan>>,
    settled: mpsc::Receiver<Faults>,
}

impl Answering {
    /// Begins with a plan for nothing.
    pub fn start(netns: Netns) -> Result<Self, Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
        let (plans, told) = watch::channel(Arc::default());
        let (settles, settled) = mpsc::channel();
        std::thread::spawn(move || {
            let listen = Listen::of(&ServicesConfig::default());
            // A thread that cannot enter settles nothing, which is told to who waits.
            let _ = netns.run(|| runtime.block_on(serve(&listen, told, |faults| drop(settles.send(faults.clone())))));
        });
        let answering = Self { plans, settled };
        answering.wait()?;
        Ok(answering)
    }

    /// Answers by this plan from now on.
    pub fn follow(&self, plan: health::Plan) -> Result<(), Stop> {
        self.plans.send_replace(Arc::new(plan));
        self.wait()
    }

    fn wait(&self) -> Result<(), Stop> {
        let faults = self.settled.recv_timeout(PATIENCE).map_err(broken)?;
        if faults.is_empty() { Ok(()) } else { Err(broken(format!("{faults:?}"))) }
    }
}

fn broken(error: impl std::fmt::Display) -> Stop {
    Stop::Fail(format!("health checks are not answered: {error}"))
}
