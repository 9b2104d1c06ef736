//! Real data, where it is at hand: `STREAMREC_DATA`, or `../shared/data` beside the project.

use std::path::PathBuf;

use crate::workbench::{Workbench, expect_success, said, streamrec};

/// The folder of one real dataset; `None`, and a note, where it is not there.
fn real(name: &str) -> Option<String> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let root = std::env::var_os("STREAMREC_DATA").map_or(beside, PathBuf::from);
    let folder = root.join(name);
    if !folder.is_dir() {
        println!(
            "skipped: {} is not there; set STREAMREC_DATA",
            folder.display()
        );
        return None;
    }
    Some(folder.to_str().expect("UTF-8").to_owned())
}

/// Imports, trains on two ranks, and gives AUC and log loss on the later split.
fn trained(format: &str, folder: &str, config: &str, label: &str) -> (f64, f64) {
    let bench = imported(format, folder);
    trained_with(&bench, config, label, &[])
}

fn imported(format: &str, folder: &str) -> Workbench {
    let bench = Workbench::new();
    let data = bench.path("data");
    expect_success(&streamrec(&[
        "data", "import", "--format", format, folder, "--out", &data,
    ]));
    bench
}

/// AUC and log loss on the later split.
fn trained_with(bench: &Workbench, config: &str, label: &str, settings: &[&str]) -> (f64, f64) {
    let run = format!("run{}", settings.join("-"));
    bench.launch(2, config, &run, settings);
    let output = streamrec(&["evaluate", &bench.path(&run), "--json"]);
    expect_success(&output);
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let metrics = &found["labels"][label];
    let number = |name: &str| {
        metrics[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{}", said(&output)))
    };
    (number("auc"), number("log_loss"))
}

/// The bars are what logistic regression reaches on the same rates and split
/// (docs/benchmarks.md).
#[test]
fn a_ranker_of_kuairand_is_above_logistic_regression() {
    if let Some(folder) = real("kuairand-pure") {
        let (auc, log_loss) = trained("kuairand", &folder, "kuairand_dcn_v2.toml", "is_click");
        assert!(
            auc > 0.7415 && log_loss < 0.5902,
            "AUC {auc}, log loss {log_loss}"
        );
    }
}

#[test]
fn a_ranker_of_goodbooks_is_above_logistic_regression() {
    if let Some(folder) = real("goodbooks-10k") {
        let (auc, log_loss) = trained("goodbooks", &folder, "goodbooks_dcn_v2.toml", "liked");
        assert!(
            auc > 0.775 && log_loss < 0.528,
            "AUC {auc}, log loss {log_loss}"
        );
    }
}

#[test]
fn half_precision_learns_from_kuairand_what_fp32_learns() {
    let Some(folder) = real("kuairand-pure") else {
        return;
    };
    let bench = imported("kuairand", &folder);
    let auc = |precision: &str, tables: &str| {
        let settings = [
            "train.epochs=1".to_owned(),
            format!("train.precision={precision}"),
            format!("train.table_precision={tables}"),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        trained_with(&bench, "kuairand_dcn_v2.toml", "is_click", &settings).0
    };
    let full = auc("fp32", "fp32");
    assert!(full > 0.73, "it learns: {full}");
    for half in ["bf16", "fp16"] {
        for tables in ["fp32", half] {
            let found = auc(half, tables);
            assert!(
                (full - found).abs() < 1e-3,
                "{half}, tables in {tables}: AUC {found}, fp32 {full}"
            );
        }
    }
}
