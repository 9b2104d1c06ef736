//! The `streamrec` command.

fn main() {}
