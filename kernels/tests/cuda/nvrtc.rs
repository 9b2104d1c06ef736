//! NVRTC compiles every kernel for the architectures that users have, where it is installed.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::path::PathBuf;

use streamrec_kernels::cuda::{
    AHEAD_VARIABLE, CompileError, Compiled, SOURCES, Source, compile, compile_ahead,
    compile_cached, find_ahead,
};

use crate::device::asks_for_a_gpu;
use crate::python_packages::point_loader_to;

/// Registers, bytes of static shared memory, bytes of spills.
type Usage = [u32; 3];

fn of_name(source: &str) -> &'static Source {
    let mut sources = SOURCES.iter();
    sources
        .find(|known| known.name == source)
        .expect("a source")
}

/// Kernels compiled, or nothing where there is no compiler, said loudly.
fn compiled(source: &Source, kernels: &[&str], architecture: &str) -> Option<Compiled> {
    if asks_for_a_gpu() {
        eprintln!("NOT TESTED on a GPU: what the compiler makes for others needs none");
        return None;
    }
    point_loader_to("nvidia/*/lib/libnvrtc.so*");
    match compile(source, kernels, architecture) {
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

/// Compiles every `parts`-th kernel of a source, from `part` on, and prints the table's rows.
fn check(source: &str, architecture: &str, [part, parts]: [usize; 2]) {
    let source = of_name(source);
    let kernels = source.kernels.iter().skip(part).step_by(parts);
    let kernels: Vec<&str> = kernels.copied().collect();
    let Some(compiled) = compiled(source, &kernels, architecture) else {
        return;
    };
    assert_eq!(compiled.image[..4], *b"\x7fELF");
    let (usage, mut table) = (usage(&compiled.log), String::new());
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
    println!("{table}");
}

/// A test for each source and architecture, so that all cores compile.
macro_rules! sources_compile {
    ($($source:ident),* $(,)?) => {
        $(mod $source {
            #[test]
            fn compiles_for_sm_80() {
                super::check(stringify!($source), "sm_80", [0, 1]);
            }

            #[test]
            fn compiles_for_sm_90() {
                super::check(stringify!($source), "sm_90", [0, 1]);
            }
        })*
        const TESTED: &[&str] = &[$(stringify!($source)),*];
    };
}

sources_compile!(
    add,
    bce,
    cast,
    cross,
    dense_optimizer,
    dot_interaction,
    embedding_bag,
    factorization_machine,
    groups,
    linear,
    radix_sort,
    step,
    whole_rows,
);

/// The largest source takes as long as all others: in parts.
mod sparse_optimizer {
    #[test]
    fn one_half_compiles_for_sm_80() {
        super::check("sparse_optimizer", "sm_80", [0, 2]);
    }

    #[test]
    fn the_other_half_compiles_for_sm_80() {
        super::check("sparse_optimizer", "sm_80", [1, 2]);
    }

    #[test]
    fn one_half_compiles_for_sm_90() {
        super::check("sparse_optimizer", "sm_90", [0, 2]);
    }

    #[test]
    fn the_other_half_compiles_for_sm_90() {
        super::check("sparse_optimizer", "sm_90", [1, 2]);
    }
}

/// On a GPU they show that the emulation is what it is taken for.
#[test]
fn the_emulations_own_kernels_compile_too() {
    let source = &crate::emulation::SOURCE;
    if let Some(compiled) = compiled(source, source.kernels, "sm_90") {
        assert_eq!(compiled.symbols.len(), source.kernels.len());
    }
}

#[test]
fn each_source_is_compiled_by_a_test() {
    let mut tested = [TESTED, &["sparse_optimizer"]].concat();
    tested.sort_unstable();
    let names: Vec<&str> = SOURCES.iter().map(|source| source.name).collect();
    assert_eq!(names, tested);
}

#[test]
fn what_was_compiled_once_comes_from_the_cache() {
    let source = of_name("cast");
    let Some(first) = compiled(source, source.kernels, "sm_90") else {
        return;
    };
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cache-{}", std::process::id()));
    let ask = || compile_cached(source, source.kernels, "sm_90", &folder).unwrap();
    assert!(!ask().log.is_empty(), "compiled");
    let cached = ask();
    assert!(cached.log.is_empty(), "from the cache");
    assert_eq!(
        (&cached.symbols, cached.image.len()),
        (&first.symbols, first.image.len())
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
fn kernels_compiled_ahead_serve_where_there_is_no_compiler() {
    let source = of_name("groups");
    if compiled(source, source.kernels, "sm_80").is_none() {
        return;
    }
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ahead-{}", std::process::id()));
    let path = compile_ahead(source, &folder).unwrap();
    assert!(find_ahead(source).is_none(), "no folder is named");
    // SAFETY: tests run in processes of their own.
    unsafe { std::env::set_var(AHEAD_VARIABLE, &folder) };
    let found = find_ahead(source).unwrap();
    let text = CStr::from_bytes_with_nul(&found.image).unwrap();
    let text = text.to_str().unwrap();
    assert!(text.contains(".target sm_80"), "{}", &text[..500]);
    assert_eq!(found.symbols.len(), source.kernels.len());
    for symbol in &found.symbols {
        assert!(text.contains(&format!(".entry {symbol}(")), "{symbol}");
    }
    assert!(find_ahead(of_name("cast")).is_none(), "of no other source");
    let mut damaged = std::fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&path, damaged).unwrap();
    assert!(find_ahead(source).is_none(), "damaged");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_unknown_architecture_is_refused_with_the_compilers_words() {
    let source = of_name("cast");
    if compiled(source, source.kernels, "sm_80").is_none() {
        return;
    }
    let error = compile(source, source.kernels, "sm_12")
        .unwrap_err()
        .to_string();
    assert!(error.contains("NVRTC refused cast.cu for sm_12"), "{error}");
    assert!(error.contains("architecture"), "{error}");
}
