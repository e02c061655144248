//! What the product wants of Services, in the kernel.

use std::cell::RefCell;
use std::fmt::Display;

use ripstop_conformance::services::Stop;
use ripstop_conformance::services::scene::{Node as Place, Scene};
use ripstop_kernel::{Netns, Observer};
use ripstop_netmodel::{HostFacts, IptablesBackend};
use ripstop_oracle::services::World;

use crate::answering::{Answering, answers};
use crate::node::{Node, Spoil};
use crate::wanted::{Compiler, possible_in, rules, wanted};

/// The product's applier in a scene's node: each world is a plan away from the one before.
pub struct Applied {
    compiler: Compiler,
    /// Whether this machine has what the compiler needs.
    is_possible: Result<(), Stop>,
    node: Node,
    answering: Option<Answering>,
    /// What somebody does to what is wanted.
    pub fault: Option<Spoil>,
}

impl Applied {
    /// One that has done nothing yet.
    #[must_use]
    pub fn by(compiler: Compiler) -> Self {
        let is_possible = lacking(compiler).map_or(Ok(()), |reason| Err(Stop::Skip(reason)));
        Self { compiler, is_possible, node: Node::default(), answering: None, fault: None }
    }

    /// Goes over to this world.
    ///
    /// # Errors
    /// What failed; a skip where the product does not serve in such a world, or this machine lacks what it needs.
    pub fn follow(&mut self, world: &World, place: &Place<'_>) -> Result<(), Stop> {
        self.is_possible.clone()?;
        possible_in(self.compiler, world)?;
        let wanted = wanted(self.compiler, world, self.node.model())?;
        let netns = Netns::open(&place.path().to_string_lossy()).map_err(broken)?;
        self.node.follow(&netns, wanted, self.fault.as_ref())?;
        let answering = match &self.answering {
            Some(answering) => answering,
            None => &*self.answering.insert(Answering::start(netns)?),
        };
        answering.follow(answers(world, &rules(world)?))
    }
}

/// A scene in whose node the product serves by a compiler. Needs root.
///
/// # Errors
/// A skip where the machine cannot do it.
pub fn scene(compiler: Compiler) -> Result<Scene<'static>, Stop> {
    let applied = RefCell::new(Applied::by(compiler));
    let install = move |world: &World, place: &Place<'_>| applied.borrow_mut().follow(world, place);
    Ok(Scene::new(Box::new(install))?.with_health())
}

/// The backend of iptables that this machine uses, as an agent finds it.
///
/// # Errors
/// The kernel cannot be asked.
pub fn backend_here() -> Result<IptablesBackend, Stop> {
    Ok(facts()?.iptables.unwrap_or(IptablesBackend::Nft))
}

/// What this machine lacks for a compiler, in a sentence.
pub(crate) fn lacking(compiler: Compiler) -> Option<String> {
    match compiler {
        Compiler::Nftables => None,
        Compiler::Ipvs => {
            ripstop_kernel::load_ipvs();
            let missing = "this kernel has no IPVS; load its module with `modprobe ip_vs`";
            (!ripstop_kernel::has_ipvs()).then(|| missing.into())
        }
        Compiler::Iptables(backend) => {
            let lacks = facts().ok()?.iptables_lacks.remove(&backend)?;
            Some(format!("there is no program {lacks} here, by which rules are written"))
        }
    }
}

fn facts() -> Result<HostFacts, Stop> {
    Observer::open().and_then(|mut observer| observer.facts()).map_err(broken)
}

fn broken(error: impl Display) -> Stop {
    Stop::Fail(format!("rules cannot be written: {error}"))
}
