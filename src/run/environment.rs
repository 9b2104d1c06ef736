//! `environment.json`: on what a run trains, for whoever wants to repeat it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use streamrec_launcher::{RankEnvironment, Source};

use super::RunError;
use super::folder;
use super::rank::Rank;
use crate::data::Dataset;

#[derive(Serialize)]
struct Environment<'a> {
    job: String,
    code_version: String,
    command: Vec<String>,
    started: String,
    host: String,
    cpu: String,
    ranks: usize,
    threads_per_rank: usize,
    launched_by: String,
    attempt: u32,
    dataset: &'a Path,
    data_version: String,
}

/// Writes it, anew at each start.
pub(super) fn write(path: &Path, rank: &Rank, dataset: &Dataset) -> Result<(), RunError> {
    let system = rustix::system::uname();
    let environment = Environment {
        job: job(&rank.environment),
        code_version: code_version(),
        command: std::env::args().collect(),
        started: jiff::Timestamp::now().to_string(),
        host: system.nodename().to_string_lossy().into_owned(),
        cpu: cpu(),
        ranks: rank.comm.size(),
        threads_per_rank: rank.threads,
        launched_by: format!("{:?}", rank.environment.source),
        attempt: rank.environment.restart_count,
        dataset: &dataset.folder,
        data_version: dataset.version(),
    };
    let text = serde_json::to_vec_pretty(&environment)
        .map_err(RunError::other("cannot describe the environment"))?;
    folder::replace(path, &text)
}

/// Whether this start is a restart of the job that last wrote `path`. Another job may be at its
/// second attempt too, and never have come as far as to write here.
pub(super) fn is_restart(path: &Path, rank: &RankEnvironment) -> Result<bool, RunError> {
    #[derive(Deserialize)]
    struct Owner {
        job: Option<String>,
    }
    if rank.restart_count == 0 || !path.exists() {
        return Ok(false);
    }
    let text = std::fs::read(path).map_err(RunError::file("read", path))?;
    let owner: Owner = serde_json::from_slice(&text).map_err(RunError::other(format!(
        "{} does not describe a start, so it cannot tell whose run this is; go on with the run by \
         --resume",
        path.display()
    )))?;
    Ok(owner.job == Some(job(rank)))
}

/// The name of the job, equal in all its attempts.
fn job(rank: &RankEnvironment) -> String {
    // torchrun's name is the user's, or "none", and may be that of an earlier job too; but its agent, like our
    // launcher, outlives all attempts of a job.
    if rank.source == Source::Torchrun {
        let (name, agent) = (&rank.run_id, std::os::unix::process::parent_id());
        return format!("{name}, of process {agent} begun at {}", begun_at(agent));
    }
    rank.run_id.clone()
}

/// When a process began, in clock ticks since the host did; empty if it has ended.
fn begun_at(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in brackets that may hold anything; the time is the 22nd.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let time = after_name.split_whitespace().nth(19);
    time.unwrap_or_default().to_owned()
}

/// The package's version and a digest of this very program: equal versions are equal code.
pub(super) fn code_version() -> String {
    let version = env!("CARGO_PKG_VERSION");
    let digest = std::env::current_exe().and_then(|path| digest(&path));
    digest.map_or_else(
        |_| version.into(),
        |digest| format!("{version}+{digest:016x}"),
    )
}

fn digest(path: &Path) -> std::io::Result<u64> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut buffer) = (xxhash_rust::xxh3::Xxh3::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest()),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    model.map_or_else(String::new, |model| {
        model.trim_start_matches([' ', '\t', ':']).to_owned()
    })
}
