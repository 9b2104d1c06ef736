//! Each mistake ends in one clear message that names the thing and the next step, with a non-zero
//! exit and nothing corrupted.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::workbench::{Workbench, config, expect_success, said, server_program, streamrec};

/// Runs a command that must fail, and checks what it says.
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = streamrec(arguments);
    let text = said(&output);
    assert!(!output.status.success(), "{arguments:?} succeeded: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(
            text.contains(part),
            "{arguments:?}: expected {part:?} in: {text}"
        );
    }
    assert_eq!(text.matches("error: ").count(), 1, "one message: {text}");
}

#[test]
fn bad_experiments_name_every_field() {
    let bench = Workbench::new();
    let experiment = bench.path("bad.toml");
    let good = fs::read_to_string(config("synthetic_dlrm.toml")).expect("an experiment");
    let bad = good
        .replace("global_batch", "global_bach")
        .replace("[optimizer.dense]", "[optimizer.dens]");
    fs::write(&experiment, bad).expect("written");
    refused(
        &["train", &experiment],
        &["bad.toml", "global_bach", "dens", "things to fix"],
    );
    fs::write(
        &experiment,
        good.replace("top = [128, 64]", "top = \"wide\""),
    )
    .expect("written");
    refused(&["train", &experiment], &["`model`", "invalid type"]);
    fs::write(&experiment, "name = ").expect("written");
    refused(&["launch", &experiment], &["not valid TOML", "line 1"]);
    refused(
        &["train", &bench.path("none.toml")],
        &["cannot read the experiment", "none.toml"],
    );
    refused(&["train", &experiment, "--set", "x"], &["bad.toml"]);
}

#[test]
fn features_that_do_not_fit_the_data_are_told_at_once() {
    let bench = Workbench::with_events(2_000);
    let experiment = bench.path("bad.toml");
    let good = fs::read_to_string(config("synthetic_dlrm.toml")).expect("an experiment");
    let bad = good
        .replace("column = \"item_age_days\"", "column = \"item_age_dayz\"")
        .replace("column = \"user_tenure_days\"", "column = \"watch_s\"");
    fs::write(&experiment, bad).expect("written");
    let (dataset, output) = (
        format!("data.dataset={}", bench.path("data")),
        format!("output={}", bench.path("run")),
    );
    let arguments = ["train", &experiment, "--set", &dataset, "--set", &output];
    refused(
        &arguments,
        &["item_age_dayz", "item_age_days", "watch_s", "outcome"],
    );
}

#[test]
fn missing_and_damaged_data_is_named() {
    let bench = Workbench::with_events(4_000);
    let experiment = bench.experiment("synthetic_dlrm.toml", "run", &[]);
    let mut train = vec!["train"];
    train.extend(experiment.iter().map(String::as_str));

    let pack = Path::new(&bench.path("data")).join("train.pack");
    let whole = fs::read(&pack).expect("packed data");
    fs::write(&pack, &whole[..whole.len() / 2]).expect("written");
    refused(&train, &["train.pack", "import the data again"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 0x40;
    fs::write(&pack, &flipped).expect("written");
    refused(&[&train[..], &["--overwrite"]].concat(), &["train.pack"]);
    fs::write(&pack, &whole).expect("written");

    fs::remove_file(Path::new(&bench.path("data")).join("dataset.json")).expect("removed");
    refused(&[&train[..], &["--overwrite"]].concat(), &["dataset.json"]);
    // No rank is started for it, let alone restarted.
    train[0] = "launch";
    refused(&[&train[..], &["--overwrite"]].concat(), &["dataset.json"]);
}

#[test]
fn runs_checkpoints_and_artifacts_that_are_not_there_are_named() {
    let bench = Workbench::with_events(4_000);
    refused(
        &["evaluate", &bench.path("none")],
        &["is no run", "streamrec launch"],
    );
    bench.launch(1, "synthetic_dlrm.toml", "run", &["train.max_steps=2"]);
    let run = bench.path("run");
    refused(
        &["evaluate", &run, "--step", "99"],
        &["step-000000000099", "no checkpoint"],
    );
    let out = bench.path("artifact");
    expect_success(&streamrec(&["export", &run, "--out", &out]));
    refused(&["export", &run, "--out", &out], &["exists", "--overwrite"]);
    fs::remove_dir_all(Path::new(&run).join("checkpoints")).expect("removed");
    refused(
        &["export", &run, "--out", &out, "--overwrite"],
        &["checkpoints", "no checkpoint"],
    );
    refused(
        &["request", &out, "--server", "http://127.0.0.1:9"],
        &["no answer", "streamrec-serve"],
    );
    let elsewhere = bench.path("elsewhere");
    fs::create_dir(&elsewhere).expect("made");
    fs::write(Path::new(&elsewhere).join("thesis.txt"), "precious").expect("written");
    refused(
        &["export", &run, "--out", &elsewhere, "--overwrite"],
        &["holds no artifact"],
    );
    assert!(Path::new(&elsewhere).join("thesis.txt").exists());
}

#[test]
fn a_damaged_checkpoint_is_never_loaded() {
    let bench = Workbench::with_events(4_000);
    bench.launch(1, "synthetic_dlrm.toml", "run", &["train.max_steps=2"]);
    let shard = "checkpoints/step-000000000002/rank-0-of-1.safetensors";
    let shard = Path::new(&bench.path("run")).join(shard);
    let mut bytes = fs::read(&shard).expect("a shard");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&shard, bytes).expect("written");
    let experiment = bench.experiment("synthetic_dlrm.toml", "run", &["train.max_steps=4"]);
    let mut resume = vec!["train", "--resume"];
    resume.extend(experiment.iter().map(String::as_str));
    refused(&resume, &["rank-0-of-1.safetensors", "checksum", "damaged"]);
}

#[test]
fn a_port_in_use_is_named() {
    let bench = Workbench::with_events(4_000);
    bench.launch(1, "synthetic_dlrm.toml", "run", &["train.max_steps=2"]);
    let (run, out) = (bench.path("run"), bench.path("artifact"));
    expect_success(&streamrec(&["export", &run, "--out", &out]));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let output = Command::new(server_program())
        .args([&out, "--listen", &address])
        .output();
    let output = output.expect("starts");
    assert!(!output.status.success());
    for part in [address.as_str(), "in use", "--listen"] {
        assert!(said(&output).contains(part), "{part} in {}", said(&output));
    }
}

#[test]
fn imports_refuse_what_they_cannot_read_and_leave_nothing_behind() {
    let bench = Workbench::new();
    let out = bench.path("out");
    let import = |format: &str, input: &str| -> Vec<String> {
        ["data", "import", "--format", format, input, "--out", &out]
            .map(str::to_owned)
            .to_vec()
    };
    let check = |arguments: Vec<String>, parts: &[&str]| {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        refused(&arguments, parts);
        assert!(!Path::new(&out).exists(), "nothing is left behind");
    };
    check(import("kuairand", &bench.path("none")), &["none"]);
    check(
        import("parket", &bench.path("none")),
        &["parket", "kuairand"],
    );
    check(
        import("csv", &bench.path("none")),
        &["--schema", "docs/guides/data.md"],
    );
    fs::write(bench.path("day.tsv"), "1\tx\n".repeat(5000)).expect("written");
    check(
        import("criteo", &bench.path("day.tsv")),
        &["day.tsv", "line"],
    );
}

/// A file system of two megabytes; `None` where this user may not mount one.
fn tiny_disk(folder: &str) -> Option<TinyDisk> {
    fs::create_dir(folder).expect("made");
    let mount = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", folder];
    let mounted = Command::new("mount")
        .args(mount)
        .status()
        .is_ok_and(|status| status.success());
    mounted.then(|| TinyDisk(folder.to_owned()))
}

struct TinyDisk(String);

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_the_last_checkpoint_stays() {
    let bench = Workbench::with_events(12_000);
    let Some(disk) = tiny_disk(&bench.path("disk")) else {
        println!("skipped: mounting a small file system needs privileges");
        return;
    };
    let out = format!("{}/data", disk.0);
    refused(
        &["data", "generate", "--out", &out, "--impressions", "100000"],
        &["disk", "space"],
    );
    assert!(!Path::new(&out).exists(), "nothing is left behind");

    let settings = [
        "train.max_steps=400",
        "train.global_batch=64",
        "checkpoint.every_steps=1",
        "checkpoint.keep=400",
    ];
    let output = bench.launch_command(2, "synthetic_dlrm.toml", "disk/run", &settings);
    let output = { output }
        .args(["--max-restarts", "0"])
        .output()
        .expect("starts");
    assert!(!output.status.success());
    assert!(
        said(&output).contains("the disk is full"),
        "{}",
        said(&output)
    );
    // What was complete before is still whole.
    expect_success(&streamrec(&[
        "export",
        &bench.path("disk/run"),
        "--out",
        &bench.path("artifact"),
    ]));
}

#[test]
fn early_stopping_without_validation_rows_is_refused() {
    let bench = Workbench::with_events(2_000);
    let (source, schema) = (bench.path("rows.csv"), bench.path("rows.toml"));
    fs::write(&source, "user,click\n1,0\n2,1\n3,0\n").expect("written");
    fs::write(
        &schema,
        "name = 'rows'\nlabels = [{ name = 'click' }]\n\
         columns = [{ name = 'user', kind = 'key', type = 'integer' }]\n\
         source = { files = ['rows.csv'] }\nsplit = { by = 'all', into = 'train' }\n",
    )
    .expect("written");
    let data = bench.path("rows");
    expect_success(&streamrec(&[
        "data", "import", "--format", "csv", &source, "--schema", &schema, "--out", &data,
    ]));
    let experiment = bench.path("rows-experiment.toml");
    fs::write(
        &experiment,
        "name = 'rows'\n[data]\ndataset = 'DATA'\nlabels = ['click']\n\
         [[features]]\nname = 'user'\nkind = 'categorical'\ncolumn = 'user'\nencoding = 'hash'\nrows = 10\n\
         [model]\nkind = 'wide_deep'\nembedding_dim = 4\ndeep = [4]\n\
         [optimizer.dense]\nkind = 'sgd'\nlearning_rate = 0.1\n\
         [optimizer.sparse]\nkind = 'sgd'\nlearning_rate = 0.1\n\
         [train]\nglobal_batch = 2\nepochs = 1\nearly_stopping = { patience = 1 }\n"
            .replace("DATA", &data),
    )
    .expect("written");
    let output = format!("output={}", bench.path("run"));
    refused(
        &["train", &experiment, "--set", &output],
        &["`train.early_stopping`", "has no rows", "leave it out"],
    );
}
