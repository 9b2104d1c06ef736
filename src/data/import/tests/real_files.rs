//! The files as their authors publish them. They are not part of the repository: set
//! `STREAMREC_DATA` to the folder that holds them, or put it at `shared/data` beside the workspace.

use super::*;

fn data(part: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    let folder = std::env::var_os("STREAMREC_DATA")
        .map_or_else(beside, PathBuf::from)
        .join(part);
    if folder.exists() {
        return Some(folder);
    }
    println!(
        "skipped: there is no {}; set STREAMREC_DATA to the folder of the real files",
        folder.display()
    );
    None
}

fn imported(importer: &str, input: &Path) -> (ImportReport, TempDir) {
    let output = tempfile::tempdir().expect("a folder");
    let schema = formats::detect(importer, input).unwrap_or_else(|error| panic!("{error}"));
    let settings = ImportSettings::new(schema, input, output.path().join("out"));
    (
        run(&settings).unwrap_or_else(|error| panic!("{error}")),
        output,
    )
}

fn share(column: &RawColumn) -> f64 {
    let RawColumn::Dense(values) = column else {
        panic!("not dense")
    };
    values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64
}

fn dense(column: RawColumn) -> Vec<f32> {
    match column {
        RawColumn::Dense(values) => values,
        _ => panic!("not dense"),
    }
}

#[test]
fn kuairand_is_whole_and_in_order_of_time() {
    let Some(input) = data("kuairand-pure") else {
        return;
    };
    let (report, _output) = imported("kuairand", &input);
    let dataset = &report.dataset;
    assert_eq!((report.rows, report.malformed), (171_805, 0));
    assert_eq!(rows(dataset), [137_444, 17_180, 17_181]);
    assert_eq!(
        report.unmatched,
        [("users".to_owned(), 0), ("videos".to_owned(), 0)]
    );
    let clicks: f32 = dense(all_splits(dataset, "is_click")).iter().sum();
    assert_eq!(clicks, 76_144.0);
    let RawColumn::Time(times) = all_splits(dataset, "time") else {
        panic!("not a time")
    };
    assert!(times.is_sorted());
    // Every impression of the busiest user but the last is seen by the last.
    let RawColumn::Key(users) = all_splits(dataset, "user_id") else {
        panic!("not a key")
    };
    let (impressions, clicked) = (
        dense(all_splits(dataset, "user_impressions")),
        dense(all_splits(dataset, "user_clicks")),
    );
    let busiest: Vec<_> = (0..users.len())
        .filter(|row| users[*row] == 26_469)
        .collect();
    let last = busiest
        .iter()
        .copied()
        .max_by_key(|row| times[*row])
        .expect("rows");
    let clicks = dense(all_splits(dataset, "is_click"));
    let earlier = busiest.iter().filter(|row| times[**row] < times[last]);
    assert_eq!(impressions[last], earlier.clone().count() as f32);
    assert_eq!(clicked[last], earlier.map(|row| clicks[*row]).sum::<f32>());
    let ages = dense(all_splits(dataset, "video_age_days"));
    assert!(
        ages.iter().all(|days| (13.0..26.0).contains(days)),
        "uploaded 9 to 11 April, seen until 4 May"
    );
}

#[test]
fn goodbooks_keeps_each_users_last_ratings_for_judging() {
    let Some(input) = data("goodbooks-10k") else {
        return;
    };
    let (report, _output) = imported("goodbooks", &input);
    assert_eq!((report.rows, report.malformed), (237_470, 0));
    assert_eq!(report.unmatched, [("books".to_owned(), 0)]);
    let liked = share(&all_splits(&report.dataset, "liked"));
    assert!((0.67..0.69).contains(&liked), "{liked}");
    let [train, valid, test] = rows(&report.dataset);
    assert!(
        train + valid + test == 237_470 && valid == test,
        "{train} {valid} {test}"
    );
    for leak in ["average_rating", "ratings_count", "rating"] {
        assert!(report.dataset.column(leak).is_err(), "{leak}");
    }
}

#[test]
fn open_bandit_has_ten_thousand_rows_a_policy_and_campaign() {
    for (policy, campaign, items) in [
        ("random", "men", 34),
        ("random", "women", 46),
        ("bts", "men", 34),
        ("bts", "women", 46),
    ] {
        let Some(input) = data(&format!("open-bandit/{policy}/{campaign}")) else {
            return;
        };
        let (report, _output) = imported("open-bandit", &input);
        assert_eq!(
            (report.rows, report.malformed),
            (10_000, 0),
            "{policy}/{campaign}"
        );
        let affinities = report
            .dataset
            .columns
            .iter()
            .filter(|column| column.name.starts_with("affinity_"));
        assert_eq!(affinities.count(), items);
        assert!(
            report.dataset.input_column("propensity_score").is_err(),
            "never a feature"
        );
        if policy == "random" {
            let chance = share(&all_splits(&report.dataset, "propensity_score"));
            assert!((chance - 1.0 / items as f64).abs() < 1e-6, "{chance}");
        }
    }
}

#[test]
fn oulad_goes_through_a_schema_file() {
    let Some(input) = data("oulad") else { return };
    // A prefix: the whole file takes a release build.
    let part = tempfile::tempdir().expect("a folder");
    let mut contents =
        super::super::files::open(&input.join("studentVle.csv.zst"), &Default::default())
            .expect("opened");
    let mut bytes = vec![0; 1 << 20];
    std::io::Read::read_exact(&mut contents.reader, &mut bytes).expect("read");
    let end = bytes
        .iter()
        .rposition(|byte| *byte == b'\n')
        .expect("a line")
        + 1;
    let lines = bytes[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
    std::fs::write(part.path().join("studentVle.csv"), &bytes[..end]).expect("written");
    for side in ["vle.csv", "courses.csv"] {
        std::fs::copy(input.join(side), part.path().join(side)).expect("copied");
    }
    let schema = ImportSchema::load(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/schemas/oulad.toml"),
    );
    let schema = schema.unwrap_or_else(|error| panic!("{error}"));
    let report = run(&ImportSettings::new(
        schema,
        part.path(),
        part.path().join("out"),
    ))
    .expect("imported");
    assert_eq!((report.rows, report.malformed), (lines - 1, 0));
    let RawColumn::Time(days) = all_splits(&report.dataset, "time") else {
        panic!("not a time")
    };
    assert!(
        days.is_sorted() && days[0] < 0,
        "students come before the course begins"
    );
}
