//! Starts the ranks of a StreamRec job, watches them, and starts them again when one fails.
//!
//! | module | what it answers |
//! |---|---|
//! | [`environment`] | who am I? rank, world and master address from variables of torchrun, Slurm, Open MPI or MPICH |
//! | [`rendezvous`] | where do ranks meet? a tiny key-value store that rank 0 hosts |
//! | [`control`] | how far is each rank? reports from ranks to their launcher |
//! | [`job`], [`launch`](mod@launch) | what runs, and what became of it? |
//! | [`nodes`] | which other hosts are there, and what runs on them? |
//! | [`mpirun`] | the same, through the `mpirun` of the system |
//! | [`cause`] | which rank is to blame, and how do we know? |
//! | [`submission`] | what does a scheduler need to start it? a Slurm script, Kubernetes manifests, an mpirun command |
//! | [`parent`] | how does a rank not outlive its launcher? |
//!
//! A rank resolves its [`RankEnvironment`], makes a [`Reporter`], and meets the others in a [`Store`]. A launcher fills
//! in a [`Job`] and calls [`launch()`]. The crate knows no tensors and imports no other StreamRec crate.

#![forbid(unsafe_code)]

mod attempt;
pub mod cause;
pub mod control;
mod cores;
mod diagnosis;
pub mod environment;
pub mod job;
pub mod launch;
mod lock;
pub mod mpirun;
pub mod nodes;
mod output;
pub mod parent;
mod rank;
mod rank_order;
mod rank_process;
pub mod rendezvous;
mod server;
mod signals;
mod stop_requests;
pub mod submission;

pub use cause::{Cause, Fault, RankStatus};
pub use control::{Channel, ControlError, LostLauncher, Reporter};
pub use environment::{EnvironmentError, RankEnvironment, Source};
pub use job::{FirstRankOutput, Job, Timing};
pub use launch::{JobReport, LaunchError, launch, launch_hosts};
pub use mpirun::{MpirunFailure, MpirunReport, launch_mpirun};
pub use parent::bind_to_parent;
pub use rendezvous::{RendezvousError, Store, free_port};
pub use submission::{Submission, SubmissionError};
