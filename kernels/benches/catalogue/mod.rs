//! The hot operations at the sizes of a DLRM, with what each must move and compute at least.

use streamrec_kernels::{
    Context, DType, Tensor, TensorRef, cross, dense_optimizer, dot_interaction,
    embedding_bag::{self, BagSource, Bags, Groups, Lookup, Pooling},
    factorization_machine,
    linear::{self, Activation, LinearBackward},
    norm,
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState, SparseStep},
    sum_features,
};

const FEATURES: usize = 27;
const DIM: usize = 64;
const HOTNESS: usize = 4;

/// One operation, ready to run again and again.
pub struct Operation {
    /// Its name, as `module/function/sizes`.
    pub name: String,
    /// Bytes of its operands, each read or written once.
    pub bytes: f64,
    /// Floating-point operations; a multiplication and its addition are two.
    pub flops: f64,
    /// Runs it once.
    pub run: Box<dyn FnMut()>,
}

/// Every operation on `batch` samples, with a table of `rows` rows and as many dense parameters.
pub fn operations(context: &Context, batch: usize, rows: usize) -> Vec<Operation> {
    let mut all = Vec::new();
    for (inputs, outputs) in [(512, 256), (415, 512)] {
        all.push(linear_forward(context, batch, inputs, outputs));
        all.push(linear_backward(context, batch, inputs, outputs));
    }
    all.extend(interactions(context, batch));
    all.extend(elementwise(context, batch));
    all.extend(embedding(context, batch, rows));
    all.extend(optimizers(context, rows));
    all
}

/// Values between -1 and 1 that are not all alike.
fn tensor(context: &Context, shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::zeros(context, DType::F32, shape);
    for (index, value) in tensor.f32_mut().iter_mut().enumerate() {
        *value = (index % 251) as f32 / 125.0 - 1.0;
    }
    tensor
}

fn operation(
    name: &str,
    floats: usize,
    flops: usize,
    mut run: impl FnMut() -> streamrec_kernels::Result<()> + 'static,
) -> Operation {
    let name = name.to_owned();
    Operation {
        bytes: 4.0 * floats as f64,
        flops: flops as f64,
        run: Box::new(move || run().expect("operands of these sizes fit")),
        name,
    }
}

fn linear_forward(context: &Context, batch: usize, inputs: usize, outputs: usize) -> Operation {
    let (context, make) = (context.clone(), |shape: &[usize]| tensor(context, shape));
    let (x, w, b) = (
        make(&[batch, inputs]),
        make(&[outputs, inputs]),
        make(&[outputs]),
    );
    let mut y = make(&[batch, outputs]);
    operation(
        &format!("linear/forward/{inputs}x{outputs}"),
        batch * (inputs + outputs) + inputs * outputs,
        2 * batch * inputs * outputs,
        move || {
            let bias = Some(b.view());
            let y = y.view_mut();
            linear::forward(&context, x.view(), w.view(), bias, Activation::Relu, y)
        },
    )
}

fn linear_backward(context: &Context, batch: usize, inputs: usize, outputs: usize) -> Operation {
    let (context, make) = (context.clone(), |shape: &[usize]| tensor(context, shape));
    let (x, w, y) = (
        make(&[batch, inputs]),
        make(&[outputs, inputs]),
        make(&[batch, outputs]),
    );
    let (mut dy, mut dw, mut db, mut dx) = (
        make(&[batch, outputs]),
        make(&[outputs, inputs]),
        make(&[outputs]),
        make(&[batch, inputs]),
    );
    operation(
        &format!("linear/backward/{inputs}x{outputs}"),
        batch * (2 * inputs + 3 * outputs) + 2 * inputs * outputs,
        4 * batch * inputs * outputs,
        move || {
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
        },
    )
}

fn interactions(context: &Context, batch: usize) -> [Operation; 4] {
    let make = |columns: usize| tensor(context, &[batch, columns]);
    let (wide, columns) = (
        FEATURES * DIM,
        dot_interaction::output_columns(FEATURES, DIM),
    );
    let flops = batch * FEATURES * (FEATURES - 1) * DIM;
    let [first, second, third, fourth] = [(); 4].map(|()| context.clone());
    let (x, mut y) = (make(wide), make(columns));
    let forward = operation(
        "dot_interaction/forward/27x64",
        batch * (wide + columns),
        flops,
        move || dot_interaction::forward(&first, x.view(), FEATURES, DIM, y.view_mut()),
    );
    let (x, dy, mut dx) = (make(wide), make(columns), make(wide));
    let backward = operation(
        "dot_interaction/backward/27x64",
        batch * (2 * wide + columns),
        2 * flops,
        move || {
            let (x, dy, dx) = (x.view(), dy.view(), dx.view_mut());
            dot_interaction::backward(&second, x, FEATURES, DIM, dy, dx, false)
        },
    );
    let (x, mut y) = (make(wide), make(1));
    let machine = operation(
        "factorization_machine/forward/27x64",
        batch * (wide + 1),
        4 * batch * wide,
        move || factorization_machine::forward(&third, x.view(), FEATURES, DIM, y.view_mut()),
    );
    let (x, mut y) = (make(wide), make(DIM));
    let sum = operation(
        "sum_features/forward/27x64",
        batch * (wide + DIM),
        batch * wide,
        move || sum_features::forward(&fourth, x.view(), FEATURES, DIM, y.view_mut()),
    );
    [forward, backward, machine, sum]
}

fn elementwise(context: &Context, batch: usize) -> [Operation; 2] {
    let wide = FEATURES * DIM;
    let (first, second) = (context.clone(), context.clone());
    let [x0, projection, x, mut y] = [(); 4].map(|()| tensor(context, &[batch, wide]));
    let cross = operation(
        "cross/combine_forward/1728",
        4 * batch * wide,
        2 * batch * wide,
        move || {
            let (x0, x) = (x0.view(), x.view());
            cross::combine_forward(&first, x0, projection.view(), x, y.view_mut())
        },
    );
    let values = vec![0.5f32; batch * wide];
    let squares = operation(
        "norm/sum_of_squares",
        batch * wide,
        2 * batch * wide,
        move || {
            std::hint::black_box(norm::sum_of_squares(&second, &values));
            Ok(())
        },
    );
    [cross, squares]
}

fn embedding(context: &Context, batch: usize, rows: usize) -> [Operation; 3] {
    // A multiplicative hash scatters ids over the table as real ones are scattered.
    let ids: Vec<i64> = (0..batch * HOTNESS)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as i64 % rows as i64)
        .collect();
    let offsets: Vec<i64> = (0..=batch)
        .map(|sample| (sample * HOTNESS) as i64)
        .collect();
    let (looked_up, pooled) = (DIM * ids.len(), DIM * batch);
    let [first, second, third] = [(); 3].map(|()| context.clone());
    let bags = move |ids: &'static [i64], offsets: &'static [i64]| Bags {
        ids,
        offsets,
        weights: None,
        batch,
        features: 1,
    };
    // Both live as long as the process.
    let (ids, offsets): (&'static [i64], &'static [i64]) = (ids.leak(), offsets.leak());
    let (table, mut out) = (
        tensor(context, &[rows, DIM]),
        tensor(context, &[batch, DIM]),
    );
    let forward = operation(
        "embedding_bag/forward/4x64",
        looked_up + pooled,
        looked_up,
        move || {
            let lookup = Lookup {
                feature: 0,
                table: table.view(),
                pooling: Pooling::Sum,
                column: 0,
            };
            embedding_bag::forward(&first, &bags(ids, offsets), &[lookup], out.view_mut())
        },
    );
    let mut groups = Groups::default();
    groups
        .build(context, &bags(ids, offsets), &[0], rows)
        .expect("ids of the table");
    let mut again = Groups::default();
    // Ids and places go through the passes of a radix sort, 16 bytes an id.
    let sorting = operation("embedding_bag/groups", 4 * ids.len(), 0, move || {
        again.build(&second, &bags(ids, offsets), &[0], rows)
    });
    let rule = SparseRule::Adagrad {
        eps: 1e-8,
        initial_accumulator: 0.0,
        weight_decay: 0.0,
        max_row_norm: None,
    };
    let mut table = tensor(context, &[rows, DIM]);
    let mut state = SparseState::new(context, &rule, rows, DIM);
    let dout = vec![0.1; batch * DIM];
    let update = operation(
        "sparse_optimizer/adagrad/4x64",
        4 * looked_up + pooled,
        6 * looked_up,
        move || {
            let sources = [BagSource {
                feature: 0,
                pooling: Pooling::Sum,
                column: 0,
            }];
            let dout = TensorRef::from_f32(&dout, &[batch, DIM]);
            let gradient = SparseGradient::Bags {
                groups: &groups,
                sources: &sources,
                dout,
            };
            let table = table.view_mut();
            sparse_optimizer::update(
                &third,
                &rule,
                SparseStep::new(0.01, 1),
                table,
                &mut state,
                gradient,
            )
        },
    );
    [forward, sorting, update]
}

fn optimizers(context: &Context, len: usize) -> [Operation; 2] {
    let (first, second) = (context.clone(), context.clone());
    let (mut w, g, mut s) = (vec![0.5f32; len], vec![0.1f32; len], vec![0.0f32; len]);
    let adagrad = dense_optimizer::Adagrad {
        learning_rate: 0.01,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let adagrad = operation("dense_optimizer/adagrad", 5 * len, 6 * len, move || {
        dense_optimizer::adagrad(&first, &adagrad, &mut w, &g, &mut s)
    });
    let (mut w, g) = (vec![0.5f32; len], vec![0.1f32; len]);
    let (mut m, mut v) = (vec![0.0f32; len], vec![0.0f32; len]);
    let adam = dense_optimizer::Adam {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        decoupled: true,
    };
    let adam = operation("dense_optimizer/adam", 7 * len, 12 * len, move || {
        dense_optimizer::adam(&second, &adam, 1, &mut w, &g, &mut m, &mut v)
    });
    [adagrad, adam]
}
