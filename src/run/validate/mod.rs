//! `streamrec validate`: judge data and models before they go live.

mod behaviour;
mod data;
mod drift;
mod gate;
mod server;
mod suggest;

use std::process::ExitCode;

use streamrec_artifact::Outcome;

use super::cli::ValidateCommand;

/// Runs a command; the exit code says what it came to.
pub(super) fn run(command: &ValidateCommand) -> ExitCode {
    let judged = match command {
        ValidateCommand::Data(args) => data::run(args),
        ValidateCommand::Suggest(args) => suggest::run(args),
        ValidateCommand::Drift(args) => drift::run(args),
        ValidateCommand::Behaviour(args) => behaviour::run(args),
        ValidateCommand::Gate(args) => gate::run(args),
    };
    match judged {
        Ok(Outcome::Pass) => ExitCode::SUCCESS,
        Ok(Outcome::Fail) => ExitCode::from(3),
        Ok(Outcome::Hold) => ExitCode::from(4),
        Err(error) => error.report(),
    }
}
