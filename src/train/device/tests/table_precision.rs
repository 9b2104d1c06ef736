//! Tables in half precision: a device rounds their rows as the CPU does, by the same random words.

use super::case::emulation;
use super::sharded::{MIXED_PLACEMENTS, WHOLE_ROWS, devices_equal_one_cpu};
use super::*;

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::Fp16];

fn stored(model: &str, optimizer: &str, precision: Precision, tables: Precision) -> Case {
    let mut case = Case::new(model, optimizer, precision, 1);
    case.settings.table_precision = tables;
    case
}

/// Numbers of tables that moved on the CPU, and those that are others on the device, at most the next ones.
fn moved_and_apart(case: &Case, what: &str) -> [usize; 2] {
    let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
    let before = tensors(&mut cpu);
    assert_eq!(tensors(device.as_mut()), before, "{what}: they start equal");
    let batch = case.batch(1);
    cpu.step(&batch, None, 1, false).unwrap();
    device.step(&batch, None, 1, false).unwrap();
    let (got, expected) = (tensors(device.as_mut()), tensors(&mut cpu));
    let [mut moved, mut apart] = [0, 0];
    let all = got.iter().zip(&expected).zip(&before);
    for (((name, got), (_, expected)), (_, before)) in all {
        if !name.starts_with("embedding.") {
            continue;
        }
        for ((got, expected), before) in got.iter().zip(expected).zip(before) {
            let next = match case.settings.table_precision {
                Precision::Bf16 => expected.abs() / 128.0,
                _ => expected.abs() / 1024.0 + 6e-8,
            };
            let same = case.settings.precision != Precision::Fp32;
            assert!(same || (got - expected).abs() <= next, "{what} {name}");
            moved += usize::from(expected != before);
            apart += usize::from(got != expected);
        }
    }
    [moved, apart]
}

#[test]
fn one_step_rounds_every_row_as_on_the_cpu() {
    for (model, optimizer) in [(DLRM, SGD), (WIDE_DEEP, ADAM), (MIXED, LAZY)] {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            for tables in HALVES {
                let what = format!("{model} {precision} {tables}");
                let case = stored(model, optimizer, precision, tables);
                let [moved, apart] = moved_and_apart(&case, &what);
                assert!(moved > 20, "{what}: {moved} moved");
                // Those between which a difference of the gradients decides; of other random words it were about half.
                let most = if precision == Precision::Fp32 { 50 } else { 5 };
                assert!(apart <= moved / most + 1, "{what}: {apart} of {moved}");
            }
        }
    }
}

#[test]
fn twenty_steps_follow_the_cpu() {
    for (model, optimizer, precision) in [
        (DLRM, ADAM, Precision::Bf16),
        (DEEPFM, LAZY, Precision::Fp16),
        (DCN, WHOLE_ROWS, Precision::Bf16),
    ] {
        let case = stored(model, optimizer, precision, precision);
        case_follows_the_cpu(&case, model, 20);
    }
}

#[test]
fn devices_with_sharded_tables_equal_one() {
    if emulation().is_none() {
        return;
    }
    for (model, optimizer, precision, placement) in [
        (DLRM, ADAM, Precision::Bf16, "placement = 'table_wise'\n"),
        (DCN, WHOLE_ROWS, Precision::Fp16, MIXED_PLACEMENTS),
        (
            MIXED,
            LAZY,
            Precision::Bf16,
            "exchange = 'unique'\nplacement = 'row_wise'\n",
        ),
    ] {
        let case = stored(model, optimizer, precision, precision).with_tables(placement, 2);
        devices_equal_one_cpu(&format!("{model} {placement}"), &case, 2);
    }
}

/// An overflow is known before any row is rounded.
#[test]
fn a_skipped_step_leaves_every_row_as_it_was() {
    let case = stored(DLRM, ADAM, Precision::Fp16, Precision::Fp16);
    let (mut cpu, mut device) = (case.on_cpu(), case.on_device());
    let mut before = Vec::new();
    for step in 1..=6 {
        let expected = case.train(&mut cpu, step..=step, overflow)[0];
        let got = case.train(device.as_mut(), step..=step, overflow)[0];
        assert_eq!((got.skipped, expected.skipped), (step == 4, step == 4));
        let after = tensors(device.as_mut());
        assert_eq!(after == before, step == 4, "step {step}");
        before = after;
        assert_same_tensors("fp16", &before, &tensors(&mut cpu), 0.05);
    }
}

/// Halves come back from a device and go on elsewhere, to the bit.
#[test]
fn a_run_that_changes_its_device_in_mid_run_equals_one_that_does_not() {
    let case = stored(DEEPFM, ADAM, Precision::Fp32, Precision::Bf16);
    let mut whole = case.on_device();
    let expected = case.train(whole.as_mut(), 1..=8, undisturbed);
    let (mut first, mut other) = (case.on_device(), case.on_device());
    case.train(first.as_mut(), 1..=4, undisturbed);
    let saved = tensors(first.as_mut());
    let slices = other.named_slices_mut().unwrap().into_iter();
    for (mut slice, (_, values)) in slices.zip(&saved) {
        slice.values.set_f32(values);
    }
    let got = case.train(other.as_mut(), 5..=8, undisturbed);
    let losses = |outcomes: &[StepOutcome]| -> Vec<f64> {
        outcomes.iter().map(|outcome| outcome.loss).collect()
    };
    assert_eq!(losses(&got), losses(&expected[4..]));
    assert!(tensors(other.as_mut()) == tensors(whole.as_mut()));
}
