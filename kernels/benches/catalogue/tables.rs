//! Lookups in embedding tables, and their updates.

use streamrec_kernels::{
    Context, TensorRef,
    embedding_bag::{
        self, BagSource, Bags, GroupedTable, Groups, Lookup, Pooling, RowGradients, RowGradientsRef,
    },
    sparse_optimizer::{
        self, Rounding, SparseGradient, SparseRule, SparseState, SparseStep, row_products,
    },
};

use super::{DIM, HOTNESS, Operation, Sizes, operation};

const SOURCES: [BagSource; 1] = [BagSource {
    feature: 0,
    pooling: Pooling::Sum,
    column: 0,
}];

const ADAGRAD: SparseRule = SparseRule::Adagrad {
    eps: 1e-8,
    initial_accumulator: 0.0,
    weight_decay: 0.0,
    max_row_norm: None,
};

/// The bags of one feature.
#[derive(Clone, Copy)]
struct Looked {
    ids: &'static [i64],
    offsets: &'static [i64],
    batch: usize,
    rows: usize,
}

impl Looked {
    fn new(sizes: &Sizes<'_>) -> Self {
        let (batch, rows) = (sizes.batch, sizes.rows);
        // A multiplicative hash scatters ids over the table as real ones are scattered.
        let ids: Vec<i64> = (0..batch * HOTNESS)
            .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as i64 % rows as i64)
            .collect();
        let offsets: Vec<i64> = (0..=batch)
            .map(|sample| (sample * HOTNESS) as i64)
            .collect();
        // Both live as long as the process.
        Self {
            ids: ids.leak(),
            offsets: offsets.leak(),
            batch,
            rows,
        }
    }

    fn bags(&self) -> Bags<'static> {
        Bags {
            ids: self.ids,
            offsets: self.offsets,
            weights: None,
            batch: self.batch,
            features: 1,
        }
    }

    /// Numbers of the rows that are looked up, and of the pooled vectors.
    fn counts(&self) -> [usize; 2] {
        [DIM * self.ids.len(), DIM * self.batch]
    }

    fn groups(&self, context: &Context) -> Groups {
        let mut groups = Groups::default();
        groups
            .build(context, &self.bags(), &[0], self.rows)
            .expect("ids of the table");
        groups
    }

    /// The summed gradient of each row that is looked up.
    fn row_gradients(&self, context: &Context) -> RowGradients {
        let (groups, dout) = (self.groups(context), vec![0.1; self.counts()[1]]);
        let dout = TensorRef::from_f32(&dout, &[self.batch, DIM]);
        let mut gradients = RowGradients::default();
        embedding_bag::segment_sum(context, &groups, DIM, &SOURCES, dout, &mut gradients)
            .expect("groups of this batch");
        gradients
    }
}

fn lookup(table: TensorRef<'_>) -> Lookup<'_> {
    Lookup {
        feature: 0,
        table,
        pooling: Pooling::Sum,
        column: 0,
    }
}

/// In float32, with element-wise Adagrad.
pub(super) fn operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let looked = Looked::new(sizes);
    let [looked_up, pooled] = looked.counts();
    let [first, second, third] = [(); 3].map(|()| sizes.context.clone());
    let (table, mut out) = (
        sizes.tensor(&[sizes.rows, DIM]),
        sizes.tensor(&[sizes.batch, DIM]),
    );
    let forward = operation(
        "embedding_bag/forward/4x64",
        looked_up + pooled,
        looked_up,
        move || {
            let lookups = [lookup(table.view())];
            embedding_bag::forward(&first, &looked.bags(), &lookups, out.view_mut())
        },
    );
    let groups = looked.groups(sizes.context);
    let mut again = Groups::default();
    // Ids and places go through the passes of a radix sort, 16 bytes an id.
    let ids = looked.ids.len();
    let sorting = operation("embedding_bag/groups", 4 * ids, 0, move || {
        again.build(&second, &looked.bags(), &[0], looked.rows)
    });
    let mut table = sizes.tensor(&[sizes.rows, DIM]);
    let mut state = SparseState::new(sizes.context, &ADAGRAD, sizes.rows, DIM);
    let dout = vec![0.1; pooled];
    let update = operation(
        "sparse_optimizer/adagrad/4x64",
        4 * looked_up + pooled,
        6 * looked_up,
        move || {
            let gradient = SparseGradient::Bags {
                groups: &groups,
                sources: &SOURCES,
                dout: TensorRef::from_f32(&dout, &[looked.batch, DIM]),
            };
            let (step, table) = (SparseStep::new(0.01, 1), table.view_mut());
            sparse_optimizer::update(&third, &ADAGRAD, step, table, &mut state, gradient)
        },
    );
    vec![forward, sorting, update]
}

/// Tables in half precision, the other rules, and what several ranks and tables need besides.
pub(super) fn other_operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let looked = Looked::new(sizes);
    let mut all = vec![
        forward_bf16(sizes, looked),
        update_bf16(sizes, looked),
        build_all(sizes, looked),
        segment_sum(sizes, looked),
        merge(sizes, looked),
        products(sizes, looked),
    ];
    let rules = rules().into_iter();
    all.extend(
        rules.map(|(name, moved, flops, rule)| {
            update_rows(sizes, looked, name, &rule, [moved, flops])
        }),
    );
    all
}

fn forward_bf16(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, [looked_up, pooled]) = (sizes.context.clone(), looked.counts());
    let (table, mut out) = (
        sizes.halves(&[sizes.rows, DIM]),
        sizes.tensor(&[sizes.batch, DIM]),
    );
    operation(
        "embedding_bag/forward_bf16/4x64",
        looked_up / 2 + pooled,
        looked_up,
        move || {
            let lookups = [lookup(table.view())];
            embedding_bag::forward(&context, &looked.bags(), &lookups, out.view_mut())
        },
    )
}

/// Rows are rounded stochastically when they are stored.
fn update_bf16(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, [looked_up, pooled]) = (sizes.context.clone(), looked.counts());
    let (groups, dout) = (looked.groups(&context), vec![0.1; pooled]);
    let mut table = sizes.halves(&[sizes.rows, DIM]);
    let mut state = SparseState::new(&context, &ADAGRAD, sizes.rows, DIM);
    let rounding = Rounding {
        seed: 1,
        step: 1,
        ..Rounding::default()
    };
    operation(
        "sparse_optimizer/adagrad_bf16/4x64",
        3 * looked_up + pooled,
        6 * looked_up,
        move || {
            let gradient = SparseGradient::Bags {
                groups: &groups,
                sources: &SOURCES,
                dout: TensorRef::from_f32(&dout, &[looked.batch, DIM]),
            };
            let step = SparseStep::new(0.01, 1).rounded(rounding);
            let table = table.view_mut();
            sparse_optimizer::update(&context, &ADAGRAD, step, table, &mut state, gradient)
        },
    )
}

/// Of two tables that the same feature looks up in.
fn build_all(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, mut groups) = (sizes.context.clone(), [(); 2].map(|()| Groups::default()));
    let count = 2 * looked.ids.len();
    operation("embedding_bag/build_all", 4 * count, 0, move || {
        let (features, rows) = (&[0], looked.rows);
        let tables = [GroupedTable { features, rows }; 2];
        Groups::build_all(&context, &looked.bags(), &tables, &mut groups)
    })
}

fn segment_sum(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, [looked_up, pooled]) = (sizes.context.clone(), looked.counts());
    let (groups, dout) = (looked.groups(&context), vec![0.1; pooled]);
    let mut gradients = RowGradients::default();
    operation(
        "embedding_bag/segment_sum/4x64",
        looked_up + pooled,
        2 * looked_up,
        move || {
            let dout = TensorRef::from_f32(&dout, &[looked.batch, DIM]);
            embedding_bag::segment_sum(&context, &groups, DIM, &SOURCES, dout, &mut gradients)
        },
    )
}

/// The gradients of two ranks that touch the same rows.
fn merge(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, gradients) = (sizes.context.clone(), looked.row_gradients(sizes.context));
    let (count, mut merged) = (gradients.rows.len(), RowGradients::default());
    operation("embedding_bag/merge/64", 3 * count, count, move || {
        let parts: [RowGradientsRef<'_>; 2] = [gradients.view(); 2];
        embedding_bag::merge(&context, &parts, DIM, &mut merged)
    })
}

fn products(sizes: &Sizes<'_>, looked: Looked) -> Operation {
    let (context, gradients) = (sizes.context.clone(), looked.row_gradients(sizes.context));
    let (count, table) = (gradients.rows.len(), sizes.tensor(&[sizes.rows, DIM]));
    operation(
        "sparse_optimizer/row_products/64",
        2 * count,
        6 * count,
        move || {
            std::hint::black_box(row_products(&context, table.view(), &gradients)?);
            Ok(())
        },
    )
}

/// The rules but Adagrad, with the numbers that an element of a row moves, and its operations.
fn rules() -> [(&'static str, usize, usize, SparseRule); 3] {
    let (eps, weight_decay, max_row_norm) = (1e-8, 0.0, None);
    let sgd = SparseRule::Sgd {
        weight_decay,
        max_row_norm,
    };
    let row_wise = SparseRule::RowWiseAdagrad {
        eps,
        initial_accumulator: 0.0,
        weight_decay,
        max_row_norm,
    };
    let lazy_adam = SparseRule::LazyAdam {
        beta1: 0.9,
        beta2: 0.999,
        eps,
        weight_decay,
        max_row_norm,
    };
    [
        ("sgd", 3, 2, sgd),
        ("row_wise_adagrad", 3, 4, row_wise),
        ("lazy_adam", 7, 12, lazy_adam),
    ]
}

/// From rows that were summed before.
fn update_rows(
    sizes: &Sizes<'_>,
    looked: Looked,
    name: &str,
    rule: &SparseRule,
    [moved, flops]: [usize; 2],
) -> Operation {
    let (context, gradients) = (sizes.context.clone(), looked.row_gradients(sizes.context));
    let (count, rule) = (gradients.rows.len(), *rule);
    let mut table = sizes.tensor(&[sizes.rows, DIM]);
    let mut state = SparseState::new(&context, &rule, sizes.rows, DIM);
    operation(
        &format!("sparse_optimizer/{name}/64"),
        moved * count,
        flops * count,
        move || {
            let (gradient, table) = (SparseGradient::Rows(&gradients), table.view_mut());
            let step = SparseStep::new(0.01, 1);
            sparse_optimizer::update(&context, &rule, step, table, &mut state, gradient)
        },
    )
}
