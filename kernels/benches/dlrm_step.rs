//! One training step of a DLRM built from the operations alone, as one JSON line:
//! samples per second and milliseconds per operation.
//!
//! 13 dense features, 26 tables of 100,000 x 64, bottom 512-256-64, dot interaction of 27 vectors,
//! top 512-256-1, batch 8192, one id per lookup drawn from a Zipf distribution, Adagrad.
//!
//! `STREAMREC_THREADS`, `STREAMREC_STEPS` and `STREAMREC_RULE` (`adagrad` or `row_wise_adagrad`)
//! change the defaults.

use std::{collections::BTreeMap, env, sync::Arc, time::Instant};

use streamrec_kernels::{
    Context, DType, Result, Tensor, TensorMut, TensorRef, bce, dense_optimizer, dot_interaction,
    embedding_bag::{self, BagSource, Bags, GroupedTable, Groups, Lookup, Pooling},
    linear::{self, Activation, LinearBackward},
    sparse_optimizer::{self, SparseGradient, SparseRule, SparseState, SparseStep},
};

const BATCH: usize = 8192;
const DENSE: usize = 13;
const TABLES: usize = 26;
const ROWS: usize = 100_000;
const DIM: usize = 64;
const FEATURES: usize = TABLES + 1;
const ZIPF_EXPONENT: f64 = 1.05;
const LEARNING_RATE: f32 = 0.01;

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn fill(&mut self, x: &mut [f32], scale: f32) {
        x.iter_mut()
            .for_each(|x| *x = (2.0 * self.unit() as f32 - 1.0) * scale);
    }
}

struct Batch {
    dense: Vec<f32>,
    ids: Vec<i64>,
    labels: Vec<f32>,
}

fn batches(count: usize) -> Vec<Batch> {
    let mut random = Random(1);
    let mut cumulative: Vec<f64> = Vec::with_capacity(ROWS);
    let mut sum = 0.0;
    for rank in 1..=ROWS {
        sum += (rank as f64).powf(-ZIPF_EXPONENT);
        cumulative.push(sum);
    }
    // Frequent ids are scattered over the table, by a permutation (7919 is prime).
    let draw = |random: &mut Random| {
        let target = random.unit() * sum;
        let rank = cumulative.partition_point(|&c| c < target).min(ROWS - 1);
        (rank * 7919 % ROWS) as i64
    };
    (0..count)
        .map(|_| {
            let mut dense = vec![0.0; BATCH * DENSE];
            random.fill(&mut dense, 1.0);
            let ids = (0..TABLES * BATCH).map(|_| draw(&mut random)).collect();
            let labels = (0..BATCH)
                .map(|_| f32::from(u8::from(random.unit() < 0.25)))
                .collect();
            Batch { dense, ids, labels }
        })
        .collect()
}

struct Layer {
    inputs: usize,
    outputs: usize,
    activation: Activation,
    w: Tensor,
    b: Tensor,
    dw: Tensor,
    db: Tensor,
    w_sums: Tensor,
    b_sums: Tensor,
    y: Tensor,
    dy: Tensor,
}

impl Layer {
    fn new(
        context: &Context,
        random: &mut Random,
        inputs: usize,
        outputs: usize,
        activation: Activation,
    ) -> Self {
        let zeros = |shape: &[usize]| Tensor::zeros(context, DType::F32, shape);
        let mut w = zeros(&[outputs, inputs]);
        random.fill(w.f32_mut(), (6.0 / (inputs + outputs) as f32).sqrt());
        Self {
            inputs,
            outputs,
            activation,
            w,
            b: zeros(&[outputs]),
            dw: zeros(&[outputs, inputs]),
            db: zeros(&[outputs]),
            w_sums: zeros(&[outputs, inputs]),
            b_sums: zeros(&[outputs]),
            y: zeros(&[BATCH, outputs]),
            dy: zeros(&[BATCH, outputs]),
        }
    }
}

struct Mlp {
    name: &'static str,
    layers: Vec<Layer>,
}

impl Mlp {
    fn new(
        context: &Context,
        random: &mut Random,
        name: &'static str,
        sizes: &[usize],
        last: Activation,
    ) -> Self {
        let layers = sizes
            .windows(2)
            .enumerate()
            .map(|(index, pair)| {
                let activation = if index + 2 == sizes.len() {
                    last
                } else {
                    Activation::Relu
                };
                Layer::new(context, random, pair[0], pair[1], activation)
            })
            .collect();
        Self { name, layers }
    }

    fn forward(&mut self, context: &Context, clock: &mut Clock, x: TensorRef<'_>) -> Result<()> {
        for index in 0..self.layers.len() {
            let (before, rest) = self.layers.split_at_mut(index);
            let layer = &mut rest[0];
            let x = before.last().map_or(x, |layer| layer.y.view());
            let (w, b) = (layer.w.view(), layer.b.view());
            linear::forward(context, x, w, Some(b), layer.activation, layer.y.view_mut())?;
            clock.lap(&format!("{}{index}_forward", self.name));
        }
        Ok(())
    }

    /// Expects the gradient of the output in the last layer's `dy`.
    fn backward(
        &mut self,
        context: &Context,
        clock: &mut Clock,
        x: TensorRef<'_>,
        mut dx: Option<TensorMut<'_>>,
    ) -> Result<()> {
        for index in (0..self.layers.len()).rev() {
            let (before, rest) = self.layers.split_at_mut(index);
            let layer = &mut rest[0];
            let (x, dx) = match before.last_mut() {
                Some(Layer { y, dy, .. }) => (y.view(), Some(dy.view_mut())),
                None => (x, dx.take()),
            };
            linear::backward(
                context,
                LinearBackward {
                    x,
                    w: layer.w.view(),
                    y: layer.y.view(),
                    activation: layer.activation,
                    dy: layer.dy.view_mut(),
                    dw: layer.dw.view_mut(),
                    db: Some(layer.db.view_mut()),
                    accumulate_weights: false,
                    dx,
                    accumulate_dx: false,
                    x_activation: Activation::None,
                },
            )?;
            clock.lap(&format!("{}{index}_backward", self.name));
        }
        Ok(())
    }

    fn update(&mut self, context: &Context) -> Result<()> {
        let rule = dense_optimizer::Adagrad {
            learning_rate: LEARNING_RATE,
            eps: 1e-8,
            weight_decay: 0.0,
        };
        for layer in &mut self.layers {
            let Layer {
                w,
                dw,
                w_sums,
                b,
                db,
                b_sums,
                ..
            } = layer;
            dense_optimizer::adagrad(context, &rule, w.f32_mut(), dw.f32(), w_sums.f32_mut())?;
            dense_optimizer::adagrad(context, &rule, b.f32_mut(), db.f32(), b_sums.f32_mut())?;
        }
        Ok(())
    }

    /// Floating-point operations of one step: forward, weights' and inputs' gradients.
    fn flops(&self, input_gradient: bool) -> f64 {
        let products = |index: usize| if index == 0 && !input_gradient { 2 } else { 3 };
        let layers = self.layers.iter().enumerate();
        layers
            .map(|(i, l)| (2 * BATCH * l.inputs * l.outputs * products(i)) as f64)
            .sum()
    }
}

struct Clock {
    last: Instant,
    ms: BTreeMap<String, Vec<f64>>,
}

impl Clock {
    fn lap(&mut self, name: &str) {
        let now = Instant::now();
        let ms = (now - self.last).as_secs_f64() * 1e3;
        match self.ms.get_mut(name) {
            Some(laps) => laps.push(ms),
            None => {
                self.ms.insert(name.to_owned(), vec![ms]);
            }
        }
        self.last = Instant::now();
    }
}

struct Model {
    bottom: Mlp,
    top: Mlp,
    tables: Vec<(Tensor, SparseState)>,
    rule: SparseRule,
    groups: Vec<Groups>,
    offsets: Arc<[i64]>,
    weights: Vec<f32>,
    stack: Tensor,
    d_stack: Tensor,
    interaction: Tensor,
    d_interaction: Tensor,
    probabilities: Tensor,
}

impl Model {
    fn new(context: &Context, rule: SparseRule) -> Self {
        let mut random = Random(2);
        let zeros = |columns: usize| Tensor::zeros(context, DType::F32, &[BATCH, columns]);
        let columns = dot_interaction::output_columns(FEATURES, DIM);
        let tables = (0..TABLES)
            .map(|_| {
                let mut table = Tensor::zeros(context, DType::F32, &[ROWS, DIM]);
                random.fill(table.f32_mut(), 0.05);
                (table, SparseState::new(context, &rule, ROWS, DIM))
            })
            .collect();
        Self {
            bottom: Mlp::new(
                context,
                &mut random,
                "bottom",
                &[DENSE, 512, 256, DIM],
                Activation::Relu,
            ),
            top: Mlp::new(
                context,
                &mut random,
                "top",
                &[columns, 512, 256, 1],
                Activation::None,
            ),
            tables,
            rule,
            groups: (0..TABLES).map(|_| Groups::default()).collect(),
            offsets: (0..=(TABLES * BATCH) as i64).collect(),
            weights: vec![1.0; BATCH],
            stack: zeros(FEATURES * DIM),
            d_stack: zeros(FEATURES * DIM),
            interaction: zeros(columns),
            d_interaction: zeros(columns),
            probabilities: zeros(1),
        }
    }

    fn step(
        &mut self,
        context: &Context,
        clock: &mut Clock,
        batch: &Batch,
        step: u64,
    ) -> Result<f64> {
        let dense = TensorRef::from_f32(&batch.dense, &[BATCH, DENSE]);
        let offsets = Arc::clone(&self.offsets);
        let bags = Bags {
            ids: &batch.ids,
            offsets: &offsets,
            weights: None,
            batch: BATCH,
            features: TABLES,
        };
        clock.last = Instant::now();
        self.bottom.forward(context, clock, dense)?;
        let (vector, _) = self.stack.view_mut().split_columns(DIM);
        streamrec_kernels::add::copy(context, self.bottom.layers[2].y.view(), vector)?;
        clock.lap("copy");
        let column = |table: usize| (table + 1) * DIM;
        let lookups: Vec<Lookup<'_>> = (0..TABLES)
            .map(|feature| Lookup {
                feature,
                table: self.tables[feature].0.view(),
                pooling: Pooling::Sum,
                column: column(feature),
            })
            .collect();
        embedding_bag::forward(context, &bags, &lookups, self.stack.view_mut())?;
        clock.lap("embedding_forward");
        let (stack, y) = (self.stack.view(), self.interaction.view_mut());
        dot_interaction::forward(context, stack, FEATURES, DIM, y)?;
        clock.lap("dot_forward");
        self.top.forward(context, clock, self.interaction.view())?;
        let last = &mut self.top.layers[2];
        let loss = bce::forward_backward(
            context,
            last.y.view(),
            TensorRef::from_f32(&batch.labels, &[BATCH, 1]),
            TensorRef::from_f32(&self.weights, &[BATCH]),
            BATCH as f64,
            &[1.0],
            1.0,
            last.dy.view_mut(),
            self.probabilities.view_mut(),
        )?;
        clock.lap("bce");
        let dx = Some(self.d_interaction.view_mut());
        self.top
            .backward(context, clock, self.interaction.view(), dx)?;
        let (dy, dx) = (self.d_interaction.view(), self.d_stack.view_mut());
        dot_interaction::backward(context, stack, FEATURES, DIM, dy, dx, false)?;
        clock.lap("dot_backward");
        let d_vector = self.d_stack.view().columns(0..DIM);
        streamrec_kernels::add::copy(context, d_vector, self.bottom.layers[2].dy.view_mut())?;
        clock.lap("copy");
        self.bottom.backward(context, clock, dense, None)?;
        self.update(context, clock, &bags, step)?;
        Ok(loss)
    }

    fn update(
        &mut self,
        context: &Context,
        clock: &mut Clock,
        bags: &Bags<'_>,
        step: u64,
    ) -> Result<()> {
        let features: Vec<usize> = (0..TABLES).collect();
        let grouped: Vec<GroupedTable<'_>> = features
            .chunks(1)
            .map(|features| GroupedTable {
                features,
                rows: ROWS,
            })
            .collect();
        Groups::build_all(context, bags, &grouped, &mut self.groups)?;
        clock.lap("groups");
        for (feature, (table, state)) in self.tables.iter_mut().enumerate() {
            let sources = [BagSource {
                feature,
                pooling: Pooling::Sum,
                column: (feature + 1) * DIM,
            }];
            let (groups, dout) = (&self.groups[feature], self.d_stack.view());
            let gradient = SparseGradient::Bags {
                groups,
                sources: &sources,
                dout,
            };
            sparse_optimizer::update(
                context,
                &self.rule,
                SparseStep::new(LEARNING_RATE, step),
                table.view_mut(),
                state,
                gradient,
            )?;
        }
        clock.lap("embedding_update");
        self.bottom.update(context)?;
        self.top.update(context)?;
        clock.lap("dense_update");
        Ok(())
    }
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn minimum_and_median(values: &[f64]) -> (f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2])
}

fn main() -> Result<()> {
    let threads = setting("STREAMREC_THREADS", 2);
    let steps = setting("STREAMREC_STEPS", 40);
    let row_wise = env::var("STREAMREC_RULE").is_ok_and(|rule| rule == "row_wise_adagrad");
    let (eps, initial_accumulator, weight_decay, max_row_norm) = (1e-8, 0.0, 0.0, None);
    let rule = if row_wise {
        SparseRule::RowWiseAdagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
        }
    } else {
        SparseRule::Adagrad {
            eps,
            initial_accumulator,
            weight_decay,
            max_row_norm,
        }
    };
    let context = Context::cpu(threads, true)?;
    let batches = batches(8);
    let mut model = Model::new(&context, rule);
    let mut clock = Clock {
        last: Instant::now(),
        ms: BTreeMap::new(),
    };
    let mut step_ms = Vec::new();
    let mut losses = Vec::new();
    for step in 0..steps + 3 {
        if step == 3 {
            clock.ms.clear();
        }
        let start = Instant::now();
        let batch = &batches[step % batches.len()];
        let loss = context.install(|| model.step(&context, &mut clock, batch, step as u64 + 1))?;
        losses.push(loss);
        if step >= 3 {
            step_ms.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (fastest, median) = minimum_and_median(&step_ms);
    let flops = model.bottom.flops(false) + model.top.flops(true);
    let per_operation: Vec<String> = clock
        .ms
        .iter()
        .map(|(name, laps)| {
            let scale = laps.len() as f64 / steps as f64;
            let (fastest, median) = minimum_and_median(laps);
            format!("\"{name}\":[{:.3},{:.3}]", fastest * scale, median * scale)
        })
        .collect();
    println!(
        "{{\"samples_per_s\":{:.0},\"samples_per_s_best\":{:.0},\"threads\":{threads},\
         \"step_ms_median\":{median:.2},\"step_ms_min\":{fastest:.2},\"layer_gflops_per_s\":{:.1},\
         \"loss_first\":{:.4},\"loss_last\":{:.4},\"ms_min_median\":{{{}}}}}",
        BATCH as f64 / median * 1e3,
        BATCH as f64 / fastest * 1e3,
        flops / median / 1e6,
        losses[0],
        losses[losses.len() - 1],
        per_operation.join(",")
    );
    Ok(())
}
