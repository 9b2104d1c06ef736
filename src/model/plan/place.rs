use std::ops::Range;

use super::{PlannedNode, Role};

/// Where a node's value lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct Place {
    /// The buffer; `None` for the dense features, which lie in the batch.
    pub(in crate::model) buffer: Option<usize>,
    /// The columns of the buffer, or of the batch's dense features.
    pub(in crate::model) columns: Range<usize>,
}

/// Where the values of all nodes lie.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct Places {
    /// `[nodes]`
    pub(in crate::model) nodes: Vec<Place>,
    /// Columns of each buffer.
    pub(in crate::model) widths: Vec<usize>,
    /// For each node, whether each input is already in place: a concatenation's input that was
    /// written straight into the concatenation.
    pub(in crate::model) in_place: Vec<Vec<bool>>,
}

impl Places {
    /// Gives every node a place.
    ///
    /// Each input of a concatenation moves into it, unless it lies in another one already, is the
    /// batch itself, or some node would then read and write the same buffer.
    pub(in crate::model) fn new(nodes: &[PlannedNode]) -> Self {
        let mut moves = Moves::new(nodes.len());
        for (concat, node) in nodes.iter().enumerate() {
            if node.role != Role::Concat {
                continue;
            }
            let mut column = 0;
            for (slot, &input) in node.inputs.iter().enumerate() {
                if nodes[input].role != Role::Dense && moves.into[input].is_none() {
                    moves.into[input] = Some(Move {
                        concat,
                        slot,
                        column,
                    });
                    if moves.collide(nodes) {
                        moves.into[input] = None;
                    }
                }
                column += nodes[input].width;
            }
        }
        moves.places(nodes)
    }
}

/// A node whose value lies inside that of a concatenation.
#[derive(Debug, Clone, Copy)]
struct Move {
    concat: usize,
    /// Which of the concatenation's inputs it is.
    slot: usize,
    /// Its first column there.
    column: usize,
}

struct Moves {
    /// `[nodes]`
    into: Vec<Option<Move>>,
}

impl Moves {
    fn new(nodes: usize) -> Self {
        Self {
            into: vec![None; nodes],
        }
    }

    /// The node whose buffer holds this node's value, and the first column there.
    fn root(&self, mut node: usize) -> (usize, usize) {
        let mut column = 0;
        while let Some(step) = self.into[node] {
            (node, column) = (step.concat, column + step.column);
        }
        (node, column)
    }

    fn is_in_place(&self, reader: usize, slot: usize, input: usize) -> bool {
        self.into[input].is_some_and(|step| (step.concat, step.slot) == (reader, slot))
    }

    /// Whether some node would read from the buffer that it writes to.
    fn collide(&self, nodes: &[PlannedNode]) -> bool {
        nodes.iter().enumerate().any(|(reader, node)| {
            node.inputs.iter().enumerate().any(|(slot, &input)| {
                self.root(input).0 == self.root(reader).0 && !self.is_in_place(reader, slot, input)
            })
        })
    }

    fn places(&self, nodes: &[PlannedNode]) -> Places {
        let mut widths = Vec::new();
        let mut buffer_of = vec![None; nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            if self.into[index].is_none() && node.role != Role::Dense {
                buffer_of[index] = Some(widths.len());
                widths.push(node.width);
            }
        }
        let place = |index: usize| {
            let (root, column) = self.root(index);
            let columns = column..column + nodes[index].width;
            Place {
                buffer: buffer_of[root],
                columns,
            }
        };
        let in_place = nodes.iter().enumerate().map(|(reader, node)| {
            let inputs = node.inputs.iter().enumerate();
            inputs
                .map(|(slot, &input)| self.is_in_place(reader, slot, input))
                .collect()
        });
        Places {
            nodes: (0..nodes.len()).map(place).collect(),
            widths,
            in_place: in_place.collect(),
        }
    }
}
