//! Ranks that end, and devices that hang: who is named, and how soon.

use super::*;
use crate::train::DeviceWork;

#[test]
fn a_rank_that_ends_is_named_with_the_step_that_it_reported_last() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let told = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let last = 3 + u64::from(comm.rank() == 0) * 2;
        for step in 1..=last {
            let parts = [step, step + 1]
                .map(|step| part_of(&case.batch(step), &case.schema, comm.rank(), 2));
            if let Err(error) = trainer.step(&parts[0], Some(&parts[1]), step, false) {
                return Some((step, error));
            }
        }
        None
    });
    let (step, error) = told[0].as_ref().expect("rank 0 misses rank 1");
    assert_eq!(*step, 4);
    let text = error.to_string();
    let expected = "the sum of the loss cannot be completed in step 4 on the devices; the last steps that ranks \
                    reported are [3, 3]";
    assert_eq!(text, expected);
    let lost = error.comm().expect("a rank is behind it");
    assert!(
        matches!(lost, CommError::Lost { ranks, .. } if *ranks == [1]),
        "{lost}"
    );
}

/// Rank 1 has told all that it has to tell in step 2: nobody waits for a message of it, but rank 0 for its own device.
#[test]
fn a_rank_that_ends_while_the_device_of_another_hangs_is_named() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let told = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        case.train_part(&mut trainer, comm.as_ref(), 1..=1, undisturbed);
        trainer.executor.hangs = comm.rank() == 0;
        let part = case.part(&case.batch(2), comm.as_ref());
        let began = Instant::now();
        (trainer.step(&part, None, 2, false).err(), began.elapsed())
    });
    let (error, waited) = &told[0];
    let error = error.as_ref().expect("rank 0 misses rank 1");
    let expected = "cannot be completed in step 2 on the devices; the last steps that ranks reported are [2, 2]";
    assert!(error.to_string().contains(expected), "{error}");
    let lost = error.comm().expect("a rank is behind it");
    assert!(
        matches!(lost, CommError::Lost { ranks, .. } if *ranks == [1]),
        "{lost}"
    );
    assert!(*waited < LONG / 2, "the time-out was not waited for");
}

#[test]
fn devices_that_hang_though_nobody_is_missing_end_with_the_time_out() {
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let told = on_ranks(2, |comm| {
        let trainer = case.on_device_of(&comm);
        let mut trainer = trainer.with_timeout(Duration::from_millis(300));
        trainer.executor.hangs = true;
        let part = case.part(&case.batch(1), comm.as_ref());
        trainer.step(&part, None, 1, false).unwrap_err()
    });
    for error in told {
        assert!(
            matches!(error, TrainError::Stuck { work: DeviceWork::Step(1), ref steps, .. } if *steps == [1, 1]),
            "{error}"
        );
    }
}

/// Tables that lie on both ranks: predictions exchange vectors.
fn sharded() -> Case {
    Case::new(DLRM, SGD, Precision::Fp32, 1).with_tables("placement = 'row_wise'\n", 2)
}

/// Rank 1 takes one step and is gone; rank 0 evaluates.
#[test]
fn a_rank_that_ends_before_an_evaluation_is_named() {
    let case = sharded();
    let told = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        case.train_part(&mut trainer, comm.as_ref(), 1..=1, undisturbed);
        let part = case.part(&case.batch(2), comm.as_ref());
        let evaluates = comm.rank() == 0;
        evaluates.then(|| trainer.predict(&part, &mut Vec::new()).unwrap_err())
    });
    let error = told[0].as_ref().expect("rank 0 misses rank 1");
    let expected = "cannot be completed in the evaluation after step 1 on the devices; the last steps that ranks reported \
                    are [1, 1]";
    assert!(error.to_string().ends_with(expected), "{error}");
    let lost = error.comm().expect("a rank is behind it");
    assert!(
        matches!(lost, CommError::Lost { ranks, .. } if *ranks == [1]),
        "{lost}"
    );
}

/// Rank 1 has told all that it has to tell, and has its predictions: rank 0 waits for its own device.
#[test]
fn a_rank_that_ends_while_the_device_of_another_hangs_in_an_evaluation_is_named() {
    let case = sharded();
    let told = on_ranks(2, |comm| {
        let mut trainer = case.on_device_of(&comm);
        case.train_part(&mut trainer, comm.as_ref(), 1..=3, undisturbed);
        trainer.executor.hangs = comm.rank() == 0;
        let part = case.part(&case.batch(4), comm.as_ref());
        let began = Instant::now();
        let outcome = trainer.predict(&part, &mut Vec::new());
        (outcome.err(), began.elapsed())
    });
    let (error, waited) = &told[0];
    let error = error.as_ref().expect("rank 0 misses rank 1");
    let expected = "cannot be completed in the evaluation after step 3 on the devices";
    assert!(error.to_string().contains(expected), "{error}");
    let lost = error.comm().expect("a rank is behind it");
    assert!(
        matches!(lost, CommError::Lost { ranks, .. } if *ranks == [1]),
        "{lost}"
    );
    assert!(*waited < LONG / 2, "the time-out was not waited for");
}

#[test]
fn devices_that_hang_in_an_evaluation_end_with_the_time_out_and_the_name_of_the_collective() {
    let case = sharded();
    let told = on_ranks(2, |comm| {
        let trainer = case.on_device_of(&comm);
        let mut trainer = trainer.with_timeout(Duration::from_millis(300));
        case.train_part(&mut trainer, comm.as_ref(), 1..=2, undisturbed);
        trainer.executor.hangs = true;
        let part = case.part(&case.batch(3), comm.as_ref());
        trainer.predict(&part, &mut Vec::new()).unwrap_err()
    });
    for error in told {
        let stuck = matches!(
            error,
            TrainError::Stuck { what: "the exchange of vectors", work: DeviceWork::Evaluation { after: 2 }, ref steps, .. }
                if *steps == [2, 2]
        );
        assert!(stuck, "{error}");
    }
}
