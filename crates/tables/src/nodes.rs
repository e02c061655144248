//! Nodes, as several say what they are: their agents, and their objects in Kubernetes.

use ripstop_types::{Labels, NodeName};

use crate::Tables;

impl Tables {
    /// What a node is labelled with: in its agent's configuration, and where there is an object of it.
    #[must_use]
    pub fn labels_of(&self, node: &NodeName) -> Labels {
        let record = self.nodes.get(node).map(|row| row.value.labels.clone());
        let mut labels =
            record.unwrap_or_else(|| if *node == self.node { self.config.labels.clone() } else { Labels::new() });
        let own = self.cluster.node.iter().filter(|object| object.name == *node);
        for object in own.chain(self.cluster.nodes.get(node)) {
            labels.extend(object.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        labels
    }
}
