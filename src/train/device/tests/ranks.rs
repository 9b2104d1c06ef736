//! Several ranks, each with a device of its own, as threads or as processes: real communicators between them, emulated
//! devices. On a GPU machine NCCL joins them: `scripts/gpu-check`.

mod lost;
mod processes;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::checkpoint::{Checkpoint, CheckpointFolder, Saver, Snapshot};
use crate::comm::{
    CommError, Communicator, Message, Settings, SharedMemory, SingleRank, broadcast_bytes,
    chunk_range,
};
use crate::data::Batch;
use streamrec_emulation::{Arriving, Peers};
use streamrec_kernels::cuda::{cache_folder, gpu::Nccl};

const LONG: Duration = Duration::from_secs(60);

/// Devices whose collectives go through the ranks' own communicator.
pub(super) struct HostPeers(pub(super) Arc<dyn Communicator>);

impl Peers for HostPeers {
    fn rank(&self) -> [usize; 2] {
        [self.0.rank(), self.0.size()]
    }

    fn exchange(&mut self, messages: Vec<Vec<u8>>) -> Arriving {
        let messages = messages.into_iter().map(Message::from).collect();
        let event = self.0.all_to_all_bytes(messages);
        Box::new(move || {
            let messages = event.wait().map_err(|error| error.to_string())?;
            Ok(messages.into_iter().map(Message::into_bytes).collect())
        })
    }
}

/// Runs `work` as each rank of a world, in threads.
pub(super) fn on_ranks<T: Send>(
    ranks: usize,
    work: impl Fn(Arc<dyn Communicator>) -> T + Sync,
) -> Vec<T> {
    let comms = SharedMemory::connect_threads(ranks, &Settings::default()).unwrap();
    std::thread::scope(|scope| {
        let start = |comm: SharedMemory| scope.spawn(|| work(Arc::new(comm)));
        let threads: Vec<_> = comms.into_iter().map(start).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.collect()
    })
}

/// The rows of a global batch that are a rank's, padded as a reader pads them.
pub(super) fn part_of(batch: &Batch, schema: &FeatureSchema, rank: usize, ranks: usize) -> Batch {
    let own = chunk_range(batch.rows, rank, ranks);
    let rows = batch.rows.div_ceil(ranks);
    let wide = |values: &[f32], width: usize| {
        let mut part = values[own.start * width..own.end * width].to_vec();
        part.resize(rows * width, 0.0);
        part
    };
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for feature in 0..schema.categorical.len() {
        for row in 0..rows {
            if row < own.len() {
                let bag = feature * batch.rows + own.start + row;
                let bounds: Range<usize> =
                    batch.encoded.offsets[bag] as usize..batch.encoded.offsets[bag + 1] as usize;
                ids.extend_from_slice(&batch.encoded.ids[bounds]);
            }
            offsets.push(ids.len() as i64);
        }
    }
    Batch {
        rows,
        filled: batch.filled.clamp(own.start, own.end) - own.start,
        encoded: Encoded {
            rows,
            dense: wide(&batch.encoded.dense, schema.dense.len()),
            ids,
            offsets,
        },
        labels: wide(&batch.labels, schema.labels.len()),
        weights: wide(&batch.weights, 1),
        weight_sum: batch.weight_sum,
        position: batch.position,
        ..Batch::default()
    }
}

impl Case {
    pub(super) fn of_ranks(&self, ranks: usize) -> TrainerSettings {
        TrainerSettings {
            batch_rows: self.settings.global_batch.div_ceil(ranks / self.tp),
            ..self.settings.clone()
        }
    }

    /// One rank's trainer on an emulated device. Collective.
    pub(super) fn on_device_of(&self, comm: &Arc<dyn Communicator>) -> DeviceTrainer<Emulator> {
        self.try_on_device_of(comm).unwrap()
    }

    pub(super) fn try_on_device_of(
        &self,
        comm: &Arc<dyn Communicator>,
    ) -> Result<DeviceTrainer<Emulator>, TrainError> {
        let peers = |comm: &Arc<dyn Communicator>| -> Box<dyn Peers> {
            Box::new(HostPeers(comm.split(0, comm.rank()).unwrap()))
        };
        let mut device = Emulator::new(0).with_peers(peers(comm));
        let mesh = Mesh::new(Arc::clone(comm), self.tp).unwrap();
        if self.tp > 1 {
            device = device.with_mesh(peers(&mesh.dp), peers(&mesh.tp));
        }
        self.on_executor_of(mesh, device)
    }

    /// Likewise on a GPU that all ranks share, where tests are to use one.
    fn on_tested_device_of(&self, comm: &Arc<dyn Communicator>) -> Box<dyn OnDevice> {
        if std::env::var("STREAMREC_TEST_DEVICE").is_err() {
            return Box::new(self.on_device_of(comm));
        }
        let gpu = Gpu::new(0, &cache_folder()).expect("a GPU");
        let connect = |comm: &Arc<dyn Communicator>| {
            let id = match comm.rank() {
                0 => Nccl::unique_id().expect("NCCL"),
                _ => Vec::new(),
            };
            let id = broadcast_bytes(comm.as_ref(), id, 0).unwrap();
            Nccl::connect(&gpu, &id, [comm.rank(), comm.size()], LONG).unwrap()
        };
        let device = GpuExecutor::new(&gpu).expect("cuBLASLt");
        let mut device = device.with_ranks(connect(comm)).unwrap();
        let mesh = Mesh::new(Arc::clone(comm), self.tp).unwrap();
        if self.tp > 1 {
            device = device.with_mesh(connect(&mesh.dp), connect(&mesh.tp));
        }
        Box::new(self.on_executor_of(mesh, device).unwrap())
    }

    fn on_executor_of<E: Executor>(
        &self,
        mesh: Mesh,
        device: E,
    ) -> Result<DeviceTrainer<E>, TrainError> {
        let ranks = mesh.world.size();
        let (context, settings) = (Context::cpu(1, false).unwrap(), self.of_ranks(ranks));
        let (graph, schema, optimizer) = (&self.graph, &self.schema, &self.optimizer);
        DeviceTrainer::new(device, &context, &mesh, graph, schema, optimizer, &settings)
    }

    /// One rank's trainer on the CPU. Collective.
    pub(super) fn on_cpu_of(&self, comm: &Arc<dyn Communicator>) -> Trainer {
        let mesh = Mesh::new(Arc::clone(comm), self.tp).unwrap();
        let (context, settings) = (Context::cpu(1, false).unwrap(), self.of_ranks(comm.size()));
        let (graph, schema, optimizer) = (&self.graph, &self.schema, &self.optimizer);
        Trainer::new(context, mesh, graph, schema, optimizer, settings).unwrap()
    }

    /// A rank's part of a batch: one for each tensor-parallel group.
    pub(super) fn part(&self, batch: &Batch, comm: &dyn Communicator) -> Batch {
        let (rank, ranks) = (comm.rank() / self.tp, comm.size() / self.tp);
        part_of(batch, &self.schema, rank, ranks)
    }

    /// Trains a rank's part for some steps.
    pub(super) fn train_part(
        &self,
        trainee: &mut dyn Trainee,
        comm: &dyn Communicator,
        steps: std::ops::RangeInclusive<u64>,
        disturb: impl Fn(u64, &mut Batch),
    ) -> Vec<StepOutcome> {
        let part = |step| {
            let mut batch = self.batch(step);
            disturb(step, &mut batch);
            self.part(&batch, comm)
        };
        let step = |step| {
            let (batch, next) = (part(step), part(step + 1));
            trainee.step(&batch, Some(&next), step, false).unwrap()
        };
        steps.map(step).collect()
    }
}

/// What a rank has after some steps.
type Trained = (Vec<StepOutcome>, Tensors);

fn trained_on_devices(case: &Case, ranks: usize, steps: u64) -> Vec<Trained> {
    on_ranks(ranks, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let outcomes = case.train_part(&mut trainer, comm.as_ref(), 1..=steps, undisturbed);
        assert_eq!(trainer.recorded(), 2, "steps on both slots are replayed");
        (outcomes, tensors(&mut trainer))
    })
}

#[track_caller]
pub(super) fn assert_same_curve(
    what: &str,
    got: &[StepOutcome],
    expected: &[StepOutcome],
    tolerance: f64,
) {
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got.loss - expected.loss).abs();
        let same = error < tolerance * expected.loss && got.skipped == expected.skipped;
        assert!(same, "{what}, step {}: {got:?}, {expected:?}", step + 1);
    }
}

/// The same curves as one rank's on the CPU and as two ranks' there; all ranks' weights are the same to the bit.
fn devices_equal_one(model: &str, optimizer: &str, precision: Precision, ranks: usize) {
    let case = Case::new(model, optimizer, precision, 1);
    let what = format!("{model} {precision} on {ranks} devices");
    let on_devices = trained_on_devices(&case, ranks, 20);
    let on_cpus = on_ranks(2, |comm| {
        let mut trainer = case.on_cpu_of(&comm);
        let outcomes = case.train_part(&mut trainer, comm.as_ref(), 1..=20, undisturbed);
        (outcomes, tensors(&mut trainer))
    });
    let mut alone = case.on_cpu();
    let on_cpu = case.train(&mut alone, 1..=20, undisturbed);
    let (curve, weights) = &on_devices[0];
    for (others, other) in &on_devices[1..] {
        assert_eq!(other, weights, "{what}: ranks differ");
        // Written, so that the norm of a skipped step, which is no number, is itself.
        let [others, own] = [others, curve].map(|curve| format!("{curve:?}"));
        assert_eq!(others, own, "{what}: ranks tell different losses");
    }
    let tolerance = 10.0 * f64::from(tolerance(precision));
    assert_same_curve(&what, curve, &on_cpu, tolerance);
    assert_same_curve(&what, curve, &on_cpus[0].0, tolerance);
    if precision == Precision::Fp32 {
        assert_same_tensors(&what, weights, &tensors(&mut alone), 1e-3);
        assert_same_tensors(&what, weights, &on_cpus[0].1, 1e-3);
    }
}

#[test]
fn two_device_ranks_equal_one() {
    for model in MODELS {
        devices_equal_one(model, ADAM, Precision::Fp32, 2);
    }
}

#[test]
fn two_device_ranks_equal_one_in_half_precision() {
    for (model, precision) in [
        (DLRM, Precision::Bf16),
        (LOW_RANK, Precision::Fp16),
        (MIXED, Precision::Fp16),
        (WIDE_DEEP, Precision::Bf16),
    ] {
        devices_equal_one(model, ADAM, precision, 2);
    }
}

#[test]
fn ranks_that_do_not_divide_a_batch_equal_one() {
    devices_equal_one(DLRM, LAZY, Precision::Fp32, 3);
    devices_equal_one(DCN, SGD, Precision::Fp32, 4);
}

/// Rows of more than 512 bytes of gradient are summed before the update.
#[test]
fn rows_too_long_for_the_fused_update_are_merged_too() {
    let wide = "kind = 'dlrm'\nembedding_dim = 132\nbottom = [132]\ntop = [5]\n";
    devices_equal_one(wide, SGD, Precision::Fp32, 2);
}

/// The sample of step 4 that leaves fp16 is of rank 0.
#[test]
fn an_overflow_on_one_rank_skips_the_step_on_all_tables_included() {
    let case = Case::new(DLRM, ADAM, Precision::Fp16, 1);
    let mut alone = case.on_cpu();
    let expected = case.train(&mut alone, 1..=8, overflow);
    let ranks = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let (mut outcomes, mut before) = (Vec::new(), Vec::new());
        for step in 1..=8 {
            outcomes.extend(case.train_part(&mut trainer, comm.as_ref(), step..=step, overflow));
            let after = tensors(&mut trainer);
            assert_eq!(after == before, step == 4, "step {step}");
            before = after;
        }
        (outcomes, before, trainer.loss_scaler())
    });
    for (outcomes, weights, scaler) in &ranks {
        for (got, expected) in outcomes.iter().zip(&expected) {
            assert_eq!(got.skipped, expected.skipped, "{got:?}");
        }
        assert!(outcomes[3].skipped);
        assert_eq!(*scaler, alone.loss_scaler());
        assert_eq!(*weights, ranks[0].1);
        assert_same_tensors("fp16", weights, &tensors(&mut alone), 0.05);
    }
}

/// A sample of rank 0 has no finite loss.
#[test]
fn a_loss_that_is_no_number_ends_the_run_on_all_ranks_and_updates_nothing() {
    let case = Case::new(DCN, SGD, Precision::Fp32, 1);
    let errors = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let part = |step| {
            let mut batch = case.batch(step);
            if step == 2 {
                batch.weights[1] = f32::INFINITY;
            }
            part_of(&batch, &case.schema, comm.rank(), comm.size())
        };
        trainer.step(&part(1), Some(&part(2)), 1, false).unwrap();
        let before = tensors(&mut trainer);
        let error = trainer.step(&part(2), None, 2, false).unwrap_err();
        assert!(tensors(&mut trainer) == before, "nothing has changed");
        error.to_string()
    });
    for error in errors {
        assert!(error.contains("the loss of step 2"), "{error}");
    }
}

#[test]
fn all_ranks_stop_in_the_step_in_which_one_was_asked_to() {
    let case = Case::new(DEEPFM, SGD, Precision::Fp32, 1);
    let stops = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let mut stops = Vec::new();
        for step in 1..=3 {
            let part = part_of(&case.batch(step), &case.schema, comm.rank(), 2);
            let asked = step == 2 && comm.rank() == 1;
            stops.push(trainer.step(&part, None, step, asked).unwrap().stop);
        }
        stops
    });
    assert_eq!(stops, [[false, true, false]; 2]);
}

/// One rank's bags grow: both have new memory and record anew, in the same step.
#[test]
fn longer_bags_on_one_rank_are_no_obstacle() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let grown = |step: u64| {
        let mut batch = case.batch(step);
        if step == 3 {
            let ids = batch.encoded.ids.len();
            let mut longer = vec![2; 3000];
            longer.extend_from_slice(&batch.encoded.ids);
            batch.encoded.ids = longer;
            let offsets = batch.encoded.offsets.iter_mut().skip(1);
            offsets.for_each(|offset| *offset += 3000);
            assert_eq!(batch.encoded.ids.len(), ids + 3000);
        }
        batch
    };
    let mut alone = case.on_cpu();
    let expected: Vec<f64> = (1..=5)
        .map(|step| alone.step(&grown(step), None, step, false).unwrap().loss)
        .collect();
    for knows_next in [true, false] {
        let losses = on_ranks(2, |comm| {
            let mut trainer = case.on_device_of(&comm);
            let part = |step| part_of(&grown(step), &case.schema, comm.rank(), 2);
            let step = |step| {
                let next = knows_next.then(|| part(step + 1));
                trainer
                    .step(&part(step), next.as_ref(), step, false)
                    .unwrap()
            };
            (1..=5)
                .map(step)
                .map(|outcome| outcome.loss)
                .collect::<Vec<f64>>()
        });
        for (got, expected) in losses[0].iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-3, "{got} {expected}");
        }
    }
}

/// A checkpoint of two device ranks, from its files, is one device's, one CPU's and two CPUs'.
#[test]
fn a_checkpoint_of_two_device_ranks_goes_on_on_one_and_on_cpus() {
    let case = Case::new(DEEPFM, ADAM, Precision::Fp16, 1);
    let root = tempfile::tempdir().unwrap();
    let folder = CheckpointFolder::new(root.path().to_owned());
    let whole = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        case.train_part(&mut trainer, comm.as_ref(), 1..=4, undisturbed);
        let mut saver = Saver::new(comm.split(0, comm.rank()).unwrap(), folder.clone(), 1).unwrap();
        let scaler = trainer.loss_scaler();
        let slices = trainer.named_slices().unwrap().into_iter();
        saver
            .save(Snapshot::of(4, &scaler, slices).unwrap())
            .unwrap();
        saver.finish().unwrap();
        case.train_part(&mut trainer, comm.as_ref(), 5..=8, undisturbed)
    });
    let checkpoint = Checkpoint::open(&folder, 4).unwrap();
    assert_eq!(checkpoint.world_size(), 2);
    let restore = |trainee: &mut dyn Trainee| {
        for slice in trainee.named_slices_mut().unwrap() {
            checkpoint
                .read(&slice.name, &slice.extent, slice.values)
                .unwrap();
        }
        let scaler: Option<crate::optim::LossScalerState> = checkpoint.state().unwrap();
        trainee.restore_loss_scaler(scaler.unwrap());
    };
    let mut resumed = vec![("two devices", whole[1].clone())];
    let (mut device, mut cpu) = (case.on_device(), case.on_cpu());
    let trainees: [(&str, &mut dyn Trainee); 2] =
        [("a device", device.as_mut()), ("a CPU", &mut cpu)];
    for (what, trainee) in trainees {
        restore(trainee);
        resumed.push((what, case.train(trainee, 5..=8, undisturbed)));
    }
    let again = on_ranks(2, |comm| {
        let (mut device, mut cpu) = (case.on_device_of(&comm), case.on_cpu_of(&comm));
        let trainees: [&mut dyn Trainee; 2] = [&mut device, &mut cpu];
        trainees.map(|trainee| {
            restore(trainee);
            case.train_part(trainee, comm.as_ref(), 5..=8, undisturbed)
        })
    });
    let [device, cpus] = again[0].clone();
    assert!(
        device == whole[0],
        "a resumed run is the uninterrupted one, to the bit"
    );
    resumed.push(("two CPUs", cpus));
    for (what, outcomes) in resumed {
        assert_same_curve(what, &outcomes, &whole[0], 0.02);
    }
}

#[test]
fn devices_that_are_not_joined_as_the_ranks_are_refused() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let refusals = on_ranks(2, |comm| {
        let context = Context::cpu(1, false).unwrap();
        let (graph, schema, optimizer) = (&case.graph, &case.schema, &case.optimizer);
        let refused = |device: Emulator| {
            let (mesh, settings) = (Mesh::new(Arc::clone(&comm), 2).unwrap(), case.of_ranks(2));
            DeviceTrainer::new(device, &context, &mesh, graph, schema, optimizer, &settings)
                .err()
                .expect("refused")
                .to_string()
        };
        let alone = refused(Emulator::new(0));
        let peers = Box::new(HostPeers(Arc::clone(&comm)));
        [alone, refused(Emulator::new(0).with_peers(peers))]
    });
    let [alone, in_no_mesh] = &refusals[1];
    let expected = "this is rank 1 of the 2 of the job, its device number 0 of 1";
    assert!(alone.contains(expected), "{alone}");
    let expected = "this is rank 0 of the 1 of its data-parallel group, its device number 1 of 2";
    assert!(in_no_mesh.contains(expected), "{in_no_mesh}");
}

#[test]
fn one_rank_needs_no_collectives() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let comm: Arc<dyn Communicator> = Arc::new(SingleRank);
    let mesh = Mesh::new(comm, 1).unwrap();
    let (context, settings) = (Context::cpu(1, false).unwrap(), case.of_ranks(1));
    let (graph, schema, optimizer) = (&case.graph, &case.schema, &case.optimizer);
    let device = Emulator::new(0);
    let trainer = DeviceTrainer::new(device, &context, &mesh, graph, schema, optimizer, &settings);
    let mut trainer = trainer.unwrap();
    for step in 1..=3 {
        trainer.step(&case.batch(step), None, step, false).unwrap();
    }
}
