//! With `parallel.reduction = "invariant"` weights and state are the same, to the bit, on any number of devices, wherever
//! tables lie.

use super::ranks::{assert_same_curve, on_ranks};
use super::sharded::{Held, MIXED_PLACEMENTS, WHOLE_ROWS, held, together};
use super::*;

const STEPS: u64 = 4;

const TABLES: &str = "placement = 'table_wise'\n";
const ROWS_APART: &str = "placement = 'row_wise'\n";
const COLUMNS: &str = "placement = 'column_wise'\n";

/// Batches that no number of ranks divides, and so many lookups that rows lie across the tiles of the kernels that sum them.
fn invariant(model: &str, optimizer: &str, precision: Precision) -> Case {
    let mut case = Case::new(model, optimizer, precision, 1);
    case.settings.reduction = Reduction::Invariant;
    case.settings.global_batch = 19;
    case.settings.batch_rows = 19;
    case.longest_bag = 30;
    case
}

/// In step 2 a bag of a mean is so long that its row is summed by a block, and that devices record anew; in step 3
/// gradients leave fp16.
fn disturbed(precision: Precision) -> impl Fn(u64, &mut Batch) {
    move |step, batch| {
        if step == 2 {
            let bag = batch.rows + 1;
            let (rows, first) = (batch.rows, batch.encoded.offsets[bag] as usize);
            batch.encoded.ids.splice(first..first, vec![2; 600]);
            let after = batch.encoded.offsets[rows..].iter_mut().skip(2);
            after.for_each(|offset| *offset += 600);
        }
        if step == 3 && precision == Precision::Fp16 {
            batch.weights[2] = 1e9;
        }
    }
}

/// The bits of what is told of each step, and of every tensor.
type Bits = (Vec<[u64; 2]>, Vec<(String, Vec<u32>)>);

fn bits(outcomes: &[StepOutcome], tensors: Tensors) -> Bits {
    let told = |outcome: &StepOutcome| [outcome.loss.to_bits(), outcome.gradient_norm.to_bits()];
    let bits = |(name, values): (String, Vec<f32>)| {
        let values = values.into_iter().map(f32::to_bits);
        (name, values.collect())
    };
    (
        outcomes.iter().map(told).collect(),
        tensors.into_iter().map(bits).collect(),
    )
}

/// Trains, and predicts between steps: a whole batch needs more room than micro-shards do.
fn train(
    trainee: &mut dyn Trainee,
    steps: impl Fn(&mut dyn Trainee, std::ops::RangeInclusive<u64>) -> Vec<StepOutcome>,
    unseen: &Batch,
) -> Vec<StepOutcome> {
    let mut outcomes = steps(trainee, 1..=2);
    trainee.predict(unseen, &mut Vec::new()).unwrap();
    outcomes.extend(steps(trainee, 3..=STEPS));
    outcomes
}

fn trained_alone(case: &Case) -> (Vec<StepOutcome>, Bits) {
    let (mut device, precision) = (case.on_device(), case.settings.precision);
    let steps = |device: &mut dyn Trainee, steps| case.train(device, steps, disturbed(precision));
    let outcomes = train(device.as_mut(), steps, &case.batch(99));
    assert!(precision != Precision::Fp16 || outcomes[2].skipped);
    let whole = together(&[held(device.as_mut())]);
    let bits = bits(&outcomes, whole);
    (outcomes, bits)
}

fn trained_on(case: &Case, ranks: usize) -> Bits {
    let trained = on_ranks(ranks, |comm| {
        let (mut trainer, precision) = (case.on_device_of(&comm), case.settings.precision);
        let steps = |trainer: &mut dyn Trainee, steps| {
            case.train_part(trainer, comm.as_ref(), steps, disturbed(precision))
        };
        let unseen = case.part(&case.batch(99), comm.as_ref());
        let outcomes = train(&mut trainer, steps, &unseen);
        (outcomes, held(&mut trainer))
    });
    let told: Vec<String> = trained
        .iter()
        .map(|(told, _)| format!("{told:?}"))
        .collect();
    assert!(
        told.iter().all(|other| *other == told[0]),
        "ranks tell different losses"
    );
    let parts: Vec<Held> = trained.iter().map(|(_, held)| held.clone()).collect();
    bits(&trained[0].0, together(&parts))
}

/// Trains alone, which is near the CPU's trainer, and on ranks with tables placed somehow.
fn is_the_same_to_the_bit(
    model: &str,
    optimizer: &str,
    precision: Precision,
    meshes: &[(usize, &str)],
) {
    case_is_the_same_to_the_bit(model, &|| invariant(model, optimizer, precision), meshes);
}

/// Likewise, of what `make` makes.
fn case_is_the_same_to_the_bit(model: &str, make: &dyn Fn() -> Case, meshes: &[(usize, &str)]) {
    let case = make();
    let precision = case.settings.precision;
    let near = [precision, case.settings.table_precision].map(tolerance);
    let (curve, alone) = trained_alone(&case);
    let on_cpu = case.train(&mut case.on_cpu(), 1..=STEPS, disturbed(precision));
    assert_same_curve(
        model,
        &curve,
        &on_cpu,
        10.0 * f64::from(near[0].max(near[1])),
    );
    for &(ranks, placement) in meshes {
        let placed = make().with_tables(placement, ranks);
        let (told, tensors) = trained_on(&placed, ranks);
        let what = format!("{model} {precision} on {ranks} devices, {placement}");
        assert_eq!(told, alone.0, "{what}: losses and norms");
        assert_eq!(tensors.len(), alone.1.len());
        for ((name, got), (expected_name, expected)) in tensors.iter().zip(&alone.1) {
            assert_eq!((name, got.len()), (expected_name, expected.len()));
            let differ = got.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "{what}: {name} differs in {differ} values");
        }
    }
}

#[test]
fn replicated_tables_give_the_same_bits_on_one_to_eight_devices() {
    let meshes = [(2, ""), (4, ""), (8, "")];
    is_the_same_to_the_bit(DLRM, ADAM, Precision::Fp32, &meshes);
    is_the_same_to_the_bit(LOW_RANK, LAZY, Precision::Bf16, &meshes[1..2]);
    is_the_same_to_the_bit(WIDE_DEEP, ADAM, Precision::Fp16, &meshes[..1]);
}

/// Else the other tests could not fail.
#[test]
fn fast_reduction_gives_other_bits_on_two_devices() {
    let mut case = invariant(DLRM, ADAM, Precision::Fp32);
    case.settings.reduction = Reduction::Fast;
    let (_, (_, alone)) = trained_alone(&case);
    let (_, on_two) = trained_on(&case, 2);
    assert_ne!(alone, on_two);
}

#[test]
fn whole_tables_on_one_device_each_give_the_bits_of_replicated_ones() {
    is_the_same_to_the_bit(DLRM, ADAM, Precision::Fp32, &[(2, TABLES), (8, TABLES)]);
    is_the_same_to_the_bit(DEEPFM, LAZY, Precision::Fp16, &[(2, TABLES)]);
}

#[test]
fn rows_of_several_devices_give_the_bits_of_replicated_tables() {
    let meshes = [(2, ROWS_APART), (4, ROWS_APART)];
    is_the_same_to_the_bit(DLRM, ADAM, Precision::Fp32, &meshes);
    is_the_same_to_the_bit(DCN, WHOLE_ROWS, Precision::Bf16, &meshes[1..]);
}

#[test]
fn columns_of_several_devices_give_the_bits_of_replicated_tables() {
    let meshes = [(2, COLUMNS), (4, COLUMNS)];
    is_the_same_to_the_bit(MIXED, WHOLE_ROWS, Precision::Fp32, &meshes);
    is_the_same_to_the_bit(DCN, ADAM, Precision::Fp16, &meshes[1..]);
    is_the_same_to_the_bit(DLRM, WHOLE_ROWS, Precision::Bf16, &[(2, MIXED_PLACEMENTS)]);
}

/// Of 19 samples the last micro-shard has the last three.
#[test]
fn predictions_are_of_the_last_micro_shard() {
    let case = invariant(DLRM, SGD, Precision::Fp32);
    let mut device = case.on_device();
    device.step(&case.batch(1), None, 1, false).unwrap();
    let (rows, probabilities) = device.last_probabilities();
    assert_eq!((rows, probabilities.len()), (16..19, 3));
}

#[test]
fn what_cannot_be_the_same_on_any_number_of_devices_is_refused() {
    let mut small = invariant(DLRM, SGD, Precision::Fp32);
    (small.settings.global_batch, small.settings.batch_rows) = (7, 7);
    let error = small
        .on(Emulator::new(0))
        .err()
        .expect("refused")
        .to_string();
    assert!(
        error.contains("`train.global_batch` is 7, expected at least 8"),
        "{error}"
    );
    let refused = on_ranks(3, |comm| {
        let case = invariant(DLRM, SGD, Precision::Fp32);
        case.try_on_device_of(&comm)
            .err()
            .expect("refused")
            .to_string()
    });
    assert!(
        refused[2].contains("takes 1, 2, 4 or 8 data-parallel ranks, got 3"),
        "{}",
        refused[2]
    );
    let refused = on_ranks(2, |comm| {
        let mut shared = super::tensor_parallel::shared(SGD, Precision::Fp32);
        shared.settings.reduction = Reduction::Invariant;
        // Vectors that owners pool are sums over the samples of all ranks.
        let pooled = Case::new(DLRM, SGD, Precision::Fp32, 1);
        let mut pooled = pooled.with_tables(TABLES, 2);
        pooled.settings.reduction = Reduction::Invariant;
        [shared, pooled].map(|case| {
            case.try_on_device_of(&comm)
                .err()
                .expect("refused")
                .to_string()
        })
    });
    let [shared, pooled] = &refused[0];
    assert!(
        shared.contains("goes with `parallel.tp` = 1, got 2"),
        "{shared}"
    );
    assert!(
        pooled.contains("expected `exchange` = \"unique\""),
        "{pooled}"
    );
}

/// Rows are rounded by their numbers and columns in the whole model, wherever they lie.
#[test]
fn tables_in_half_precision_are_the_same_on_any_number_of_devices() {
    let [fp32, bf16, fp16] = [Precision::Fp32, Precision::Bf16, Precision::Fp16];
    for (model, optimizer, [precision, tables], meshes) in [
        (DLRM, ADAM, [bf16, bf16], [(2, ""), (2, TABLES)]),
        (
            MIXED,
            WHOLE_ROWS,
            [fp32, bf16],
            [(2, ROWS_APART), (4, COLUMNS)],
        ),
        (
            DCN,
            WHOLE_ROWS,
            [fp16, fp16],
            [(2, COLUMNS), (2, MIXED_PLACEMENTS)],
        ),
    ] {
        let make = || {
            let mut case = invariant(model, optimizer, precision);
            case.settings.table_precision = tables;
            case
        };
        case_is_the_same_to_the_bit(model, &make, &meshes);
    }
}
