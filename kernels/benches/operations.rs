//! Throughput of the hot operations, one at a time, at the sizes of a DLRM.
//!
//! Elements per second are floating-point operations for products, bytes for lookups and updates.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use streamrec_kernels::{
    Context, DType, Tensor, TensorRef, cross, dense_optimizer, dot_interaction,
    embedding_bag::{self, BagSource, Bags, Groups, Lookup, Pooling},
    linear::{self, Activation, LinearBackward},
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState, SparseStep},
};

const BATCH: usize = 8192;
const DIM: usize = 64;

fn context() -> Context {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Context::cpu(threads, true).expect("a context of this machine's threads")
}

fn zeros(context: &Context, shape: &[usize]) -> Tensor {
    Tensor::zeros(context, DType::F32, shape)
}

fn linear(criterion: &mut Criterion) {
    let context = context();
    let mut group = criterion.benchmark_group("linear");
    for (inputs, outputs) in [(512, 256), (415, 512)] {
        let (x, w) = (
            zeros(&context, &[BATCH, inputs]),
            zeros(&context, &[outputs, inputs]),
        );
        let b = zeros(&context, &[outputs]);
        let (mut y, mut dy) = (
            zeros(&context, &[BATCH, outputs]),
            zeros(&context, &[BATCH, outputs]),
        );
        let (mut dw, mut db) = (
            zeros(&context, &[outputs, inputs]),
            zeros(&context, &[outputs]),
        );
        let mut dx = zeros(&context, &[BATCH, inputs]);
        let flops = (2 * BATCH * inputs * outputs) as u64;
        group.throughput(Throughput::Elements(flops));
        group.bench_function(format!("forward/{inputs}x{outputs}"), |bench| {
            bench.iter(|| {
                let bias = Some(b.view());
                linear::forward(
                    &context,
                    x.view(),
                    w.view(),
                    bias,
                    Activation::Relu,
                    y.view_mut(),
                )
            });
        });
        group.throughput(Throughput::Elements(2 * flops));
        group.bench_function(format!("backward/{inputs}x{outputs}"), |bench| {
            bench.iter(|| {
                let operands = LinearBackward {
                    x: x.view(),
                    w: w.view(),
                    y: y.view(),
                    activation: Activation::Relu,
                    dy: dy.view_mut(),
                    dw: dw.view_mut(),
                    db: Some(db.view_mut()),
                    accumulate_weights: false,
                    dx: Some(dx.view_mut()),
                    accumulate_dx: false,
                    x_activation: Activation::None,
                };
                linear::backward(&context, operands)
            });
        });
    }
}

fn dot_interaction(criterion: &mut Criterion) {
    let (context, features) = (context(), 27);
    let columns = dot_interaction::output_columns(features, DIM);
    let (x, mut dx) = (
        zeros(&context, &[BATCH, features * DIM]),
        zeros(&context, &[BATCH, features * DIM]),
    );
    let (mut y, dy) = (
        zeros(&context, &[BATCH, columns]),
        zeros(&context, &[BATCH, columns]),
    );
    let mut group = criterion.benchmark_group("dot_interaction");
    let flops = (BATCH * features * (features - 1) * DIM) as u64;
    group.throughput(Throughput::Elements(flops));
    group.bench_function("forward", |bench| {
        bench.iter(|| dot_interaction::forward(&context, x.view(), features, DIM, y.view_mut()));
    });
    group.throughput(Throughput::Elements(2 * flops));
    group.bench_function("backward", |bench| {
        bench.iter(|| {
            let (x, dy, dx) = (x.view(), dy.view(), dx.view_mut());
            dot_interaction::backward(&context, x, features, DIM, dy, dx, false)
        });
    });
}

fn cross(criterion: &mut Criterion) {
    let context = context();
    let shape = [BATCH, 27 * DIM];
    let operands = [(); 3].map(|()| zeros(&context, &shape));
    let mut y = zeros(&context, &shape);
    let mut group = criterion.benchmark_group("cross");
    group.throughput(Throughput::Bytes((4 * 4 * BATCH * 27 * DIM) as u64));
    group.bench_function("combine_forward", |bench| {
        bench.iter(|| {
            let [x0, projection, x] = operands.each_ref().map(Tensor::view);
            cross::combine_forward(&context, x0, projection, x, y.view_mut())
        });
    });
}

fn embedding_bag(criterion: &mut Criterion) {
    let (context, rows, hotness) = (context(), 1_000_000, 4);
    // A multiplicative hash scatters ids over the table as real ones are scattered.
    let ids: Vec<i64> = (0..BATCH * hotness)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as i64 % rows as i64)
        .collect();
    let offsets: Vec<i64> = (0..=BATCH)
        .map(|sample| (sample * hotness) as i64)
        .collect();
    let bags = Bags {
        ids: &ids,
        offsets: &offsets,
        weights: None,
        batch: BATCH,
        features: 1,
    };
    let mut table = zeros(&context, &[rows, DIM]);
    let mut out = zeros(&context, &[BATCH, DIM]);
    let mut groups = Groups::default();
    let rule = SparseRule::RowWiseAdagrad {
        eps: 1e-8,
        initial_accumulator: 0.0,
        weight_decay: 0.0,
        max_row_norm: None,
    };
    let mut state = SparseState::new(&context, &rule, rows, DIM);
    let mut group = criterion.benchmark_group("embedding_bag");
    let row_bytes = (4 * DIM * ids.len()) as u64;
    group.throughput(Throughput::Bytes(row_bytes));
    group.bench_function("forward", |bench| {
        bench.iter(|| {
            let (feature, pooling, column) = (0, Pooling::Sum, 0);
            let lookup = Lookup {
                feature,
                table: table.view(),
                pooling,
                column,
            };
            embedding_bag::forward(&context, &bags, &[lookup], out.view_mut())
        });
    });
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("groups", |bench| {
        bench.iter(|| groups.build(&context, &bags, &[0], rows));
    });
    let dout = vec![0.1; BATCH * DIM];
    let sources = [BagSource {
        feature: 0,
        pooling: Pooling::Sum,
        column: 0,
    }];
    group.throughput(Throughput::Bytes(3 * row_bytes));
    group.bench_function("update", |bench| {
        bench.iter(|| {
            let dout = TensorRef::from_f32(&dout, &[BATCH, DIM]);
            let gradient = SparseGradient::Bags {
                groups: &groups,
                sources: &sources,
                dout,
            };
            let table = table.view_mut();
            sparse_optimizer::update(
                &context,
                &rule,
                SparseStep::new(0.01, 1),
                table,
                &mut state,
                gradient,
            )
        });
    });
}

fn dense_optimizer(criterion: &mut Criterion) {
    let (context, len) = (context(), 1 << 20);
    let (mut w, g, mut m, mut v) = (
        vec![0.5f32; len],
        vec![0.1f32; len],
        vec![0.0; len],
        vec![0.0; len],
    );
    let rule = dense_optimizer::Adam {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        decoupled: true,
    };
    let mut group = criterion.benchmark_group("dense_optimizer");
    group.throughput(Throughput::Bytes((7 * 4 * len) as u64));
    group.bench_function("adam", |bench| {
        bench.iter(|| {
            dense_optimizer::adam(&context, &rule, 1, &mut w, black_box(&g), &mut m, &mut v)
        });
    });
}

criterion_group!(
    benches,
    linear,
    dot_interaction,
    cross,
    embedding_bag,
    dense_optimizer
);
criterion_main!(benches);
