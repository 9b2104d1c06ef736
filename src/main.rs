//! The `streamrec` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    streamrec::run::command_line()
}
