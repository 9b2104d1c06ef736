//! The composition root: one file a command. Only here do stages meet.

mod cli;
mod data;
mod environment;
mod error;
mod evaluate;
mod export;
mod features;
mod folder;
mod launch;
mod logging;
mod plan;
mod rank;
mod readers;
mod replacement;
mod request;
mod session;
mod stop;
mod train;
mod trainee;

use std::process::ExitCode;

use clap::Parser;

pub use cli::{Cli, TrainArgs};
pub use error::RunError;
pub use train::{TrainOutcome, train, train_with};

/// Runs the command line of this process.
pub fn command_line() -> ExitCode {
    let cli = Cli::parse();
    logging::start();
    let outcome = match cli.command {
        cli::Command::Data(command) => data::run(&command),
        cli::Command::Launch(args) => return launch::run(&args),
        cli::Command::Train(args) => return train::run(&args),
        cli::Command::Plan(args) => plan::run(&args),
        cli::Command::Evaluate(args) => evaluate::run(&args),
        cli::Command::Export(args) => export::run(&args),
        cli::Command::Request(args) => request::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
