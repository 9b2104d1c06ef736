//! The environment of a process that Open MPI's `mpirun` started
//! (<https://docs.open-mpi.org/en/main/tuning-apps/environment-var.html>).

use super::reader::{Reader, at_most};
use super::{EnvironmentError, RankEnvironment};

const SIZE: &str = "OMPI_COMM_WORLD_SIZE";
const LOCAL_SIZE: &str = "OMPI_COMM_WORLD_LOCAL_SIZE";

/// Open MPI does not number hosts: `group_rank` assumes ranks placed by slot, equally many on each host.
pub(super) fn resolve(reader: &Reader<'_>) -> Result<RankEnvironment, EnvironmentError> {
    let (rank, world_size) = reader.place("OMPI_COMM_WORLD_RANK", SIZE)?;
    let (local_rank, local_world_size) = reader.place("OMPI_COMM_WORLD_LOCAL_RANK", LOCAL_SIZE)?;
    at_most((LOCAL_SIZE, local_world_size), (SIZE, world_size))?;

    // Names of the job in Open MPI 5 and 4; distinct for two mpirun at once, and so are their ports.
    let run_id = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"]
        .into_iter()
        .find_map(|name| reader.text(name));
    let place = (rank, world_size);
    let local = (local_rank, local_world_size);
    reader.mpi_rank(place, local, run_id.unwrap_or("mpi"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::variables;
    use super::super::{RESTART_COUNT_VARIABLE, RUN_ID_VARIABLE, Source, port_of};
    use super::*;

    const FOUR: [(&str, &str); 5] = [
        ("OMPI_COMM_WORLD_RANK", "3"),
        (SIZE, "4"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
        (LOCAL_SIZE, "2"),
        ("PMIX_NAMESPACE", "prterun-7@1"),
    ];

    #[test]
    fn ranks_over_two_hosts_may_know_the_address_of_rank_0() {
        let mut all = variables(&FOUR);
        let found = RankEnvironment::resolve(&all).unwrap();
        assert_eq!((found.rank, found.world_size, found.local_rank), (3, 4, 1));
        assert_eq!((found.group_rank, found.master_addr.as_str()), (1, ""));
        assert_eq!(found.master_port, port_of("prterun-7@1"));
        all.insert("MASTER_ADDR".into(), "node-a".into());
        let found = RankEnvironment::resolve(&all).unwrap();
        assert_eq!(found.master_addr, "node-a");
    }

    #[test]
    fn a_launcher_around_mpirun_names_the_job_and_the_attempt() {
        let mut all = variables(&FOUR);
        all.insert(RUN_ID_VARIABLE.into(), "daily".into());
        all.insert(RESTART_COUNT_VARIABLE.into(), "2".into());
        let found = RankEnvironment::resolve(&all).unwrap();
        assert_eq!((found.run_id.as_str(), found.restart_count), ("daily", 2));
        assert_eq!(found.source, Source::OpenMpi);
    }

    #[test]
    fn a_missing_size_is_named() {
        let mut partial = variables(&FOUR);
        partial.remove(SIZE);
        assert!(
            RankEnvironment::resolve(&partial)
                .unwrap_err()
                .to_string()
                .contains(SIZE)
        );
    }
}
