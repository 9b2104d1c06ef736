use streamrec_artifact::{Activation, FeatureSchema, Graph, LookupSpec, Pooling};
use streamrec_kernels::embedding_bag::RowGradients;

use super::{
    fixture::{Batch, Model, schema},
    oracle::Oracle,
};
use crate::model::{GraphBuilder, KeepGradients, SumScratch, Value};

/// Holds logits, loss and the gradient of every weight, table rows included, against the oracle.
pub(crate) fn check_gradients(graph: &Graph, schema: &FeatureSchema) {
    const ROWS: usize = 5;
    let mut model = Model::new(graph, schema, ROWS + 2);
    let batch = Batch::random(schema, ROWS, 5);
    let weight_sum = 2.0 * batch.weight_sum();
    let loss = model
        .pass(&batch, weight_sum, false, &mut KeepGradients)
        .unwrap();
    let mut oracle = Oracle::new(graph, schema, &model.parameters);

    let logits = model.network.logits();
    for row in 0..ROWS {
        close("logits", logits.row(row), &oracle.logits(&batch, row));
    }
    close("loss", &[loss as f32], &[oracle.loss(&batch, weight_sum)]);
    for placed in model.parameters.layout().parameters() {
        let name = &placed.parameter.name;
        let gradient = model
            .parameters
            .gradients()
            .get(model.parameters.find(name).unwrap());
        close(
            name,
            gradient.unwrap(),
            &oracle.gradient(name, &batch, weight_sum),
        );
    }
    for (id, table) in model.parameters.tables() {
        let (name, dim) = (&table.parameter.name, table.dim());
        let (mut sum, mut scratch) = (RowGradients::default(), SumScratch::default());
        let Model {
            context,
            parameters,
            network,
            ..
        } = &model;
        network
            .sum_table_gradient(context, parameters, id, &mut scratch, &mut sum)
            .unwrap();
        let mut dense = vec![0.0; table.parameter.len()];
        for (&row, gradient) in sum.ids.iter().zip(sum.rows.chunks(dim)) {
            dense[row as usize * dim..][..dim].copy_from_slice(gradient);
        }
        close(name, &dense, &oracle.gradient(name, &batch, weight_sum));
    }
}

fn close(what: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0.0f64, |scale, x| scale.max(x.abs()));
    assert!(scale.is_finite(), "{what}");
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(got) - expected).abs();
        assert!(
            error <= 2e-6 + 2e-5 * scale,
            "{what}[{index}]: got {got}, expected {expected}, largest {scale}"
        );
    }
}

/// Three categorical features of two tables, three dense ones.
fn features(labels: usize) -> FeatureSchema {
    schema(3, &[("a", 7), ("b", 5), ("a", 7)], labels)
}

fn check(labels: usize, build: impl Fn(&mut GraphBuilder<'_>) -> Value) {
    let schema = features(labels);
    let mut graph = GraphBuilder::new(&schema);
    let last = build(&mut graph);
    let logits = graph.logits("logits", last);
    check_gradients(&graph.finish(logits).unwrap(), &schema);
}

#[test]
fn linear_layers_with_and_without_bias() {
    check(1, |graph| {
        let dense = graph.dense();
        let hidden = graph.linear("first", dense, 4, false, Activation::Relu);
        let hidden = graph.linear("second", hidden, 3, true, Activation::None);
        graph.mlp("deep", hidden, &[7, 5])
    });
}

#[test]
fn pooled_embeddings_of_shared_tables() {
    check(2, |graph| {
        graph.embeddings("embeddings", |table| if table.name == "a" { 3 } else { 5 })
    });
}

#[test]
fn a_dot_interaction() {
    check(1, |graph| {
        let embeddings = graph.embeddings("embeddings", |_| 5);
        graph.dot_interaction("interaction", embeddings, 5)
    });
}

#[test]
fn full_cross_layers_share_x0() {
    check(1, |graph| {
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 2));
        let x0 = graph.concat("x0", &[dense, embeddings]);
        let x1 = graph.cross("cross.0", x0, x0);
        let x2 = graph.cross("cross.1", x0, x1);
        graph.cross("cross.2", x0, x2)
    });
}

#[test]
fn low_rank_cross_layers_share_x0() {
    check(1, |graph| {
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 3));
        let x0 = graph.concat("x0", &[dense, embeddings]);
        let x1 = graph.cross_low_rank("cross.0", x0, x0, 2);
        graph.cross_low_rank("cross.1", x0, x1, 3)
    });
}

#[test]
fn a_cross_of_two_parts_of_one_buffer() {
    check(1, |graph| {
        let dense = graph.dense();
        let left = graph.linear("left", dense, 4, true, Activation::None);
        let right = graph.linear("right", dense, 4, true, Activation::None);
        let both = graph.concat("both", &[left, right]);
        let product = graph.cross("cross", left, right);
        graph.concat("all", &[both, product])
    });
}

#[test]
fn a_cross_of_the_batch_itself() {
    check(1, |graph| {
        let dense = graph.dense();
        graph.cross("cross", dense, dense)
    });
}

#[test]
fn a_factorization_machine_beside_a_deep_network() {
    check(1, |graph| {
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
        let input = graph.concat("input", &[dense, embeddings]);
        let deep = graph.mlp("deep", input, &[6, 3]);
        // Reads a part of `input` after `deep` has: its gradient arrives first.
        let second = graph.factorization_machine("fm", embeddings, 4);
        graph.concat("both", &[deep, second])
    });
}

#[test]
fn sums_over_features_and_broadcast_additions() {
    check(2, |graph| {
        let embeddings = graph.embeddings("embeddings", |_| 3);
        let sum = graph.sum_features("sum", embeddings, 3);
        let scalar = graph.factorization_machine("fm", embeddings, 3);
        let twice = graph.add("twice", &[sum, scalar, sum]);
        graph.add("again", &[scalar, twice])
    });
}

#[test]
fn one_value_concatenated_twice() {
    check(1, |graph| {
        let embeddings = graph.embeddings("embeddings", |_| 2);
        let twice = graph.concat("twice", &[embeddings, embeddings]);
        graph.mlp("deep", twice, &[4])
    });
}

#[test]
fn concatenations_inside_concatenations() {
    check(1, |graph| {
        let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 2));
        let hidden = graph.mlp("bottom", dense, &[3]);
        let inner = graph.concat("inner", &[hidden, embeddings]);
        let deeper = graph.mlp("deeper", hidden, &[2]);
        let outer = graph.concat("outer", &[dense, inner, deeper, inner]);
        graph.mlp("top", outer, &[5])
    });
}

#[test]
fn a_layer_concatenated_with_what_it_reads() {
    check(1, |graph| {
        let dense = graph.dense();
        let first = graph.mlp("first", dense, &[4]);
        let second = graph.mlp("second", first, &[3]);
        graph.concat("both", &[first, second])
    });
}

#[test]
fn a_table_that_two_nodes_look_up() {
    check(1, |graph| {
        graph.table("a", "a", 3);
        let lookup = |feature: &str, pooling| {
            vec![LookupSpec {
                feature: feature.into(),
                table: "a".into(),
                pooling,
            }]
        };
        let one = graph.embedding_bag("one", lookup("c0", Pooling::Mean));
        let two = graph.embedding_bag("two", lookup("c2", Pooling::Sum));
        let again = graph.embedding_bag("again", lookup("c0", Pooling::Sum));
        graph.concat("all", &[one, two, again])
    });
}

#[test]
fn towers_whose_logits_are_concatenated() {
    let schema = features(2);
    let mut graph = GraphBuilder::new(&schema);
    let embeddings = graph.embeddings("embeddings", |_| 2);
    let towers = ["one", "two"].map(|name| {
        let hidden = graph.mlp(&format!("{name}.deep"), embeddings, &[4]);
        graph.linear(&format!("{name}.logit"), hidden, 1, true, Activation::None)
    });
    let logits = graph.concat("logits", &towers);
    check_gradients(&graph.finish(logits).unwrap(), &schema);
}
