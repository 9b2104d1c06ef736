//! How many threads a rank computes with.

use streamrec_launcher::job::THREADS_VARIABLE;

use super::RunError;
use crate::comm::Communicator;
use crate::config::Experiment;

/// The setting, else the launcher's share, else this rank's part of the cores that it may run on. Collective.
pub(super) fn of_rank(experiment: &Experiment, comm: &dyn Communicator) -> Result<usize, RunError> {
    // All ranks ask, whatever each was told.
    let all = comm.all_gather_bytes(Cores::own().to_bytes()).wait()?;
    if let Some(threads) = experiment.train.threads {
        return Ok(threads);
    }
    if let Ok(value) = std::env::var(THREADS_VARIABLE) {
        return value
            .parse()
            .ok()
            .filter(|threads| *threads > 0)
            .ok_or_else(|| {
                RunError::Usage(format!(
                    "{THREADS_VARIABLE}={value}: expected a number above 0"
                ))
            });
    }
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(share(available, &all[comm.rank()], &all))
}

/// The cores that a process may run on, and their host.
struct Cores {
    host: String,
    numbers: Vec<usize>,
}

impl Cores {
    fn own() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let system = rustix::system::uname();
        let allowed = rustix::thread::sched_getaffinity(None).ok();
        let is_allowed = |core: &usize| allowed.as_ref().is_some_and(|set| set.is_set(*core));
        Self {
            host: boot_id.unwrap_or_else(|_| system.nodename().to_string_lossy().into_owned()),
            numbers: (0..rustix::thread::CpuSet::MAX_CPU)
                .filter(is_allowed)
                .collect(),
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        format!("{} {:?}", self.host.trim(), self.numbers).into_bytes()
    }
}

/// Ranks with the same cores share them equally. A rank that was bound to cores of its own has them to itself.
fn share(available: usize, own: &[u8], all: &[Vec<u8>]) -> usize {
    let sharers = all.iter().filter(|theirs| *theirs == own).count();
    (available / sharers.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_cores_unless_each_was_bound_to_its_own() {
        let cores = |host: &str, numbers: &[usize]| {
            let (host, numbers) = (host.to_owned(), numbers.to_vec());
            Cores { host, numbers }.to_bytes()
        };
        let free = vec![cores("a", &[0, 1, 2, 3]); 2];
        assert_eq!(share(4, &free[0], &free), 2);
        let bound = [cores("a", &[0, 1]), cores("a", &[2, 3])];
        assert_eq!(share(2, &bound[0], &bound), 2);
        let spread = [cores("a", &[0, 1]), cores("b", &[0, 1])];
        assert_eq!(share(2, &spread[0], &spread), 2);
        let crowded = vec![cores("a", &[0]); 3];
        assert_eq!(share(1, &crowded[0], &crowded), 1);
    }
}
