use std::ops::Range;

use super::{
    super::{
        matrix_product::{Epilogue, Right, multiply_transposed, sums_in_order},
        operand::{expect, expect_float, expect_vector},
    },
    Activation, FLOAT_PANEL_ROWS, PANEL_ROWS,
    mask::{mask, sum_columns},
    whole_batch::WholeBatch,
};
use crate::{
    device::{Context, Device},
    error::Result,
    simd::{LANES, multiversion},
    tensor::{DType, TensorMut, TensorRef},
};

/// The gradient of the weights is summed over this many pieces of the batch at most.
const PIECES: usize = 8;
/// The fewest samples of a piece.
const PIECE_ROWS: usize = 128;
/// The operands of [`backward`].
pub struct LinearBackward<'a> {
    /// The layer's input, `[batch, inputs]`.
    pub x: TensorRef<'a>,
    /// The weights, `[outputs, inputs]`.
    pub w: TensorRef<'a>,
    /// The layer's output, `[batch, outputs]`; read only with an activation.
    pub y: TensorRef<'a>,
    /// The activation of the forward call.
    pub activation: Activation,
    /// The gradient of `y`, `[batch, outputs]`; overwritten with that of the sums before the
    /// activation.
    pub dy: TensorMut<'a>,
    /// Receives the gradient of `w`, `[outputs, inputs]`.
    pub dw: TensorMut<'a>,
    /// Receives the gradient of the bias, `[outputs]`.
    pub db: Option<TensorMut<'a>>,
    /// Add to `dw` and `db` instead of overwriting them.
    pub accumulate_weights: bool,
    /// Receives the gradient of `x`, `[batch, inputs]`.
    pub dx: Option<TensorMut<'a>>,
    /// Add to `dx` instead of overwriting it.
    pub accumulate_dx: bool,
    /// The activation that made `x`: `dx` becomes the gradient of the sums before it.
    pub x_activation: Activation,
}

/// The gradients of [`forward`](super::forward): with `dz` the gradient before the activation,
/// `dw = dz^T . x`, `db = column sums of dz`, `dx = dz . w`.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward(context: &Context, operands: LinearBackward<'_>) -> Result<()> {
    check_backward(&operands)?;
    match context.device() {
        Device::Cpu => backward_cpu(context, operands),
    }
    Ok(())
}

/// The first half of [`backward`], for a gradient of the input that somebody waits for: writes it to `dx`. What is
/// left for `backward` is in `operands` afterwards: their `dy` is the gradient of the sums before the activation, and
/// they name no activation. Both together give the bits of one call.
///
/// # Errors
/// When the shapes do not fit.
pub fn backward_input(
    context: &Context,
    operands: &mut LinearBackward<'_>,
    dx: TensorMut<'_>,
) -> Result<()> {
    check_backward(operands)?;
    let [batch, inputs] = [operands.dy.shape()[0], operands.w.shape()[1]];
    expect_float("linear::backward_input", "dx", &dx, [batch, inputs])?;
    match context.device() {
        Device::Cpu => {
            let pieces = Pieces::new(batch);
            let pass = Pass {
                context,
                x: operands.x,
                y: (operands.activation == Activation::Relu).then_some(operands.y),
                dy: operands.dy.reborrow(),
                dx: Some(dx),
                accumulate_dx: false,
                gated: operands.x_activation == Activation::Relu,
                right: Some(Right::new(context, operands.w, batch)),
                dtype: operands.w.dtype(),
                sums: None,
            };
            context.for_each_panel(pieces.panels(), 1, |panel| {
                pass.panel(panel.start, pieces.panel(panel.start));
            });
        }
    }
    operands.activation = Activation::None;
    Ok(())
}

fn check_backward(operands: &LinearBackward<'_>) -> Result<()> {
    const OPERATION: &str = "linear::backward";
    let [batch, outputs] = operands.dy.shape();
    let inputs = operands.w.shape()[1];
    expect_float(OPERATION, "dy", &operands.dy, [batch, outputs])?;
    expect_float(OPERATION, "x", &operands.x, [batch, inputs])?;
    expect_float(OPERATION, "w", &operands.w, [outputs, inputs])?;
    expect(OPERATION, "dw", &operands.dw, [outputs, inputs])?;
    if operands.activation != Activation::None {
        expect_float(OPERATION, "y", &operands.y, [batch, outputs])?;
    }
    if let Some(db) = &operands.db {
        expect_vector(OPERATION, "db", db, outputs)?;
    }
    if let Some(dx) = &operands.dx {
        expect_float(OPERATION, "dx", dx, [batch, inputs])?;
    }
    Ok(())
}

fn backward_cpu(context: &Context, operands: LinearBackward<'_>) {
    let LinearBackward {
        x,
        w,
        y,
        activation,
        dy,
        dw,
        db,
        accumulate_weights,
        dx,
        accumulate_dx,
        x_activation,
    } = operands;
    let [batch, outputs] = dy.shape();
    let inputs = x.shape()[1];
    let dtype = w.dtype();
    let right = dx.is_some().then(|| Right::new(context, w, batch));
    let float = [dtype, dy.dtype(), x.dtype()] == [DType::F32; 3];
    let whole = (float && sums_in_order())
        .then(|| WholeBatch::new([outputs, inputs], batch, context.threads()))
        .flatten();
    let pieces = match whole {
        Some(_) => Pieces::of_float_panels(batch),
        None => Pieces::new(batch),
    };
    let panels = if db.is_some() { pieces.panels() } else { 0 };
    let mut partial_sums = context.scratch(panels * outputs);
    let sums = TensorMut::from_f32(&mut partial_sums, &[panels, outputs]);
    let pass = Pass {
        context,
        x,
        y: (activation == Activation::Relu).then_some(y),
        dy,
        dx,
        accumulate_dx,
        gated: x_activation == Activation::Relu,
        right,
        dtype,
        sums: db.is_some().then_some(sums),
    };
    // In half precision a panel is widened for its products: a piece's part of the weights' gradient
    // is formed panel by panel, while the panel is in cache. More threads than pieces share pieces
    // afterwards. In float32 a piece is one product.
    let fused = pass.by_panels() && pieces.count > 1 && context.threads() <= pieces.count;
    if let Some(whole) = whole {
        pass.whole_weight_gradient(&pieces, &whole, dw, accumulate_weights);
    } else if !fused {
        context.for_each_panel(pieces.panels(), 1, |panel| {
            pass.panel(panel.start, pieces.panel(panel.start));
        });
        pass.weight_gradient(&pieces, dw, accumulate_weights);
    } else {
        let mut scratch = context.scratch(pieces.count * outputs * inputs);
        let partial = TensorMut::from_f32(&mut scratch, &[pieces.count * outputs, inputs]);
        context.for_each_panel(pieces.count, 1, |piece| {
            let rows = piece.start * outputs..piece.end * outputs;
            // SAFETY: each piece writes its own part.
            let mut partial = unsafe { partial.alias_rows(rows) };
            for panel in pieces.panels_of(piece.start) {
                let (rows, first) = (
                    pieces.panel(panel),
                    panel == pieces.panels_of(piece.start).start,
                );
                pass.panel(panel, rows.clone());
                pass.add_products(rows, 0..outputs, partial.reborrow(), !first);
            }
        });
        pass.add_pieces(dw, accumulate_weights, partial.as_ref());
    }
    if let Some(db) = db {
        pass.bias_gradient(db, accumulate_weights);
    }
}

/// How the batch is cut for the gradient of the weights: into a number of pieces that depends on
/// the batch alone, so that threads do not change the result.
struct Pieces {
    batch: usize,
    count: usize,
    rows: usize,
}

impl Pieces {
    fn new(batch: usize) -> Self {
        let count = batch.div_ceil(PIECE_ROWS).clamp(1, PIECES);
        Self {
            batch,
            count,
            // At least 1: a batch without samples sets gradients to zero all the same.
            rows: batch.div_ceil(count).max(1),
        }
    }

    /// A piece for each panel, where all are in float32.
    fn of_float_panels(batch: usize) -> Self {
        Self {
            batch,
            count: batch.div_ceil(FLOAT_PANEL_ROWS).max(1),
            rows: FLOAT_PANEL_ROWS,
        }
    }

    /// The number of panels of all pieces.
    fn panels(&self) -> usize {
        self.count * self.rows.div_ceil(PANEL_ROWS)
    }

    fn panels_of(&self, piece: usize) -> Range<usize> {
        let each = self.rows.div_ceil(PANEL_ROWS);
        piece * each..(piece + 1) * each
    }

    /// The samples of a panel; none past the end of the batch.
    fn panel(&self, panel: usize) -> Range<usize> {
        let each = self.rows.div_ceil(PANEL_ROWS).max(1);
        let (piece, panel) = (panel / each, panel % each);
        let end = self.batch.min((piece + 1) * self.rows);
        let start = (piece * self.rows + panel * PANEL_ROWS).min(end);
        start..end.min(start + PANEL_ROWS)
    }
}

/// What panels and pieces of a backward pass share.
struct Pass<'a> {
    context: &'a Context,
    x: TensorRef<'a>,
    /// With an activation.
    y: Option<TensorRef<'a>>,
    dy: TensorMut<'a>,
    dx: Option<TensorMut<'a>>,
    accumulate_dx: bool,
    /// Where `x` is not positive, its gradient is zero.
    gated: bool,
    /// Where `dx` is wanted.
    right: Option<Right<'a>>,
    dtype: DType,
    /// Column sums of each panel.
    sums: Option<TensorMut<'a>>,
}

impl Pass<'_> {
    /// Masks the gradient of some samples, sums it, and computes that of their inputs. Each sample
    /// belongs to one call, and each call has a row of the sums of its own. Without a mask the gradient is read only.
    fn panel(&self, panel: usize, rows: Range<usize>) {
        let context = self.context;
        let sums = self.sums.as_ref();
        // SAFETY: each call has its own row.
        let sums = sums.map(|sums| unsafe { sums.alias_rows(panel..panel + 1) });
        if let Some(y) = self.y {
            // SAFETY: calls have disjoint ranges of rows.
            let dz = unsafe { self.dy.alias_rows(rows.clone()) };
            mask(context, dz, y.rows(rows.clone()), sums);
        } else if let Some(sums) = sums {
            sum_columns(context, self.dy.as_ref().rows(rows.clone()), sums);
        }
        if let (Some(dx), Some(right)) = (&self.dx, &self.right) {
            // SAFETY: as for `dz`.
            let dx = unsafe { dx.alias_rows(rows.clone()) };
            let epilogue = Epilogue {
                accumulate: self.accumulate_dx,
                gate: self.gated.then(|| self.x.rows(rows.clone())),
                ..Epilogue::default()
            };
            right.multiply(self.dy.as_ref().rows(rows), dx, epilogue);
        }
    }

    /// `db (+)=` the column sums of all panels.
    fn bias_gradient(&self, mut db: TensorMut<'_>, accumulate: bool) {
        let Some(sums) = &self.sums else { return };
        let db = db.row_mut(0);
        if !accumulate {
            db.fill(0.0);
        }
        // In the order of the batch: the sum does not depend on which thread did which panel.
        for panel in 0..sums.shape()[0] {
            let sums = sums.as_ref();
            db.iter_mut()
                .zip(sums.row(panel))
                .for_each(|(db, sum)| *db += sum);
        }
    }

    /// Whether factors are widened, or packed, for products with some panel of samples at a time.
    fn by_panels(&self) -> bool {
        [self.dtype, self.dy.dtype(), self.x.dtype()] != [DType::F32; 3]
    }

    /// `dw (+)= dz^T . x` over the samples `rows`, for the rows `outputs` of `dw`.
    fn add_products(
        &self,
        rows: Range<usize>,
        outputs: Range<usize>,
        dw: TensorMut<'_>,
        accumulate: bool,
    ) {
        let dz = self.dy.as_ref().columns(outputs).rows(rows.clone());
        let x = self.x.rows(rows);
        multiply_transposed(self.context, self.dtype, dz, x, dw, accumulate);
    }

    /// `dw (+)= dz^T . x`: a product for each piece of the batch, then their sum in order.
    fn weight_gradient(&self, pieces: &Pieces, mut dw: TensorMut<'_>, accumulate: bool) {
        let (context, [outputs, inputs]) = (self.context, dw.shape());
        let sum = |piece: usize, part: Range<usize>, mut dw: TensorMut<'_>, accumulate: bool| {
            let panels = pieces.panels_of(piece);
            if !self.by_panels() {
                let rows = pieces.panel(panels.start).start..pieces.panel(panels.end - 1).end;
                return self.add_products(rows, part, dw, accumulate);
            }
            for (index, panel) in panels.enumerate() {
                let (rows, accumulate) = (pieces.panel(panel), accumulate || index > 0);
                self.add_products(rows, part.clone(), dw.reborrow(), accumulate);
            }
        };
        if pieces.count == 1 {
            return sum(0, 0..outputs, dw.reborrow(), accumulate);
        }
        let mut scratch = context.scratch(pieces.count * outputs * inputs);
        let partial = TensorMut::from_f32(&mut scratch, &[pieces.count * outputs, inputs]);
        // More threads than pieces share a piece's outputs. That changes no sum, except that `gemm`
        // blocks products of at most 64 x 64 differently: those stay whole.
        let sharers = if inputs > 64 {
            context.threads().div_ceil(pieces.count)
        } else {
            1
        };
        let split = outputs.div_ceil(sharers).next_multiple_of(LANES).max(1);
        // A last part of a single output would be a vector product, which sums in another order: the
        // part before takes it.
        let splits = outputs.saturating_sub(1).div_ceil(split).max(1);
        context.for_each_panel(pieces.count * splits, 1, |task| {
            let (piece, part) = (task.start / splits, task.start % splits);
            let end = if part + 1 == splits {
                outputs
            } else {
                (part + 1) * split
            };
            let columns = part * split..end;
            let rows = piece * outputs + columns.start..piece * outputs + columns.end;
            // SAFETY: each task writes its own outputs of its own piece.
            let partial = unsafe { partial.alias_rows(rows) };
            sum(piece, columns, partial, false);
        });
        self.add_pieces(dw, accumulate, partial.as_ref());
    }

    /// What panels do, and `dw (+)= dz^T . x`, each sum in an order that threads do not change.
    fn whole_weight_gradient(
        &self,
        pieces: &Pieces,
        whole: &WholeBatch,
        mut dw: TensorMut<'_>,
        accumulate: bool,
    ) {
        let (context, [outputs, inputs]) = (self.context, dw.shape());
        let second_rows = if whole.halves() { outputs } else { 0 };
        let mut scratch = context.scratch(second_rows * inputs);
        let second = TensorMut::from_f32(&mut scratch, &[second_rows, inputs]);
        let panel = |panel: usize| self.panel(panel, pieces.panel(panel));
        let task = |task: usize| self.whole_batch_task(whole, task, [&dw, &second], accumulate);
        let (panels, tasks) = (pieces.panels(), whole.tasks());
        if self.y.is_some() {
            context.for_each_panel(panels, 1, |index| panel(index.start));
            context.for_each_panel(tasks, 1, |index| task(index.start));
        } else {
            // No task waits for a panel: the small ones fill up what the large ones leave of the threads' time.
            context.for_each_panel(tasks + panels, 1, |index| {
                match index.start.checked_sub(tasks) {
                    None => task(index.start),
                    Some(index) => panel(index),
                }
            });
        }
        if whole.halves() {
            self.add_pieces(dw.reborrow(), true, second.as_ref());
        }
    }

    /// A part of the weights' gradient over some samples, in the sum of the half to which they belong.
    fn whole_batch_task(
        &self,
        whole: &WholeBatch,
        task: usize,
        halves: [&TensorMut<'_>; 2],
        accumulate: bool,
    ) {
        let (half, samples, [outputs, inputs]) = whole.task(task);
        // SAFETY: parts are disjoint, one call each.
        let dw = unsafe { halves[half].alias_rows(outputs.clone()) }.columns(inputs.clone());
        let dz = self.dy.as_ref().columns(outputs).rows(samples.clone());
        let x = self.x.columns(inputs).rows(samples);
        let accumulate = accumulate && half == 0;
        multiply_transposed(self.context, self.dtype, dz, x, dw, accumulate);
    }

    /// `dw (+)=` the sum of all pieces, in their order.
    fn add_pieces(&self, dw: TensorMut<'_>, accumulate: bool, partial: TensorRef<'_>) {
        let outputs = dw.shape()[0];
        self.context.for_each_panel(outputs, 32, |rows| {
            // SAFETY: panels are disjoint ranges of rows, one call each.
            let dw = unsafe { dw.alias_rows(rows.clone()) };
            add_pieces(dw, accumulate, partial, rows.start, outputs);
        });
    }
}

multiversion! {
    /// Sums row `first + i` of each piece into row `i` of `dw`.
    fn add_pieces(
        dw: TensorMut<'_>,
        accumulate: bool,
        partial: TensorRef<'_>,
        first: usize,
        outputs: usize,
    ) {
        let mut dw = dw;
        for row in 0..dw.shape()[0] {
            let dw = dw.row_mut(row);
            for piece in 0..partial.shape()[0] / outputs {
                let partial = partial.row(piece * outputs + first + row);
                if piece == 0 && !accumulate {
                    dw.copy_from_slice(partial);
                } else {
                    dw.iter_mut().zip(partial).for_each(|(dw, partial)| *dw += partial);
                }
            }
        }
    }
}
