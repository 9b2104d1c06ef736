//! The same claims with other units than this CPU's own: the baseline that every CPU has, and tiles of bf16 by emulation.

use std::process::Command;

/// Runs this binary's tests of some modules once more, with a variable set.
#[track_caller]
fn passes(variable: &str, value: &str, modules: &[&str]) {
    let program = std::env::current_exe().expect("the program of these tests");
    let mut command = Command::new(program);
    let output = command.args(modules).env(variable, value).output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{variable}={value}: {said}");
    // A filter that finds nothing passes, too.
    let passed = said.split("test result: ok. ").nth(1);
    let passed = passed.and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    assert!(passed >= Some(modules.len()), "{said}");
}

#[test]
fn the_baseline_gives_what_vector_units_give() {
    let modules = [
        "cross::",
        "dot_interaction::",
        "embedding_bag::",
        "half_precision::",
        "half_tables::",
        "linear::",
        "packed_weights::",
        "sparse_optimizer::",
    ];
    passes("STREAMREC_VECTOR_UNIT", "baseline", &modules);
}

#[test]
fn tiles_of_bf16_give_what_float32_gives_within_its_rounding() {
    passes("STREAMREC_BF16_UNIT", "emulated", &["half_precision::"]);
    passes("STREAMREC_BF16_UNIT", "float32", &["half_precision::"]);
}
