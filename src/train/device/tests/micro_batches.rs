//! Batches that are worked through in several micro-batches.

use super::case::emulation;
use super::ranks::on_ranks;
use super::*;

fn accumulating(model: &str, optimizer: &str, precision: Precision, accumulate: usize) -> Case {
    let mut case = Case::new(model, optimizer, precision, 1);
    case.settings.accumulate = accumulate;
    case
}

#[test]
fn micro_batches_follow_the_cpu() {
    for (model, accumulate) in [(DLRM, 2), (MIXED, 4), (WIDE_DEEP, 8)] {
        let case = accumulating(model, ADAM, Precision::Fp32, accumulate);
        case_follows_the_cpu(&case, model, 8);
    }
    for (model, precision) in [(DEEPFM, Precision::Fp16), (LOW_RANK, Precision::Bf16)] {
        case_follows_the_cpu(&accumulating(model, ADAM, precision, 2), model, 6);
    }
}

#[test]
fn micro_batches_make_the_step_of_the_whole_batch() {
    let whole = Case::new(DLRM, LAZY, Precision::Fp32, 1);
    let mut alone = whole.on_device();
    let expected = whole.train(alone.as_mut(), 1..=6, undisturbed);
    let case = accumulating(DLRM, LAZY, Precision::Fp32, 3);
    let mut device = case.on_device();
    let got = case.train(device.as_mut(), 1..=6, undisturbed);
    for (got, expected) in got.iter().zip(&expected) {
        assert!(
            (got.loss - expected.loss).abs() < 1e-5,
            "{got:?} {expected:?}"
        );
    }
    let (got, expected) = (tensors(device.as_mut()), tensors(alone.as_mut()));
    assert_same_tensors("micro-batches", &got, &expected, 1e-4);
    // Eight rows in three pieces: the last has three.
    assert_eq!(device.last_probabilities().0, 5..8);
    assert_eq!(device.last_probabilities().1.len(), 3);
}

/// The overflow is in one micro-batch of rank 0.
#[test]
fn an_overflow_in_a_micro_batch_skips_the_step_on_all_ranks() {
    if emulation().is_none() {
        return;
    }
    let case = accumulating(DLRM, ADAM, Precision::Fp16, 2);
    let mut cpu = Case::new(DLRM, ADAM, Precision::Fp16, 1).on_cpu();
    let expected = case.train(&mut cpu, 1..=6, overflow);
    let ranks = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let outcomes = case.train_part(&mut trainer, comm.as_ref(), 1..=6, overflow);
        (outcomes, tensors(&mut trainer))
    });
    assert_eq!(ranks[0].1, ranks[1].1);
    for (got, expected) in ranks[1].0.iter().zip(&expected) {
        assert_eq!(got.skipped, expected.skipped);
        assert!(
            (got.loss - expected.loss).abs() < 0.05 * expected.loss,
            "{got:?} {expected:?}"
        );
    }
    assert!(ranks[1].0[3].skipped);
}

#[test]
fn micro_batches_of_several_ranks_follow_the_cpu() {
    if emulation().is_none() {
        return;
    }
    for precision in [Precision::Fp32, Precision::Bf16] {
        let case = accumulating(DLRM, ADAM, precision, 2);
        let mut alone = Case::new(DLRM, ADAM, precision, 1).on_cpu();
        let expected = case.train(&mut alone, 1..=12, undisturbed);
        let ranks = on_ranks(2, |comm| {
            let mut trainer = case.on_device_of(&comm);
            case.train_part(&mut trainer, comm.as_ref(), 1..=12, undisturbed)
        });
        let tolerance = 10.0 * f64::from(tolerance(precision));
        for (got, expected) in ranks[0].iter().zip(&expected) {
            let error = (got.loss - expected.loss).abs();
            assert!(error < tolerance * expected.loss, "{got:?} {expected:?}");
        }
    }
}
