//! Layers that a tensor-parallel group of devices shares.

use super::ranks::{on_ranks, part_of};
use super::sharded::{an_overflow_skips_the_step, devices_equal_one_cpu};
use super::*;
use crate::model::tests::tensor_parallel;
use crate::parallel::TensorPlan;

/// Every kind of layer that can be shared, on pairs of devices.
pub(super) fn shared(optimizer: &str, precision: Precision) -> Case {
    let (graph, schema) = tensor_parallel::model();
    let mut case = Case::of_graph(graph, schema, optimizer, precision);
    case.tp = 2;
    case.settings.partitions = tensor_parallel::partitions();
    case
}

#[test]
fn shared_layers_equal_whole_ones_on_every_mesh() {
    for (precision, ranks) in [
        (Precision::Fp32, 2),
        (Precision::Fp32, 4),
        (Precision::Fp16, 2),
        (Precision::Bf16, 4),
    ] {
        devices_equal_one_cpu("shared layers", &shared(ADAM, precision), ranks);
    }
}

/// The towers of a model, cut as the plan cuts them.
#[test]
fn towers_of_a_model_are_shared_in_pairs() {
    let model = "kind = 'dlrm'\nembedding_dim = 4\nbottom = [8, 4]\ntop = [8, 4]\n";
    let mut case = Case::new(model, LAZY, Precision::Fp32, 2);
    case.tp = 2;
    case.settings.partitions = TensorPlan::new(&case.graph, &BTreeMap::new()).partitions();
    devices_equal_one_cpu(model, &case, 2);
}

/// Each device of a group looks up a part of the samples, of which the last has fewer with an odd batch.
#[test]
fn shared_layers_beside_sharded_tables_equal_whole_ones() {
    let columns = "[tables.a]\nplacement = 'column_wise'\n[tables.b]\nplacement = 'row_wise'\n";
    let one = "placement = 'table_wise'\n";
    let unique = format!("exchange = 'unique'\n{columns}");
    for (precision, placement, ranks, accumulate) in [
        (Precision::Fp32, columns, 4, 1),
        (Precision::Fp32, one, 2, 3),
        (Precision::Fp32, &unique, 4, 1),
        (Precision::Fp16, one, 2, 1),
    ] {
        let mut case = shared(ADAM, precision).with_tables(placement, ranks);
        case.settings.accumulate = accumulate;
        devices_equal_one_cpu(placement, &case, ranks);
    }
}

#[test]
fn an_overflow_skips_the_step_on_all_ranks_of_a_mesh() {
    an_overflow_skips_the_step(&shared(ADAM, Precision::Fp16), 4);
}

/// Predictions are those of all ranks of a group.
#[test]
fn ranks_of_a_group_predict_alike() {
    let case = shared(SGD, Precision::Bf16);
    let predicted = on_ranks(2, |comm| {
        let (mut trainer, mut probabilities) = (case.on_device_of(&comm), Vec::new());
        let part = part_of(&case.batch(7), &case.schema, 0, 1);
        trainer.predict(&part, &mut probabilities).unwrap();
        probabilities
    });
    assert_eq!(predicted[0], predicted[1]);
}
