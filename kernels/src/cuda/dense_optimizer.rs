//! Updates of all dense parameters in one launch, and the norm of their gradients.

use bytemuck::{Pod, Zeroable};

use super::launch::{Address, Kernel, Launch, THREADS, count, of_dtype};
use crate::{
    dense_optimizer::{Adagrad, Adam, Sgd},
    error::Result,
    tensor::DType,
};

const UPDATE: [&str; 3] = [
    "update_dense<float>",
    "update_dense<bfloat16>",
    "update_dense<float16>",
];
pub(super) const KERNELS: &[&str] = &[
    UPDATE[0],
    UPDATE[1],
    UPDATE[2],
    "sum_squares",
    "finish_squares",
];

/// Elements of a chunk, on which one block works.
const CHUNK: usize = 4096;

/// Neighbours in the arenas that are updated alike, in device memory. `dense_optimizer.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Span {
    /// The first element in the arenas of weights, state, and the copy that layers compute with.
    pub start: u64,
    /// The first element in the arena of gradients.
    pub gradient: u64,
    /// Elements.
    pub len: u64,
    /// The factor on the step's learning rate.
    pub learning_rate_scale: f32,
    /// The strength of the decay.
    pub weight_decay: f32,
    /// 1 where other ranks hold other parts, so that norms are to be added up.
    pub shared: u32,
    /// Zero.
    pub reserved: u32,
}

/// A part of a span, in device memory. `dense_optimizer.cu` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Chunk {
    /// The span's number.
    pub span: u32,
    /// The chunk's number among the span's.
    pub index: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RawRule {
    kind: u32,
    nesterov: u32,
    momentum: f32,
    eps: f32,
    beta1: f32,
    beta2: f32,
}

const _: () = assert!(size_of::<Span>() == 40 && size_of::<RawRule>() == 24);

/// A rule. Its learning rate and weight decay are not read: the step and the spans have them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DenseRule {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adagrad.
    Adagrad(Adagrad),
    /// Adam and AdamW.
    Adam(Adam),
}

impl DenseRule {
    /// How many arenas of state it has.
    pub fn states(&self) -> usize {
        match self {
            Self::Sgd(rule) if rule.momentum == 0.0 => 0,
            Self::Sgd(_) | Self::Adagrad(_) => 1,
            Self::Adam(_) => 2,
        }
    }

    fn raw(&self) -> RawRule {
        let mut raw = RawRule::zeroed();
        match *self {
            Self::Sgd(rule) => {
                raw.kind = u32::from(rule.momentum != 0.0);
                raw.nesterov = u32::from(rule.nesterov);
                raw.momentum = rule.momentum;
            }
            Self::Adagrad(rule) => {
                raw.kind = 2;
                raw.eps = rule.eps;
            }
            Self::Adam(rule) => {
                raw.kind = if rule.decoupled { 4 } else { 3 };
                (raw.eps, raw.beta1, raw.beta2) = (rule.eps, rule.beta1, rule.beta2);
            }
        }
        raw
    }
}

/// The chunks of all spans, one a block.
pub fn chunks(spans: &[Span]) -> Vec<Chunk> {
    let of = |(span, it): (usize, &Span)| {
        let chunks = it.len.div_ceil(CHUNK as u64) as u32;
        (0..chunks).map(move |index| Chunk {
            span: span as u32,
            index,
        })
    };
    spans.iter().enumerate().flat_map(of).collect()
}

/// Spans and their [`chunks`], in device memory.
#[derive(Debug, Clone, Copy)]
pub struct Spans {
    /// `[spans]` of [`Span`].
    pub spans: Address,
    /// `[chunk_count]` of [`Chunk`].
    pub chunks: Address,
    /// Chunks.
    pub chunk_count: usize,
}

/// The arenas of [`update`].
#[derive(Debug, Clone, Copy)]
pub struct Arenas {
    /// Master weights, `f32`.
    pub weights: Address,
    /// Gradients, `f32`, still scaled and not clipped.
    pub gradients: Address,
    /// The state of the rule, `f32`; null where it has none.
    pub states: [Address; 2],
    /// The rounded copy of the weights that layers compute with; null, of float32, where there is none.
    pub copy: (Address, DType),
}

/// Updates all spans, unless the step is to be skipped; nothing to launch without spans.
///
/// # Errors
/// When there are too many chunks.
pub fn update(
    spans: &Spans,
    arenas: &Arenas,
    rule: &DenseRule,
    step: Address,
) -> Result<Option<Launch>> {
    const OPERATION: &str = "cuda::dense_optimizer::update";
    let blocks = count(OPERATION, "chunks number below 2^31", spans.chunk_count)?;
    let kernel = of_dtype("dense_optimizer", UPDATE, arenas.copy.1);
    let launch = Launch::new(kernel, blocks, THREADS)
        .with(spans.spans)
        .with(spans.chunks)
        .with(arenas.weights)
        .with(arenas.gradients)
        .with(arenas.states[0])
        .with(arenas.states[1])
        .with(arenas.copy.0)
        .with_struct(&rule.raw())
        .with(step);
    Ok((blocks > 0).then_some(launch))
}

/// Writes the sums of squares of all gradients to `squares: [2]` of `f64`: of spans that this rank has to
/// itself, then of shared ones. They are not finite where a gradient is not. `partial: [2 * chunk_count]` of
/// `f64` is working memory.
///
/// # Errors
/// When there are too many chunks.
pub fn squares(
    spans: &Spans,
    gradients: Address,
    partial: Address,
    squares: Address,
) -> Result<Vec<Launch>> {
    const OPERATION: &str = "cuda::dense_optimizer::squares";
    let blocks = count(OPERATION, "chunks number below 2^31", spans.chunk_count)?;
    let sum = Launch::new(Kernel::new("dense_optimizer", KERNELS[3]), blocks, THREADS)
        .with(spans.spans)
        .with(spans.chunks)
        .with(gradients)
        .with(partial);
    let finish = Launch::new(Kernel::new("dense_optimizer", KERNELS[4]), 1, THREADS)
        .with(partial)
        .with(blocks)
        .with(squares);
    let sum = (blocks > 0).then_some(sum);
    Ok(sum.into_iter().chain([finish]).collect())
}
