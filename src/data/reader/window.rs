//! A window in memory: this rank's rows of some blocks, already in the order of the epoch.
//!
//! Rows are put in order once a window, not once a batch: a column of a window fits a core's cache,
//! and a batch is then copied from one place.

use std::ops::Range;

use streamrec_artifact::RawColumn;

use super::plan::Plan;
use crate::data::row_copy::append_rows;
use crate::data::{Block, Error, Result};

/// This rank's rows of a window.
#[derive(Debug)]
pub(super) struct Window {
    /// This rank's rows, in the order of the epoch.
    pub block: Block,
    /// The weights of ALL rows of the window in the order of the epoch; empty without weights.
    weights: Vec<f32>,
    /// The position of the window's first row in the epoch's order.
    start: u64,
    first_step: u64,
    /// The rows of `block` that belong to step `first_step + i`: from `steps[i]` to `steps[i + 1]`.
    steps: Vec<usize>,
}

impl Window {
    /// Reads a window: its blocks as they lie into `scratch`, this rank's rows in order into `block`.
    pub fn load(plan: &Plan, window: usize, scratch: &mut Block, mut block: Block) -> Result<Self> {
        let source = &plan.source;
        scratch.clear();
        for &number in plan.order.blocks(window) {
            let (file, number) = source.block(number as usize);
            file.append_block(number, &source.selection.columns, scratch)?;
        }
        let Range { start, end } = plan.order.positions(window);
        let order = plan.order.row_order(window);
        let row_at = |position: u64| {
            let place = (position - start) as u32;
            order.as_ref().map_or(place, |order| order[place as usize])
        };

        let batch = source.settings.global_batch as u64;
        let first_step = start / batch;
        let last_step = end.div_ceil(batch).min(source.steps());
        let mut steps = vec![0];
        let mut rows = Vec::new();
        for step in first_step..last_step {
            let own = plan.own_rows(step);
            rows.extend((own.start.max(start)..own.end.min(end)).map(row_at));
            steps.push(rows.len());
        }
        block.clear();
        block.rows = rows.len();
        for (from, to) in scratch.columns.iter().zip(&mut block.columns) {
            append_rows(to, from, rows.iter().map(|&row| row as usize))
                .map_err(|problem| Error::settings("window_blocks", problem.to_string()))?;
        }
        let weights = source.selection.weight.map(|slot| &scratch.columns[slot]);
        let weights = match weights {
            Some(RawColumn::Dense(from)) => (start..end)
                .map(|position| from[row_at(position) as usize])
                .collect(),
            _ => Vec::new(),
        };
        Ok(Self {
            block,
            weights,
            start,
            first_step,
            steps,
        })
    }

    /// The rows of `block` that belong to `step`.
    pub fn rows_of(&self, step: u64) -> Range<usize> {
        let place = (step - self.first_step) as usize;
        self.steps[place]..self.steps[place + 1]
    }

    /// The weights of those of `positions` that lie in the window, whichever rank's they are.
    pub fn weights_of(&self, positions: &Range<u64>) -> &[f32] {
        let place =
            |position: u64| (position.saturating_sub(self.start) as usize).min(self.weights.len());
        &self.weights[place(positions.start)..place(positions.end)]
    }
}
