//! Dense parameters, and the numbers of a step.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::dense_optimizer::{
    Arenas, DenseRule, Span, Spans, chunks, squares, update,
};
use streamrec_kernels::cuda::step::{Scaler, StepInput, Verdict, begin, judge, note};
use streamrec_kernels::cuda::{Executor, Step};
use streamrec_kernels::dense_optimizer::Adam;

use super::{FLOATS, Memory, Operation, Outcome, Shapes, Visit};

const BETAS: [f32; 2] = [0.9, 0.999];

pub fn each<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let len = shapes.parameters;
    let span = Span {
        start: 0,
        gradient: 0,
        len: len as u64,
        learning_rate_scale: 1.0,
        weight_decay: 0.01,
        shared: 0,
        reserved: 0,
    };
    let all = chunks(&[span]);
    let spans = Spans {
        spans: memory.upload(&[span])?,
        chunks: memory.upload(&all)?,
        chunk_count: all.len(),
    };
    let rule = DenseRule::Adam(Adam {
        learning_rate: 0.0,
        beta1: BETAS[0],
        beta2: BETAS[1],
        eps: 1e-8,
        weight_decay: 0.0,
        decoupled: true,
    });
    let step = memory.upload(&[Step::new(1e-4, 3, BETAS)])?;
    let gradients = memory.numbers(DType::F32, len)?;
    for copy in FLOATS {
        let arenas = Arenas {
            weights: memory.numbers(DType::F32, len)?,
            gradients,
            states: [memory.zeros(4 * len)?, memory.zeros(4 * len)?],
            copy: (memory.zeros(4 * len)?, copy),
        };
        let launch = update(&spans, &arenas, &rule, step)?.ok_or("no parameters")?;
        let copied = if copy.is_half() { 2 * len } else { 0 };
        let shape = format!("{len} parameters, copy in {copy}");
        let operation = Operation::new("AdamW", shape, [(launch, 28 * len + copied)]);
        visit(memory.executor, operation)?;
    }
    let partial = memory.zeros(16 * spans.chunk_count)?;
    let sums = memory.zeros(16)?;
    let sum_bytes = 16 * spans.chunk_count;
    let bytes = [4 * len + sum_bytes, sum_bytes + 16];
    let work = squares(&spans, gradients, partial, sums)?
        .into_iter()
        .zip(bytes);
    visit(
        memory.executor,
        Operation::new("norm of gradients", format!("{len} parameters"), work),
    )?;
    numbers(memory, visit)
}

/// Three kernels of one thread: how long is the shortest launch?
fn numbers<E: Executor>(memory: &mut Memory<'_, E>, visit: Visit<'_, E>) -> Outcome<()> {
    let scaler = Scaler {
        scale: 1.0,
        scale_max: 1.0,
        growth_steps: 0,
        clean_steps: 0,
        skipped_steps: 0,
    };
    let input = StepInput {
        learning_rate: 0.1,
        sparse_learning_rate: 0.1,
        number: 3,
        seed: 7,
    };
    let (input, scaler) = (memory.upload(&[input])?, memory.upload(&[scaler])?);
    let step = memory.zeros(size_of::<Step>())?;
    let verdict = memory.zeros(size_of::<Verdict>())?;
    let (squares, loss, noted) = (
        memory.upload(&[1f64; 2])?,
        memory.upload(&[0.5f64])?,
        memory.zeros(4)?,
    );
    let numbers = size_of::<StepInput>() + size_of::<Scaler>() + size_of::<Step>();
    let work = [
        (begin(input, scaler, [BETAS; 2], step), numbers),
        (
            judge(squares, loss, Some(1.0), scaler, step, verdict),
            numbers,
        ),
        (note(noted, 1), 4),
    ];
    visit(
        memory.executor,
        Operation::new("numbers of a step", "one thread each".to_owned(), work),
    )
}
