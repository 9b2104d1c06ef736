//! The prediction log: what was asked and answered is in it, and it never stands in a request's way.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use streamrec_serving::prediction_log::{
    LogRecord, LogStatus, LoggedModel, SegmentEnd, SegmentReader, SegmentState,
};

use crate::metrics::Exposition;
use crate::model::{Folder, artifact};
use crate::program::{Program, client, wait_until};
use crate::row::{Row, raw, request};

const PATIENCE: Duration = Duration::from_secs(20);

fn start(folder: &Folder, flags: &[&str]) -> (Program, PathBuf) {
    let log = folder.beside("log");
    let mut all = vec!["--log-dir", log.to_str().unwrap()];
    all.extend(flags);
    (Program::start(&folder.path(), &all), log)
}

/// The files of a log in one state, oldest first.
fn segments(log: &Path, state: SegmentState) -> Vec<PathBuf> {
    let files = std::fs::read_dir(log)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is = |path: &PathBuf| path.extension().is_some_and(|it| it == state.extension());
    let mut files: Vec<_> = files.filter(is).collect();
    files.sort();
    files
}

fn read(path: &Path) -> (Vec<(LoggedModel, LogRecord)>, SegmentEnd) {
    let mut reader = SegmentReader::open(path).unwrap();
    let mut records = Vec::new();
    while let Some((model, record)) = reader.next_record().unwrap() {
        records.push((reader.models()[model].clone(), record));
    }
    assert_eq!(reader.unreadable(), 0);
    (records, reader.end().unwrap().clone())
}

/// All records of a server that was stopped.
fn stopped(program: Program, log: &Path) -> Vec<(LoggedModel, LogRecord)> {
    program.signal(Signal::TERM);
    assert!(program.exit(PATIENCE).success());
    assert!(segments(log, SegmentState::Open).is_empty());
    let mut all = Vec::new();
    for path in segments(log, SegmentState::Closed) {
        let (records, end) = read(&path);
        assert_eq!(end, SegmentEnd::Whole);
        all.extend(records);
    }
    all
}

fn written(program: &Program, outcome: &str) -> f64 {
    let metrics = Exposition::parse(&program.metrics());
    let name = format!("streamrec_serving_log_records_total{{outcome=\"{outcome}\"}}");
    metrics.find(&name).unwrap_or(0.0)
}

#[test]
fn a_request_is_logged_as_it_was_asked_and_answered() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &[]);
    let version = program.version();
    let rows = Row::many(0, 30);
    let mut body = request(&rows);
    body["id"] = json!("caller-7");
    let answer = program.infer(&body);
    let records = stopped(program, &log);
    let [(model, record)] = records.as_slice() else {
        panic!("{} records", records.len());
    };
    assert_eq!((model.name.as_str(), &model.version), ("videos", &version));
    assert_eq!(model.labels, ["click", "like"]);
    assert_eq!(
        (record.request_id.as_str(), record.status),
        ("caller-7", LogStatus::Ok)
    );
    assert_eq!(record.rows, raw(&rows));
    let answered = answer.probabilities();
    let answered: Vec<f32> = answered.iter().map(|&score| score as f32).collect();
    assert_eq!(record.scores, answered);
    assert!(record.total_us >= record.queue_us + record.compute_us);
    assert!(record.compute_us > 0 && record.queue_us > 0);
    let age_ms = now_ms() - record.time_ms;
    assert!((0..60_000).contains(&age_ms), "{age_ms}");
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_millis() as i64
}

#[test]
fn every_answer_tells_the_id_by_which_its_request_is_logged() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &[]);
    let ask = |header: Option<&str>, id: Option<&str>| {
        let mut body = request(&Row::many(0, 1));
        if let Some(id) = id {
            body["id"] = json!(id);
        }
        let url = format!("{}/v2/models/videos/infer", program.address);
        let mut post = client().post(url);
        if let Some(header) = header {
            post = post.header("x-request-id", header);
        }
        let response = post.send(body.to_string()).unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let told = [
        ask(None, None),
        ask(None, None),
        ask(Some("of the head"), None),
        ask(Some("of the head"), Some("of the body")),
        ask(None, Some("")),
    ];
    assert_eq!(
        [told[2].as_str(), told[3].as_str()],
        ["of the head", "of the body"]
    );
    for own in [&told[0], &told[1], &told[4]] {
        assert_eq!(own.len(), 32, "{own}");
    }
    assert!(told[0] != told[1] && told[1] != told[4]);
    let logged = stopped(program, &log)
        .into_iter()
        .map(|(_, record)| record.request_id);
    assert_eq!(logged.collect::<Vec<_>>(), told);
}

#[test]
fn failed_requests_are_logged_with_what_kind_of_failure_it_was() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--request-rows", "5"]);
    let path = "/v2/models/videos/infer";
    assert_eq!(program.post(path, "{").status, 400);
    assert_eq!(program.post("/v2/models/unknown/infer", "{}").status, 404);
    assert_eq!(program.infer(&request(&Row::many(0, 6))).status, 413);
    let huge = Row {
        age: Some(1.0),
        views: Some(i64::MAX),
        ..Row::nth(1)
    };
    let refused = program.infer(&request(&[huge])).status;
    assert_eq!(program.infer(&request(&Row::many(0, 2))).status, 200);
    let records = stopped(program, &log);
    let found: Vec<_> = records.iter().map(|(_, record)| record.status).collect();
    assert_eq!(found[..3], [LogStatus::BadRequest; 3]);
    assert_eq!(found[3] == LogStatus::Ok, refused == 200);
    assert_eq!(found[4], LogStatus::Ok);
    assert!(
        records[..3]
            .iter()
            .all(|(_, record)| record.rows.columns.is_empty())
    );
    assert!(
        records[..3]
            .iter()
            .all(|(_, record)| record.scores.is_empty())
    );
}

#[test]
fn a_shed_request_is_logged_with_its_rows() {
    let folder = Folder::with(&artifact(1));
    let flags = [
        "--threads",
        "1",
        "--batch-delay-us",
        "300000",
        "--waiting-rows",
        "10",
        "--log-segment-s",
        "1",
    ];
    let (program, log) = start(&folder, &flags);
    std::thread::scope(|scope| {
        scope.spawn(|| program.infer(&request(&Row::many(0, 10))));
        wait_until(PATIENCE, || {
            Exposition::parse(&program.metrics()).value("streamrec_serving_waiting_rows") == 10.0
        });
        assert_eq!(program.infer(&request(&Row::many(50, 3))).status, 429);
    });
    let records = stopped(program, &log);
    let shed = records
        .iter()
        .find(|(_, record)| record.status == LogStatus::Shed);
    let (_, shed) = shed.expect("a shed request");
    assert_eq!(shed.rows, raw(&Row::many(50, 3)));
    assert!(shed.scores.is_empty());
}

#[test]
fn a_sample_holds_all_attempts_of_the_requests_that_it_holds() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--log-sample", "0.5"]);
    let client = client();
    for attempt in 0..2 {
        for index in 0..60 {
            let mut body = request(&Row::many(attempt, 1));
            body["id"] = json!(format!("request {index}"));
            program.infer_by(&client, &body);
        }
    }
    let records = stopped(program, &log);
    let mut ids: Vec<_> = records
        .iter()
        .map(|(_, record)| record.request_id.clone())
        .collect();
    ids.sort();
    assert!(
        (2 * 15..=2 * 45).contains(&ids.len()),
        "{} of 120",
        ids.len()
    );
    assert!(ids.chunks(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn segments_end_by_size_and_by_age() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--log-segment-bytes", "4096"]);
    let client = client();
    for index in 0..12 {
        program.infer_by(&client, &request(&Row::many(index, 20)));
        let so_far = index as f64 + 1.0;
        wait_until(PATIENCE, || written(&program, "written") == so_far);
    }
    let sizes: Vec<u64> = segments(&log, SegmentState::Closed)
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .collect();
    assert!(
        sizes.len() > 2 && sizes.iter().all(|&bytes| bytes >= 4096),
        "{sizes:?}"
    );
    assert_eq!(stopped(program, &log).len(), 12);

    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--log-segment-s", "1"]);
    program.infer(&request(&Row::many(0, 1)));
    wait_until(PATIENCE, || segments(&log, SegmentState::Closed).len() == 1);
    // A segment without a record is not closed again and again.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(segments(&log, SegmentState::Closed).len(), 1);
    drop(program);
}

#[test]
fn a_segment_tells_each_version_before_its_first_record() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &[]);
    let before = program.version();
    program.infer(&request(&Row::many(0, 1)));
    folder.replace(&artifact(2));
    assert_eq!(
        program.post("/v2/repository/models/videos/load", "").status,
        200
    );
    let after = program.version();
    program.infer(&request(&Row::many(0, 1)));
    let versions = stopped(program, &log)
        .into_iter()
        .map(|(model, _)| model.version);
    assert_eq!(versions.collect::<Vec<_>>(), [before, after]);
}

#[test]
fn a_server_that_is_killed_in_the_middle_loses_only_what_was_not_written() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--log-segment-bytes", "200000"]);
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (program, answered, stop) = (&program, &answered, &stop);
            scope.spawn(move || {
                let client = client();
                let body = request(&Row::many(caller, 50)).to_string();
                let url = format!("{}/v2/models/videos/infer", program.address);
                while !stop.load(Ordering::Relaxed) && client.post(&url).send(&body).is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until(PATIENCE, || answered.load(Ordering::Relaxed) > 2000);
        program.signal(Signal::KILL);
        stop.store(true, Ordering::Relaxed);
    });
    let mut found = 0;
    for path in segments(&log, SegmentState::Closed) {
        let (records, end) = read(&path);
        assert_eq!(end, SegmentEnd::Whole);
        found += records.len();
    }
    let open = segments(&log, SegmentState::Open);
    assert!(open.len() <= 1, "{open:?}");
    // None where it was killed after the end of one and before the first record of the next.
    for path in &open {
        // Nobody holds it any more, and what is whole in it is read.
        std::fs::File::open(path).unwrap().try_lock().unwrap();
        let (records, _) = read(path);
        let expected = [0, 1, 2, 3].map(|caller| raw(&Row::many(caller, 50)));
        assert!(
            records
                .iter()
                .all(|(_, record)| expected.contains(&record.rows))
        );
        found += records.len();
    }
    let answered = answered.load(Ordering::Relaxed);
    // A record is handed over before its answer leaves, and waits a tenth of a second for an idle core at most.
    assert!(found + 1000 >= answered, "{found} of {answered}");
}

#[test]
fn a_full_queue_drops_records_and_says_so() {
    let folder = Folder::with(&artifact(1));
    let (program, log) = start(&folder, &["--log-waiting-bytes", "300"]);
    let client = client();
    for _ in 0..5 {
        assert_eq!(
            program
                .infer_by(&client, &request(&Row::many(0, 50)))
                .status,
            200
        );
    }
    assert_eq!(written(&program, "dropped"), 5.0);
    assert_eq!(
        program.infer_by(&client, &request(&Row::many(0, 1))).status,
        200
    );
    assert_eq!(stopped(program, &log).len(), 1);
}

/// A small file system of its own; nothing where this user may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(&path);
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(Self(path))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A busy file system goes when its last file is closed.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_records_and_no_request() {
    let folder = Folder::with(&artifact(1));
    let Some(disk) = SmallDisk::mount(folder.beside("log"), "128k") else {
        eprintln!(
            "SKIPPED: a_full_disk_costs_records_and_no_request needs the right to mount a tmpfs"
        );
        return;
    };
    let (program, log) = start(&folder, &[]);
    let client = client();
    let body = request(&Row::many(0, 40));
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![0; 60_000]).unwrap();
    let mut asked = 0.0;
    let accounted = || written(&program, "written") + written(&program, "failed");
    while written(&program, "failed") == 0.0 {
        assert_eq!(program.infer_by(&client, &body).status, 200);
        asked += 1.0;
        assert!(asked < 500.0, "the disk does not fill");
        // The writer takes all that waits together: one at a time, one that does not fit fails alone.
        wait_until(PATIENCE, || accounted() == asked);
    }
    let before = written(&program, "written");
    std::fs::remove_file(&filler).unwrap();
    for _ in 0..3 {
        assert_eq!(program.infer_by(&client, &body).status, 200);
    }
    asked += 3.0;
    wait_until(PATIENCE, || written(&program, "written") == before + 3.0);
    assert_eq!(accounted(), asked);
    let records = stopped(program, &log);
    assert_eq!(records.len() as f64, before + 3.0);
    assert!(
        records
            .iter()
            .all(|(_, record)| record.rows == raw(&Row::many(0, 40)))
    );
}

#[test]
fn a_log_that_cannot_be_written_keeps_the_server_from_starting() {
    let folder = Folder::with(&artifact(1));
    let file = folder.beside("a file");
    std::fs::write(&file, "x").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_streamrec-serve"))
        .arg(folder.path())
        .args(["--listen", "127.0.0.1:0", "--log-dir"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        said.contains("cannot write the prediction log to"),
        "{said}"
    );
}
