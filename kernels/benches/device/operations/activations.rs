//! Passes over activations: copies, sums, biases, conversions, the loss.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::bce::{Bce, forward_backward, partial_len as bce_partial_len};
use streamrec_kernels::cuda::cast::{cast, largest, narrow_scaled, widen_scaled};
use streamrec_kernels::cuda::linear::{
    BiasGradient, MaskAndSum, finish, mask_and_sum, multiply, partial_len,
};
use streamrec_kernels::cuda::product::{Finish, forward};
use streamrec_kernels::cuda::{Executor, Launch, Matrix, Step, add};
use streamrec_kernels::linear::Activation;

use super::memory::bytes;
use super::{FLOATS, Memory, Operation, Outcome, Shapes, Visit, kernels};

/// From and to.
const PAIRS: [(usize, usize); 7] = [(0, 0), (1, 1), (2, 2), (1, 0), (2, 0), (0, 1), (0, 2)];
/// Features whose vectors are summed.
const FEATURES: usize = 8;

pub fn each<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let (batch, columns) = (shapes.batch, shapes.columns);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for dtype in FLOATS {
        x.push(memory.matrix(dtype, [batch, columns])?);
        y.push(memory.matrix(dtype, [batch, columns])?);
    }
    for (from, to) in PAIRS {
        additions(memory, &x[from], &y[to], visit)?;
    }
    halves(memory, batch * columns / 8, visit)?;
    casts(memory, &x, &y, visit)?;
    biases(memory, &x, &y, visit)?;
    own_products(memory, &x, visit)?;
    for dtype in FLOATS {
        loss(memory, shapes, dtype, visit)?;
    }
    Ok(())
}

fn additions<E: Executor>(
    memory: &mut Memory<'_, E>,
    x: &Matrix,
    y: &Matrix,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let [batch, columns] = x.shape;
    let part =
        |matrix: &Matrix, columns| Matrix::new(matrix.address, matrix.dtype, [batch, columns]);
    let dim = columns / FEATURES;
    let [column, vectors] = [1, dim].map(|columns| part(x, columns));
    let [column_out, vectors_out] = [1, dim].map(|columns| part(y, columns));
    let offsets: Vec<i64> = (0..=batch as i64).map(|row| 2 * row).collect();
    let offsets = memory.upload(&offsets)?;
    for (name, launch, from, to, more) in [
        ("copy", add::copy(x, y, false)?, x, y, 0),
        (
            "sums of features",
            add::sum_features(x, FEATURES, &vectors_out, false)?,
            x,
            &vectors_out,
            0,
        ),
        (
            "gradient of sums of features",
            add::repeat(&vectors, FEATURES, y, false)?,
            &vectors,
            y,
            0,
        ),
        (
            "broadcast",
            add::broadcast(&column, y, false)?,
            &column,
            y,
            0,
        ),
        (
            "gradient of a broadcast",
            add::broadcast_backward(x, &column_out, false)?,
            x,
            &column_out,
            0,
        ),
        (
            "means of bags",
            add::copy_mean(x, y, offsets, false)?,
            x,
            y,
            8 * (batch + 1),
        ),
    ] {
        let shape = format!("{batch} x {columns}, {} to {}", x.dtype, y.dtype);
        let bytes = bytes(from) + bytes(to) + more;
        visit(
            memory.executor,
            Operation::new(name, shape, [(launch, bytes)]),
        )?;
    }
    Ok(())
}

/// Gradients of several ranks, of the same bytes for 2, 4 and 8.
fn halves<E: Executor>(memory: &mut Memory<'_, E>, len: usize, visit: Visit<'_, E>) -> Outcome<()> {
    let x = memory.numbers(DType::F32, 8 * len)?;
    let y = memory.zeros(4 * 4 * len)?;
    for ranks in [2, 4, 8] {
        let of_rank = 8 * len / ranks;
        let launch = add::sum_halves(&Matrix::new(x, DType::F32, [ranks, of_rank]), y)?;
        let shape = format!("{ranks} ranks, {of_rank} f32 each");
        let bytes = 4 * (8 * len + of_rank);
        visit(
            memory.executor,
            Operation::new("sums by halves", shape, [(launch, bytes)]),
        )?;
    }
    Ok(())
}

fn casts<E: Executor>(
    memory: &mut Memory<'_, E>,
    x: &[Matrix],
    y: &[Matrix],
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let len = x[0].shape[0] * x[0].shape[1];
    for half in 1..3 {
        for (from, to) in [(&x[0], &y[half]), (&x[half], &y[0])] {
            let launch = cast((from.address, from.dtype), (to.address, to.dtype), len)?;
            let shape = format!("{len} numbers, {} to {}", from.dtype, to.dtype);
            let operation = Operation::new("cast", shape, [(launch, 6 * len)]);
            visit(memory.executor, operation)?;
        }
    }
    let (top, inverse) = (memory.zeros(4)?, memory.zeros(4)?);
    let (wide, half, back) = (x[0].address, y[2].address, y[0].address);
    let work = [
        (largest(wide, len, top), 4 * len),
        (narrow_scaled(wide, half, len, [top, inverse]), 6 * len),
        (widen_scaled(half, back, len, inverse), 6 * len),
    ];
    let shape = format!("{len} numbers, f32 to f16 and back");
    visit(
        memory.executor,
        Operation::new("casts to the top of the range", shape, work),
    )
}

fn biases<E: Executor>(
    memory: &mut Memory<'_, E>,
    x: &[Matrix],
    y: &[Matrix],
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let shape @ [batch, columns] = x[0].shape;
    for (of_bias, out) in [(0, 0), (1, 1), (2, 2), (1, 0), (2, 0)] {
        let dtype = FLOATS[of_bias];
        let bias = memory.numbers(dtype, columns)?;
        let launch = finish(&x[0], (bias, dtype), Activation::Relu, &y[out])?;
        let bytes = bytes(&x[0]) + bytes(&y[out]) + columns * dtype.bytes();
        let shape = format!("{batch} x {columns}, {dtype} bias, {} result", y[out].dtype);
        visit(
            memory.executor,
            Operation::new("bias and ReLU", shape, [(launch, bytes)]),
        )?;
    }
    let partial = memory.zeros(4 * partial_len(shape))?;
    let db = memory.zeros(4 * columns)?;
    for (y, dy) in x.iter().zip(y) {
        // The outputs, and their gradient.
        let operands = MaskAndSum {
            y: Some(*y),
            dy: *dy,
            bias: Some(BiasGradient {
                db,
                accumulate: false,
                partial,
            }),
        };
        memory.fill(dy.address, dy.dtype, batch * columns)?;
        let sums = 4 * partial_len(shape);
        let of = |launch: Launch| match launch.kernel.name {
            "sum_panels" => (launch, sums + 4 * columns),
            _ => (launch, 3 * bytes(dy) + sums),
        };
        let work = mask_and_sum(&operands)?.into_iter().map(of);
        let shape = format!("{batch} x {columns}, {}", dy.dtype);
        visit(
            memory.executor,
            Operation::new("gradients of ReLU and bias", shape, work),
        )?;
    }
    Ok(())
}

/// Products that the matrix library lacks, of narrow layers, which are those that it may lack.
fn own_products<E: Executor>(
    memory: &mut Memory<'_, E>,
    x: &[Matrix],
    visit: Visit<'_, E>,
) -> Outcome<()> {
    const OUTPUTS: usize = 64;
    let [batch, columns] = x[0].shape;
    for (of, out) in [(0, 0), (1, 1), (2, 2), (1, 0), (2, 0)] {
        let w = memory.matrix(FLOATS[of], [OUTPUTS, columns])?;
        let y = memory.matrix(FLOATS[out], [batch, OUTPUTS])?;
        let launch = multiply(&forward(&x[of], &w, &y, Finish::default())?)?;
        let bytes = bytes(&x[of]) + bytes(&w) + bytes(&y);
        let shape = format!(
            "{batch} x {columns} x {OUTPUTS}, {}, {} result",
            w.dtype, y.dtype
        );
        visit(
            memory.executor,
            Operation::new("product by our own kernel", shape, [(launch, bytes)]),
        )?;
    }
    Ok(())
}

fn loss<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    dtype: DType,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let batch = shapes.batch;
    let partial = 8 * bce_partial_len(batch);
    // Logits and their gradient, labels, weights, probabilities.
    let pass = batch * (2 * dtype.bytes() + 12) + partial;
    let step = memory.upload(&[Step::new(0.1, 1, [0.9, 0.999])])?;
    let (head_weights, weight_sum) = (memory.upload(&[1f32])?, memory.upload(&[batch as f64])?);
    let labels: Vec<f32> = (0..batch).map(|row| (row % 2) as f32).collect();
    let mut variants = Vec::new();
    for _ in 0..shapes.cold_bytes.div_ceil(pass).max(1) {
        let labels = memory.upload(&labels)?;
        let operands = Bce {
            logits: memory.matrix(dtype, [batch, 1])?,
            labels: Matrix::new(labels, DType::F32, [batch, 1]),
            weights: memory.upload(&vec![1f32; batch])?,
            head_weights,
            weight_sum,
            step,
            d_logits: memory.matrix(dtype, [batch, 1])?,
            probabilities: memory.matrix(DType::F32, [batch, 1])?,
            partial: memory.zeros(partial)?,
            loss: memory.zeros(8)?,
        };
        variants.push(kernels(
            forward_backward(&operands)?
                .into_iter()
                .zip([pass, partial + 8]),
        ));
    }
    let operation = Operation {
        name: "loss and its gradient",
        shape: format!("batch {batch}, {dtype} logits"),
        prepare: Vec::new(),
        variants,
        untouched: Vec::new(),
    };
    visit(memory.executor, operation)
}
