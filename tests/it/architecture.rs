//! The layout is the architecture: who may import whom, where unsafe code may stand, how long a
//! file and a function may be, and that the map names what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `streamrec`, lowest first; each may import those before it.
const MODULES: [&str; 12] = [
    "config",
    "data",
    "comm",
    "model",
    "parallel",
    "optim",
    "train",
    "checkpoint",
    "export",
    "validation",
    "monitoring",
    "run",
];

/// What each crate may import of the others.
const CRATES: [(&str, &[&str]); 6] = [
    ("artifact", &[]),
    ("launcher", &[]),
    ("kernels", &[]),
    ("kernels/allocations", &[]),
    ("kernels/emulate", &["kernels"]),
    ("serving", &["artifact", "kernels"]),
];

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 75;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folder`, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)
            .expect("a folder of the project")
            .flatten()
        {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no source in {folder}");
    found
}

fn all_sources() -> Vec<(PathBuf, String)> {
    [
        "src",
        "kernels/src",
        "kernels/allocations/src",
        "kernels/emulate/src",
        "launcher/src",
        "artifact/src",
        "serving/src",
    ]
    .into_iter()
    .flat_map(sources)
    .collect()
}

/// The lines before the file's unit tests; none of a file that holds only tests.
fn code(path: &Path, text: &str) -> Vec<String> {
    if path.file_stem().is_some_and(|stem| stem == "tests")
        || path.components().any(|part| part.as_os_str() == "tests")
    {
        return Vec::new();
    }
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]"))
        .map(str::to_owned)
        .collect()
}

/// The modules of its crate that some code names: `crate::module`, and each `module` of
/// `crate::{module::..., other}`, over any number of lines.
fn imported_modules(code: &[String]) -> BTreeSet<String> {
    let is_comment = |line: &&String| line.trim_start().starts_with("//");
    let lines: Vec<&str> = code
        .iter()
        .filter(|line| !is_comment(line))
        .map(String::as_str)
        .collect();
    let text = lines.join("\n");
    let name = |text: &str| -> String {
        let text = text.trim_start().chars();
        text.take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let mut found = BTreeSet::new();
    for (at, start) in text.match_indices("crate::") {
        let rest = &text[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(name(rest));
            continue;
        };
        let (mut depth, mut begins) = (0, true);
        for (index, c) in list.char_indices() {
            if depth == 0 && begins && (c.is_alphabetic() || c == '_') {
                found.insert(name(&list[index..]));
                begins = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_are_seen_in_lists_over_lines() {
    let code = "use crate::{\n    comm::{Event, data},\n    run::Rank,\n};\n// crate::export\nlet x = crate::model::Loss;";
    let code: Vec<String> = code.lines().map(str::to_owned).collect();
    let found: Vec<String> = imported_modules(&code).into_iter().collect();
    assert_eq!(found, ["comm", "model", "run"]);
}

#[test]
fn a_module_imports_only_modules_above_it() {
    let mut wrong = Vec::new();
    for (level, module) in MODULES.iter().enumerate() {
        let mut files = Vec::new();
        if root().join("src").join(module).is_dir() {
            files = sources(&format!("src/{module}"));
        }
        for (path, text) in files {
            let imported = imported_modules(&code(&path, &text));
            for other in MODULES[level + 1..]
                .iter()
                .filter(|other| imported.contains(**other))
            {
                wrong.push(format!("{}: {module} imports {other}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_crate_imports_only_the_crates_it_may() {
    for (name, may) in CRATES {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = text.parse().expect("TOML");
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        for dependency in dependencies.keys() {
            if let Some(other) = dependency.strip_prefix("streamrec-") {
                assert!(may.contains(&other), "{name} depends on {other}");
            }
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_the_design_allows_it() {
    for (path, text) in all_sources() {
        let allowed = [
            "kernels/src",
            "kernels/allocations/src",
            "kernels/emulate/src",
            "src/comm/shared_memory",
            "src/comm/mpi/memory.rs",
        ]
        .iter()
        .any(|place| path.starts_with(root().join(place)));
        let unsafe_line = text
            .lines()
            .find(|line| line.contains("unsafe {") || line.contains("unsafe impl"));
        assert!(
            allowed || unsafe_line.is_none(),
            "{}: {unsafe_line:?}",
            path.display()
        );
    }
}

#[test]
fn files_and_functions_stay_short_and_have_names() {
    let mut wrong = Vec::new();
    for (path, text) in all_sources() {
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or("");
        if ["util", "utils", "common", "helpers", "misc"].contains(&stem) {
            wrong.push(format!("{}: says nothing of what it holds", path.display()));
        }
        let lines = code(&path, &text);
        if lines.len() > FILE_LINES_MAX {
            wrong.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (name, length) in functions(&lines) {
            if length > FUNCTION_LINES_MAX {
                wrong.push(format!("{}: {name} has {length} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names and lengths of functions: formatted code closes one at the indentation that opened it.
fn functions(lines: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let text = line.trim_start();
        let opens = [
            "fn ",
            "pub fn ",
            "pub(super) fn ",
            "pub(crate) fn ",
            "async fn ",
            "pub async fn ",
        ]
        .iter()
        .any(|prefix| text.starts_with(prefix));
        if !opens {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - text.len()]);
        let end = lines[start..].iter().position(|line| *line == close);
        if let Some(length) = end {
            let name = text.split(['(', '<']).next().unwrap_or(text);
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn the_map_names_what_exists() {
    for document in ["ARCHITECTURE.md", "README.md"] {
        let text = fs::read_to_string(root().join(document)).expect("a document");
        for path in paths(&text) {
            assert!(
                root().join(&path).exists(),
                "{document} names `{path}`, which is not there"
            );
        }
    }
}

/// Paths in backticks that begin with a folder of the project.
fn paths(text: &str) -> Vec<String> {
    let folders = [
        "src/",
        "kernels/",
        "launcher/",
        "artifact/",
        "serving/",
        "configs/",
        "benches/",
        "tests/",
        "scripts/",
        "docs/",
        "examples/",
    ];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| folders.iter().any(|folder| quoted.starts_with(folder)))
        .filter(|quoted| !quoted.contains([' ', '*', '<', '{', 'N']))
        .map(str::to_owned)
        .collect()
}
