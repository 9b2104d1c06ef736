//! The environment of a process that `mpiexec` of MPICH, or of what descends from it, started: its process manager is
//! called Hydra (<https://github.com/pmodels/mpich/blob/main/doc/wiki/how_to/Using_the_Hydra_Process_Manager.md>).

use super::reader::{Reader, at_most};
use super::{EnvironmentError, RankEnvironment};

const SIZE: &str = "PMI_SIZE";
const LOCAL_SIZE: &str = "MPI_LOCALNRANKS";

/// Hydra names neither hosts nor the job: `group_rank` assumes equally many ranks on each host.
pub(super) fn resolve(reader: &Reader<'_>) -> Result<RankEnvironment, EnvironmentError> {
    let (rank, world_size) = reader.place("PMI_RANK", SIZE)?;
    let (local_rank, local_world_size) = reader.place("MPI_LOCALRANKID", LOCAL_SIZE)?;
    at_most((LOCAL_SIZE, local_world_size), (SIZE, world_size))?;
    reader.mpi_rank((rank, world_size), (local_rank, local_world_size), "mpi")
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::tests::variables;
    use super::*;

    const FOUR: [(&str, &str); 4] = [
        ("PMI_RANK", "3"),
        (SIZE, "4"),
        ("MPI_LOCALRANKID", "1"),
        (LOCAL_SIZE, "2"),
    ];

    #[test]
    fn a_rank_of_mpich_finds_its_place() {
        let found = RankEnvironment::resolve(&variables(&FOUR)).unwrap();
        assert_eq!((found.rank, found.world_size, found.local_rank), (3, 4, 1));
        assert_eq!((found.local_world_size, found.group_rank), (2, 1));
        assert_eq!(found.source, Source::Hydra);
    }

    #[test]
    fn a_missing_size_is_named() {
        for name in [SIZE, LOCAL_SIZE] {
            let mut partial = variables(&FOUR);
            partial.remove(name);
            let message = RankEnvironment::resolve(&partial).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
