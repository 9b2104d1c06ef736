//! Makes a rank's batch out of windows: copies rows, adds earlier counts, encodes.

use std::sync::Arc;

use streamrec_artifact::{MISSING_KEY, RawColumn};

use super::plan::Plan;
use super::settings::Inputs;
use super::window::Window;
use crate::data::row_copy::append_range;
use crate::data::{Batch, Error, Position, Result};

/// The windows that hold the rows of one step.
pub(super) struct Assembly<'a> {
    pub plan: &'a Plan,
    pub windows: &'a [Arc<Window>],
    pub step: u64,
}

impl Assembly<'_> {
    /// Fills `batch` with this rank's rows of the step's global batch.
    pub fn fill(&self, batch: &mut Batch) -> Result<()> {
        let source = &*self.plan.source;
        let selection = &source.selection;
        let own = self.plan.own_rows(self.step);
        let rows = source.padded_rows();
        batch.rows = rows;
        batch.filled = (own.end - own.start) as usize;
        batch.position = Position {
            epoch: self.plan.epoch,
            step: self.step,
        };
        batch.first_row = own.start;
        batch.weight_sum = self.weight_sum()?;

        batch.raw.rows = batch.filled;
        if !selection.fits(&batch.raw.columns) {
            batch.raw.columns = selection.input_columns();
        }
        for (&slot, column) in selection.inputs.iter().zip(&mut batch.raw.columns) {
            self.copy(slot, column)?;
        }
        self.add_base(batch)?;
        self.copy_table(&selection.labels, rows, &mut batch.labels);
        self.check_labels(&batch.labels)?;
        self.copy_table(&selection.truth, rows, &mut batch.truth);
        match selection.weight {
            Some(slot) => self.copy_table(&[slot], rows, &mut batch.weights),
            None => {
                batch.weights.clear();
                batch.weights.resize(batch.filled, 1.0);
                batch.weights.resize(rows, 0.0);
            }
        }
        batch.groups.clear();
        if let Some(slot) = selection.group {
            let mut groups = RawColumn::Key(std::mem::take(&mut batch.groups));
            self.copy(slot, &mut groups)?;
            if let RawColumn::Key(groups) = groups {
                batch.groups = groups;
            }
            batch.groups.resize(rows, MISSING_KEY);
        }
        match &source.settings.inputs {
            Inputs::Raw(_) => Ok(()),
            Inputs::Encoded(encoder) => encoder
                .encode_padded(&batch.raw, rows, &mut batch.encoded)
                .map_err(|error| {
                    let Position { epoch, step } = batch.position;
                    Error::Encode {
                        epoch,
                        step,
                        source: Box::new(error),
                    }
                }),
        }
    }

    /// The sum of the weights of the global batch, in the global order: equal bits on all ranks.
    fn weight_sum(&self) -> Result<f64> {
        let global = self.plan.global_rows(self.step);
        let Some(name) = &self.plan.source.settings.weight else {
            return Ok((global.end - global.start) as f64);
        };
        let windows = self.windows.iter();
        let weights = windows.flat_map(|window| window.weights_of(&global));
        let mut sum = 0.0;
        for (position, &weight) in global.clone().zip(weights) {
            if !(weight >= 0.0 && weight.is_finite()) {
                let problem = format!("expected weights of 0 or more, got {weight}");
                return Err(self.refuse(position, name, &problem));
            }
            sum += f64::from(weight);
        }
        Ok(sum)
    }

    /// `labels` are `[rows, labels]` of this rank's rows.
    fn check_labels(&self, labels: &[f32]) -> Result<()> {
        let Some(at) = labels
            .iter()
            .position(|&label| label != 0.0 && label != 1.0)
        else {
            return Ok(());
        };
        let names = &self.plan.source.settings.labels;
        let position = self.plan.own_rows(self.step).start + (at / names.len()) as u64;
        let problem = format!("expected labels of 0 and 1, got {}", labels[at]);
        Err(self.refuse(position, &names[at % names.len()], &problem))
    }

    /// Names the file of the row at `position` of the epoch's order.
    fn refuse(&self, position: u64, column: &str, problem: &str) -> Error {
        let (file, row) = self.plan.place_of(position);
        let (step, epoch) = (self.step, self.plan.epoch);
        let problem = format!("{problem} in row {row} (from 0), in step {step} of epoch {epoch}");
        Error::column(file.path(), column, problem)
    }

    /// Copies a column over what `to` held.
    fn copy(&self, slot: usize, to: &mut RawColumn) -> Result<()> {
        to.clear();
        for window in self.windows {
            append_range(to, &window.block.columns[slot], window.rows_of(self.step))
                .map_err(|problem| Error::settings("global_batch", problem.to_string()))?;
        }
        Ok(())
    }

    /// Copies dense columns as `[rows, columns]`, padded with 0.
    fn copy_table(&self, slots: &[usize], rows: usize, to: &mut Vec<f32>) {
        to.clear();
        to.resize(rows * slots.len(), 0.0);
        for (column, &slot) in slots.iter().enumerate() {
            let mut cells = to.iter_mut().skip(column).step_by(slots.len());
            for window in self.windows {
                if let RawColumn::Dense(from) = &window.block.columns[slot] {
                    let values = &from[window.rows_of(self.step)];
                    cells
                        .by_ref()
                        .zip(values)
                        .for_each(|(cell, &value)| *cell = value);
                }
            }
        }
    }

    /// Adds the counts of earlier data to the trailing inputs, or puts them in their place.
    fn add_base(&self, batch: &mut Batch) -> Result<()> {
        let Some(base) = &self.plan.source.settings.base else {
            return Ok(());
        };
        for trailing in &self.plan.source.selection.trailing {
            // The selection found it when the reader was made.
            let Some(lookup) = base.history.lookup(&trailing.spec) else {
                continue;
            };
            let mut keys = vec![RawColumn::Key(Vec::new()); trailing.keys.len()];
            for (&slot, column) in trailing.keys.iter().zip(&mut keys) {
                self.copy(slot, column)?;
            }
            let RawColumn::Dense(values) = &mut batch.raw.columns[trailing.input] else {
                continue;
            };
            let mut key = Vec::with_capacity(keys.len());
            for (row, value) in values.iter_mut().enumerate() {
                key.clear();
                key.extend(keys.iter().map(|column| match column {
                    RawColumn::Key(keys) => keys[row],
                    _ => MISSING_KEY,
                }));
                let own = if base.frozen { 0.0 } else { f64::from(*value) };
                *value = (own + lookup.value(&key)) as f32;
            }
        }
        Ok(())
    }
}
