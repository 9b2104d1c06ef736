//! What goes wrong: lines, files, options, and imports that are stopped.

use std::io::Write;

use super::*;

const NUMBERS: &str = r#"
name = "numbers"
labels = [{ name = "y" }]
columns = [
  { name = "k", kind = "key", type = "text" },
  { name = "x", kind = "dense", type = "integer" },
]
source = { files = ["*.csv*"] }
split = { by = "all", into = "train" }
"#;

fn numbers(
    text: impl AsRef<[u8]>,
    max_malformed: f64,
) -> Result<(ImportReport, TempDir), ImportError> {
    let input = folder(&[("n.csv", text.as_ref())]);
    let mut settings = settings(&input, NUMBERS);
    settings.max_malformed = max_malformed;
    let report = run(&settings);
    if report.is_err() {
        let left: Vec<_> = std::fs::read_dir(input.path()).expect("listed").collect();
        assert_eq!(left.len(), 1, "nothing but the input is left: {left:?}");
    }
    Ok((report?, input))
}

#[test]
fn malformed_lines_are_counted_by_reason_and_told_with_their_place() {
    let text = b"k,x,y\na,1,1\nb,1\nc,many,0\nd,1,2\ne,99999999999999999999,1\n\xff,1,0\nf,,0\ng,1,\n\"h,1,0\ni,1,1\n";
    let (report, _input) = numbers(text, 0.9).expect("imported");
    assert_eq!((report.rows, report.lines, report.malformed), (3, 10, 7));
    let place = |line: usize, what: &str| {
        let told = report
            .first_malformed
            .iter()
            .find(|told| told.contains(&format!("n.csv:{line}: ")));
        assert!(
            told.is_some_and(|told| told.contains(what)),
            "line {line}: {told:?}"
        );
    };
    place(3, "expected 3 fields, got 2");
    place(4, "column `x` is not a 64-bit integer, got \"many\"");
    place(5, "column `y` is not 0 or 1");
    place(6, "column `x` is not a 64-bit integer");
    place(7, "column `k` is not valid UTF-8");
    place(9, "column `y` is missing");
    place(10, "a quote never closes");
    assert_eq!(report.dataset.provenance.malformed.values().sum::<u64>(), 7);
    assert_eq!(
        all_splits(&report.dataset, "x"),
        RawColumn::Dense(vec![1.0, f32::NAN, 1.0])
    );
}

#[test]
fn a_list_that_no_server_would_take_is_malformed() {
    let list = |length: usize| vec!["7"; length].join("|");
    let most = streamrec_artifact::LIST_LENGTH_MAX;
    let text = format!("k,y\n{},1\n{},0\n", list(most), list(most + 1));
    let input = folder(&[("n.csv", text.as_bytes())]);
    let schema = r#"
        name = "lists"
        labels = [{ name = "y" }]
        columns = [{ name = "k", kind = "key_list", type = "integer", separator = "|" }]
        source = { files = ["n.csv"] }
        split = { by = "all", into = "train" }
    "#;
    let mut settings = settings(&input, schema);
    settings.max_malformed = 0.5;
    let report = run(&settings).expect("imported");
    assert_eq!((report.rows, report.malformed), (1, 1));
    let first = &report.first_malformed[0];
    assert!(
        first.contains("n.csv:3: column `k` has more than 4096 elements"),
        "{first}"
    );
}

#[test]
fn too_many_malformed_lines_stop_the_import() {
    let mut text = String::from("k,x,y\n");
    for i in 0..5000 {
        text += if i % 100 == 99 { "bad\n" } else { "a,1,0\n" };
    }
    let error = numbers(&text, 0.005).expect_err("1 % are malformed");
    let ImportError::TooManyMalformed {
        malformed, lines, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(
        (malformed, lines),
        (10, 1000),
        "judged from line 1000 on, before the end"
    );
    assert_eq!(numbers(&text, 0.01).expect("imported").0.malformed, 50);
    assert!(
        numbers("k,x,y\nbad\na,1,0\n", 0.1).is_err(),
        "short files are judged at their end"
    );
}

#[test]
fn a_truncated_gzip_leaves_nothing() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"k,x,y\n").expect("memory");
    (0..9000).for_each(|i| writeln!(encoder, "{i},{},1", i * i).expect("memory"));
    let mut bytes = encoder.finish().expect("memory");
    bytes.truncate(bytes.len() / 2);
    let error = numbers(&bytes, 0.001).expect_err("half is missing");
    assert!(
        matches!(error, ImportError::Damaged { line: 100.., .. }),
        "{error}"
    );
}

#[test]
fn missing_fields_are_all_named() {
    let error = numbers("k,other\na,1\n", 0.1)
        .expect_err("x and y are missing")
        .to_string();
    assert!(
        error.contains("`x`, `y`") && error.contains("k, other"),
        "{error}"
    );
    assert!(matches!(
        numbers("k,x,y\n", 0.1),
        Err(ImportError::Empty { .. })
    ));
}

#[test]
fn every_fault_of_a_schema_is_told_at_once() {
    let text = r#"
        nam = "x"
        labels = [{ name = "y", at_least = 1, equals = "a" }]
        columns = [
          { name = "a", kind = "dense", type = "text" },
          { name = "b", kind = "key", type = "integer", colour = "red" },
          { name = "c", kind = "time", type = "timestamp", time_zone = "Mars/Crater" },
          { name = "y", kind = "key", type = "integer" },
        ]
        source = { files = [], quote = "''" }
        split = { by = "time", valid = 0.9, test = 0.9 }
        [[trailing]]
        keys = ["a", "z"]
    "#;
    let error = ImportSchema::parse(text, "my.toml")
        .expect_err("many faults")
        .to_string();
    for part in [
        "my.toml",
        "`nam`",
        "`name`: missing",
        "not both",
        "cannot hold a text",
        "colour",
        "needs one of s, ms",
        "Mars",
        "source.files",
        "source.quote",
        "[time] section",
        "shares from 0 to 1",
        "`z` is not in",
        "`count`, `sums`",
        "`y`: two columns",
    ] {
        assert!(error.contains(part), "{part} is not in:\n{error}");
    }
}

#[test]
fn a_label_that_is_no_number_is_malformed() {
    let schema = NUMBERS.replace("{ name = \"y\" }", "{ name = \"y\", at_least = 4 }");
    let input = folder(&[("n.csv", b"k,x,y\na,1,4.5\nb,1,nan\nc,1,inf\nd,1,3\n")]);
    let mut settings = settings(&input, &schema);
    settings.max_malformed = 0.9;
    let report = run(&settings).expect("imported");
    assert_eq!((report.rows, report.malformed), (2, 2));
    assert!(
        report.first_malformed[0].contains("n.csv:3: "),
        "{report:?}"
    );
}

#[test]
fn side_files_of_other_fields_are_refused() {
    let schema = SCHEMA.replace("\"items.csv*\"", "\"items_*.csv\"");
    for second in ["id,tags,price,made\nc,x,2,\n", "id,price\nc,2\n"] {
        let input = folder(&[
            ("clicks.csv", CLICKS.as_bytes()),
            ("items_1.csv", ITEMS.as_bytes()),
            ("items_2.csv", second.as_bytes()),
        ]);
        let error = run(&settings(&input, &schema)).expect_err("other fields");
        assert!(
            matches!(&error, ImportError::DifferentFields { path, .. } if path.ends_with("items_2.csv")),
            "{error}"
        );
    }
}

#[test]
fn a_table_is_joined_on_what_is_there_before_it() {
    for (on, expected) in [
        ("maker", "comes from table `makers`"),
        ("kind", "comes from table `items`"),
    ] {
        let text = SCHEMA
            .replace("[split]", "[[tables]]\nname = \"makers\"\non = [\"item\"]\nkey = [\"id\"]\nsource = { files = [\"makers.csv\"] }\n[split]")
            .replace("columns = [", "columns = [\n  { name = \"maker\", from = \"makers.maker\", kind = \"key\", type = \"text\" },\n  { name = \"kind\", from = \"items.kind\", kind = \"key\", type = \"text\" },")
            .replacen("on = [\"item\"]", &format!("on = [\"{on}\"]"), 1);
        let error = ImportSchema::parse(&text, "my.toml")
            .expect_err("joined too early")
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn rows_with_a_time_are_split_by_it() {
    let text = SCHEMA.replace("[split]\nby = \"time\"\nvalid = 0.25\ntest = 0.25\n", "");
    assert!(matches!(schema(&text).split, SplitSchema::Time { .. }));
    let untimed = NUMBERS.replace("split = { by = \"all\", into = \"train\" }", "");
    assert!(matches!(schema(&untimed).split, SplitSchema::Order { .. }));
    let ordered = SCHEMA.replace("by = \"time\"", "by = \"order\"");
    let error = ImportSchema::parse(&ordered, "my.toml")
        .expect_err("parts equal times")
        .to_string();
    assert!(error.contains("use by = \"time\""), "{error}");
}

#[test]
fn a_cancelled_import_leaves_nothing() {
    let input = folder(&[(
        "n.csv",
        format!("k,x,y\n{}", "a,1,0\n".repeat(50_000)).as_bytes(),
    )]);
    let settings = settings(&input, NUMBERS);
    let cancel = settings.cancel.clone();
    let error =
        import(&settings, &mut |_| cancel.store(true, Ordering::Relaxed)).expect_err("cancelled");
    assert!(matches!(error, ImportError::Cancelled), "{error}");
    assert_eq!(std::fs::read_dir(input.path()).expect("listed").count(), 1);
}

#[test]
fn what_a_killed_import_left_is_removed_by_the_next() {
    let input = clicks_and_items();
    let (abandoned, foreign) = (
        input.path().join(".dataset-a.tmp"),
        input.path().join(".dataset-b.tmp"),
    );
    std::fs::create_dir_all(abandoned.join("import.work")).expect("a folder");
    std::fs::create_dir_all(&foreign).expect("a folder");
    let running = input.path().join(".dataset-c.tmp");
    std::fs::create_dir_all(&running).expect("a folder");
    let lock = super::super::work_folder::WorkFolder::create(&running).expect("locked");
    run(&settings(&input, SCHEMA)).expect("imported");
    assert!(!abandoned.exists() && foreign.exists() && running.exists());
    drop(lock);
}

#[test]
fn a_cancelled_import_ends_while_it_reads_a_side_table() {
    let input = folder(&[
        ("clicks.csv", CLICKS.as_bytes()),
        ("items.csv", b"id,price,tags,made\na,bad,,\n"),
    ]);
    let settings = settings(&input, SCHEMA);
    settings.cancel.store(true, Ordering::Relaxed);
    let error = run(&settings).expect_err("cancelled");
    assert!(
        matches!(error, ImportError::Cancelled),
        "before the bad price: {error}"
    );
}

#[test]
fn an_existing_dataset_is_not_written_over() {
    let input = clicks_and_items();
    let settings = settings(&input, SCHEMA);
    run(&settings).expect("imported");
    let before = Dataset::open(&settings.output).expect("a dataset");
    let error = run(&settings).expect_err("it exists");
    assert!(matches!(error, ImportError::Data(_)), "{error}");
    assert_eq!(Dataset::open(&settings.output).expect("a dataset"), before);
}

#[test]
fn a_later_import_continues_the_history_and_an_overlapping_one_is_refused() {
    let lines: Vec<_> = CLICKS.lines().collect();
    let parts = [&lines[..4], &[lines[0], lines[4]]].map(|lines| lines.join("\n"));
    let input = folder(&[
        ("clicks_1.csv", parts[0].as_bytes()),
        ("clicks_2.csv", parts[1].as_bytes()),
        ("items.csv", ITEMS.as_bytes()),
    ]);
    let whole = run(&settings(&input, SCHEMA)).expect("imported").dataset;
    let part = |file: &str, output: &str, history: Option<&str>| {
        let mut settings = settings(&input, SCHEMA);
        settings.input = input.path().join(file);
        settings.output = input.path().join(output);
        settings.split = Some(SplitSchema::All { into: Split::Test });
        settings.history = history.map(|history| input.path().join(history));
        run(&settings).map(|report| report.dataset)
    };
    let first = part("clicks_1.csv", "first", None).expect("imported");
    let second = part("clicks_2.csv", "second", Some("first")).expect("imported");
    assert_eq!(rows(&second), [0, 0, 1], "all into test");
    for column in ["user_count", "user_clicks", "user_seconds"] {
        let mut continued = all_splits(&first, column);
        continued.push_row_of(&all_splits(&second, column), 0);
        assert_eq!(continued, all_splits(&whole, column), "{column}");
    }
    let [first, second, whole] =
        [first, second, whole].map(|dataset| dataset.history.expect("kept"));
    assert_eq!(second.base, Some(first.id.clone()));
    assert_eq!(second.earlier().collect::<Vec<_>>(), [&first.id]);
    assert_eq!(first.earlier().count(), 0);
    assert_eq!(second.id, whole.id, "the same rows were counted");
    let error = part("clicks_1.csv", "again", Some("first")).expect_err("its own future");
    assert!(
        matches!(
            error,
            ImportError::NotLater {
                first_ms: 86_400_000,
                last_ms: 172_800_000,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_history_is_continued_only_where_it_belongs_and_counts_something() {
    let input = clicks_and_items();
    let first = settings(&input, SCHEMA);
    run(&first).expect("imported");
    let mut other = settings(&input, SCHEMA);
    other.output = input.path().join("other");
    (other.schema.labels[0].from, other.schema.labels[0].at_least) =
        (Some("seconds".into()), Some(5.0));
    run(&other).expect("imported");
    let later = |schema: &str| {
        let mut settings = settings(&input, schema);
        settings.output = input.path().join("later");
        settings.history = Some(first.output.clone());
        run(&settings).expect_err("refused").to_string()
    };
    let counted = SCHEMA.split("[[trailing]]").next().expect("the rest");
    assert!(later(counted).contains("no trailing aggregates"));
    std::fs::copy(
        other.output.join("history.bin"),
        first.output.join("history.bin"),
    )
    .expect("copied");
    let error = Dataset::open(&first.output)
        .and_then(|dataset| dataset.trailing_history())
        .expect_err("mixed up");
    assert!(error.to_string().contains("not of one dataset"), "{error}");
    assert!(later(SCHEMA).contains("could not be written"));
}

#[test]
fn a_repeated_row_of_a_table_is_harmless_and_a_conflicting_one_is_malformed() {
    // The fields that are not read may differ; a row without a key joins nothing.
    let first = "id,note,price,tags,made\na,1,1.5,x|y,1970-01-01\nb,2,,,\n,3,4,,\n,4,5,,\n";
    let second = "id,note,price,tags,made\nb,5,,,\na,6,1.5,x|y,1970-01-01T00:00:00Z\n\
        a,7,1.5,x,1970-01-01\nb,8,2.5,,\n";
    let input = folder(&[
        ("clicks.csv", CLICKS.as_bytes()),
        ("items_1.csv", first.as_bytes()),
        ("items_2.csv", second.as_bytes()),
    ]);
    let text = SCHEMA.replace("items.csv*", "items_*.csv");
    let mut settings = settings(&input, &text);
    settings.max_malformed = 0.2;
    let report = run(&settings).expect("imported");
    assert_eq!((report.lines, report.malformed), (12, 2));
    let told = |at: usize, parts: &[&str]| {
        let line = &report.first_malformed[at];
        for part in parts {
            assert!(line.contains(part), "expected {part:?} in: {line}");
        }
    };
    told(
        0,
        &[
            "items_2.csv:4: table `items`",
            "another `tags`, got \"x\"",
            "items_1.csv:2",
        ],
    );
    told(
        1,
        &[
            "items_2.csv:5: table `items`",
            "another `price`, got \"2.5\"",
            "items_1.csv:3",
        ],
    );
    assert_eq!(
        report.dataset.provenance.malformed.len(),
        2,
        "counted by what differs, not by line"
    );
    let nan = f32::NAN;
    assert_eq!(
        all_splits(&report.dataset, "price"),
        RawColumn::Dense(vec![1.5, nan, nan, nan]),
        "the first row of a key counts"
    );
}

#[test]
fn little_memory_gives_the_same_dataset() {
    let mut text = String::from("at,user,item,click,seconds\n");
    for i in 0u64..20_000 {
        let mixed = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        text += &format!(
            "{},{},{},{},{}\n",
            mixed % 5000,
            mixed % 97,
            ["a", "b"][i as usize % 2],
            mixed % 2,
            i % 20
        );
    }
    let input = folder(&[
        ("clicks.csv", text.as_bytes()),
        ("items.csv", ITEMS.as_bytes()),
    ]);
    let dataset = |memory_bytes: usize, output: &str| {
        let mut settings = settings(&input, SCHEMA);
        (settings.memory_bytes, settings.output) = (memory_bytes, input.path().join(output));
        run(&settings).expect("imported").dataset
    };
    let (small, large) = (dataset(1, "small"), dataset(1 << 30, "large"));
    assert_eq!(small.splits, large.splits, "checksums included");
    assert_eq!(small.history, large.history);
}

#[test]
fn compressed_and_split_files_give_the_same_rows() {
    let lines: Vec<_> = CLICKS.lines().collect();
    let [head, tail] = [
        [lines[0], lines[1]].join("\r\n"),
        [&lines[..1], &lines[2..]].concat().join("\n"),
    ];
    let mut gzip = Vec::new();
    for member in head.as_bytes().chunks(20) {
        let mut encoder = flate2::write::GzEncoder::new(&mut gzip, flate2::Compression::fast());
        encoder
            .write_all(member)
            .and_then(|()| encoder.finish().map(drop))
            .expect("memory");
    }
    // As pzstd writes it: a skippable frame of four bytes first.
    let mut zstandard = vec![0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    zstandard.extend(zstd::encode_all(tail.as_bytes(), 3).expect("memory"));
    let input = folder(&[
        ("clicks_1.csv", &gzip),
        ("clicks_2.csv.zst", &zstandard),
        ("items.csv", ITEMS.as_bytes()),
    ]);
    let got = run(&settings(&input, SCHEMA)).expect("imported").dataset;
    let plain = clicks_and_items();
    assert_eq!(
        got.splits,
        run(&settings(&plain, SCHEMA))
            .expect("imported")
            .dataset
            .splits
    );
}
