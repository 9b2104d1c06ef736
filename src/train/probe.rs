use std::sync::Barrier;

use streamrec_artifact::{Graph, Op};
use tracing::subscriber::with_default;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

use super::{Profile, ProfileReport, Recorder, TrainError, Trainer};
use crate::data::Batch;
use crate::parallel::planner::OperationTimes;

const WARM_UP_STEPS: u64 = 2;
const WINDOWS: usize = 3;
const WINDOW_STEPS: u64 = 3;

/// Times the operations of a trainer that is alone, on `graph`, with these batches; it is trained by that.
/// Probes that meet at `together` begin their windows at the same time, so that each sees what the others leave
/// of the machine.
///
/// # Errors
/// As [`Trainer::step`].
pub fn operation_times(
    trainer: &mut Trainer,
    graph: &Graph,
    batches: &[Batch],
    together: &Barrier,
) -> Result<OperationTimes, TrainError> {
    let profile = Profile::new();
    let recorder = profile.recorder().with_filter(filter_fn(Recorder::wants));
    let mut fastest: Option<ProfileReport> = None;
    with_default(tracing_subscriber::registry().with(recorder), || {
        let mut step = 0;
        let mut run = |steps| {
            (0..steps).try_for_each(|_| {
                step += 1;
                let batch = &batches[step as usize % batches.len()];
                trainer.step(batch, None, step, false).map(drop)
            })
        };
        // A probe that failed must not leave the others at the barrier.
        let mut outcome = run(WARM_UP_STEPS);
        for _ in 0..WINDOWS {
            together.wait();
            profile.start();
            outcome = outcome.and_then(|()| run(WINDOW_STEPS));
            let report = profile.finish(WINDOW_STEPS);
            if fastest
                .as_ref()
                .is_none_or(|best| report.step_ms < best.step_ms)
            {
                fastest = Some(report);
            }
        }
        outcome
    })?;
    Ok(fastest
        .map(|report| split(&report, graph))
        .unwrap_or_default())
}

fn split(report: &ProfileReport, graph: &Graph) -> OperationTimes {
    let is_lookup = |node: &&streamrec_artifact::Node| matches!(node.op, Op::EmbeddingBag { .. });
    let lookups: Vec<&str> = graph
        .nodes
        .iter()
        .filter(is_lookup)
        .map(|node| node.name.as_str())
        .collect();
    let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        let operations = report.operations.iter();
        let own = operations.filter(|(name, _)| wanted(name));
        own.map(|(_, ms)| ms / 1e3).sum()
    };
    let of_lookups = |name: &str, pass: &str| {
        let node = name.strip_prefix(pass);
        node.is_some_and(|node| lookups.contains(&node))
    };
    let lookup_s = sum(&|name| of_lookups(name, "forward "));
    let update_s = sum(&|name| {
        let tables = ["group ids by row", "sum table gradients", "update tables"];
        tables.contains(&name) || of_lookups(name, "backward ")
    });
    OperationTimes {
        dense_s: report.step_ms / 1e3 - lookup_s - update_s,
        lookup_s,
        update_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GraphBuilder, tests::fixture::schema};

    #[test]
    fn every_operation_is_of_layers_or_of_tables() {
        let schema = schema(3, &[("a", 9)], 1);
        let mut graph = GraphBuilder::new(&schema);
        let embeddings = graph.embeddings("embeddings", |_| 4);
        let dense = graph.dense();
        let both = graph.concat("both", &[dense, embeddings]);
        let logits = graph.logits("logits", both);
        let graph = graph.finish(logits).expect("a graph");
        let operations = [
            ("forward embeddings", 2.0),
            ("forward logits", 3.0),
            ("backward embeddings", 1.0),
            ("backward logits", 5.0),
            ("group ids by row", 4.0),
            ("update tables", 8.0),
            ("update dense weights", 1.0),
        ];
        let report = ProfileReport {
            steps: 1,
            step_ms: 26.0,
            operations: operations.map(|(name, ms)| (name.to_owned(), ms)).into(),
            communication_ms: 0.0,
            waited_ms: 0.0,
        };
        let times = split(&report, &graph);
        assert!((times.lookup_s - 2e-3).abs() < 1e-12);
        assert!((times.update_s - 13e-3).abs() < 1e-12);
        assert!(
            (times.dense_s - 11e-3).abs() < 1e-12,
            "two of them between operations"
        );
    }
}
