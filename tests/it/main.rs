//! Claims about the whole: one binary, one file a boundary. Real processes, signals and files.

mod architecture;
mod bad_guards;
mod bad_input;
mod browser;
mod cable;
mod clicks;
mod configs;
mod dashboard;
mod doctor;
mod expectations;
mod failures;
mod gpu_check;
#[cfg(feature = "mpi")]
mod hosts;
mod import_memory;
mod incidents;
mod later_data;
mod live_incidents;
mod live_traffic;
mod mesh;
mod monitoring;
#[cfg(feature = "mpi")]
mod mpi;
mod oracles;
mod own_model;
mod plan;
mod precision;
mod profile;
mod ranks;
mod real_data;
mod release;
mod replacement;
mod report;
mod restart;
mod resume;
mod retention;
mod score;
mod serving;
mod side_by_side;
mod submission;
mod table_precision;
mod tcp;
mod untrusted_bytes;
mod webhook_receiver;
mod workbench;
