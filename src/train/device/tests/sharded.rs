//! Tables that lie on one rank's device each.

use super::ranks::{on_ranks, part_of};
use super::*;
use crate::comm::chunk_range;
use crate::config::EmbeddingsConfig;
use crate::model::Extent;
use crate::parallel::TablePlan;

/// Both tables on one rank each.
const BOTH: &str = "placement = 'table_wise'\n";
/// One on each rank, one, which two features share, on the last.
const ONE: &str = "[tables.a]\nplacement = 'table_wise'\nrank = 1\n";

impl Case {
    fn heads(&self) -> usize {
        self.schema.labels.len()
    }

    /// With tables placed over so many ranks.
    fn placed(&self, placement: &str, ranks: usize) -> TablePlan {
        let shapes = self.graph.validate(&self.schema).unwrap();
        let config: EmbeddingsConfig = toml::from_str(placement).unwrap();
        TablePlan::new(
            &self.graph,
            &shapes,
            &config,
            self.settings.reduction,
            ranks,
        )
        .unwrap()
    }

    pub(super) fn with_tables(mut self, placement: &str, ranks: usize) -> Self {
        self.settings.tables = Some(self.placed(placement, ranks));
        self
    }
}

/// Each on both ranks, in another way.
pub(super) const MIXED_PLACEMENTS: &str =
    "[tables.a]\nplacement = 'column_wise'\n[tables.b]\nplacement = 'row_wise'\n";
/// Updates of whole rows: their norm is bounded, their squares are added up.
pub(super) const WHOLE_ROWS: &str = "clip_norm = 0.5\n[dense]\nkind = 'adam'\nlearning_rate = 0.02\n\
                          [sparse]\nkind = 'row_wise_adagrad'\nlearning_rate = 0.1\n\
                          weight_decay = 0.02\nmax_row_norm = 0.05\n";

/// A slice of a tensor with its place.
pub(super) type Held = Vec<(String, Extent, Vec<f32>)>;

pub(super) fn held(trainee: &mut dyn Trainee) -> Held {
    let slices = trainee.named_slices().unwrap().into_iter();
    slices
        .map(|slice| (slice.name, slice.extent, slice.values.to_f32()))
        .collect()
}

/// What ranks hold together, each tensor whole; elements that several hold are the same on all.
pub(super) fn together(ranks: &[Held]) -> Tensors {
    let mut all: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (name, extent, values) in ranks.iter().flatten() {
        let len = extent.shape.iter().product();
        let whole = all
            .entry(name.clone())
            .or_insert_with(|| vec![f32::NAN; len]);
        let columns = extent.columns.len();
        for (index, row) in extent.rows.clone().enumerate() {
            let start = row * extent.width() + extent.columns.start;
            let own = &values[index * columns..][..columns];
            for (known, value) in whole[start..][..columns].iter_mut().zip(own) {
                assert!(known.is_nan() || known == value, "{name} differs by rank");
                *known = *value;
            }
        }
    }
    all.into_iter().collect()
}

/// Losses, predictions and, in float32, weights and state are those of one rank on the CPU with whole tables.
fn sharded_devices_equal_one(
    model: &str,
    optimizer: &str,
    precision: Precision,
    (placement, ranks): (&str, usize),
) {
    pieces_of_sharded_devices_equal_one(model, optimizer, precision, (placement, ranks), 1);
}

/// Likewise where batches are worked through in micro-batches.
fn pieces_of_sharded_devices_equal_one(
    model: &str,
    optimizer: &str,
    precision: Precision,
    (placement, ranks): (&str, usize),
    accumulate: usize,
) {
    let mut case = Case::new(model, optimizer, precision, 1).with_tables(placement, ranks);
    case.settings.accumulate = accumulate;
    devices_equal_one_cpu(&format!("{model} {placement}"), &case, ranks);
}

/// Losses, predictions and, in float32, weights and state of all devices are those of one rank on the CPU, which has the
/// whole tables, layers and batches.
pub(super) fn devices_equal_one_cpu(what: &str, case: &Case, ranks: usize) {
    let tolerance = tolerance(case.settings.precision);
    devices_are_near_one_cpu(what, case, ranks, tolerance);
}

/// Likewise, as near as said: what travels in halves is rounded.
fn devices_are_near_one_cpu(what: &str, case: &Case, ranks: usize, tolerance: f32) -> Vec<f64> {
    let (precision, accumulate) = (case.settings.precision, case.settings.accumulate);
    let what = format!("{what} {precision} on {ranks} devices, {accumulate} pieces");
    let (whole, dp) = (case.whole(), ranks / case.tp);
    let mut alone = whole.on_cpu();
    let expected = whole.train(&mut alone, 1..=12, undisturbed);
    let unseen = case.batch(999);
    let trained = on_ranks(ranks, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let outcomes = case.train_part(&mut trainer, comm.as_ref(), 1..=6, undisturbed);
        let mut predictions = Vec::new();
        // Between steps, while the ids of the next batch are announced.
        let part = case.part(&unseen, comm.as_ref());
        trainer.predict(&part, &mut predictions).unwrap();
        let more = case.train_part(&mut trainer, comm.as_ref(), 7..=12, undisturbed);
        trainer.predict(&part, &mut predictions).unwrap();
        // The rest is padding.
        predictions.truncate(case.heads() * chunk_range(ROWS, comm.rank() / case.tp, dp).len());
        assert_eq!(trainer.recorded(), 2, "steps on both slots are replayed");
        let held = held(&mut trainer);
        ([outcomes, more].concat(), held, predictions)
    });
    let tolerance = 10.0 * f64::from(tolerance);
    for (outcomes, ..) in &trained {
        for (step, (got, expected)) in outcomes.iter().zip(&expected).enumerate() {
            let error = (got.loss - expected.loss).abs();
            assert!(
                error < tolerance * expected.loss,
                "{what}, step {}: {got:?} {expected:?}",
                step + 1
            );
        }
    }
    let mut predictions = Vec::new();
    alone.predict(&unseen, &mut predictions).unwrap();
    // The ranks of a group predict the same.
    let got = trained.iter().step_by(case.tp);
    let got = got.flat_map(|(.., predictions)| predictions);
    for (got, expected) in got.zip(&predictions) {
        assert!(
            f64::from((got - expected).abs()) < tolerance,
            "{what}: {got} {expected}"
        );
    }
    let losses = trained[0].0.iter().map(|outcome| outcome.loss).collect();
    let held: Vec<Held> = trained.into_iter().map(|(_, held, _)| held).collect();
    let sizes = held
        .iter()
        .map(|held| held.iter().map(|(.., values)| values.len()).sum());
    let sizes: Vec<usize> = sizes.collect();
    let mut all = tensors(&mut alone);
    let whole: usize = all.iter().map(|(_, values)| values.len()).sum();
    assert!(
        sizes.iter().any(|size| *size < whole),
        "{what}: {sizes:?} of {whole}"
    );
    let held = together(&held);
    if precision == Precision::Fp32 {
        all.sort_by(|a, b| a.0.cmp(&b.0));
        assert_same_tensors(&what, &held, &all, 5.0 * tolerance as f32);
    }
    losses
}

#[test]
fn devices_with_sharded_tables_equal_one() {
    for model in MODELS {
        sharded_devices_equal_one(model, ADAM, Precision::Fp32, (BOTH, 2));
    }
    sharded_devices_equal_one(DLRM, LAZY, Precision::Fp32, (BOTH, 4));
}

#[test]
fn sharded_tables_beside_replicated_ones_equal_one() {
    sharded_devices_equal_one(DLRM, ADAM, Precision::Fp32, (ONE, 2));
    sharded_devices_equal_one(WIDE_DEEP, ADAM, Precision::Fp32, (ONE, 2));
}

#[test]
fn sharded_tables_in_half_precision_equal_one() {
    sharded_devices_equal_one(DLRM, ADAM, Precision::Bf16, (BOTH, 2));
    sharded_devices_equal_one(DEEPFM, ADAM, Precision::Fp16, (ONE, 2));
    sharded_devices_equal_one(MIXED, ADAM, Precision::Fp16, (BOTH, 2));
}

/// The sample of step 4 that leaves fp16 is of rank 0; its ids are rows of both ranks' tables.
#[test]
fn an_overflow_skips_sharded_tables_of_all_ranks() {
    let unique = format!("{BOTH}exchange = 'unique'\n");
    for placement in [BOTH, &unique] {
        let case = Case::new(DLRM, ADAM, Precision::Fp16, 1).with_tables(placement, 2);
        an_overflow_skips_the_step(&case, 2);
    }
}

/// That of step 4 changes nothing that a rank holds, every other step does.
pub(super) fn an_overflow_skips_the_step(case: &Case, ranks: usize) {
    on_ranks(ranks, |comm| {
        let mut trainer = case.on_device_of(&comm);
        let mut before = Vec::new();
        for step in 1..=6 {
            let outcome = case.train_part(&mut trainer, comm.as_ref(), step..=step, overflow)[0];
            assert_eq!(outcome.skipped, step == 4);
            let after = tensors(&mut trainer);
            assert_eq!(after == before, step == 4, "step {step}");
            before = after;
        }
    });
}

/// One rank's lookups grow, and with them those that reach the owners.
#[test]
fn longer_bags_reach_the_owners_of_sharded_tables() {
    let unique = format!("{BOTH}exchange = 'unique'\n");
    for placement in [BOTH, &unique] {
        longer_bags_reach_owners(placement);
    }
}

fn longer_bags_reach_owners(placement: &str) {
    let grown = |case: &Case, step: u64| {
        let mut batch = case.batch(step);
        if step == 3 {
            let mut longer = vec![2; 3000];
            longer.extend_from_slice(&batch.encoded.ids);
            batch.encoded.ids = longer;
            let offsets = batch.encoded.offsets.iter_mut().skip(1);
            offsets.for_each(|offset| *offset += 3000);
        }
        batch
    };
    let whole = Case::new(DLRM, SGD, Precision::Fp32, 1);
    let mut alone = whole.on_cpu();
    let expected: Vec<f64> = (1..=5)
        .map(|step| {
            alone
                .step(&grown(&whole, step), None, step, false)
                .unwrap()
                .loss
        })
        .collect();
    let case = Case::new(DLRM, SGD, Precision::Fp32, 1).with_tables(placement, 2);
    for (knows_next, predicts) in [(true, false), (false, false), (true, true)] {
        let losses = on_ranks(2, |comm| {
            let mut trainer = case.on_device_of(&comm);
            let part = |step| part_of(&grown(&case, step), &case.schema, comm.rank(), 2);
            let step = |step| {
                let next = knows_next.then(|| part(step + 1));
                let outcome = trainer.step(&part(step), next.as_ref(), step, false);
                if predicts && step == 1 {
                    // Room is made for it while another batch is on its way.
                    trainer.predict(&part(3), &mut Vec::new()).unwrap();
                }
                outcome.unwrap().loss
            };
            (1..=5).map(step).collect::<Vec<f64>>()
        });
        for (got, expected) in losses[0].iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-3, "{got} {expected}");
        }
    }
}

#[test]
fn rows_and_columns_of_tables_on_several_devices_equal_one() {
    // Feature `c1` looks up `b` as a mean.
    let rows = "[tables.a]\nplacement = 'row_wise'\n[tables.b]\nplacement = 'table_wise'\n";
    for ranks in [2, 3] {
        sharded_devices_equal_one(DLRM, ADAM, Precision::Fp32, (rows, ranks));
    }
    sharded_devices_equal_one(DCN, ADAM, Precision::Fp16, (rows, 2));
    let columns = "placement = 'column_wise'\n";
    sharded_devices_equal_one(DLRM, LAZY, Precision::Fp32, (columns, 2));
    sharded_devices_equal_one(DCN, SGD, Precision::Bf16, (columns, 4));
}

/// The mean over a bag whose rows several devices hold is that of the whole bag.
#[test]
fn means_over_rows_of_several_devices_equal_one() {
    let rows = "placement = 'row_wise'\n";
    sharded_devices_equal_one(DLRM, ADAM, Precision::Fp32, (rows, 3));
    sharded_devices_equal_one(MIXED, ADAM, Precision::Fp16, (rows, 2));
    sharded_devices_equal_one(WIDE_DEEP, LAZY, Precision::Bf16, (rows, 2));
}

#[test]
fn whole_rows_are_updated_where_devices_hold_their_columns() {
    let columns = "placement = 'column_wise'\n";
    sharded_devices_equal_one(DLRM, WHOLE_ROWS, Precision::Fp32, (columns, 3));
    sharded_devices_equal_one(DCN, WHOLE_ROWS, Precision::Fp16, (columns, 2));
    // Tables of whole rows lie beside those of columns; wide ones, of one column, are table-wise.
    sharded_devices_equal_one(WIDE_DEEP, WHOLE_ROWS, Precision::Fp32, (columns, 2));
    sharded_devices_equal_one(DLRM, WHOLE_ROWS, Precision::Bf16, (MIXED_PLACEMENTS, 2));
}

/// Vectors and gradients are rounded on their way, each as the plan says.
#[test]
fn what_travels_in_halves_is_near_what_does_not() {
    for (precision, vectors, gradients, tolerance) in [
        (Precision::Fp32, "bf16", "bf16", 2e-3),
        (Precision::Fp32, "fp16", "fp16", 2e-4),
        (Precision::Fp32, "fp32", "fp16", 2e-4),
        (Precision::Bf16, "fp16", "bf16", 2e-2),
    ] {
        let exchange = if vectors == "bf16" {
            "unique"
        } else {
            "pooled"
        };
        let halves = format!("vectors = '{vectors}'\ngradients = '{gradients}'\n");
        let losses = [halves.as_str(), ""].map(|halves| {
            let placement = format!("exchange = '{exchange}'\n{halves}{MIXED_PLACEMENTS}");
            let case = Case::new(DLRM, ADAM, precision, 1).with_tables(&placement, 2);
            devices_are_near_one_cpu(&placement, &case, 2, tolerance)
        });
        assert_ne!(
            losses[0], losses[1],
            "{vectors} {gradients}: something is rounded"
        );
    }
}

#[test]
fn micro_batches_with_sharded_tables_make_the_step_of_the_whole_batch() {
    for (model, optimizer, precision, place, accumulate) in [
        (DLRM, LAZY, Precision::Fp32, (BOTH, 2), 2),
        (MIXED, WHOLE_ROWS, Precision::Fp32, (MIXED_PLACEMENTS, 2), 3),
        (DEEPFM, ADAM, Precision::Fp16, (MIXED_PLACEMENTS, 2), 2),
        (WIDE_DEEP, ADAM, Precision::Bf16, (ONE, 2), 2),
    ] {
        pieces_of_sharded_devices_equal_one(model, optimizer, precision, place, accumulate);
    }
}

/// Each distinct id travels once; rows are pooled where they are used.
#[test]
fn rows_that_travel_once_equal_whole_tables() {
    let beside = "[tables.a]\nplacement = 'row_wise'\nexchange = 'unique'\n[tables.b]\nplacement = 'table_wise'\n";
    let all = |placement: &str| format!("placement = '{placement}'\nexchange = 'unique'\n");
    let [tables, rows, columns] = ["table_wise", "row_wise", "column_wise"].map(all);
    for (model, optimizer, precision, placement, ranks, accumulate) in [
        (DLRM, ADAM, Precision::Fp32, &*tables, 2, 1),
        (MIXED, ADAM, Precision::Fp32, &*rows, 3, 1),
        (DCN, WHOLE_ROWS, Precision::Fp32, &*columns, 2, 2),
        (WIDE_DEEP, LAZY, Precision::Bf16, &*rows, 2, 1),
        (DEEPFM, ADAM, Precision::Fp16, &*tables, 2, 3),
        (LOW_RANK, WHOLE_ROWS, Precision::Fp32, beside, 2, 1),
    ] {
        let place = (placement, ranks);
        pieces_of_sharded_devices_equal_one(model, optimizer, precision, place, accumulate);
    }
}
