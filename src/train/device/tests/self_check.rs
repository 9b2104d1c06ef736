//! The check of a device before a run trusts it: a correct one passes, whatever the model; a wrong one is found, and what it
//! computes wrongly is named.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use streamrec_emulation::{Spoils, Work};
use streamrec_kernels::cuda::DeviceError;

use super::case::emulation;
use super::*;
use crate::train::{SelfCheck, SelfCheckError};

fn check_of(case: &Case) -> SelfCheck {
    let Case {
        graph,
        schema,
        optimizer,
        settings,
        ..
    } = case;
    SelfCheck::new(graph, schema, optimizer, settings)
}

fn outcome(case: &Case, spoils: Option<Spoils>) -> Result<(), SelfCheckError> {
    let context = Context::cpu(1, false).unwrap();
    check_of(case).run(&context, || {
        let mut device = Emulator::new(0);
        device.spoils = spoils.clone();
        Ok(device)
    })
}

#[test]
fn a_device_that_computes_as_the_cpu_passes_with_every_model_and_precision() {
    if emulation().is_none() {
        return;
    }
    for model in MODELS {
        for precision in [Precision::Fp32, Precision::Bf16, Precision::Fp16] {
            for (optimizer, labels) in [(ADAM, 1), (LAZY, 2)] {
                let mut case = Case::new(model, optimizer, precision, labels);
                case.settings.table_precision = match labels {
                    1 => Precision::Fp32,
                    _ if precision == Precision::Fp16 => Precision::Fp16,
                    _ => Precision::Bf16,
                };
                let outcome = outcome(&case, None);
                assert!(outcome.is_ok(), "{model} {precision}: {outcome:?}");
            }
        }
    }
}

#[test]
fn micro_batches_invariant_sums_and_libraries_that_lack_products_pass_too() {
    if emulation().is_none() {
        return;
    }
    for precision in [Precision::Fp32, Precision::Bf16] {
        let mut pieces = Case::new(DLRM, ADAM, precision, 1);
        pieces.settings.accumulate = 4;
        let mut invariant = Case::new(DCN, ADAM, precision, 1);
        invariant.settings.reduction = Reduction::Invariant;
        for case in [pieces, invariant] {
            outcome(&case, None).unwrap();
            let context = Context::cpu(1, false).unwrap();
            let without_products = || {
                let mut device = Emulator::new(0);
                device.refuses = Some(|_| true);
                Ok(device)
            };
            check_of(&case).run(&context, without_products).unwrap();
        }
    }
}

/// What a piece of work is called, where it computes something.
fn name(work: &Work) -> Option<String> {
    match work {
        Work::Launch(launch) => Some(launch.kernel.name.to_owned()),
        Work::Multiply(product) => Some(product.to_string()),
        _ => None,
    }
}

#[test]
fn a_kernel_that_does_nothing_and_a_product_with_one_wrong_column_are_found() {
    if emulation().is_none() {
        return;
    }
    let [fp32, bf16, fp16] = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    for (model, optimizer, precision, tables) in [
        (DLRM, ADAM, fp32, fp32),
        (LOW_RANK, LAZY, bf16, bf16),
        (DEEPFM, ADAM, fp16, fp32),
        (WIDE_DEEP, LAZY, fp32, fp32),
        (DCN, LAZY, fp32, fp16),
    ] {
        let mut case = Case::new(model, optimizer, precision, 1);
        case.settings.table_precision = tables;
        let names = Arc::new(Mutex::new(BTreeSet::new()));
        let listed = Arc::clone(&names);
        let list: Spoils = Arc::new(move |work| {
            listed.lock().unwrap().extend(name(work));
            false
        });
        outcome(&case, Some(list)).unwrap();
        let names: Vec<String> = names.lock().unwrap().iter().cloned().collect();
        assert!(names.len() > 20, "{names:?}");
        let mut missed = Vec::new();
        for spoilt in names {
            let own = spoilt.clone();
            let spoils: Spoils = Arc::new(move |work| name(work).as_ref() == Some(&own));
            // Where lists of rows are garbage the emulation ends at a guard page.
            let outcome = catch_unwind(AssertUnwindSafe(|| outcome(&case, Some(spoils))));
            if matches!(outcome, Ok(Ok(()))) {
                missed.push(spoilt);
            }
        }
        assert!(
            missed.is_empty(),
            "{model} {precision}: nobody misses {missed:?}"
        );
    }
}

#[test]
fn what_differs_is_named_with_step_and_both_numbers() {
    if emulation().is_none() {
        return;
    }
    let case = Case::new(DLRM, ADAM, Precision::Fp32, 1);
    let told = |kernel: &'static str| {
        let spoils = move |work: &Work| name(work).is_some_and(|name| name.starts_with(kernel));
        match outcome(&case, Some(Arc::new(spoils))).unwrap_err() {
            SelfCheckError::Differs(difference) => difference.to_string(),
            other => panic!("{other}"),
        }
    };
    let forward = told("dot_forward");
    let of = [
        "the loss after step 1: expected ",
        "the norm of the dense gradients after step 1: expected ",
    ];
    assert!(of.iter().any(|of| forward.starts_with(of)), "{forward}");
    let tables = told("update_tiles");
    let named = tables.starts_with("embedding.a[") && tables.contains("] after step 1: expected ");
    assert!(named && tables.contains(" as on the CPU, got "), "{tables}");
    let dense = told("update_dense");
    assert!(dense.contains("after step 1"), "{dense}");
}

#[test]
fn a_device_that_fails_is_no_difference_and_is_asked_once() {
    let case = Case::new(DLRM, ADAM, Precision::Fp32, 1);
    let (context, mut opened) = (Context::cpu(1, false).unwrap(), 0);
    let outcome = check_of(&case).run(&context, || -> Result<Emulator, DeviceError> {
        opened += 1;
        Err(DeviceError::NoGpu {
            ordinal: 3,
            count: 2,
        })
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, SelfCheckError::Device(_)), "{error}");
    assert_eq!(opened, 1);
}
