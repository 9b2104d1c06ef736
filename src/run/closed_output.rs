//! A reader that has seen enough, as of `streamrec data show ... | head`, is no fault.

/// The exit code of a process that SIGPIPE ended, as shells have it.
const CLOSED: i32 = 141;

/// Lets the process end without a word once nobody reads its standard output; other panics are told as before.
pub(super) fn end_quietly() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        // Rust ignores SIGPIPE, and `println!` panics in its place (EPIPE is 32).
        let closed = |said: &String| {
            said.starts_with("failed printing to stdout") && said.contains("os error 32")
        };
        if said.is_some_and(closed) {
            std::process::exit(CLOSED);
        }
        before(panic);
    }));
}
