//! NVRTC compiles every kernel for the architectures that users have, where it is installed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use streamrec_kernels::cuda::{
    CompileError, Compiled, LIBRARIES_VARIABLE, SOURCES, compile, compile_cached,
};

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// Registers, bytes of static shared memory, bytes of spills.
type Usage = [u32; 3];

/// Points the loader to NVRTC of the tests' Python, if it has it.
fn find_compiler() {
    let Ok(python) = std::env::var("STREAMREC_TEST_PYTHON") else {
        return;
    };
    let script = "import glob, sysconfig; \
                  print(*glob.glob(sysconfig.get_path('purelib') + '/nvidia/*/lib/libnvrtc.so*')[:1])";
    let output = Command::new(python)
        .args(["-c", script])
        .output()
        .expect("the tests' Python");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        // SAFETY: tests of this file run in processes of their own or set the same value.
        unsafe { std::env::set_var(LIBRARIES_VARIABLE, folder) };
    }
}

/// A source compiled, or nothing where there is no compiler, said loudly.
fn compiled(source: &str, architecture: &str) -> Option<Compiled> {
    find_compiler();
    let source = SOURCES
        .iter()
        .find(|known| known.name == source)
        .expect("a source");
    match compile(source, source.kernels, architecture) {
        Ok(compiled) => Some(compiled),
        Err(CompileError::NoCompiler) if std::env::var_os("STREAMREC_TEST_PYTHON").is_none() => {
            eprintln!("NOT TESTED: NVRTC is not installed; scripts/test installs it");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The figures of each symbol in the assembler's log.
fn usage(log: &str) -> BTreeMap<String, Usage> {
    let number_before = |line: &str, word: &str| -> u32 {
        let before = line.split(word).next().unwrap_or_default();
        before
            .split_whitespace()
            .last()
            .and_then(|number| number.parse().ok())
            .unwrap_or(0)
    };
    let (mut found, mut symbol) = (BTreeMap::<String, Usage>::new(), String::new());
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            symbol = name.split('\'').next().unwrap_or_default().to_owned();
        }
        if line.contains("spill stores") {
            let spills = number_before(line, " bytes spill stores")
                + number_before(line, " bytes spill loads");
            found.entry(symbol.clone()).or_default()[2] = spills;
        }
        if line.contains(" registers") {
            let usage = found.entry(symbol.clone()).or_default();
            usage[0] = number_before(line, " registers");
            usage[1] = if line.contains(" bytes smem") {
                number_before(line, " bytes smem")
            } else {
                0
            };
        }
    }
    found
}

/// Spills that are known and explained in `docs/cuda-kernels.md`; every other one is a fault.
const EXPLAINED_SPILLS: [&str; 0] = [];

fn check(source: &str) {
    let mut table = String::new();
    for architecture in ARCHITECTURES {
        let Some(compiled) = compiled(source, architecture) else {
            return;
        };
        assert_eq!(compiled.cubin[..4], *b"\x7fELF");
        let usage = usage(&compiled.log);
        let kernels = SOURCES
            .iter()
            .find(|known| known.name == source)
            .expect("a source")
            .kernels;
        for (kernel, symbol) in kernels.iter().zip(&compiled.symbols) {
            let [registers, shared, spills] = usage.get(symbol).copied().unwrap_or_else(|| {
                panic!("no figures of {kernel} in {}", compiled.log);
            });
            writeln!(
                table,
                "| {architecture} | `{kernel}` | {registers} | {shared} | {spills} |"
            )
            .expect("memory");
            assert!(
                (8..=255).contains(&registers),
                "{kernel}: {registers} registers"
            );
            let explained = EXPLAINED_SPILLS.contains(kernel);
            assert!(
                spills == 0 || explained,
                "{kernel} on {architecture} spills {spills} bytes"
            );
        }
    }
    println!("{table}");
}

#[test]
fn bce_compiles() {
    check("bce");
}

#[test]
fn cast_compiles() {
    check("cast");
}

#[test]
fn embedding_bag_compiles() {
    check("embedding_bag");
}

#[test]
fn groups_compile() {
    check("groups");
}

#[test]
fn radix_sort_compiles() {
    check("radix_sort");
}

#[test]
fn sparse_optimizer_compiles() {
    check("sparse_optimizer");
}

#[test]
fn each_source_is_compiled_by_a_test() {
    let tested = [
        "bce",
        "cast",
        "embedding_bag",
        "groups",
        "radix_sort",
        "sparse_optimizer",
    ];
    let names: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
    assert_eq!(names, tested);
}

#[test]
fn what_was_compiled_once_comes_from_the_cache() {
    let Some(first) = compiled("cast", "sm_90") else {
        return;
    };
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cache-{}", std::process::id()));
    let source = SOURCES
        .iter()
        .find(|source| source.name == "cast")
        .expect("a source");
    let ask = || compile_cached(source, source.kernels, "sm_90", &folder).unwrap();
    assert!(!ask().log.is_empty(), "compiled");
    let cached = ask();
    assert!(cached.log.is_empty(), "from the cache");
    assert_eq!(
        (&cached.symbols, cached.cubin.len()),
        (&first.symbols, first.cubin.len())
    );
    let file = std::fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&file, b"damaged").unwrap();
    assert!(!ask().log.is_empty(), "compiled again");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_unknown_architecture_is_refused_with_the_compilers_words() {
    if compiled("cast", "sm_80").is_none() {
        return;
    }
    let source = SOURCES
        .iter()
        .find(|source| source.name == "cast")
        .expect("a source");
    let error = compile(source, source.kernels, "sm_12")
        .unwrap_err()
        .to_string();
    assert!(error.contains("NVRTC refused cast.cu for sm_12"), "{error}");
    assert!(error.contains("architecture"), "{error}");
}
