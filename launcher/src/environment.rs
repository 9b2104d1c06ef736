//! Who am I? A rank's place in its job, resolved from environment variables.
//!
//! The same binary runs under `streamrec launch`, torchrun, srun and mpirun (Open MPI or MPICH). The first of these sources whose marker
//! is set wins, whole; variables of different sources are never mixed (except `MASTER_ADDR` and `MASTER_PORT`, which
//! override what Slurm and MPI imply):
//!
//! | order | source | marker | variables read |
//! |---|---|---|---|
//! | 1 | torchrun (and `streamrec launch`) | `RANK`, `WORLD_SIZE` or `LOCAL_RANK` | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `GROUP_RANK`, `MASTER_ADDR`, `MASTER_PORT`, `TORCHELASTIC_RESTART_COUNT`, `TORCHELASTIC_RUN_ID`, `TORCHELASTIC_USE_AGENT_STORE` |
//! | 2 | Slurm | `SLURM_PROCID`, inside a job step | see [`Source::Slurm`] |
//! | 3 | Open MPI | `OMPI_COMM_WORLD_RANK` | see [`Source::OpenMpi`] |
//! | 4 | MPICH (Hydra) | `PMI_RANK` | see [`Source::Hydra`] |
//! | 5 | none: one single rank | | `MASTER_ADDR`, `MASTER_PORT` |
//!
//! torchrun's contract: <https://docs.pytorch.org/docs/stable/elastic/run.html>. Its agent itself listens on
//! `MASTER_PORT` when `TORCHELASTIC_USE_AGENT_STORE` is true, so ranks then meet on the next port.

mod hydra;
mod open_mpi;
mod reader;
mod slurm;
mod torchrun;

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use reader::Reader;

/// Environment variables by name. Injected, so that tests need not touch the process environment.
pub type Variables = BTreeMap<String, String>;

/// The port ranks meet on when nothing names another: torchrun's default.
const DEFAULT_PORT: u16 = 29500;

/// Variable in which a launcher around `mpirun` says how often it has started the job before.
pub const RESTART_COUNT_VARIABLE: &str = "STREAMREC_RESTART_COUNT";

/// Variable in which a launcher around `mpirun` gives all attempts of a job one name.
pub const RUN_ID_VARIABLE: &str = "STREAMREC_RUN_ID";

/// Where a [`RankEnvironment`] came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The torchrun contract, which `streamrec launch` speaks too.
    Torchrun,
    /// `srun`: `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS` or `SLURM_NTASKS`, `SLURM_LOCALID`, `SLURM_NODEID`,
    /// `SLURM_STEP_TASKS_PER_NODE` or `SLURM_TASKS_PER_NODE`, `SLURM_STEP_NODELIST` or `SLURM_JOB_NODELIST`,
    /// `SLURM_JOB_ID`, `SLURM_STEP_ID`, `SLURM_RESTART_COUNT`. A batch script is not a step (it has a `SLURM_JOB_ID`
    /// but no `SLURM_STEP_ID`) and does not count.
    Slurm,
    /// `mpirun` of Open MPI: `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE`, `PMIX_NAMESPACE`; and
    /// [`RESTART_COUNT_VARIABLE`] and [`RUN_ID_VARIABLE`].
    OpenMpi,
    /// `mpiexec` of MPICH: `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS`; and the two as above.
    Hydra,
    /// No launcher: one single rank.
    Single,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Torchrun => "torchrun",
            Self::Slurm => "Slurm",
            Self::OpenMpi => "Open MPI",
            Self::Hydra => "MPICH",
            Self::Single => "a single rank",
        })
    }
}

/// Environment variables that do not describe a rank.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EnvironmentError {
    /// A variable that the source always sets is not there.
    #[error(
        "{launcher} variables are incomplete: {name} is not set although {present} is; \
         start the rank with a launcher, or unset {present} to run a single rank"
    )]
    Missing {
        /// The source that was recognised.
        launcher: Source,
        /// The missing variable.
        name: &'static str,
        /// The variable by which the source was recognised.
        present: &'static str,
    },
    /// A value does not parse.
    #[error("{name}={value:?} is not {expected}; correct or unset it")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// Two values exclude each other.
    #[error("{name}={value} contradicts {other}={other_value}: {rule}")]
    Contradiction {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: usize,
        /// The variable it contradicts.
        other: &'static str,
        /// The value of that one.
        other_value: usize,
        /// The rule that both must keep.
        rule: &'static str,
    },
}

/// A rank's place in its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankEnvironment {
    /// This process among all: `0 <= rank < world_size`.
    pub rank: usize,
    /// This process among those of its host: `0 <= local_rank < local_world_size`. Picks the GPU.
    pub local_rank: usize,
    /// Ranks in the job.
    pub world_size: usize,
    /// Ranks on this host.
    pub local_world_size: usize,
    /// This host among the hosts of the job.
    pub group_rank: usize,
    /// Host name or address of rank 0; empty where nobody told it.
    pub master_addr: String,
    /// Port on which rank 0 hosts the rendezvous.
    pub master_port: u16,
    /// How often the job was restarted before this attempt.
    pub restart_count: u32,
    /// Name of the job, equal on all ranks and in all attempts.
    pub run_id: String,
    /// Where all this came from.
    pub source: Source,
}

impl RankEnvironment {
    /// Resolves the environment of this process, and logs what it found.
    ///
    /// # Errors
    /// When the variables of the source are incomplete, malformed or contradictory.
    pub fn from_process() -> Result<Self, EnvironmentError> {
        // A value that is not Unicode becomes one that does not parse, and is then reported by name.
        let variables = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect();
        let found = Self::resolve(&variables)?;
        tracing::info!(
            source = %found.source,
            rank = found.rank,
            world_size = found.world_size,
            local_rank = found.local_rank,
            master = %format_args!("{}:{}", found.master_addr, found.master_port),
            restart_count = found.restart_count,
            "resolved the rank's environment"
        );
        Ok(found)
    }

    /// Resolves a set of variables, by the precedence of the [module](self).
    ///
    /// # Errors
    /// When the variables of the source are incomplete, malformed or contradictory.
    pub fn resolve(variables: &Variables) -> Result<Self, EnvironmentError> {
        let marked = |names: &[&'static str]| {
            names
                .iter()
                .copied()
                .find(|name| variables.contains_key(*name))
        };
        if let Some(marker) = marked(&["RANK", "WORLD_SIZE", "LOCAL_RANK"]) {
            torchrun::resolve(&Reader {
                variables,
                source: Source::Torchrun,
                marker,
            })
        } else if let Some(marker) = marked(&["SLURM_PROCID"]).filter(|_| slurm::in_step(variables))
        {
            slurm::resolve(&Reader {
                variables,
                source: Source::Slurm,
                marker,
            })
        } else if let Some(marker) = marked(&["OMPI_COMM_WORLD_RANK"]) {
            open_mpi::resolve(&Reader {
                variables,
                source: Source::OpenMpi,
                marker,
            })
        } else if let Some(marker) = marked(&["PMI_RANK"]) {
            hydra::resolve(&Reader {
                variables,
                source: Source::Hydra,
                marker,
            })
        } else {
            let reader = Reader {
                variables,
                source: Source::Single,
                marker: "MASTER_ADDR",
            };
            Ok(Self {
                master_addr: reader.text("MASTER_ADDR").unwrap_or("127.0.0.1").to_owned(),
                master_port: reader.port()?.unwrap_or(DEFAULT_PORT),
                ..Self::single()
            })
        }
    }

    /// One single rank: the world of a process that no launcher started.
    pub fn single() -> Self {
        Self {
            rank: 0,
            local_rank: 0,
            world_size: 1,
            local_world_size: 1,
            group_rank: 0,
            master_addr: "127.0.0.1".to_owned(),
            master_port: DEFAULT_PORT,
            restart_count: 0,
            run_id: "single".to_owned(),
            source: Source::Single,
        }
    }

    /// The torchrun variables that describe this rank: the inverse of [`resolve`](Self::resolve).
    pub fn variables(&self) -> Variables {
        [
            ("RANK", self.rank.to_string()),
            ("LOCAL_RANK", self.local_rank.to_string()),
            ("WORLD_SIZE", self.world_size.to_string()),
            ("LOCAL_WORLD_SIZE", self.local_world_size.to_string()),
            ("GROUP_RANK", self.group_rank.to_string()),
            ("MASTER_ADDR", self.master_addr.clone()),
            ("MASTER_PORT", self.master_port.to_string()),
            ("TORCHELASTIC_RESTART_COUNT", self.restart_count.to_string()),
            ("TORCHELASTIC_RUN_ID", self.run_id.clone()),
            ("TORCHELASTIC_USE_AGENT_STORE", "False".to_owned()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

/// A port below the ephemeral range that all ranks derive alike from the name of their job.
fn port_of(run_id: &str) -> u16 {
    // FNV-1a, 32 bits.
    let hash = run_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    20_000 + (hash % 10_000) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = [(&'static str, &'static str)];

    pub(super) fn variables(pairs: &Pairs) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    const TORCHRUN: [(&str, &str); 9] = [
        ("RANK", "5"),
        ("LOCAL_RANK", "1"),
        ("WORLD_SIZE", "8"),
        ("LOCAL_WORLD_SIZE", "4"),
        ("GROUP_RANK", "1"),
        ("MASTER_ADDR", "host-a"),
        ("MASTER_PORT", "4000"),
        ("TORCHELASTIC_RESTART_COUNT", "2"),
        ("TORCHELASTIC_RUN_ID", "daily"),
    ];

    fn torchrun_but(changes: &Pairs) -> Variables {
        let mut all = variables(&TORCHRUN);
        all.extend(variables(changes));
        all
    }

    #[test]
    fn torchrun_variables_are_taken_as_they_are() {
        let found = RankEnvironment::resolve(&variables(&TORCHRUN)).unwrap();
        assert_eq!(
            found,
            RankEnvironment {
                rank: 5,
                local_rank: 1,
                world_size: 8,
                local_world_size: 4,
                group_rank: 1,
                master_addr: "host-a".into(),
                master_port: 4000,
                restart_count: 2,
                run_id: "daily".into(),
                source: Source::Torchrun,
            }
        );
    }

    #[test]
    fn ranks_meet_one_port_above_a_torchrun_agent_that_hosts_the_store() {
        let found =
            RankEnvironment::resolve(&torchrun_but(&[("TORCHELASTIC_USE_AGENT_STORE", "True")]))
                .unwrap();
        assert_eq!(found.master_port, 4001);
        let full = torchrun_but(&[
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("MASTER_PORT", "65535"),
        ]);
        assert!(
            RankEnvironment::resolve(&full)
                .unwrap_err()
                .to_string()
                .contains("MASTER_PORT=\"65535\"")
        );
    }

    #[test]
    fn torchrun_wins_over_slurm_and_slurm_over_open_mpi() {
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "0"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        let slurm = [
            ("SLURM_PROCID", "1"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_LOCALID", "1"),
        ];
        let mut all = variables(&mpi);
        assert_eq!(
            RankEnvironment::resolve(&all).unwrap().source,
            Source::OpenMpi
        );
        all.extend(variables(&slurm));
        assert_eq!(
            RankEnvironment::resolve(&all).unwrap().source,
            Source::Slurm
        );
        all.extend(variables(&TORCHRUN));
        assert_eq!(
            RankEnvironment::resolve(&all).unwrap().source,
            Source::Torchrun
        );
    }

    #[test]
    fn nothing_set_is_one_single_rank() {
        assert_eq!(
            RankEnvironment::resolve(&Variables::new()).unwrap(),
            RankEnvironment::single()
        );
        let placed = RankEnvironment::resolve(&variables(&[("MASTER_PORT", "31000")])).unwrap();
        assert_eq!((placed.world_size, placed.master_port), (1, 31000));
    }

    #[test]
    fn errors_name_the_variable_and_its_value() {
        let cases: [(&Pairs, &[&str]); 7] = [
            (&[("RANK", "8")], &["RANK=8", "WORLD_SIZE=8"]),
            (&[("RANK", "minus one")], &["RANK=\"minus one\""]),
            (&[("WORLD_SIZE", "0")], &["WORLD_SIZE=0", "at least one"]),
            (
                &[("LOCAL_RANK", "4")],
                &["LOCAL_RANK=4", "LOCAL_WORLD_SIZE=4"],
            ),
            (
                &[("LOCAL_WORLD_SIZE", "9")],
                &["LOCAL_WORLD_SIZE=9", "WORLD_SIZE=8"],
            ),
            (&[("MASTER_PORT", "70000")], &["MASTER_PORT=\"70000\""]),
            (
                &[("TORCHELASTIC_RESTART_COUNT", "often")],
                &["TORCHELASTIC_RESTART_COUNT=\"often\""],
            ),
        ];
        for (changes, expected) in cases {
            let message = RankEnvironment::resolve(&torchrun_but(changes))
                .unwrap_err()
                .to_string();
            for part in expected {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
        }
    }

    #[test]
    fn a_partial_set_is_refused_and_never_completed_from_elsewhere() {
        for name in [
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "LOCAL_WORLD_SIZE",
            "MASTER_ADDR",
            "MASTER_PORT",
        ] {
            let mut partial = torchrun_but(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")]);
            partial.remove(name);
            let error = RankEnvironment::resolve(&partial).unwrap_err();
            assert!(
                matches!(error, EnvironmentError::Missing { name: missing, .. } if missing == name),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn variables_resolve_to_the_environment_they_were_made_from(
            hosts in 1_usize..5, local_world_size in 1_usize..9, pick in 0_usize..100,
            master_port in 1_u16.., restart_count: u32, run_id in "[a-z0-9-]{1,12}",
        ) {
            let world_size = hosts * local_world_size;
            let rank = pick % world_size;
            let environment = RankEnvironment {
                rank,
                local_rank: rank % local_world_size,
                world_size,
                local_world_size,
                group_rank: rank / local_world_size,
                master_addr: "10.0.0.1".into(),
                master_port,
                restart_count,
                run_id,
                source: Source::Torchrun,
            };
            prop_assert_eq!(RankEnvironment::resolve(&environment.variables()).unwrap(), environment);
        }
    }
}
