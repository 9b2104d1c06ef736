//! Runs one transform a few times, for `scripts/instructions` to count its instructions; without a name it
//! lists the transforms.

#[path = "../benches/catalogue/mod.rs"]
mod catalogue;

use std::process::ExitCode;

use catalogue::Operation;

/// Small enough for a simulated CPU, and still many blocks.
const ROWS: usize = 2048;
const RUNS: usize = 2;

/// What is counted.
#[inline(never)]
fn measured(operation: &mut Operation) {
    (operation.run)();
}

fn main() -> ExitCode {
    let operations = catalogue::operations(ROWS);
    let Some(name) = std::env::args().nth(1) else {
        for Operation { name, values, .. } in operations {
            println!("{name} {values}");
        }
        return ExitCode::SUCCESS;
    };
    let Some(mut operation) = operations.into_iter().find(|known| known.name == name) else {
        eprintln!("no transform is called `{name}`; without a name this lists them");
        return ExitCode::FAILURE;
    };
    // The first run finds its memory, which is not what is counted.
    (operation.run)();
    for _ in 0..RUNS {
        measured(&mut operation);
    }
    ExitCode::SUCCESS
}
