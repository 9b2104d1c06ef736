use std::ops::Range;

use super::{Place, Places, PlannedNode, Role};

/// How a node writes the gradient of one of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct GradientWrite {
    /// The buffer of gradients.
    pub(in crate::model) slot: usize,
    /// The columns of the whole buffer.
    pub(in crate::model) width: usize,
    /// The columns of the input's gradient.
    pub(in crate::model) columns: Range<usize>,
    /// Columns to set to zero first: those that nobody has written yet, where others have been.
    pub(in crate::model) zero: Vec<Range<usize>>,
    /// Add to what is there.
    pub(in crate::model) accumulate: bool,
    /// Write to the temporary buffer instead, which is added afterwards: another input's gradient
    /// lies in the same buffer.
    pub(in crate::model) through_temporary: bool,
}

/// The gradient of a node's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct GradientPlace {
    /// The buffer of gradients.
    pub(in crate::model) slot: usize,
    /// The columns of the whole buffer.
    pub(in crate::model) width: usize,
    /// The columns of this node's gradient.
    pub(in crate::model) columns: Range<usize>,
}

/// Where gradients of values lie, and how they are written.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::model) struct GradientPlan {
    /// Where each node's gradient lies; `None` where nobody needs it. `[nodes]`
    pub(in crate::model) places: Vec<Option<GradientPlace>>,
    /// For each node and each input, how it writes that input's gradient; `None` where nobody
    /// needs it, or it is in place already. Writes happen from the last input to the first.
    pub(in crate::model) writes: Vec<Vec<Option<GradientWrite>>>,
    /// Columns of each buffer.
    pub(in crate::model) slot_widths: Vec<usize>,
    /// The buffer of the logits' gradient, which it shares with no other.
    pub(in crate::model) output_slot: Option<usize>,
    /// Columns of the temporary buffer; 0 where none is needed.
    pub(in crate::model) temporary_width: usize,
}

impl GradientPlan {
    /// Plans the backward pass from the last node, whose gradient is given.
    pub(in crate::model) fn new(nodes: &[PlannedNode], places: &Places) -> Self {
        let places = gradient_places(nodes, places);
        let (slots, slot_widths) = assign_slots(nodes, &places);
        let output = places.nodes.last().and_then(|place| place.buffer);
        let mut coverage: Vec<Coverage> =
            places.widths.iter().map(|_| Coverage::default()).collect();
        if let Some(Place {
            buffer: Some(buffer),
            columns,
        }) = places.nodes.last()
        {
            coverage[*buffer].cover(columns);
        }
        let mut writes = vec![Vec::new(); nodes.len()];
        let mut temporary_width = 0;
        for reader in (0..nodes.len()).rev() {
            let mut planned = vec![None; nodes[reader].inputs.len()];
            for (input_slot, &input) in nodes[reader].inputs.iter().enumerate().rev() {
                let Place {
                    buffer: Some(buffer),
                    columns,
                } = &places.nodes[input]
                else {
                    continue;
                };
                if places.in_place[reader][input_slot] {
                    continue;
                }
                let later = &nodes[reader].inputs[input_slot + 1..];
                let shared = later
                    .iter()
                    .any(|&other| places.nodes[other].buffer == Some(*buffer));
                // Other nodes write one gradient after the other.
                let through_temporary = shared && nodes[reader].role == Role::Cross;
                if through_temporary {
                    temporary_width = temporary_width.max(columns.len());
                }
                let zero = coverage[*buffer].missing(columns);
                let none = zero == [columns.clone()];
                coverage[*buffer].cover(columns);
                planned[input_slot] = Some(GradientWrite {
                    slot: slots[*buffer],
                    width: places.widths[*buffer],
                    columns: columns.clone(),
                    zero: if none { Vec::new() } else { zero },
                    accumulate: !none,
                    through_temporary,
                });
            }
            writes[reader] = planned;
        }
        let place = |place: &Place| {
            let buffer = place.buffer?;
            let (slot, width) = (slots[buffer], places.widths[buffer]);
            Some(GradientPlace {
                slot,
                width,
                columns: place.columns.clone(),
            })
        };
        let places = places.nodes.iter().map(place).collect();
        Self {
            places,
            writes,
            output_slot: output.map(|buffer| slots[buffer]),
            slot_widths,
            temporary_width,
        }
    }

    /// The node that alone writes the gradient of the value of `node`, where that shares its buffer with no other.
    pub(in crate::model) fn only_writer(
        &self,
        nodes: &[PlannedNode],
        values: &Places,
        node: usize,
    ) -> Option<usize> {
        let lies_with = |other: usize| values.nodes[other].buffer == values.nodes[node].buffer;
        if (0..nodes.len()).filter(|&other| lies_with(other)).count() > 1 {
            return None;
        }
        let mut writers = (0..nodes.len()).flat_map(|reader| {
            let of_reader = nodes[reader].inputs.iter().zip(&self.writes[reader]);
            of_reader
                .filter(|(input, write)| write.is_some() && lies_with(**input))
                .map(move |_| reader)
        });
        writers.next().filter(|_| writers.next().is_none())
    }
}

/// As the values' places, and one for the dense features where somebody insists on their gradient.
fn gradient_places(nodes: &[PlannedNode], values: &Places) -> Places {
    let mut places = values.clone();
    for (index, node) in nodes.iter().enumerate() {
        let insists = |reader: &PlannedNode| {
            matches!(reader.role, Role::Cross | Role::Other) && reader.inputs.contains(&index)
        };
        if node.role == Role::Dense && nodes.iter().any(insists) {
            places.nodes[index].buffer = Some(places.widths.len());
            places.widths.push(node.width);
        }
    }
    places
}

/// Lets buffers whose gradients are never alive at the same time share memory. Returns the slot of
/// each buffer, and the widths of the slots.
fn assign_slots(nodes: &[PlannedNode], places: &Places) -> (Vec<usize>, Vec<usize>) {
    let alive = lifetimes(nodes, places);
    let mut order: Vec<usize> = (0..alive.len()).collect();
    // In the order of the backward pass: the later node first.
    order.sort_by_key(|&buffer| std::cmp::Reverse(alive[buffer].last));
    let output = places.nodes.last().and_then(|place| place.buffer);
    let mut slots = vec![0; alive.len()];
    let mut widths: Vec<usize> = Vec::new();
    let mut alive_until: Vec<usize> = Vec::new();
    for buffer in order {
        let Lifetime { first, last } = alive[buffer];
        // A slot is free once its first node has gone backward before this buffer's last does.
        let own = Some(buffer) == output;
        let free = (0..widths.len()).find(|&slot| alive_until[slot] > last && !own);
        let slot = free.unwrap_or_else(|| {
            widths.push(0);
            alive_until.push(0);
            widths.len() - 1
        });
        slots[buffer] = slot;
        widths[slot] = widths[slot].max(places.widths[buffer]);
        // Logits are float32 whatever the others are.
        alive_until[slot] = if own { 0 } else { first };
    }
    (slots, widths)
}

/// The nodes during whose backward pass a buffer of gradients is in use.
#[derive(Debug, Clone, Copy)]
struct Lifetime {
    /// The earliest node whose gradient it holds; the pass ends with it.
    first: usize,
    /// The latest node that writes to it; the pass begins with it.
    last: usize,
}

fn lifetimes(nodes: &[PlannedNode], places: &Places) -> Vec<Lifetime> {
    let unused = Lifetime {
        first: usize::MAX,
        last: 0,
    };
    let mut alive = vec![unused; places.widths.len()];
    for (index, node) in nodes.iter().enumerate() {
        if let Some(buffer) = places.nodes[index].buffer {
            // The gradient of embeddings is read after the pass.
            let first = if node.role == Role::Embeddings {
                0
            } else {
                index
            };
            alive[buffer].first = alive[buffer].first.min(first);
            alive[buffer].last = alive[buffer].last.max(index);
        }
        for &input in &node.inputs {
            if let Some(buffer) = places.nodes[input].buffer {
                alive[buffer].last = alive[buffer].last.max(index);
            }
        }
    }
    alive
}

/// The columns of a buffer that have been written: sorted, disjoint, not touching.
#[derive(Debug, Default)]
struct Coverage {
    covered: Vec<Range<usize>>,
}

impl Coverage {
    /// The parts of `columns` that have not been written.
    fn missing(&self, columns: &Range<usize>) -> Vec<Range<usize>> {
        let mut missing = Vec::new();
        let mut start = columns.start;
        for range in &self.covered {
            if range.end <= start || range.start >= columns.end {
                continue;
            }
            if range.start > start {
                missing.push(start..range.start);
            }
            start = start.max(range.end);
        }
        if start < columns.end {
            missing.push(start..columns.end);
        }
        missing
    }

    fn cover(&mut self, columns: &Range<usize>) {
        self.covered.push(columns.clone());
        self.covered.sort_by_key(|range| range.start);
        self.covered.dedup_by(|next, range| {
            let touch = next.start <= range.end;
            if touch {
                range.end = range.end.max(next.end);
            }
            touch
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_tells_what_is_missing() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.missing(&(2..9)), vec![Range { start: 2, end: 9 }]);
        coverage.cover(&(4..6));
        coverage.cover(&(8..12));
        assert_eq!(coverage.missing(&(2..9)), [2..4, 6..8]);
        assert!(coverage.missing(&(4..6)).is_empty());
        coverage.cover(&(6..8));
        assert_eq!(coverage.covered, vec![Range { start: 4, end: 12 }]);
        assert_eq!(coverage.missing(&(0..14)), [0..4, 12..14]);
    }
}
