//! What carries data between the ranks of a job, and how it ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use streamrec_launcher::nodes::ADDRESS_VARIABLE;
use streamrec_launcher::{RankEnvironment, Source, Store};

use super::RunError;
use crate::comm::{Communicator, Route, Settings, SharedMemory, SingleRank, Tcp};
#[cfg(feature = "mpi")]
use crate::comm::{Mpi, MpiJob};
use crate::config::Backend;

/// How long ranks wait for one another before the first step, or for as long as a collective may take if that is less.
const MEETING_TIMEOUT: Duration = Duration::from_secs(120);

const HAS_MPI: bool = cfg!(feature = "mpi");

/// What has to be ended when the run is over.
#[derive(Default)]
pub(super) struct World {
    #[cfg(feature = "mpi")]
    mpi: Option<(MpiJob, Duration)>,
}

/// What a job of these ranks uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Nothing,
    SharedMemory,
    Tcp,
    Mpi,
}

impl World {
    /// Connects this rank with the others.
    pub(super) fn connect(
        &mut self,
        backend: Backend,
        environment: &RankEnvironment,
        settings: Settings,
    ) -> Result<Arc<dyn Communicator>, RunError> {
        match choose(backend, environment, HAS_MPI)? {
            Carrier::Nothing => Ok(Arc::new(SingleRank)),
            carrier @ (Carrier::SharedMemory | Carrier::Tcp) => {
                meet(carrier, environment, settings)
            }
            Carrier::Mpi => self.begin_mpi(environment, settings),
        }
    }

    #[cfg(feature = "mpi")]
    fn begin_mpi(
        &mut self,
        environment: &RankEnvironment,
        settings: Settings,
    ) -> Result<Arc<dyn Communicator>, RunError> {
        let timeout = settings.timeout;
        let (job, _) = self.mpi.insert((MpiJob::begin()?, timeout));
        let (expected, got) = (
            (environment.rank, environment.world_size),
            (job.rank(), job.size()),
        );
        if expected != got {
            return Err(RunError::Usage(format!(
                "{} started this process as rank {} of {}, but MPI sees rank {} of {}: start the ranks by the mpirun of \
                 the MPI library that this program was built with, or set `parallel.backend` to \"shared_memory\"",
                environment.source, expected.0, expected.1, got.0, got.1
            )));
        }
        Ok(Arc::new(Mpi::connect(job, settings)?))
    }

    #[cfg(not(feature = "mpi"))]
    fn begin_mpi(
        &mut self,
        _environment: &RankEnvironment,
        _settings: Settings,
    ) -> Result<Arc<dyn Communicator>, RunError> {
        Err(not_built())
    }

    /// Ends what was begun, once the run and all its communicators are gone. After a failure it does not wait for the
    /// other ranks.
    pub(super) fn end<T>(self, outcome: Result<T, RunError>) -> Result<T, RunError> {
        #[cfg(feature = "mpi")]
        if let Some((job, timeout)) = self.mpi {
            match &outcome {
                Ok(_) => job.finish(timeout)?,
                Err(_) => job.abandon(),
            }
        }
        outcome
    }
}

/// A rank that mpirun started and that fails because another did exits a little later: the first to exit lends mpirun
/// its exit code, and ends all others before they have told more.
pub(super) fn let_the_cause_exit_first(lost_ranks: &[usize]) {
    #[cfg(feature = "mpi")]
    if !lost_ranks.is_empty() && MpiJob::has_begun() {
        std::thread::sleep(Duration::from_secs(1));
    }
    #[cfg(not(feature = "mpi"))]
    let _ = lost_ranks;
}

fn choose(
    backend: Backend,
    environment: &RankEnvironment,
    has_mpi: bool,
) -> Result<Carrier, RunError> {
    let started_by_mpirun = matches!(environment.source, Source::OpenMpi | Source::Hydra);
    let is_one_host = environment.local_world_size == environment.world_size;
    // srun may start ranks of MPI as well, whose networks are faster than TCP where they are of a cluster.
    let may_be_mpi = started_by_mpirun || (environment.source == Source::Slurm && !is_one_host);
    match backend {
        Backend::Mpi if !has_mpi => Err(not_built()),
        _ if environment.world_size == 1 => Ok(Carrier::Nothing),
        Backend::Mpi => Ok(Carrier::Mpi),
        Backend::Auto if has_mpi && may_be_mpi => Ok(Carrier::Mpi),
        Backend::Tcp => Ok(Carrier::Tcp),
        Backend::Auto if !is_one_host => Ok(Carrier::Tcp),
        _ if is_one_host => Ok(Carrier::SharedMemory),
        _ => Err(RunError::Usage(format!(
            "the job spans hosts ({} of {} ranks are here), but `parallel.backend` is \"shared_memory\", which joins the \
             ranks of one host; set it to \"auto\" or \"tcp\", or start all ranks on one host",
            environment.local_world_size, environment.world_size
        ))),
    }
}

/// Refuses a backend that this program was built without.
pub(super) fn check(backend: Backend) -> Result<(), RunError> {
    if backend == Backend::Mpi && !HAS_MPI {
        return Err(not_built());
    }
    Ok(())
}

/// Refuses a backend that ends at the host for a job over several.
pub(super) fn check_hosts(backend: Backend, hosts: usize) -> Result<(), RunError> {
    if backend == Backend::SharedMemory && hosts > 1 {
        return Err(RunError::Usage(format!(
            "`parallel.backend` is \"shared_memory\", which joins the ranks of one host, but --nnodes is {hosts}; set it to \
             \"auto\" or \"tcp\""
        )));
    }
    Ok(())
}

fn not_built() -> RunError {
    RunError::Usage(
        "`parallel.backend` is \"mpi\", but this program was built without it; install Open MPI or MPICH and libclang, \
         and build with `cargo build --release --features mpi`, or set it to \"auto\""
            .to_owned(),
    )
}

fn meet(
    carrier: Carrier,
    environment: &RankEnvironment,
    settings: Settings,
) -> Result<Arc<dyn Communicator>, RunError> {
    let meeting = MEETING_TIMEOUT.min(settings.timeout);
    let store = Store::join(environment, meeting)?;
    let (rank, size) = (environment.rank, environment.world_size);
    let comm: Arc<dyn Communicator> = match carrier {
        Carrier::Tcp => {
            let route = Route {
                own: node_address()?.unwrap_or(store.own_address()),
                first: store.host_address(),
            };
            tracing::info!(rank, own = %route.own, rank_0 = %route.first, "ranks meet over TCP");
            Arc::new(Tcp::connect(rank, size, &store, route, settings)?)
        }
        _ => Arc::new(SharedMemory::connect(rank, size, &store, settings)?),
    };
    // The store goes with rank 0: nobody may still need it.
    store.barrier("connected", meeting)?;
    Ok(comm)
}

/// The address of this host that its launcher knows others to reach it by.
fn node_address() -> Result<Option<IpAddr>, RunError> {
    let Ok(value) = std::env::var(ADDRESS_VARIABLE) else {
        return Ok(None);
    };
    let address = value.parse();
    let wrong = |_| {
        RunError::Usage(format!(
            "{ADDRESS_VARIABLE}={value}: expected an IP address"
        ))
    };
    address.map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(world_size: usize, local_world_size: usize, source: Source) -> RankEnvironment {
        RankEnvironment {
            world_size,
            local_world_size,
            source,
            ..RankEnvironment::single()
        }
    }

    #[test]
    fn mpirun_brings_mpi_where_the_program_has_it() {
        for source in [Source::OpenMpi, Source::Hydra] {
            let (here, spread) = (ranks(4, 4, source), ranks(4, 2, source));
            let carrier = |environment, has_mpi| choose(Backend::Auto, environment, has_mpi);
            assert_eq!(carrier(&here, true).unwrap(), Carrier::Mpi);
            assert_eq!(carrier(&spread, true).unwrap(), Carrier::Mpi);
            assert_eq!(carrier(&here, false).unwrap(), Carrier::SharedMemory);
            assert_eq!(carrier(&spread, false).unwrap(), Carrier::Tcp);
        }
    }

    #[test]
    fn ranks_of_several_hosts_meet_over_tcp_unless_mpi_may_have_started_them() {
        let carrier = |source, has_mpi| choose(Backend::Auto, &ranks(4, 2, source), has_mpi);
        assert_eq!(carrier(Source::Torchrun, true).unwrap(), Carrier::Tcp);
        assert_eq!(carrier(Source::Slurm, false).unwrap(), Carrier::Tcp);
        assert_eq!(carrier(Source::Slurm, true).unwrap(), Carrier::Mpi);
        let spread = ranks(4, 2, Source::Torchrun);
        let message = choose(Backend::SharedMemory, &spread, true)
            .unwrap_err()
            .message();
        assert!(message.contains("2 of 4 ranks") && message.contains("\"tcp\""));
        for (world, local) in [(4, 4), (4, 2)] {
            let told = choose(Backend::Tcp, &ranks(world, local, Source::OpenMpi), true);
            assert_eq!(told.unwrap(), Carrier::Tcp);
        }
    }

    #[test]
    fn other_launchers_share_memory_unless_told_otherwise() {
        let here = ranks(4, 4, Source::Torchrun);
        let carrier = |backend, has_mpi| choose(backend, &here, has_mpi);
        assert_eq!(carrier(Backend::Auto, true).unwrap(), Carrier::SharedMemory);
        assert_eq!(carrier(Backend::Mpi, true).unwrap(), Carrier::Mpi);
        let message = carrier(Backend::Mpi, false).unwrap_err().message();
        assert!(message.contains("cargo build --release --features mpi"));
        let alone = ranks(1, 1, Source::OpenMpi);
        assert_eq!(
            choose(Backend::Auto, &alone, true).unwrap(),
            Carrier::Nothing
        );
        let mpirun = ranks(2, 2, Source::OpenMpi);
        let told = choose(Backend::SharedMemory, &mpirun, true);
        assert_eq!(told.unwrap(), Carrier::SharedMemory);
    }
}
