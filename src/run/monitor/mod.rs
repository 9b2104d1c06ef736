//! `streamrec monitor`: watch what is served.

mod compact;
mod incidents;
mod labels;
mod prune;
mod rules;
mod serve;
mod watch;

use super::RunError;
use super::cli::MonitorCommand;

/// Runs a command.
pub(super) fn run(command: &MonitorCommand) -> Result<(), RunError> {
    match command {
        MonitorCommand::Compact(args) => compact::run(args),
        MonitorCommand::Labels(args) => labels::run(args),
        MonitorCommand::Serve(args) => serve::run(args),
        MonitorCommand::Run(args) => watch::run(args),
        MonitorCommand::Rules(args) => rules::run(args),
        MonitorCommand::Prune(args) => prune::run(args),
        MonitorCommand::Incidents(command) => incidents::run(command),
    }
}
