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

/// Times the operations of a trainer that is alone, on `graph`, with these batches; it is trained by that. Where its
/// tables are placed so that it exchanges them with itself, what an exchange costs is told too.
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
    let subscriber = tracing_subscriber::registry().with(recorder);
    let context = trainer.context().clone();
    // On a thread of the pool, where passes run: others do not hear of a thread's own subscriber.
    let report = context
        .install(|| with_default(subscriber, || windows(trainer, batches, together, &profile)))?;
    Ok(split(&report, graph))
}

/// The median of some windows of steps.
fn windows(
    trainer: &mut Trainer,
    batches: &[Batch],
    together: &Barrier,
    profile: &Profile,
) -> Result<ProfileReport, TrainError> {
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
    let mut reports = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        together.wait();
        profile.start();
        outcome = outcome.and_then(|()| run(WINDOW_STEPS));
        reports.push(profile.finish(WINDOW_STEPS));
    }
    reports.sort_by(|a, b| a.step_ms.total_cmp(&b.step_ms));
    outcome.map(|()| reports.swap_remove(WINDOWS / 2))
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
    let exchanged = sum(&|name| name == "read ids") > 0.0;
    let of_nodes = sum(&|name| of_lookups(name, "forward "));
    // Where tables are exchanged, the layer only puts vectors in their place.
    let lookup_s = match exchanged {
        true => sum(&|name| name == "look up ids of all ranks"),
        false => of_nodes,
    };
    let copied_s = if exchanged { of_nodes } else { 0.0 };
    let ids_s = sum(&|name| ["send ids", "read ids"].contains(&name));
    let packing = [
        "send vectors",
        "fetch vectors",
        "send gradients",
        "read gradients",
    ];
    let packed_s = copied_s + sum(&|name| packing.contains(&name));
    let update_s = sum(&|name| {
        let tables = ["group ids by row", "sum table gradients", "update tables"];
        tables.contains(&name) || of_lookups(name, "backward ")
    });
    OperationTimes {
        dense_s: report.step_ms / 1e3 - lookup_s - update_s - ids_s - packed_s,
        lookup_s,
        update_s,
        ids_s,
        packed_s,
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
            device: Vec::new(),
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
        assert_eq!((times.ids_s, times.packed_s), (0.0, 0.0));

        // The same exchanged: the layer copies, and others look up.
        let mut exchanged = report.clone();
        let of_exchange = [
            ("send ids", 0.5),
            ("read ids", 0.5),
            ("look up ids of all ranks", 6.0),
            ("send vectors", 1.0),
            ("fetch vectors", 2.0),
            ("send gradients", 3.0),
            ("read gradients", 1.0),
        ];
        exchanged.step_ms += 14.0;
        let of_exchange = of_exchange.map(|(name, ms)| (name.to_owned(), ms));
        exchanged.operations.extend(of_exchange);
        let times = split(&exchanged, &graph);
        let found = [
            times.dense_s,
            times.lookup_s,
            times.update_s,
            times.ids_s,
            times.packed_s,
        ];
        for (found, expected) in found.into_iter().zip([11e-3, 6e-3, 13e-3, 1e-3, 9e-3]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }
}
