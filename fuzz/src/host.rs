//! What the launcher of another host says of a rank, to host 0's launcher that had it started: the job ends in time, well or
//! with one error.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use streamrec_launcher::nodes::Head;
use streamrec_launcher::{Job, LaunchError, free_port, launch_hosts};

use super::edits::edited;

/// How long a job of a rank that does nothing may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a launcher says of a rank that ends well.
const WELL: &str =
    "\"started\"\n{\"out\":\"step 1\\n\"}\n{\"err\":\"a warning\\n\"}\n{\"exit\":{\"code\":0}}\n";

/// Words as they come after the first, or edits of what is right.
pub fn check(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else {
        return;
    };
    let words = match choice % 4 {
        0 => [b"\"started\"\n", data].concat(),
        _ => edited(WELL.as_bytes(), data),
    };
    let began = Instant::now();
    let outcome = run(&words);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    if words == WELL.as_bytes() {
        outcome.expect("a job that ends well");
    }
}

/// A job of two hosts with a rank each, the second of which is one that says `words` of its rank.
fn run(words: &[u8]) -> Result<(), LaunchError> {
    let logs = tempfile::tempdir().expect("a folder");
    let endpoint = format!("127.0.0.2:{}", free_port().expect("a port"));
    let mut job = Job::new("/bin/true", 1, logs.path());
    job.pin_cores = false;
    job.timing.poll = Duration::from_millis(1);
    let head = Head {
        nodes: 2,
        endpoint: endpoint.clone(),
        ranks: 1,
        patience: PATIENCE,
    };
    thread::scope(|scope| {
        scope.spawn(|| other_host(&endpoint, words).expect("host 0 is there"));
        launch_hosts(&job, &head).map(|_| ())
    })
}

/// Joins, is asked for a rank, and says the words; leaves when the job is over.
fn other_host(endpoint: &str, words: &[u8]) -> io::Result<()> {
    let shell = TcpListener::bind("127.0.0.3:0")?;
    let began = Instant::now();
    let job = loop {
        match TcpStream::connect(endpoint) {
            Ok(job) => break job,
            Err(error) if began.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    };
    let address = shell.local_addr()?;
    let join =
        format!("{{\"version\":2,\"node\":1,\"nodes\":2,\"ranks\":1,\"shell\":\"{address}\"}}\n");
    (&job).write_all(join.as_bytes())?;
    let (rank, _) = shell.accept()?;
    let mut order = String::new();
    BufReader::new(&rank).read_line(&mut order)?;
    assert!(order.contains("/bin/true"), "{order}");
    // Host 0 may have heard enough before it is all said.
    let _ = (&rank).write_all(words);
    let _ = rank.shutdown(Shutdown::Write);
    for line in BufReader::new(&job).lines() {
        if line?.contains("over") {
            break;
        }
    }
    Ok(())
}
