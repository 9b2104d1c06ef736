//! Who masks the gradient of a rectified value.

use super::{GradientPlan, Places, PlannedNode};

/// Which linear layers mask the gradient of their input by the rectifier that made it.
///
/// The layer that alone writes the gradient of a rectified value can mask it while it is in registers. The layer that made
/// the value would read both, and write one, once more.
#[derive(Debug, Default)]
pub(in crate::model) struct Masks {
    /// Who masks the gradient of a node's value, where it is not the node itself. `[nodes]`, or empty.
    by: Vec<Option<usize>>,
}

impl Masks {
    /// As many as the plan allows, of the values of nodes that `rectify`, by nodes that `may_mask`.
    pub(in crate::model) fn new(
        nodes: &[PlannedNode],
        places: &Places,
        plan: &GradientPlan,
        rectifies: impl Fn(usize) -> bool,
        may_mask: impl Fn(usize) -> bool,
    ) -> Self {
        let by = |node: usize| {
            let writer = plan.only_writer(nodes, places, node);
            writer.filter(|&writer| rectifies(node) && may_mask(writer))
        };
        Self {
            by: (0..nodes.len()).map(by).collect(),
        }
    }

    /// Whether another layer masks the gradient of this node's value.
    pub(in crate::model) fn is_masked(&self, node: usize) -> bool {
        self.by.get(node).is_some_and(Option::is_some)
    }

    /// Whether this node masks the gradient of its input.
    pub(in crate::model) fn masks_input(&self, node: usize) -> bool {
        self.by.contains(&Some(node))
    }
}
