//! What tests of steps on devices train: a model with its features, batches and settings.

use std::collections::BTreeMap;

use streamrec_artifact::{Encoded, FeatureSchema, Graph};
use streamrec_emulation::Emulator;
use streamrec_kernels::Context;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::{Executor, cache_folder};

use crate::config::{LossScaleConfig, OptimizerConfig, Precision, Reduction};
use crate::data::{Batch, Position};
use crate::model::{BucketSettings, models, tests::fixture};
use crate::parallel::Mesh;
use crate::train::device::DeviceTrainer;
use crate::train::{StepOutcome, TrainError, Trainee, Trainer, TrainerSettings};

pub(super) const ROWS: usize = 8;
pub(super) const DENSE: usize = 3;

pub(super) const DLRM: &str = "kind = 'dlrm'\nembedding_dim = 4\nbottom = [5, 4]\ntop = [6, 4]\n";
pub(super) const DCN: &str = "kind = 'dcn_v2'\nembedding_dim = 4\ncross_layers = 2\ndeep = [6]\n";
pub(super) const LOW_RANK: &str = "kind = 'dcn_v2'\nembedding_dim = 4\ncross_layers = 2\ncross_rank = 3\n\
                        structure = 'stacked'\nbottom = [5]\ndeep = [6]\n";
pub(super) const DEEPFM: &str = "kind = 'deepfm'\nembedding_dim = 4\ndeep = [6, 4]\n";
pub(super) const WIDE_DEEP: &str = "kind = 'wide_deep'\nembedding_dim = 4\ndeep = [6, 4]\n";
/// Features of a shared table are looked up by nodes of their own.
pub(super) const MIXED: &str =
    "kind = 'dlrm'\nembedding_dim = 4\nbottom = [4]\ntop = [5]\n[dims]\na = 6\n";

pub(super) const SGD: &str = "[dense]\nkind = 'sgd'\nlearning_rate = 0.5\n\
                   [sparse]\nkind = 'sgd'\nlearning_rate = 0.5\n";
pub(super) const ADAM: &str = "clip_norm = 0.5\n[dense]\nkind = 'adam'\nlearning_rate = 0.02\n\
                    [sparse]\nkind = 'row_wise_adagrad'\nlearning_rate = 0.1\n";
pub(super) const LAZY: &str = "[dense]\nkind = 'adamw'\nlearning_rate = 0.02\nweight_decay = 0.01\n\
                    [sparse]\nkind = 'lazy_adam'\nlearning_rate = 0.02\n\
                    [schedule]\nkind = 'warmup_cosine'\nwarmup_steps = 3\ndecay_steps = 30\n";

/// Features `c0` and `c2` share table `a`.
pub(super) fn features(labels: usize) -> FeatureSchema {
    fixture::schema(DENSE, &[("a", 9), ("b", 5), ("a", 9)], labels)
}

/// Bags of up to `longest` ids; the last row is padding.
pub(super) fn batch(schema: &FeatureSchema, rows: usize, longest: usize, seed: u64) -> Batch {
    let mut random = fixture::Random(seed);
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for feature in &schema.categorical {
        let limit = schema.table(&feature.table).unwrap().rows;
        for row in 0..rows {
            let len = if row + 1 < rows {
                random.below(longest + 1)
            } else {
                0
            };
            ids.extend((0..len).map(|_| random.below(limit) as i64));
            offsets.push(ids.len() as i64);
        }
    }
    let mut weights = vec![1.0; rows];
    weights[rows - 1] = 0.0;
    Batch {
        rows,
        filled: rows - 1,
        encoded: Encoded {
            rows,
            dense: (0..rows * schema.dense.len())
                .map(|_| random.symmetric(1.0))
                .collect(),
            ids,
            offsets,
        },
        labels: (0..rows * schema.labels.len())
            .map(|_| random.below(2) as f32)
            .collect(),
        weights,
        weight_sum: (rows - 1) as f64,
        position: Position {
            epoch: 0,
            step: seed,
        },
        ..Batch::default()
    }
}

/// Where tests of one device find a GPU: `cuda`, or nothing for the emulation.
const VARIABLE: &str = "STREAMREC_TEST_DEVICE";

/// The emulation, for what only it can do: refuse, fail or leave out work, and tell what it was asked for. Nothing where
/// tests are to use a GPU, whose machine may have no C++ compiler, said plainly.
pub(super) fn emulation() -> Option<Emulator> {
    if std::env::var_os(VARIABLE).is_some() {
        eprintln!("NOT TESTED on a GPU: only the emulation can show this");
        return None;
    }
    Some(Emulator::new(0))
}

/// A trainer on a device.
pub(super) trait OnDevice: Trainee {
    /// How many steps have been recorded.
    fn recorded(&self) -> usize;

    /// Whether the forward pass of predictions for so many samples has been.
    fn predictions_are_recorded(&self, rows: usize) -> bool;
}

impl<E: Executor> OnDevice for DeviceTrainer<E> {
    fn recorded(&self) -> usize {
        DeviceTrainer::recorded(self)
    }

    fn predictions_are_recorded(&self, rows: usize) -> bool {
        DeviceTrainer::predictions_are_recorded(self, rows)
    }
}

/// One model, trained twice.
pub(super) struct Case {
    pub(super) graph: Graph,
    pub(super) schema: FeatureSchema,
    pub(super) optimizer: OptimizerConfig,
    pub(super) settings: TrainerSettings,
    /// Ranks of a tensor-parallel group, where there are several ranks.
    pub(super) tp: usize,
    /// The most ids of a bag.
    pub(super) longest_bag: usize,
}

impl Case {
    pub(super) fn new(model: &str, optimizer: &str, precision: Precision, labels: usize) -> Self {
        let schema = features(labels);
        let graph = models::build(&toml::from_str(model).unwrap(), &schema).unwrap();
        Self::of_graph(graph, schema, optimizer, precision)
    }

    pub(super) fn of_graph(
        graph: Graph,
        schema: FeatureSchema,
        optimizer: &str,
        precision: Precision,
    ) -> Self {
        let labels = schema.labels.len();
        let settings = TrainerSettings {
            seed: 5,
            batch_rows: ROWS,
            global_batch: ROWS,
            accumulate: 1,
            reduction: Reduction::Fast,
            precision,
            table_precision: Precision::Fp32,
            loss_scale: LossScaleConfig {
                growth_steps: 4,
                ..LossScaleConfig::default()
            },
            label_weights: (0..labels).map(|label| 1.0 + label as f32 / 2.0).collect(),
            partitions: BTreeMap::new(),
            tables: None,
            buckets: BucketSettings {
                first_bucket_bytes: 128,
                bucket_bytes: 512,
            },
        };
        Self {
            optimizer: toml::from_str(optimizer).unwrap(),
            graph,
            schema,
            settings,
            tp: 1,
            longest_bag: 3,
        }
    }

    /// The same with whole tables, layers and batches.
    pub(super) fn whole(&self) -> Self {
        Self {
            graph: self.graph.clone(),
            schema: self.schema.clone(),
            optimizer: self.optimizer.clone(),
            settings: TrainerSettings {
                accumulate: 1,
                partitions: BTreeMap::new(),
                tables: None,
                ..self.settings.clone()
            },
            tp: 1,
            ..*self
        }
    }

    pub(super) fn on_cpu(&self) -> Trainer {
        let (context, mesh) = (Context::cpu(1, false).unwrap(), Mesh::single());
        let Self {
            graph,
            schema,
            optimizer,
            settings,
            ..
        } = self;
        Trainer::new(context, mesh, graph, schema, optimizer, settings.clone()).unwrap()
    }

    pub(super) fn on_device(&self) -> Box<dyn OnDevice> {
        match std::env::var(VARIABLE).as_deref() {
            Ok("cuda") => {
                let gpu = Gpu::new(0, &cache_folder()).expect("a GPU");
                Box::new(self.on(GpuExecutor::new(&gpu).expect("cuBLASLt")).unwrap())
            }
            Ok(other) => panic!("{VARIABLE}={other}: expected `cuda`"),
            Err(_) => Box::new(self.on(Emulator::new(0)).unwrap()),
        }
    }

    pub(super) fn on<E: Executor>(&self, executor: E) -> Result<DeviceTrainer<E>, TrainError> {
        let (context, mesh) = (Context::cpu(1, false).unwrap(), Mesh::single());
        let Self {
            graph,
            schema,
            optimizer,
            settings,
            ..
        } = self;
        DeviceTrainer::new(
            executor, &context, &mesh, graph, schema, optimizer, settings,
        )
    }

    pub(super) fn batch(&self, step: u64) -> Batch {
        let rows = self.settings.global_batch;
        batch(&self.schema, rows, self.longest_bag, step)
    }

    /// Trains for some steps, each of which knows the next batch.
    pub(super) fn train(
        &self,
        trainee: &mut dyn Trainee,
        steps: std::ops::RangeInclusive<u64>,
        disturb: impl Fn(u64, &mut Batch),
    ) -> Vec<StepOutcome> {
        let disturbed = |step| {
            let mut batch = self.batch(step);
            disturb(step, &mut batch);
            batch
        };
        let step = |step| {
            let (batch, next) = (disturbed(step), disturbed(step + 1));
            trainee.step(&batch, Some(&next), step, false).unwrap()
        };
        steps.map(step).collect()
    }
}

pub(super) fn undisturbed(_: u64, _: &mut Batch) {}
