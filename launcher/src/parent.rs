//! How a rank does not outlive its launcher, even one that is killed.

use std::io;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use crate::control::CONTROL_VARIABLE;

/// Asks the kernel to kill this process when its parent dies (`PR_SET_PDEATHSIG` with SIGKILL). Call it first thing in
/// a rank; a no-op when no launcher of ours started the process, so that a shell may end before its background job.
///
/// It works at once and without a thread, where [`Reporter`](crate::Reporter) leaves a message first and also works
/// through a wrapper script. Use both.
///
/// # Errors
/// When the system refuses, or the parent died while we asked.
pub fn bind_to_parent() -> io::Result<()> {
    if std::env::var_os(CONTROL_VARIABLE).is_none() {
        return Ok(());
    }
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The kernel says nothing of a parent that died before the request.
    if getppid() != parent {
        return Err(io::Error::other(
            "the launcher died while this rank started",
        ));
    }
    Ok(())
}
