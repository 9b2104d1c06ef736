//! Products that the matrix library does not have: kernels of our own give the same step.

use streamrec_kernels::cuda::product::{Epilogue, Product};

use super::case::emulation;
use super::*;

fn refuses_epilogues(product: &Product) -> bool {
    product.epilogue != Epilogue::None
}

fn refuses_masks(product: &Product) -> bool {
    matches!(product.epilogue, Epilogue::BiasRelu(..))
}

fn refuses_masked_gradients(product: &Product) -> bool {
    matches!(product.epilogue, Epilogue::ReluGradient(..))
}

fn refuses_gradients_of_biases(product: &Product) -> bool {
    matches!(product.epilogue, Epilogue::RightSums(_))
}

/// As a library that lacks kernels for rows of few bytes.
fn refuses_narrow_ones(product: &Product) -> bool {
    let factors = [&product.left, &product.right, &product.out];
    factors.iter().any(|factor| factor.stride % 4 != 0)
}

fn refuses_all(_: &Product) -> bool {
    true
}

type Refuses = fn(&Product) -> bool;

const LIBRARIES: [(&str, Refuses); 6] = [
    ("no epilogues", refuses_epilogues),
    ("no masks", refuses_masks),
    ("no masked gradients", refuses_masked_gradients),
    ("no gradients of biases", refuses_gradients_of_biases),
    ("no narrow products", refuses_narrow_ones),
    ("no products", refuses_all),
];

fn trained(case: &Case, refuses: Option<Refuses>) -> (Vec<StepOutcome>, Tensors) {
    let mut device = Emulator::new(0);
    device.refuses = refuses;
    let mut trainer = case.on(device).unwrap();
    let outcomes = case.train(&mut trainer, 1..=6, undisturbed);
    let mut probabilities = Vec::new();
    trainer
        .predict(&case.batch(99), &mut probabilities)
        .unwrap();
    let mut all = tensors(&mut trainer);
    all.push(("probabilities".to_owned(), probabilities));
    (outcomes, all)
}

#[test]
fn a_library_without_some_products_gives_the_same_steps() {
    if emulation().is_none() {
        return;
    }
    for (model, precision) in [
        (DLRM, Precision::Fp32),
        (DLRM, Precision::Bf16),
        (DCN, Precision::Fp16),
        (LOW_RANK, Precision::Fp32),
        (WIDE_DEEP, Precision::Bf16),
    ] {
        let case = Case::new(model, SGD, precision, 1);
        let (expected_outcomes, expected) = trained(&case, None);
        for (what, refuses) in LIBRARIES {
            let (outcomes, got) = trained(&case, Some(refuses));
            let what = format!("{model} {precision}, {what}");
            for (got, expected) in outcomes.iter().zip(&expected_outcomes) {
                let error = (got.loss - expected.loss).abs();
                let most = f64::from(tolerance(precision));
                assert!(error < most, "{what}: {got:?}, {expected:?}");
            }
            assert_same_tensors(&what, &got, &expected, 2.0 * tolerance(precision));
        }
    }
}

/// What is not refused the library does: else the test above would show nothing.
#[test]
fn products_with_their_epilogues_are_the_librarys_where_it_has_them() {
    if emulation().is_none() {
        return;
    }
    let names = |precision, refuses: Option<Refuses>| -> Vec<String> {
        let case = Case::new(DLRM, SGD, precision, 1);
        let mut device = Emulator::new(0);
        device.refuses = refuses;
        let mut trainer = case.on(device).unwrap();
        trainer.measure_device(true).unwrap();
        trainer.step(&case.batch(1), None, 1, false).unwrap();
        let work = trainer.measured_on_device().unwrap().into_iter();
        work.map(|piece| piece.name).collect()
    };
    for precision in [Precision::Fp32, Precision::Bf16] {
        let count =
            |names: &[String], part: &str| names.iter().filter(|name| name.contains(part)).count();
        let all = names(precision, None);
        // Four layers with a ReLU, of which all but the one before the interaction's are undone by the layer behind.
        assert_eq!(count(&all, "+ bias, ReLU"), 4, "{all:?}");
        let undone = count(&all, ", gradient of ReLU");
        assert_eq!(
            count(&all, ", gradient of bias"),
            undone + usize::from(precision == Precision::Fp32)
        );
        assert_eq!(count(&all, "multiply<"), 0);
        let none = names(precision, Some(refuses_all));
        assert_eq!(count(&none, "product ["), 0, "{none:?}");
        let without = names(precision, Some(refuses_epilogues));
        assert_eq!(count(&without, "multiply<"), 0, "{without:?}");
        assert_eq!(
            count(&without, "gradient of") + count(&without, "+ bias"),
            0
        );
    }
}
