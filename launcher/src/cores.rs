//! Splits the cores this process may use among the ranks of the host.

use std::fs;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which cores each rank gets.
pub(crate) struct CorePlan {
    allowed: Option<CpuSet>,
    /// One entry a rank when ranks are pinned, otherwise empty.
    shares: Vec<CpuSet>,
    /// Ranks that it is for.
    pub ranks: usize,
    /// Threads each rank may use.
    pub threads: usize,
}

impl CorePlan {
    /// Plans for `nproc` ranks. Ranks stay unpinned when there are fewer cores than ranks.
    pub(crate) fn new(nproc: usize, pin: bool) -> Self {
        // Counts what a container's CPU quota leaves, which affinity does not show.
        let quota = thread::available_parallelism().map_or(1, usize::from);
        let allowed = sched_getaffinity(None).ok();
        let cores = allowed.as_ref().map(cores_of).unwrap_or_default();
        let pinned = pin && cores.len() >= nproc;
        let shares = if pinned {
            split(&cores, nproc)
                .iter()
                .map(|share| set_of(share))
                .collect()
        } else {
            Vec::new()
        };
        Self {
            allowed,
            shares,
            ranks: nproc,
            threads: (quota / nproc.max(1)).max(1),
        }
    }

    /// Runs `spawn` while this thread sits on the cores of `rank`: a child inherits them.
    pub(crate) fn on_cores_of<T>(&self, rank: usize, spawn: impl FnOnce() -> T) -> T {
        let (Some(allowed), Some(share)) = (&self.allowed, self.shares.get(rank)) else {
            return spawn();
        };
        if let Err(error) = sched_setaffinity(None, share) {
            tracing::warn!(rank, %error, "cannot pin the rank to its cores; it runs unpinned");
            return spawn();
        }
        let spawned = spawn();
        if let Err(error) = sched_setaffinity(None, allowed) {
            tracing::warn!(%error, "cannot restore the launcher's own cores");
        }
        spawned
    }
}

/// The allowed cores, hardware threads of one physical core side by side, so that they end up in one share.
fn cores_of(allowed: &CpuSet) -> Vec<usize> {
    let mut cores: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&core| allowed.is_set(core))
        .collect();
    let topology = |core: usize, name: &str| -> usize {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/{name}");
        fs::read_to_string(path)
            .ok()
            .and_then(|id| id.trim().parse().ok())
            .unwrap_or(0)
    };
    cores.sort_by_cached_key(|&core| {
        (
            topology(core, "physical_package_id"),
            topology(core, "core_id"),
            core,
        )
    });
    cores
}

fn set_of(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    set
}

/// Cuts `cores` into `shares` runs whose lengths differ by at most one.
fn split(cores: &[usize], shares: usize) -> Vec<&[usize]> {
    (0..shares)
        .map(|share| &cores[share * cores.len() / shares..(share + 1) * cores.len() / shares])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_cores_once_and_evenly() {
        let cores: Vec<_> = (0..11).collect();
        let shares = split(&cores, 4);
        assert_eq!(shares.concat(), cores);
        assert!(shares.iter().all(|share| (2..=3).contains(&share.len())));
    }

    #[test]
    fn a_rank_is_spawned_on_its_share_and_the_launcher_gets_its_cores_back() {
        let before = sched_getaffinity(None).unwrap();
        let nproc = cores_of(&before).len();
        let plan = CorePlan::new(nproc, true);
        let counts: Vec<_> = (0..nproc)
            .map(|rank| plan.on_cores_of(rank, || sched_getaffinity(None).unwrap().count()))
            .collect();
        assert_eq!(counts, vec![1; nproc]);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn more_ranks_than_cores_are_not_pinned() {
        let before = sched_getaffinity(None).unwrap();
        let plan = CorePlan::new(CpuSet::MAX_CPU + 1, true);
        assert_eq!(plan.threads, 1);
        assert_eq!(
            plan.on_cores_of(0, || sched_getaffinity(None).unwrap()),
            before
        );
    }
}
