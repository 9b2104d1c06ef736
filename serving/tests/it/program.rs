//! The program under test, and its answers.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running server; killed when it drops.
pub struct Program {
    child: Child,
    /// `http://host:port`
    pub address: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Answer {
    /// The protocol's error message.
    pub fn error(&self) -> &str {
        self.body["error"]
            .as_str()
            .unwrap_or_else(|| panic!("no error in {self:?}"))
    }

    /// The probabilities, `[rows, labels]`.
    pub fn probabilities(&self) -> Vec<f64> {
        assert_eq!(self.status, 200, "{self:?}");
        let outputs = self.body["outputs"].as_array().unwrap();
        let column = |output: &Value| -> Vec<f64> {
            let data = output["data"].as_array().unwrap();
            data.iter().map(|value| value.as_f64().unwrap()).collect()
        };
        let columns: Vec<Vec<f64>> = outputs.iter().map(column).collect();
        let rows = columns[0].len();
        (0..rows)
            .flat_map(|row| columns.iter().map(move |column| column[row]))
            .collect()
    }

    /// The version that answered.
    pub fn version(&self) -> &str {
        self.body["model_version"].as_str().unwrap()
    }
}

fn command(artifact: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_streamrec-serve"));
    command.arg(artifact).args(["--listen", listen]);
    command
}

/// A client that keeps its connections and takes every status for an answer.
pub fn client() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(20)))
        .http_status_as_error(false)
        .build()
        .into()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Answer {
    let mut response = response.expect("an answer");
    let retry_after = response.headers().get("retry-after");
    Answer {
        status: response.status().as_u16(),
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        body: response.body_mut().read_json().expect("JSON"),
    }
}

impl Program {
    /// Starts the server on a free port and waits until it listens.
    pub fn start(artifact: &Path, flags: &[&str]) -> Self {
        let mut command = command(artifact, "127.0.0.1:0");
        let mut child = command
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .expect("an address")
            .to_owned();
        Self { child, address }
    }

    /// `host:port`
    pub fn host(&self) -> &str {
        self.address.strip_prefix("http://").unwrap()
    }

    pub fn get(&self, path: &str) -> Answer {
        answer(client().get(format!("{}{path}", self.address)).call())
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        answer(client().post(format!("{}{path}", self.address)).send(body))
    }

    pub fn infer(&self, body: &Value) -> Answer {
        self.infer_by(&client(), body)
    }

    /// Infers over a connection that `client` may have already.
    pub fn infer_by(&self, client: &ureq::Agent, body: &Value) -> Answer {
        let url = format!("{}/v2/models/videos/infer", self.address);
        answer(client.post(url).send(body.to_string()))
    }

    /// The version that answers.
    pub fn version(&self) -> String {
        let metadata = self.get("/v2/models/videos").body;
        metadata["versions"][0].as_str().unwrap().to_owned()
    }

    pub fn metrics(&self) -> String {
        let mut response = client()
            .get(format!("{}/metrics", self.address))
            .call()
            .unwrap();
        response.body_mut().read_to_string().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the program's end.
    pub fn exit(mut self, patience: Duration) -> ExitStatus {
        exit(&mut self.child, patience)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn exit(child: &mut Child, patience: Duration) -> ExitStatus {
    let mut status = None;
    wait_until(patience, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

/// Starts the server in vain; its exit code and what it said on standard error.
pub fn refused(artifact: &Path) -> (Option<i32>, String) {
    refused_at(artifact, "127.0.0.1:0")
}

/// Starts the server in vain on an address.
pub fn refused_at(artifact: &Path, listen: &str) -> (Option<i32>, String) {
    let mut command = command(artifact, listen);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    let status = exit(&mut child, Duration::from_secs(10));
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("piped")
        .read_to_string(&mut said)
        .unwrap();
    assert!(!said.contains('\x1b'), "colours in a file: {said:?}");
    (status.code(), said)
}

/// Waits for a condition.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < patience, "waited {patience:?} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts that probabilities agree within the tolerance of served scores.
#[track_caller]
pub fn assert_close(got: &[f64], expected: &[f64]) {
    assert_eq!(got.len(), expected.len());
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 1e-5,
            "{at}: got {got}, expected {expected}"
        );
    }
}
