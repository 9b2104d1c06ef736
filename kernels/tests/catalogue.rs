//! The catalogue of `kernels/benches/`, of which the roofline and the counts of instructions are made, has every operation.

#[path = "../benches/catalogue/mod.rs"]
mod catalogue;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use streamrec_kernels::Context;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Rust files in a folder and below.
fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the crate") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(path)),
            false => found.push(path),
        }
    }
    found
}

/// Public functions that take a context first, or behind what they write to: `module::function`.
fn public_operations() -> BTreeSet<String> {
    let ops = root().join("src/ops");
    let mut found = BTreeSet::new();
    for path in files(ops.clone()) {
        let text = fs::read_to_string(&path).expect("a source file");
        let module = path.strip_prefix(&ops).expect("below it");
        let module = module.with_extension("");
        let module = module.iter().next().expect("a name").to_string_lossy();
        for (at, _) in text.match_indices("pub fn ") {
            let rest = &text[at + "pub fn ".len()..];
            let (Some(name), Some(parameters)) = (rest.split('(').next(), rest.split(')').next())
            else {
                continue;
            };
            // Constructors make what operations work on.
            if parameters.contains("context: &Context") && name != "new" {
                found.insert(format!("{module}::{name}"));
            }
        }
    }
    found
}

#[test]
fn every_public_operation_is_measured() {
    let catalogue: String = files(root().join("benches/catalogue"))
        .into_iter()
        .map(|path| fs::read_to_string(path).expect("a source file"))
        .collect();
    let operations = public_operations();
    assert!(operations.len() > 25, "{operations:?}");
    let missing: Vec<&String> = operations
        .iter()
        .filter(|operation| {
            let function = operation.split("::").nth(1).expect("a function");
            // A method, or a function that is imported by its name, is called without its module.
            let calls = [
                format!("{operation}("),
                format!(".{function}(&context"),
                format!(".{function}(context"),
                format!("Groups::{function}("),
                format!("!({function}(&context"),
                format!("box({function}(&context"),
            ];
            let multi_line = format!(".{function}(\n");
            !calls.iter().any(|call| catalogue.contains(call)) && !catalogue.contains(&multi_line)
        })
        .collect();
    assert!(
        missing.is_empty(),
        "not in kernels/benches/catalogue: {missing:?}"
    );
}

#[test]
fn every_operation_of_the_catalogue_runs_alone_and_beside_the_others() {
    let context = Context::cpu(2, false).unwrap();
    let all = catalogue::operations(&context, 16, 64, None);
    let names: BTreeSet<String> = all.iter().map(|operation| operation.name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name each");
    for mut operation in all {
        assert!(
            operation.bytes > 0.0 && operation.flops >= 0.0,
            "{}",
            operation.name
        );
        (operation.run)();
        (operation.run)();
    }
    for name in &names {
        let mut alone = catalogue::operations(&context, 16, 64, Some(name));
        let found = alone.iter_mut().find(|operation| operation.name == *name);
        (found.expect("it is made by its name").run)();
    }
}
