//! Runs one hot operation on one thread a few times, for `scripts/instructions` to count its
//! instructions; without a name it lists the operations.

#[path = "../benches/catalogue/mod.rs"]
mod catalogue;

use std::process::ExitCode;

use catalogue::Operation;
use streamrec_kernels::Context;

/// Small enough for a simulated CPU, and still several panels of each operation.
const BATCH: usize = 512;
const ROWS: usize = 8192;
const RUNS: usize = 2;
/// Of its tables each is what `embedding_bag/groups` counts, on a thread of its own.
const COUNTED_ALREADY: &str = "embedding_bag/build_all";

/// What is counted.
#[inline(never)]
fn measured(operation: &mut Operation) {
    (operation.run)();
}

fn main() -> ExitCode {
    let Ok(context) = Context::cpu(1, false) else {
        eprintln!("there is no context of one thread");
        return ExitCode::FAILURE;
    };
    let name = std::env::args().nth(1);
    let operations = catalogue::operations(&context, BATCH, ROWS, name.as_deref());
    let Some(name) = name else {
        for Operation {
            name, bytes, flops, ..
        } in operations
        {
            if name == COUNTED_ALREADY {
                continue;
            }
            println!("{name} {bytes} {flops}");
        }
        return ExitCode::SUCCESS;
    };
    let Some(mut operation) = operations.into_iter().find(|known| known.name == name) else {
        eprintln!("no operation is called `{name}`; without a name this lists them");
        return ExitCode::FAILURE;
    };
    // The first run finds its scratch memory, which is not what is counted.
    (operation.run)();
    for _ in 0..RUNS {
        measured(&mut operation);
    }
    ExitCode::SUCCESS
}
