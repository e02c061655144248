//! Answers as text, in the words of who writes policies.

use std::fmt;

use ripstop_objects::policy::{Action, Direction, Operator, PortMatch, Selector};

use super::{By, Closest, Condition, End, Failed, PolicyKind, PolicyRef, RuleRef};

/// Rules and policies that are named at most; of more it is said how many.
const MAX_NAMED: usize = 10;

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        write!(f, "{} of {}: {verdict} ", self.direction, self.pod)?;
        if let Some(rule) = &self.passed {
            write!(f, "(left to others by {rule}) ")?;
        }
        say(f, &self.by, &self.pod, self.direction)?;
        if let Some(by) = self.staged.as_ref().filter(|by| by.allows() != self.by.allows()) {
            let verdict = if by.allows() { "allowed" } else { "denied" };
            write!(f, "\nif what is staged were enforced: {verdict} ")?;
            say(f, by, &self.pod, self.direction)?;
        }
        if !self.is_explained() {
            write!(f, "\nthe tables say otherwise than these rules: that is a defect of Ripstop, please report it")?;
        }
        Ok(())
    }
}

/// What `by` decides, with its reasons, each on a line.
fn say(f: &mut fmt::Formatter<'_>, by: &By, pod: &impl fmt::Display, direction: Direction) -> fmt::Result {
    match by {
        By::Itself => write!(f, "because the pod talks to itself"),
        By::OwnNode => write!(f, "because the other end is the pod's own node"),
        By::Nobody => write!(f, "because no policy is about it"),
        By::Unknown => write!(f, "until it is known which policies are about the pod"),
        By::Rule(rule) => write!(f, "by {rule}"),
        By::Permitted(rules) => {
            write!(f, "by ")?;
            list(f, rules)
        }
        By::Isolation { policies, closest } => {
            write!(f, "by default: {pod} is isolated for {direction} by ")?;
            list(f, policies)?;
            match closest {
                Some(closest) => write!(f, "\n{closest}"),
                None => write!(f, "\nnone of them has a rule for {direction}, so nothing is permitted"),
            }
        }
    }
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, things: &[T]) -> fmt::Result {
    for (place, thing) in things.iter().take(MAX_NAMED).enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        write!(f, "{comma}{thing}")?;
    }
    match things.len().checked_sub(MAX_NAMED) {
        Some(more @ 1..) => write!(f, " and {more} more"),
        _ => Ok(()),
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let staged = if self.staged { "staged " } else { "" };
        write!(f, "{staged}{}", self.policy_name())?;
        match (self.kind, self.tier, self.priority) {
            (PolicyKind::ClusterNetworkPolicy, Some(tier), Some(priority)) => {
                write!(f, " (tier {tier:?}, priority {priority})")
            }
            _ => Ok(()),
        }
    }
}

/// `networkpolicy/shop/web ingress[0]`: the rule's place as it is written in the object.
impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, self.direction, self.rule)?;
        match (self.policy.kind, self.action) {
            (PolicyKind::NetworkPolicy, _) => Ok(()),
            (PolicyKind::ClusterNetworkPolicy, action) => write!(f, ": {}", action_text(action)),
        }
    }
}

fn action_text(action: Action) -> &'static str {
    match action {
        Action::Accept => "Accept",
        Action::Deny => "Deny",
        Action::Pass => "Pass",
    }
}

impl fmt::Display for Closest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "closest rule: {}", self.rule)?;
        if let Some(peer) = self.peer {
            let field = if self.rule.direction == Direction::Ingress { "from" } else { "to" };
            write!(f, ".{field}[{peer}]")?;
        }
        for failed in &self.failed {
            write!(f, "\n  {failed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the rule wants {}, found {}", self.condition, self.wanted, self.found)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Empty => "empty rule",
            Self::Peer => "other end",
            Self::Namespace => "namespace",
            Self::PodLabels => "pod labels",
            Self::NodeLabels => "node labels",
            Self::Block => "block",
            Self::Except => "exception",
            Self::Protocol => "protocol",
            Self::Port => "port",
            Self::PortName => "port name",
        })
    }
}

/// A selector as `kubectl get -l` takes it.
pub fn selector_text(selector: &Selector) -> String {
    let one = |requirement: &ripstop_objects::policy::Requirement| {
        let key = &requirement.key;
        match &requirement.operator {
            Operator::In(values) if values.len() == 1 => format!("{key}={}", values[0]),
            Operator::In(values) => format!("{key} in ({})", values.join(",")),
            Operator::NotIn(values) => format!("{key} notin ({})", values.join(",")),
            Operator::Exists => key.to_string(),
            Operator::DoesNotExist => format!("!{key}"),
        }
    };
    let all: Vec<String> = selector.requirements().iter().map(one).collect();
    if all.is_empty() { "any labels".into() } else { all.join(",") }
}

/// Ports as a rule has them: `80/TCP, 8000-8080/TCP, http/TCP`.
pub fn ports_text(ports: &[PortMatch]) -> String {
    let one = |port: &PortMatch| match port {
        PortMatch::All(protocol) => format!("any port of {protocol}"),
        PortMatch::Range { protocol, first, last } if first == last => format!("{first}/{protocol}"),
        PortMatch::Range { protocol, first, last } => format!("{first}-{last}/{protocol}"),
        PortMatch::Named { protocol: Some(protocol), name } => format!("{name}/{protocol}"),
        PortMatch::Named { protocol: None, name } => name.to_string(),
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}
