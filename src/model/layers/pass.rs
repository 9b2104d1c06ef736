//! What a layer is given for one pass over a batch.

use streamrec_kernels::{Context, TensorMut, TensorRef};

use super::PassError;
use crate::model::{
    BatchInput, ParameterStore,
    plan::{GradientWrite, Place},
    planned_buffer::PlannedBuffer,
};

/// A forward pass.
pub(in crate::model) struct Forward<'a> {
    pub(in crate::model) context: &'a Context,
    pub(in crate::model) parameters: &'a ParameterStore,
    pub(in crate::model) inputs: Inputs<'a>,
    /// Receives the value, `[rows, width]`.
    pub(in crate::model) output: TensorMut<'a>,
}

/// A backward pass.
pub(in crate::model) struct Backward<'a> {
    pub(in crate::model) context: &'a Context,
    pub(in crate::model) parameters: &'a mut ParameterStore,
    /// Add to the gradients of parameters instead of overwriting them.
    pub(in crate::model) accumulate: bool,
    pub(in crate::model) inputs: Inputs<'a>,
    /// The value, `[rows, width]`.
    pub(in crate::model) output: TensorRef<'a>,
    /// The gradient of the value, `[rows, width]`.
    pub(in crate::model) d_output: TensorMut<'a>,
    /// Receives the gradients of the inputs.
    pub(in crate::model) d_inputs: InputGradients<'a>,
    /// Working memory, of arbitrary content: `[rows, columns that the layer asked for]`.
    pub(in crate::model) workspace: TensorMut<'a>,
}

/// The values of a node's inputs.
#[derive(Clone, Copy)]
pub(in crate::model) struct Inputs<'a> {
    pub(in crate::model) batch: &'a BatchInput<'a>,
    pub(in crate::model) buffers: &'a [Option<PlannedBuffer>],
    /// Columns of each buffer.
    pub(in crate::model) widths: &'a [usize],
    /// Of all nodes.
    pub(in crate::model) places: &'a [Place],
    /// The node's inputs.
    pub(in crate::model) nodes: &'a [usize],
    /// Which of them are in place already.
    pub(in crate::model) in_place: &'a [bool],
}

impl<'a> Inputs<'a> {
    /// The number of inputs.
    pub(in crate::model) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The columns of input `index`.
    pub(in crate::model) fn width(&self, index: usize) -> usize {
        self.places[self.nodes[index]].columns.len()
    }

    /// The value of input `index`, `[rows, width]`.
    pub(in crate::model) fn get(&self, index: usize) -> TensorRef<'a> {
        value(
            self.batch,
            self.buffers,
            self.widths,
            &self.places[self.nodes[index]],
        )
    }
}

/// The value at a place.
///
/// # Panics
/// When the buffer is being written: the plan lets no node read what it writes.
pub(in crate::model) fn value<'a>(
    batch: &BatchInput<'a>,
    buffers: &'a [Option<PlannedBuffer>],
    widths: &[usize],
    place: &Place,
) -> TensorRef<'a> {
    let Some(buffer) = place.buffer else {
        return batch.dense;
    };
    let whole = buffers[buffer]
        .as_ref()
        .expect("the plan lets no node read what it writes");
    whole
        .view(batch.rows(), widths[buffer])
        .columns(place.columns.clone())
}

/// The buffers that gradients of values lie in.
pub(in crate::model) struct GradientBuffers {
    /// `None` while a layer reads it.
    pub(in crate::model) slots: Vec<Option<PlannedBuffer>>,
    /// For a gradient whose own place is in use.
    pub(in crate::model) temporary: Option<PlannedBuffer>,
}

/// The gradients of a node's inputs, to write to.
pub(in crate::model) struct InputGradients<'a> {
    pub(in crate::model) buffers: &'a mut GradientBuffers,
    pub(in crate::model) writes: &'a [Option<GradientWrite>],
    pub(in crate::model) rows: usize,
}

/// One input's gradient, to write to.
pub(in crate::model) struct InputGradient<'a> {
    /// `[rows, width]`
    pub(in crate::model) view: TensorMut<'a>,
    /// Add to it instead of overwriting it.
    pub(in crate::model) accumulate: bool,
}

impl InputGradient<'_> {
    /// Takes a gradient that was computed elsewhere, `[rows, width]`.
    pub(in crate::model) fn receive(
        self,
        context: &Context,
        from: TensorRef<'_>,
    ) -> Result<(), PassError> {
        if self.accumulate {
            streamrec_kernels::add::accumulate(context, from, self.view)?;
        } else {
            streamrec_kernels::add::copy(context, from, self.view)?;
        }
        Ok(())
    }
}

impl InputGradients<'_> {
    /// The gradient of input `index`; `None` where nobody needs it. Layers with several inputs ask
    /// for the last one first.
    pub(in crate::model) fn get(&mut self, index: usize) -> Option<InputGradient<'_>> {
        let write = self.writes[index].as_ref()?;
        Some(destination(
            &mut self.buffers.slots[write.slot],
            write,
            self.rows,
        ))
    }

    /// Lets `compute` write the gradients of two inputs at once.
    pub(in crate::model) fn two(
        &mut self,
        context: &Context,
        compute: impl FnOnce(InputGradient<'_>, InputGradient<'_>) -> Result<(), PassError>,
    ) -> Result<(), PassError> {
        let [Some(first), Some(second)] = self.writes else {
            unreachable!("the plan gives both inputs of a cross layer a gradient");
        };
        let GradientBuffers { slots, temporary } = &mut *self.buffers;
        if !first.through_temporary {
            let disjoint = slots.get_disjoint_mut([first.slot, second.slot]);
            let [one, two] = disjoint.expect("inputs in one buffer go through the temporary");
            let one = destination(one, first, self.rows);
            return compute(one, destination(two, second, self.rows));
        }
        let width = first.columns.len();
        let temporary = temporary.as_mut().expect("the plan sized a temporary");
        let mut own = temporary.view_mut(self.rows, width);
        let slot = &mut slots[second.slot];
        let one = InputGradient {
            view: own.reborrow(),
            accumulate: false,
        };
        compute(one, destination(slot, second, self.rows))?;
        destination(slot, first, self.rows).receive(context, own.as_ref())
    }
}

/// Where a write goes, after zeroing what nobody has written.
fn destination<'a>(
    slot: &'a mut Option<PlannedBuffer>,
    write: &GradientWrite,
    rows: usize,
) -> InputGradient<'a> {
    let whole = slot
        .as_mut()
        .expect("the plan lets no node write the gradient that it reads");
    let mut view = whole.view_mut(rows, write.width);
    for columns in &write.zero {
        view.reborrow().columns(columns.clone()).fill_zero();
    }
    InputGradient {
        view: view.columns(write.columns.clone()),
        accumulate: write.accumulate,
    }
}
