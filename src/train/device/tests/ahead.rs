//! Steps that are asked for before the one before is told of: the same steps, told one later.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use streamrec_emulation::Call;

use super::case::{batch, emulation};
use super::ranks::on_ranks;
use super::*;
use crate::comm::Communicator;
use crate::train::{Ahead, DeviceWork};

/// Trains without waiting for a step before the next is asked for.
fn run_ahead(
    trainee: &mut dyn Trainee,
    part: impl Fn(u64) -> Batch,
    last: u64,
) -> Result<Vec<StepOutcome>, TrainError> {
    let (mut outcomes, mut batch) = (Vec::new(), Arc::new(part(1)));
    for step in 1..=last {
        let next = Arc::new(part(step + 1));
        let ahead = trainee.step_ahead(&batch, Some(&next), step, false)?;
        assert_eq!(ahead.outcome.is_some(), step > 1, "one step is under way");
        assert_eq!(Arc::strong_count(&batch), 1, "its memory is free again");
        outcomes.extend(ahead.outcome);
        batch = next;
    }
    while let Some(outcome) = trainee.settle()? {
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Written, so that the norm of a skipped step, which is no number, is itself.
fn written(outcomes: &[StepOutcome]) -> String {
    format!("{outcomes:?}")
}

#[test]
fn steps_that_run_ahead_are_those_that_are_waited_for_to_the_bit() {
    for (model, optimizer, precision) in [
        (DLRM, ADAM, Precision::Fp16),
        (DCN, LAZY, Precision::Fp32),
        (MIXED, ADAM, Precision::Bf16),
    ] {
        for accumulate in [1, 2] {
            let mut case = Case::new(model, optimizer, precision, 1);
            case.settings.accumulate = accumulate;
            let part = |step| {
                let mut batch = case.batch(step);
                // Skipped, with fp16.
                if precision == Precision::Fp16 {
                    overflow(step, &mut batch);
                }
                batch
            };
            let (mut waits, mut ahead) = (case.on_device(), case.on_device());
            let expected: Vec<StepOutcome> = (1..=8)
                .map(|step| waits.step(&part(step), Some(&part(step + 1)), step, false))
                .map(Result::unwrap)
                .collect();
            let got = run_ahead(ahead.as_mut(), part, 8).unwrap();
            assert_eq!(written(&got), written(&expected), "{model}");
            assert_eq!(ahead.last_probabilities(), waits.last_probabilities());
            assert_eq!(ahead.loss_scaler(), waits.loss_scaler());
            assert!(
                tensors(ahead.as_mut()) == tensors(waits.as_mut()),
                "{model}"
            );
        }
    }
}

/// Beside replicated tables and sharded ones of both exchanges.
#[test]
fn ranks_that_run_ahead_have_the_weights_of_ranks_that_wait() {
    if emulation().is_none() {
        return;
    }
    let unique = "exchange = 'unique'\nplacement = 'row_wise'\n";
    for placement in [None, Some("placement = 'row_wise'\n"), Some(unique)] {
        let mut case = Case::new(DLRM, ADAM, Precision::Fp16, 1);
        if let Some(placement) = placement {
            case = case.with_tables(placement, 2);
        }
        let disturbed = |step| {
            let mut batch = case.batch(step);
            overflow(step, &mut batch);
            batch
        };
        let train = |ahead: bool| {
            on_ranks(2, |comm: Arc<dyn Communicator>| {
                let mut trainer = case.on_device_of(&comm);
                let part = |step| case.part(&disturbed(step), comm.as_ref());
                let outcomes = match ahead {
                    true => run_ahead(&mut trainer, part, 8).unwrap(),
                    false => case.train_part(&mut trainer, comm.as_ref(), 1..=8, overflow),
                };
                (written(&outcomes), tensors(&mut trainer))
            })
        };
        assert!(train(true) == train(false), "{placement:?}");
    }
}

/// What a GPU would do meanwhile is not seen here, but what the host asks it for, and when.
#[test]
fn a_step_is_asked_for_before_the_next_batch_is_packed_and_the_one_before_read() {
    let Some(emulator) = emulation() else {
        return;
    };
    let case = Case::new(DLRM, ADAM, Precision::Fp32, 1);
    let mut trainer = case.on(emulator).unwrap();
    run_ahead(&mut trainer, |step| case.batch(step), 3).unwrap();
    trainer.slots.wait_for_packing().unwrap();
    let calls = Arc::clone(&trainer.executor.calls);
    *calls.lock().unwrap() = Some(Vec::new());
    for step in 4..=5 {
        let [batch, next] = [step, step + 1].map(|step| Arc::new(case.batch(step)));
        trainer
            .step_ahead(&batch, Some(&next), step, false)
            .unwrap();
    }
    // Waits for the batch that is packed.
    drop(trainer);
    let calls = calls.lock().unwrap().take().unwrap();
    let (first, second) = calls.split_at(3);
    assert_eq!(first, [Call::Replay, Call::Send, Call::Replay]);
    // In two threads.
    assert!(second == [Call::Send, Call::Read] || second == [Call::Read, Call::Send]);
}

/// What a host did in steps 6 to 9.
fn calls_of_steady_steps(
    trainer: &mut DeviceTrainer<Emulator>,
    part: impl Fn(u64) -> Batch,
) -> Vec<Call> {
    run_ahead(trainer, &part, 5).unwrap();
    trainer.slots.wait_for_packing().unwrap();
    let calls = Arc::clone(&trainer.executor.calls);
    *calls.lock().unwrap() = Some(Vec::new());
    for step in 6..=9 {
        let [batch, next] = [step, step + 1].map(|step| Arc::new(part(step)));
        trainer
            .step_ahead(&batch, Some(&next), step, false)
            .unwrap();
    }
    trainer.slots.wait_for_packing().unwrap();
    let told = calls.lock().unwrap().take();
    told.expect("it was set above")
}

#[track_caller]
fn assert_steady(what: &str, calls: &[Call]) {
    let count = |call| calls.iter().filter(|own| **own == call).count();
    assert_eq!(count(Call::Replay), 4, "{what}: {calls:?}");
    // Of the step before, each time.
    assert_eq!(count(Call::Read), 3, "{what}: {calls:?}");
    let others = [Call::Replay, Call::Read, Call::Send];
    let others = calls.iter().filter(|call| !others.contains(call));
    assert_eq!(others.count(), 0, "{what}: {calls:?}");
}

/// Nothing but replays, batches on their way and what the step before tells: no memory is taken, nothing is asked for piece by
/// piece, and nobody waits for all that the device has to do.
#[test]
fn steady_steps_take_no_memory_and_wait_for_nothing_else_than_the_step_before() {
    let Some(emulator) = emulation() else {
        return;
    };
    let mut case = Case::new(MIXED, ADAM, Precision::Fp16, 1);
    case.settings.accumulate = 2;
    let mut alone = case.on(emulator).unwrap();
    let calls = calls_of_steady_steps(&mut alone, |step| case.batch(step));
    assert_steady("one rank", &calls);
    let unique = "exchange = 'unique'\nplacement = 'row_wise'\n";
    for placement in [None, Some("placement = 'column_wise'\n"), Some(unique)] {
        let mut case = Case::new(DLRM, ADAM, Precision::Bf16, 1);
        if let Some(placement) = placement {
            case = case.with_tables(placement, 2);
        }
        let told = on_ranks(2, |comm: Arc<dyn Communicator>| {
            let mut trainer = case.on_device_of(&comm);
            let part = |step| case.part(&case.batch(step), comm.as_ref());
            calls_of_steady_steps(&mut trainer, part)
        });
        for calls in told {
            assert_steady(placement.unwrap_or("replicated"), &calls);
        }
    }
}

#[test]
fn a_step_that_is_no_number_is_named_when_the_next_was_asked_for() {
    let case = Case::new(DCN, SGD, Precision::Fp32, 1);
    let mut device = case.on_device();
    let part = |step| {
        let mut batch = case.batch(step);
        if step == 2 {
            batch.weights[1] = f32::INFINITY;
        }
        batch
    };
    for step in 1..=2 {
        let [batch, next] = [step, step + 1].map(|step| Arc::new(part(step)));
        let ahead = device.step_ahead(&batch, Some(&next), step, false);
        assert!(ahead.is_ok());
    }
    let error = device
        .step_ahead(&Arc::new(part(3)), None, 3, false)
        .unwrap_err();
    assert!(error.to_string().contains("the loss of step 2"), "{error}");
}

/// Its error is that of its own step: the step before is not lost.
#[test]
fn a_next_batch_that_does_not_fit_is_refused_when_its_step_comes() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let mut device = case.on_device();
    let mut next = case.batch(2);
    next.encoded.ids[0] = 9;
    let (batch, next) = (Arc::new(case.batch(1)), Arc::new(next));
    let first = device.step_ahead(&batch, Some(&next), 1, false);
    let nothing_yet = Ahead {
        stop: false,
        outcome: None,
    };
    assert_eq!(first.unwrap(), nothing_yet);
    let error = device.step_ahead(&next, None, 2, false).unwrap_err();
    assert!(error.to_string().contains("an id is 9"), "{error}");
    assert!(device.settle().unwrap().is_some(), "step 1 is told of");
}

/// It fails in the thread that packs, while the step before is under way.
#[test]
fn a_copy_that_fails_is_the_error_of_its_own_step() {
    let Some(mut emulator) = emulation() else {
        return;
    };
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    emulator.copies_left = Some(Arc::new(AtomicUsize::new(1)));
    let mut device = case.on(emulator).unwrap();
    let [batch, next] = [1, 2].map(|step| Arc::new(case.batch(step)));
    device.step_ahead(&batch, Some(&next), 1, false).unwrap();
    let error = device.step_ahead(&next, None, 2, false).unwrap_err();
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(cause.as_deref(), Some("no copy is left"), "{error}");
    assert!(device.settle().unwrap().is_some(), "step 1 is told of");
}

/// Nor are its ids announced to the owners of sharded tables.
#[test]
fn a_next_batch_that_does_not_fit_is_refused_likewise_beside_sharded_tables() {
    if emulation().is_none() {
        return;
    }
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1).with_tables("placement = 'row_wise'\n", 2);
    let told = on_ranks(2, |comm: Arc<dyn Communicator>| {
        let mut trainer = case.on_device_of(&comm);
        let part = |step| case.part(&case.batch(step), comm.as_ref());
        let mut next = part(2);
        if comm.rank() == 1 {
            next.encoded.ids[0] = 9;
        }
        let (batch, next) = (Arc::new(part(1)), Arc::new(next));
        let first = trainer.step_ahead(&batch, Some(&next), 1, false);
        let second = first.and_then(|_| trainer.step_ahead(&next, None, 2, false));
        second.unwrap_err()
    });
    let refused = told[1].to_string();
    assert!(refused.contains("an id is 9"), "{refused}");
    let missed = told[0].comm().expect("rank 0 misses rank 1").to_string();
    assert!(missed.contains("ranks [1] have ended"), "{missed}");
}

/// A device that hangs in a step that was asked for before the next: the step is named that it hangs in.
#[test]
fn a_step_that_hangs_is_named_when_the_next_was_asked_for() {
    if emulation().is_none() {
        return;
    }
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let told = on_ranks(2, |comm: Arc<dyn Communicator>| {
        let trainer = case.on_device_of(&comm);
        let mut trainer = trainer.with_timeout(std::time::Duration::from_millis(300));
        let part = |step| Arc::new(case.part(&case.batch(step), comm.as_ref()));
        trainer
            .step_ahead(&part(1), Some(&part(2)), 1, false)
            .unwrap();
        trainer.executor.hangs = true;
        trainer.step_ahead(&part(2), None, 2, false).unwrap_err()
    });
    for error in told {
        assert!(
            matches!(error, TrainError::Stuck { work: DeviceWork::Step(1), ref steps, .. } if *steps == [2, 2]),
            "{error}"
        );
    }
}

/// Whatever needs the state of the moment waits for it, and what became of the step is told afterwards.
#[test]
fn weights_and_predictions_are_those_behind_the_last_step_that_was_asked_for() {
    let case = Case::new(DEEPFM, ADAM, Precision::Fp16, 1);
    let (mut waits, mut ahead) = (case.on_device(), case.on_device());
    let expected = case.train(waits.as_mut(), 1..=2, undisturbed);
    for step in 1..=2 {
        let [batch, next] = [step, step + 1].map(|step| Arc::new(case.batch(step)));
        ahead.step_ahead(&batch, Some(&next), step, false).unwrap();
    }
    let [mut a, mut b] = [Vec::new(), Vec::new()];
    waits.predict(&case.batch(77), &mut a).unwrap();
    ahead.predict(&case.batch(77), &mut b).unwrap();
    assert_eq!(a, b);
    assert!(tensors(waits.as_mut()) == tensors(ahead.as_mut()));
    assert_eq!(ahead.settle().unwrap(), Some(expected[1]));
    assert_eq!(ahead.settle().unwrap(), None);
    assert_eq!(ahead.loss_scaler(), waits.loss_scaler());
}

/// By shape; with the weights of the moment, and the ids of each batch.
#[test]
fn predictions_are_recorded_once_and_are_those_of_passes_that_are_not() {
    let case = Case::new(DLRM, ADAM, Precision::Bf16, 2);
    let mut device = case.on_device();
    let mut recorded = Vec::new();
    for step in 1..=6 {
        case.train(device.as_mut(), step..=step, undisturbed);
        let unseen = match step {
            // More ids than there is room for, then fewer samples.
            4 => batch(&case.schema, ROWS, 40, step),
            5 | 6 => batch(&case.schema, ROWS - 3, 3, step),
            _ => case.batch(100 + step),
        };
        let [mut got, mut piece_by_piece] = [Vec::new(), Vec::new()];
        device.predict(&unseen, &mut got).unwrap();
        recorded.push(device.predictions_are_recorded(unseen.rows));
        let mut other = case.on_device();
        let state = tensors(device.as_mut());
        let slices = other.named_slices_mut().unwrap();
        for (mut slice, (_, values)) in slices.into_iter().zip(&state) {
            slice.values.set_f32(values);
        }
        other.predict(&unseen, &mut piece_by_piece).unwrap();
        assert_eq!(got, piece_by_piece, "step {step}");
    }
    assert_eq!(recorded, [false, true, true, true, false, true]);
}

/// With sharded tables and shared layers: vectors and sums travel inside the recorded pass.
#[test]
fn ranks_record_their_predictions_together() {
    if emulation().is_none() {
        return;
    }
    let unique = "exchange = 'unique'\nplacement = 'row_wise'\n";
    let dlrm = |placement| {
        let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
        case.with_tables(placement, 2)
    };
    let shared = super::tensor_parallel::shared(SGD, Precision::Fp32);
    for case in [dlrm("placement = 'row_wise'\n"), dlrm(unique), shared] {
        on_ranks(2, |comm: Arc<dyn Communicator>| {
            let mut trainer = case.on_device_of(&comm);
            for step in 1..=4 {
                case.train_part(&mut trainer, comm.as_ref(), step..=step, undisturbed);
                // Bags grow, on rank 1 more than on rank 0.
                let longest = [3, 3, 9, 9][step as usize - 1];
                let unseen = batch(&case.schema, case.settings.global_batch, longest, 50 + step);
                let part = case.part(&unseen, comm.as_ref());
                let [mut got, mut piece_by_piece] = [Vec::new(), Vec::new()];
                trainer.predict(&part, &mut got).unwrap();
                assert_eq!(trainer.predictions_are_recorded(part.rows), step > 1);
                trainer.measure_device(true).unwrap();
                trainer.predict(&part, &mut piece_by_piece).unwrap();
                trainer.measure_device(false).unwrap();
                assert_eq!(got, piece_by_piece, "step {step}");
            }
        });
    }
}
