//! `--overwrite`: the old dataset or artifact stays until the new one is whole.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::process::{Output, Stdio};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{CWD, Mode, mkfifoat};
use streamrec::data::{Dataset, Split};

use crate::workbench::{Workbench, command, expect_success, said, streamrec};

const SCHEMA: &str = r#"
name = "visits"
time = { from = "at", format = "ms" }
labels = [{ name = "click" }]
columns = [{ name = "item", kind = "key", type = "integer" }]
source = { files = ["*.csv"] }
[[trailing]]
keys = ["item"]
count = "item_views"
"#;

/// Imports `csv` over `data`, all of it for training.
fn import(bench: &Workbench, csv: &str, more: &[&str]) -> Output {
    fs::write(bench.path("schema.toml"), SCHEMA).expect("written");
    fs::write(bench.path("visits.csv"), csv).expect("written");
    let [schema, csv, out] = ["schema.toml", "visits.csv", "data"].map(|name| bench.path(name));
    let arguments = [
        "data",
        "import",
        "--format",
        "csv",
        &csv,
        "--schema",
        &schema,
        "--out",
        &out,
        "--split",
        "train",
        "--overwrite",
    ];
    streamrec(&[&arguments[..], more].concat())
}

/// The names in the folder, hidden ones too.
fn names(bench: &Workbench) -> Vec<String> {
    let entries = fs::read_dir(bench.path("")).expect("listed").flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_failed_import_or_generation_leaves_the_old_dataset_whole() {
    let bench = Workbench::new();
    expect_success(&import(&bench, "at,item,click\n1,5,0\n2,5,1\n", &[]));
    let out = bench.path("data");
    let before = Dataset::open(&out).expect("a dataset");
    let (none, schema) = (bench.path("none"), bench.path("schema.toml"));
    let mistyped = [
        "data",
        "import",
        "--format",
        "csv",
        &none,
        "--schema",
        &schema,
        "--out",
        &out,
        "--overwrite",
    ];
    let generate = [
        "data",
        "generate",
        "--overwrite",
        "--impressions",
        "0",
        "--out",
        &out,
    ];
    for (failed, expected) in [
        (
            import(&bench, "at,item,click\n1,5,0\nbad\n", &[]),
            "malformed",
        ),
        (streamrec(&mistyped), "none"),
        (streamrec(&generate), "impressions"),
    ] {
        assert!(!failed.status.success(), "{}", said(&failed));
        assert!(said(&failed).contains(expected), "{}", said(&failed));
        assert_eq!(Dataset::open(&out).expect("a dataset"), before);
    }
    assert_eq!(before.pack(Split::Train).expect("a pack").rows(), 2);
    assert_eq!(names(&bench), ["data", "schema.toml", "visits.csv"]);
}

#[test]
fn a_dataset_can_be_replaced_by_the_one_that_continues_its_history() {
    let bench = Workbench::new();
    expect_success(&import(&bench, "at,item,click\n1,5,0\n2,5,1\n", &[]));
    let out = bench.path("data");
    let history = || Dataset::open(&out).expect("a dataset").history;
    let first = history().expect("a history");
    let output = import(&bench, "at,item,click\n3,5,1\n", &["--history", &out]);
    expect_success(&output);
    let told = said(&output);
    assert!(told.contains(&format!("visits in {out}\n")), "{told}");
    assert_eq!(history().expect("a history").base, Some(first.id));
    assert_eq!(names(&bench), ["data", "schema.toml", "visits.csv"]);
}

#[test]
fn a_second_command_on_the_same_folder_is_refused_until_the_first_has_ended() {
    let bench = Workbench::new();
    expect_success(&import(&bench, "at,item,click\n1,5,0\n2,5,1\n", &[]));
    let out = bench.path("data");
    let before = Dataset::open(&out).expect("a dataset");
    // The first command waits for rows that do not come.
    let (pipe, schema) = (bench.path("pipe.csv"), bench.path("schema.toml"));
    mkfifoat(CWD, &pipe, Mode::RWXU).expect("a pipe");
    let mut first = command()
        .args(["data", "import", "--format", "csv", &pipe, "--overwrite"])
        .args(["--schema", &schema, "--out", &out])
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    // Opens when the first command does, which has locked the folder by then.
    let rows = fs::File::options().write(true).open(&pipe).expect("opened");
    let generate = ["data", "generate", "--overwrite", "--out", &out];
    for second in [
        import(&bench, "at,item,click\n1,5,0\n", &[]),
        streamrec(&generate),
    ] {
        assert_eq!(second.status.code(), Some(1), "{}", said(&second));
        let told = said(&second);
        for part in ["another command is writing", &out, "another --out"] {
            assert!(told.contains(part), "{told}");
        }
    }
    // A crash of the first keeps nobody out.
    first.kill().expect("killed");
    first.wait().expect("waited");
    drop(rows);
    fs::remove_file(&pipe).expect("removed");
    assert_eq!(Dataset::open(&out).expect("a dataset"), before);
    expect_success(&import(&bench, "at,item,click\n1,5,0\n", &[]));
    assert_eq!(names(&bench), ["data", "schema.toml", "visits.csv"]);
}

#[test]
fn an_export_over_an_artifact_never_leaves_its_name_empty() {
    let bench = Workbench::with_events(4_000);
    bench.launch(1, "synthetic_dlrm.toml", "run", &["train.max_steps=2"]);
    let (run, out) = (bench.path("run"), bench.path("artifact"));
    let export = ["export", &run, "--out", &out, "--overwrite"];
    expect_success(&streamrec(&export));
    let manifest = Path::new(&out).join("manifest.json");
    let before = fs::read(&manifest).expect("a manifest");

    let watch = inotify::init(CreateFlags::NONBLOCK).expect("inotify");
    let changes = WatchFlags::MOVE | WatchFlags::DELETE;
    inotify::add_watch(&watch, bench.path(""), changes).expect("watched");
    expect_success(&streamrec(&export));
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(&watch, &mut buffer);
    let mut first = None;
    while let Ok(event) = events.next() {
        let ours = event.file_name().is_some_and(|name| name == c"artifact");
        if ours && first.is_none() {
            first = Some(event.events());
        }
    }
    let first = first.expect("the artifact was replaced");
    assert!(
        first.contains(ReadFlags::MOVED_TO),
        "the name was taken away before it was given: {first:?}"
    );
    assert_ne!(
        fs::read(&manifest).expect("a manifest"),
        before,
        "its time is another"
    );
    assert_eq!(names(&bench), ["artifact", "data", "run"]);
}
