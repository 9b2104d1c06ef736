use streamrec_artifact::{FeatureSchema, Graph};
use streamrec_kernels::embedding_bag::RowGradients;

use super::fixture::{Batch, Model, schema};
use crate::{
    comm::SingleRank,
    model::{
        GradientSink, Gradients, GraphBuilder, KeepGradients, MicroBatch, ModelError, ParamId,
        SumScratch,
    },
};

fn model() -> (Graph, FeatureSchema) {
    let schema = schema(3, &[("a", 7), ("b", 300), ("a", 7)], 2);
    let mut graph = GraphBuilder::new(&schema);
    let (dense, embeddings) = (graph.dense(), graph.embeddings("embeddings", |_| 4));
    let bottom = graph.mlp("bottom", dense, &[8, 4]);
    let features = graph.concat("features", &[bottom, embeddings]);
    let interaction = graph.dot_interaction("interaction", features, 4);
    let top = graph.mlp("top", interaction, &[16]);
    let logits = graph.logits("logits", top);
    (graph.finish(logits).unwrap(), schema)
}

/// All gradients after a pass: dense ones by parameter, then those of tables.
fn gradients(model: &Model) -> Vec<f32> {
    let parameters = &model.parameters;
    let mut all = Vec::new();
    for placed in parameters.layout().parameters() {
        let id = parameters.find(&placed.parameter.name).unwrap();
        all.extend_from_slice(parameters.gradients().get(id).unwrap());
    }
    for (id, _) in parameters.tables() {
        let (mut sum, mut scratch) = (RowGradients::default(), SumScratch::default());
        let (context, network) = (&model.context, &model.network);
        network
            .sum_table_gradient(context, parameters, id, &mut scratch, &mut sum)
            .unwrap();
        all.extend(sum.rows);
    }
    all
}

#[test]
fn a_pass_repeats_to_the_bit_on_any_number_of_threads() {
    let (graph, schema) = model();
    let batch = Batch::random(&schema, 700, 1);
    let run = |threads| {
        let mut model = Model::on(&graph, &schema, 700, &SingleRank, threads);
        let mut once = || {
            let loss = model
                .pass(&batch, 700.0, false, &mut KeepGradients)
                .unwrap();
            (
                loss.to_bits(),
                gradients(&model)
                    .iter()
                    .map(|g| g.to_bits())
                    .collect::<Vec<_>>(),
            )
        };
        let first = once();
        assert!(first == once());
        first
    };
    assert!(run(1) == run(2));
}

#[test]
fn micro_batches_add_up_to_the_batch() {
    let (graph, schema) = model();
    let batch = Batch::random(&schema, 13, 2);
    let weight_sum = batch.weight_sum();
    let mut whole = Model::new(&graph, &schema, 13);
    let loss = whole
        .pass(&batch, weight_sum, false, &mut KeepGradients)
        .unwrap();
    let mut pieces = Model::new(&graph, &schema, 5);
    let mut sum = 0.0;
    for index in 0..3 {
        let rows = MicroBatch::rows(index, 3, 13);
        let piece = batch.slice(rows.clone(), rows.len());
        // The cut is what the slice is, without making a new batch.
        let mut cut = MicroBatch::default();
        let cut = cut.cut(&batch.input(), rows);
        assert_eq!(cut.bags.ids, piece.input().bags.ids);
        assert_eq!(cut.bags.offsets, piece.input().bags.offsets);
        sum += pieces
            .pass(&piece, weight_sum, index > 0, &mut KeepGradients)
            .unwrap();
    }
    assert!((sum - loss).abs() < 1e-6);
    for placed in whole.parameters.layout().parameters() {
        let id = whole.parameters.find(&placed.parameter.name).unwrap();
        let expected = whole.parameters.gradients().get(id).unwrap();
        let got = pieces.parameters.gradients().get(id).unwrap();
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{}", placed.parameter.name);
        }
    }
}

#[test]
fn gradients_are_announced_in_the_order_of_buckets_each_once() {
    struct Log(Vec<(usize, ParamId)>);
    impl GradientSink for Log {
        fn ready(&mut self, gradients: &mut Gradients, id: ParamId) -> Result<(), ModelError> {
            self.0.push((gradients.layout().get(id).bucket, id));
            Ok(())
        }
    }
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 4);
    let mut log = Log(Vec::new());
    model
        .pass(&Batch::random(&schema, 4, 3), 4.0, false, &mut log)
        .unwrap();
    assert!(log.0.is_sorted_by_key(|(bucket, _)| *bucket));
    let ids: Vec<usize> = log.0.iter().map(|(_, id)| id.index()).collect();
    let count = model.parameters.layout().parameters().len();
    assert_eq!(ids, (0..count).rev().collect::<Vec<_>>());
    assert!(
        log.0.last().unwrap().0 > 1,
        "the test needs several buckets"
    );
}

#[test]
fn scores_are_the_probabilities_of_the_loss() {
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 6);
    let batch = Batch::random(&schema, 6, 4);
    model.pass(&batch, 6.0, false, &mut KeepGradients).unwrap();
    let mut scores = vec![0.0; 12];
    let Model {
        context,
        parameters,
        network,
        loss,
    } = &mut model;
    network
        .scores(context, parameters, &batch.input(), &mut scores)
        .unwrap();
    assert_eq!(scores, loss.probabilities());
    assert!(
        network
            .scores(context, parameters, &batch.input(), &mut scores[..6])
            .is_err()
    );
}

#[test]
fn padding_changes_nothing() {
    let (graph, schema) = model();
    let batch = Batch::random(&schema, 6, 4);
    let run = |batch: &Batch| {
        let mut model = Model::new(&graph, &schema, 9);
        let loss = model.pass(batch, 6.0, false, &mut KeepGradients).unwrap();
        (loss, gradients(&model))
    };
    let (plain, padded) = (run(&batch), run(&batch.slice(0..6, 9)));
    assert!((plain.0 - padded.0).abs() < 1e-12);
    assert_eq!(plain.1.len(), padded.1.len());
    assert!(
        plain
            .1
            .iter()
            .zip(&padded.1)
            .all(|(a, b)| (a - b).abs() < 1e-7)
    );
}

#[test]
fn a_batch_that_does_not_fit_is_refused() {
    let (graph, schema) = model();
    let mut model = Model::new(&graph, &schema, 4);
    let mut refused = |batch: &Batch| {
        let error = model
            .pass(batch, 4.0, false, &mut KeepGradients)
            .unwrap_err();
        error.to_string()
    };
    let larger = refused(&Batch::random(&schema, 5, 1));
    assert!(
        larger.contains("number of samples is 5, expected at most 4"),
        "{larger}"
    );
    let fewer = super::fixture::schema(2, &[("a", 7), ("b", 300), ("a", 7)], 2);
    let fewer = refused(&Batch::random(&fewer, 4, 1));
    assert!(fewer.contains("dense features is 2, expected 3"), "{fewer}");
    let wide = super::fixture::schema(3, &[("a", 900), ("b", 900), ("a", 900)], 2);
    let outside = refused(&Batch::random(&wide, 4, 1));
    assert!(
        outside.contains("node `embeddings` failed in its forward pass"),
        "{outside}"
    );
}
