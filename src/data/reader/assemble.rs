//! Makes a rank's batch out of windows: gathers rows, adds earlier counts, encodes.

use std::ops::Range;
use std::sync::Arc;

use streamrec_artifact::{MISSING_KEY, RawColumn};

use super::plan::Plan;
use super::settings::Inputs;
use super::window::Window;
use crate::data::{Batch, Error, Position, Result};

/// What one worker reuses from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The rows to gather: for each window of the batch its rows, in the global order.
    rows: Vec<Vec<u32>>,
    keys: Vec<RawColumn>,
    values: Vec<f32>,
    key: Vec<u64>,
}

impl Assembler {
    /// Fills `batch` with this rank's rows of the global batch at `step`.
    pub fn assemble(
        &mut self,
        plan: &Plan,
        windows: &[Arc<Window>],
        step: u64,
        batch: &mut Batch,
    ) -> Result<()> {
        let source = &*plan.source;
        let selection = &source.selection;
        let own = plan.own_rows(step);
        batch.rows = source.padded_rows();
        batch.filled = (own.end - own.start) as usize;
        batch.position = Position {
            epoch: plan.epoch,
            step,
        };
        batch.first_row = own.start;
        batch.weight_sum = self.weight_sum(plan, windows, step)?;

        self.find_rows(windows, &own);
        batch.raw.rows = batch.filled;
        if !selection.fits(&batch.raw.columns) {
            batch.raw.columns = selection.input_columns();
        }
        for (&slot, column) in selection.inputs.iter().zip(&mut batch.raw.columns) {
            self.gather(windows, slot, column)?;
        }
        self.add_base(plan, windows, batch)?;

        let rows = batch.rows;
        let labels = &source.settings.labels;
        self.gather_table(windows, &selection.labels, rows, &mut batch.labels);
        if let Some(at) = batch
            .labels
            .iter()
            .position(|&label| label != 0.0 && label != 1.0)
        {
            let label = &labels[at % labels.len()];
            let problem = format!(
                "expected labels of 0 and 1, a row of step {step} of epoch {} has {}",
                plan.epoch, batch.labels[at]
            );
            return Err(Error::column(source.files[0].path(), label, problem));
        }
        self.gather_table(windows, &selection.truth, rows, &mut batch.truth);
        match selection.weight {
            Some(slot) => self.gather_table(windows, &[slot], rows, &mut batch.weights),
            None => {
                batch.weights.clear();
                batch.weights.resize(batch.filled, 1.0);
                batch.weights.resize(rows, 0.0);
            }
        }
        batch.groups.clear();
        if let Some(slot) = selection.group {
            let mut groups = RawColumn::Key(std::mem::take(&mut batch.groups));
            self.gather(windows, slot, &mut groups)?;
            if let RawColumn::Key(groups) = groups {
                batch.groups = groups;
            }
            batch.groups.resize(rows, MISSING_KEY);
        }
        if let Inputs::Encoded(encoder) = &source.settings.inputs {
            encoder
                .encode_padded(&batch.raw, rows, &mut batch.encoded)
                .map_err(|source| Error::Encode {
                    epoch: plan.epoch,
                    step,
                    source: Box::new(source),
                })?;
        }
        Ok(())
    }

    /// The sum of the weights of the global batch, in the global order: equal bits on all ranks.
    fn weight_sum(&mut self, plan: &Plan, windows: &[Arc<Window>], step: u64) -> Result<f64> {
        let global = plan.global_rows(step);
        let Some(slot) = plan.source.selection.weight else {
            return Ok((global.end - global.start) as f64);
        };
        self.find_rows(windows, &global);
        let mut sum = 0.0;
        for (window, rows) in windows.iter().zip(&self.rows) {
            let RawColumn::Dense(weights) = &window.block.columns[slot] else {
                continue;
            };
            for &row in rows {
                let weight = weights[row as usize];
                if !(weight >= 0.0 && weight.is_finite()) {
                    let name = plan.source.settings.weight.as_deref().unwrap_or_default();
                    let problem = format!(
                        "expected weights of 0 or more, a row of step {step} of epoch {} has {weight}",
                        plan.epoch
                    );
                    return Err(Error::column(plan.source.files[0].path(), name, problem));
                }
                sum += f64::from(weight);
            }
        }
        Ok(sum)
    }

    /// Finds the rows at `positions` in each window.
    fn find_rows(&mut self, windows: &[Arc<Window>], positions: &Range<u64>) {
        self.rows.resize_with(windows.len(), Vec::new);
        for (window, rows) in windows.iter().zip(&mut self.rows) {
            let inside = positions.start.max(window.start)..positions.end.min(window.end());
            rows.clear();
            rows.extend(inside.map(|position| window.row_at(position)));
        }
    }

    /// Gathers a column of the found rows over what `to` held.
    fn gather(&self, windows: &[Arc<Window>], slot: usize, to: &mut RawColumn) -> Result<()> {
        to.clear();
        for (window, rows) in windows.iter().zip(&self.rows) {
            gather(&window.block.columns[slot], rows, to).map_err(|keys| {
                let problem = format!("{keys} list keys in one batch, the most is {}", u32::MAX);
                Error::settings("global_batch", problem)
            })?;
        }
        Ok(())
    }

    /// Gathers dense columns of the found rows as `[rows, columns]`, padded with 0.
    fn gather_table(
        &mut self,
        windows: &[Arc<Window>],
        slots: &[usize],
        rows: usize,
        to: &mut Vec<f32>,
    ) {
        to.clear();
        to.resize(rows * slots.len(), 0.0);
        for (column, &slot) in slots.iter().enumerate() {
            self.values.clear();
            for (window, rows) in windows.iter().zip(&self.rows) {
                if let RawColumn::Dense(from) = &window.block.columns[slot] {
                    self.values
                        .extend(rows.iter().map(|&row| from[row as usize]));
                }
            }
            let cells = to.iter_mut().skip(column).step_by(slots.len());
            cells
                .zip(&self.values)
                .for_each(|(cell, &value)| *cell = value);
        }
    }

    /// Adds the counts of earlier data to the trailing inputs.
    fn add_base(&mut self, plan: &Plan, windows: &[Arc<Window>], batch: &mut Batch) -> Result<()> {
        let Some(base) = &plan.source.settings.base else {
            return Ok(());
        };
        for trailing in &plan.source.selection.trailing {
            let mut keys = std::mem::take(&mut self.keys);
            keys.resize_with(trailing.keys.len(), || RawColumn::Key(Vec::new()));
            for (&slot, column) in trailing.keys.iter().zip(&mut keys) {
                self.gather(windows, slot, column)?;
            }
            // The selection found it when the reader was made.
            let Some(lookup) = base.history.lookup(&trailing.spec) else {
                continue;
            };
            if let RawColumn::Dense(values) = &mut batch.raw.columns[trailing.input] {
                for (row, value) in values.iter_mut().enumerate() {
                    self.key.clear();
                    self.key.extend(keys.iter().map(|column| match column {
                        RawColumn::Key(keys) => keys[row],
                        _ => MISSING_KEY,
                    }));
                    *value = (f64::from(*value) + lookup.value(&self.key)) as f32;
                }
            }
            self.keys = keys;
        }
        Ok(())
    }
}

/// Appends `rows` of a column to one of the same kind.
///
/// # Errors
/// The number of list keys, where it passes 32 bits.
fn gather(from: &RawColumn, rows: &[u32], to: &mut RawColumn) -> Result<(), usize> {
    match (from, to) {
        (RawColumn::Dense(from), RawColumn::Dense(to)) => {
            to.extend(rows.iter().map(|&row| from[row as usize]));
        }
        (RawColumn::Key(from), RawColumn::Key(to)) => {
            to.extend(rows.iter().map(|&row| from[row as usize]));
        }
        (RawColumn::Time(from), RawColumn::Time(to)) => {
            to.extend(rows.iter().map(|&row| from[row as usize]));
        }
        (
            RawColumn::KeyList {
                offsets: starts,
                keys: from,
            },
            RawColumn::KeyList { offsets, keys },
        ) => {
            for &row in rows {
                let (start, end) = (starts[row as usize], starts[row as usize + 1]);
                keys.extend_from_slice(&from[start as usize..end as usize]);
                offsets.push(u32::try_from(keys.len()).map_err(|_| keys.len())?);
            }
        }
        _ => unreachable!("slots and columns were made with the same kinds"),
    }
    Ok(())
}
