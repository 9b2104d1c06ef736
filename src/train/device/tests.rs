//! Steps on the emulated device, held against the CPU's trainer; with `STREAMREC_TEST_DEVICE=cuda` on the GPU of this
//! machine instead.

mod ahead;
mod case;
mod invariant;
mod micro_batches;
mod on_a_gpus_machine;
mod ranks;
mod refused_products;
mod self_check;
mod sharded;
mod table_precision;
mod tensor_parallel;

use std::collections::BTreeMap;

use streamrec_artifact::{Encoded, FeatureSchema};
use streamrec_emulation::Emulator;
use streamrec_kernels::Context;
use streamrec_kernels::cuda::Executor;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};

use super::DeviceTrainer;
use super::difference::{self, Difference, Tensors, tolerance};
use crate::config::{Precision, Reduction};
use crate::data::Batch;
use crate::parallel::Mesh;
use crate::train::{Predict, StepOutcome, TrainError, Trainee, Trainer, TrainerSettings};
use case::{
    ADAM, Case, DCN, DEEPFM, DLRM, LAZY, LOW_RANK, MIXED, OnDevice, ROWS, SGD, WIDE_DEEP,
    undisturbed,
};

fn tensors(trainee: &mut dyn Trainee) -> Tensors {
    difference::tensors(trainee).unwrap()
}

#[track_caller]
fn assert_same_tensors(what: &str, got: &Tensors, expected: &Tensors, tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    for ((name, got), (expected_name, expected)) in got.iter().zip(expected) {
        assert_eq!((name, got.len()), (expected_name, expected.len()));
        if let Some(difference) = Difference::of_values(name, 0, [got, expected], tolerance) {
            panic!("{what}: {difference}");
        }
    }
}

const MODELS: [&str; 6] = [DLRM, DCN, LOW_RANK, DEEPFM, WIDE_DEEP, MIXED];

#[test]
fn one_step_of_gradient_descent_moves_every_parameter_as_on_the_cpu() {
    for model in MODELS {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            for labels in [1, 2] {
                let case = Case::new(model, SGD, precision, labels);
                let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
                assert_eq!(
                    tensors(&mut cpu),
                    tensors(device.as_mut()),
                    "they start equal"
                );
                let batch = case.batch(1);
                let expected = cpu.step(&batch, None, 1, false).unwrap();
                let got = device.step(&batch, None, 1, false).unwrap();
                let tolerance = tolerance(precision);
                assert!((got.loss - expected.loss).abs() < f64::from(tolerance));
                let ratio = got.gradient_norm / expected.gradient_norm;
                assert!(
                    (ratio - 1.0).abs() < f64::from(tolerance),
                    "{got:?} {expected:?}"
                );
                let what = format!("{model} {precision} {labels}");
                let (got, expected) = (tensors(device.as_mut()), tensors(&mut cpu));
                assert_same_tensors(&what, &got, &expected, tolerance);
            }
        }
    }
}

/// Trains both and compares losses, predictions and, in float32, all weights and state.
fn follows_the_cpu(model: &str, optimizer: &str, precision: Precision, steps: u64) {
    case_follows_the_cpu(&Case::new(model, optimizer, precision, 1), model, steps);
}

fn case_follows_the_cpu(case: &Case, model: &str, steps: u64) {
    let precision = case.settings.precision;
    let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
    let expected = case.train(&mut cpu, 1..=steps, undisturbed);
    let got = case.train(device.as_mut(), 1..=steps, undisturbed);
    let tolerance = f64::from(tolerance(precision));
    for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let error = (got.loss - expected.loss).abs();
        assert!(
            error < 10.0 * tolerance * expected.loss,
            "{model} {precision}, step {}: {got:?}, on the CPU {expected:?}",
            step + 1
        );
    }
    assert_eq!(device.recorded(), 2, "steps on both slots are replayed");
    let [mut a, mut b] = [Vec::new(), Vec::new()];
    let unseen = case.batch(999);
    cpu.predict(&unseen, &mut a).unwrap();
    device.predict(&unseen, &mut b).unwrap();
    for (expected, got) in a.iter().zip(&b) {
        assert!(
            (expected - got).abs() < 10.0 * tolerance as f32,
            "{got} {expected}"
        );
    }
    if precision == Precision::Fp32 {
        let (got, expected) = (tensors(device.as_mut()), tensors(&mut cpu));
        assert_same_tensors(model, &got, &expected, 1e-3);
    }
}

#[test]
fn every_model_follows_the_cpu_over_twenty_steps_in_float32() {
    for model in MODELS {
        follows_the_cpu(model, ADAM, Precision::Fp32, 20);
    }
}

#[test]
fn half_precision_follows_the_cpu_over_twenty_steps() {
    for (model, precision) in [
        (DLRM, Precision::Bf16),
        (LOW_RANK, Precision::Fp16),
        (DEEPFM, Precision::Bf16),
        (WIDE_DEEP, Precision::Fp16),
    ] {
        follows_the_cpu(model, ADAM, precision, 20);
    }
}

#[test]
fn moments_and_a_schedule_follow_the_cpu() {
    follows_the_cpu(DLRM, LAZY, Precision::Fp32, 12);
}

/// In step 4 one sample weighs so much that its gradients leave fp16.
fn overflow(step: u64, batch: &mut Batch) {
    if step == 4 {
        batch.weights[2] = 1e9;
    }
}

#[test]
fn an_overflow_skips_that_step_tables_included_and_training_goes_on_as_on_the_cpu() {
    let case = Case::new(DLRM, ADAM, Precision::Fp16, 1);
    let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
    let mut before = Vec::new();
    for step in 1..=8 {
        let expected = case.train(&mut cpu, step..=step, overflow)[0];
        let got = case.train(device.as_mut(), step..=step, overflow)[0];
        assert_eq!(got.skipped, step == 4, "step {step}");
        assert_eq!(got.skipped, expected.skipped, "step {step}");
        assert_eq!(device.loss_scaler(), cpu.loss_scaler(), "step {step}");
        let after = tensors(device.as_mut());
        assert_eq!(after == before, step == 4, "step {step}");
        before = after;
        assert_same_tensors("fp16", &before, &tensors(&mut cpu), 0.05);
    }
    assert_eq!(
        device.recorded(),
        2,
        "the step that was skipped was replayed"
    );
}

#[test]
fn a_loss_or_gradient_that_is_no_number_ends_the_run_and_updates_nothing() {
    for (weight, expected) in [
        (f32::INFINITY, "the loss of step 2"),
        (3e38, "the norm of the dense"),
    ] {
        let case = Case::new(DCN, SGD, Precision::Fp32, 1);
        let mut device = case.on_device();
        device.step(&case.batch(1), None, 1, false).unwrap();
        let before = tensors(device.as_mut());
        let mut batch = case.batch(2);
        batch.weights[1] = weight;
        if weight.is_finite() {
            // The loss is finite in double precision, its gradient not in float32.
            batch.weight_sum = 1e-3;
        }
        let error = device.step(&batch, None, 2, false).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(tensors(device.as_mut()) == before, "nothing has changed");
    }
}

#[test]
fn weights_and_state_move_between_cpu_and_device_in_mid_run() {
    let case = Case::new(DEEPFM, ADAM, Precision::Fp16, 1);
    let mut whole = case.on_device();
    let expected = case.train(whole.as_mut(), 1..=8, undisturbed);
    let mut first = case.on_device();
    case.train(first.as_mut(), 1..=4, undisturbed);
    let (saved, scaler) = (tensors(first.as_mut()), first.loss_scaler().unwrap());
    let (mut other, mut cpu) = (case.on_device(), case.on_cpu());
    let trainees: [&mut dyn Trainee; 2] = [other.as_mut(), &mut cpu];
    for trainee in trainees {
        let slices = trainee.named_slices_mut().unwrap().into_iter();
        for (mut slice, (name, values)) in slices.zip(&saved) {
            assert_eq!(slice.name, *name);
            slice.values.set_f32(values);
        }
        trainee.restore_loss_scaler(scaler);
        let got = case.train(trainee, 5..=8, undisturbed);
        for (got, expected) in got.iter().zip(&expected[4..]) {
            assert!(
                (got.loss - expected.loss).abs() < 0.02,
                "{got:?}, {expected:?}"
            );
        }
        assert_eq!(trainee.loss_scaler(), whole.loss_scaler());
    }
}

#[test]
fn longer_bags_and_another_next_batch_than_was_told_are_no_obstacle() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
    for step in 1..=4 {
        let mut batch = case.batch(step);
        if step == 3 {
            // More ids than there is room for: the first bag takes the place of all.
            let ids = batch.encoded.ids.len();
            batch.encoded.ids = vec![1; ids + 3000];
            let more = |offset: &mut i64| *offset += 3000;
            batch.encoded.offsets[1..].iter_mut().for_each(more);
            batch
                .encoded
                .ids
                .iter_mut()
                .skip(3000)
                .for_each(|id| *id = 2);
        }
        let told = case.batch(step + 77);
        let expected = cpu.step(&batch, None, step, false).unwrap();
        let got = device.step(&batch, Some(&told), step, false).unwrap();
        assert!(
            (got.loss - expected.loss).abs() < 1e-3,
            "{got:?} {expected:?}"
        );
    }
}

#[test]
fn an_id_outside_its_table_is_refused() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let (mut device, mut batch) = (case.on_device(), case.batch(1));
    batch.encoded.ids[0] = 9;
    let error = device.step(&batch, None, 1, false).unwrap_err().to_string();
    assert!(error.contains("an id is 9, expected below 9"), "{error}");
}

/// Kernels, products and steps that follow, measured or recorded, are the same.
#[test]
fn work_is_measured_piece_by_piece_when_it_is_asked_for() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let (mut plain, mut measured) = (case.on_device(), case.on_device());
    let expected = case.train(plain.as_mut(), 1..=6, undisturbed);
    let mut got = case.train(measured.as_mut(), 1..=2, undisturbed);
    assert!(measured.measured_on_device().unwrap().is_empty());
    measured.measure_device(true).unwrap();
    got.extend(case.train(measured.as_mut(), 3..=4, undisturbed));
    let work = measured.measured_on_device().unwrap();
    measured.measure_device(false).unwrap();
    got.extend(case.train(measured.as_mut(), 5..=6, undisturbed));
    assert_eq!(got, expected);
    assert!(measured.measured_on_device().unwrap().is_empty());
    for name in [
        "embedding_bag<",
        "product [",
        "bce<",
        "judge",
        "update_tiles<",
    ] {
        let of_name = work.iter().filter(|piece| piece.name.starts_with(name));
        assert!(of_name.count() >= 2, "{name} in each of two steps");
    }
    assert!(
        work.iter()
            .all(|piece| piece.began_us >= 0.0 && piece.took_us >= 0.0)
    );
    assert!(work.is_sorted_by(|a, b| a.began_us <= b.began_us));
}
