//! 1, 2, 3 and 4 ranks on the same global batches train the same model.

use crate::workbench::Workbench;

const SETTINGS: [&str; 4] = [
    "train.global_batch=509",
    "train.max_steps=16",
    "train.log_every_steps=1",
    "parallel.first_bucket_bytes=4096",
];

fn losses(bench: &Workbench, run: &str) -> Vec<f64> {
    let records = bench.records(run, "train");
    records
        .iter()
        .map(|record| record["loss"].as_f64().expect("a loss"))
        .collect()
}

fn agree(config: &str) {
    let bench = Workbench::with_events(12_000);
    bench.launch(1, config, "run-1", &SETTINGS);
    let alone = losses(&bench, "run-1");
    assert_eq!(alone.len(), 16);
    assert!(alone[15] < alone[0], "it learns: {alone:?}");
    for ranks in [2, 3, 4] {
        let run = format!("run-{ranks}");
        bench.launch(ranks, config, &run, &SETTINGS);
        for (step, (one, many)) in alone.iter().zip(losses(&bench, &run)).enumerate() {
            let difference = (one - many).abs();
            assert!(
                difference < 2e-5,
                "{ranks} ranks, step {}: {one} and {many}",
                step + 1
            );
        }
        let auc = |run: &str| {
            bench.records(run, "valid/click")[0]["auc"]
                .as_f64()
                .expect("AUC")
        };
        let (one, many) = (auc("run-1"), auc(&run));
        assert!(
            (one - many).abs() < 1e-4,
            "{ranks} ranks: AUC {one} and {many}"
        );
    }
}

#[test]
fn ranks_agree_on_dlrm() {
    agree("synthetic_dlrm.toml");
}

#[test]
fn ranks_agree_on_dcn_v2() {
    agree("synthetic_dcn_v2.toml");
}

#[test]
fn ranks_agree_on_deepfm() {
    agree("synthetic_deepfm.toml");
}

#[test]
fn ranks_agree_on_wide_deep_with_two_labels() {
    agree("synthetic_wide_deep.toml");
}

#[test]
fn pieces_of_a_batch_train_the_model_of_the_whole() {
    let bench = Workbench::with_events(12_000);
    bench.launch(1, "synthetic_dlrm.toml", "whole", &SETTINGS);
    for placement in ["replicated", "table_wise", "row_wise"] {
        let placed = format!("parallel.embeddings.placement={placement}");
        let pieces = [&SETTINGS[..], &["train.accumulate=3", &placed]].concat();
        bench.launch(2, "synthetic_dlrm.toml", placement, &pieces);
        for (whole, pieces) in losses(&bench, "whole")
            .iter()
            .zip(losses(&bench, placement))
        {
            let difference = (whole - pieces).abs();
            assert!(difference < 2e-5, "{placement}: {whole} and {pieces}");
        }
    }
}
