//! The composition root: one file a command. Only here do stages meet.

mod artifact;
mod backend;
mod bytes;
mod cli;
mod closed_output;
mod data;
mod device;
mod doctor;
mod environment;
mod error;
mod evaluate;
mod export;
mod features;
mod folder;
mod input;
mod kernels;
mod launch;
mod logging;
mod monitor;
mod output_lock;
mod plan;
mod rank;
mod readers;
mod replacement;
mod report;
mod request;
mod score;
mod session;
mod step_profile;
mod stop;
mod submission;
mod threads;
mod train;
mod trainee;
mod validate;
mod window;

use std::process::ExitCode;

use clap::Parser;
use streamrec_artifact::{FeatureSchema, Graph};

pub use cli::{Cli, TrainArgs, TrainCli};
pub use error::RunError;
pub use train::{TrainOutcome, train, train_with};

use crate::model::ModelError;

/// Runs the command line of a program that trains a model of its own: it takes the arguments of `streamrec train`,
/// logs and exits as that does, and `streamrec launch --program` starts it as ranks.
pub fn train_command_line(graph: impl Fn(&FeatureSchema) -> Result<Graph, ModelError>) -> ExitCode {
    let cli = TrainCli::parse();
    train::run_with(&cli.train, &|_, schema| graph(schema))
}

/// Runs the command line of this process.
pub fn command_line() -> ExitCode {
    let cli = Cli::parse();
    if let cli::Command::Train(args) = &cli.command {
        return train::run(args);
    }
    logging::start(None);
    // Of a launch, ranks are lost when it ends at once.
    if !matches!(
        &cli.command,
        cli::Command::Launch(_) | cli::Command::NodeShell { .. }
    ) {
        closed_output::end_quietly();
    }
    let outcome = match cli.command {
        cli::Command::Data(command) => data::run(&command),
        cli::Command::Launch(args) => return launch::run(&args),
        cli::Command::Train(args) => return train::run(&args),
        cli::Command::Plan(args) => plan::run(&args),
        cli::Command::Evaluate(args) => evaluate::run(&args),
        cli::Command::Export(args) => export::run(&args),
        cli::Command::Score(args) => score::run(&args),
        cli::Command::Request(args) => request::run(&args),
        cli::Command::Monitor(command) => monitor::run(&command),
        cli::Command::Report(args) => report::run(&args),
        cli::Command::Doctor(args) => doctor::run(&args),
        cli::Command::Kernels(args) => kernels::run(&args),
        cli::Command::Validate(command) => return validate::run(&command),
        cli::Command::NodeShell { host, command } => return launch::node_shell(&host, &command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
