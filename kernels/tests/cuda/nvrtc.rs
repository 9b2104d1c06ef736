//! NVRTC compiles every kernel for the architectures that users have, where it is installed.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use streamrec_kernels::cuda::{
    AHEAD_VARIABLE, AheadFolder, CompileError, Compiled, CudaLibrary, SOURCES, Source, compile,
    compile_ahead, compile_cached, find_ahead,
};

use crate::device::asks_for_a_gpu;
use crate::python_packages::{find_file, point_loader_to};

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

/// What `docs/cuda-kernels.md` tells of a kernel: registers on sm_80 and sm_90, bytes of shared memory; and of which NVRTC
/// that is.
fn documented() -> (BTreeMap<&'static str, Usage>, &'static str) {
    const TEXT: &str = include_str!("../../../docs/cuda-kernels.md");
    let version = TEXT.split("What NVRTC ").nth(1).expect("a version");
    let version = version.split(' ').next().expect("a version");
    let rows = TEXT
        .lines()
        .skip_while(|line| !line.starts_with("| kernel | registers"))
        .skip(2);
    let row = |line: &'static str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let kernel = cells.next()?.trim_matches('`');
        let mut number = || cells.next()?.parse().ok();
        Some((kernel, [number()?, number()?, number()?]))
    };
    (rows.map_while(row).collect(), version)
}

#[test]
fn the_documents_table_tells_of_each_kernel_and_no_other() {
    let kernels = SOURCES.iter().flat_map(|source| source.kernels);
    let mut kernels: Vec<&str> = kernels.copied().collect();
    kernels.sort_unstable();
    let (table, _) = documented();
    let documented: Vec<&str> = table.keys().copied().collect();
    assert_eq!(
        documented, kernels,
        "scripts/registers --write brings the table up to date"
    );
}

/// Compiles every `parts`-th kernel of a source, from `part` on, holds the figures against the documents' table, and leaves
/// them for `scripts/registers`.
fn check(source: &str, architecture: &str, [part, parts]: [usize; 2]) {
    let source = of_name(source);
    let kernels = source.kernels.iter().skip(part).step_by(parts);
    let kernels: Vec<&str> = kernels.copied().collect();
    let Some(compiled) = compiled(source, &kernels, architecture) else {
        return;
    };
    assert_eq!(compiled.image[..4], *b"\x7fELF");
    let (usage, mut figures) = (usage(&compiled.log), String::new());
    let (documented, of) = documented();
    let same_compiler = CudaLibrary::Nvrtc.version_in_use().as_deref() == Some(of);
    let column = usize::from(architecture == "sm_90");
    let name = source.name;
    for (kernel, symbol) in kernels.iter().zip(&compiled.symbols) {
        let [registers, shared, spills] = usage.get(symbol).copied().unwrap_or_else(|| {
            panic!("no figures of {kernel} in {}", compiled.log);
        });
        writeln!(
            figures,
            "{architecture}\t{kernel}\t{registers}\t{shared}\t{spills}"
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
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("registers");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(
        folder.join(format!("{name}-{architecture}-{part}.tsv")),
        &figures,
    )
    .unwrap();
    if !same_compiler {
        return;
    }
    let of = |usage: &Usage| [usage[column], usage[2]];
    for line in figures.lines() {
        let mut cells = line.split('\t').skip(1);
        let (kernel, numbers) = (cells.next().expect("a kernel"), cells);
        let told: Vec<u32> = numbers
            .take(2)
            .map(|cell| cell.parse().expect("a number"))
            .collect();
        assert_eq!(
            documented
                .get(kernel)
                .map(of)
                .as_ref()
                .map(<[u32; 2]>::as_slice),
            Some(told.as_slice()),
            "{kernel} on {architecture}: registers and shared bytes in docs/cuda-kernels.md; scripts/registers --write \
             brings them up to date"
        );
    }
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

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()))
}

#[test]
fn what_was_compiled_once_comes_from_the_cache() {
    let source = of_name("cast");
    let Some(first) = compiled(source, source.kernels, "sm_90") else {
        return;
    };
    let folder = folder("cache");
    let ask = || {
        let (compiled, not_kept) =
            compile_cached(source, source.kernels, "sm_90", &folder).unwrap();
        assert!(not_kept.is_none());
        compiled
    };
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
fn a_cache_that_cannot_be_written_is_told_of_and_stops_nothing() {
    let source = of_name("cast");
    if compiled(source, source.kernels, "sm_90").is_none() {
        return;
    }
    let folder = folder("no-folder");
    std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
    std::fs::write(&folder, b"a file").unwrap();
    let (compiled, not_kept) = compile_cached(source, source.kernels, "sm_90", &folder).unwrap();
    assert!(compiled.is_machine_code());
    let said = not_kept.expect("it is told").to_string();
    assert!(said.contains(folder.to_str().unwrap()), "{said}");
    assert!(said.contains("set XDG_CACHE_HOME"), "{said}");
    std::fs::remove_file(&folder).unwrap();
}

#[test]
fn without_a_compiler_it_is_told_what_to_install_and_what_serves_instead() {
    if CudaLibrary::Nvrtc.find().is_some() {
        eprintln!("NOT TESTED: this system has NVRTC in its usual folders");
        return;
    }
    let source = of_name("cast");
    let error = compile_cached(source, source.kernels, "sm_90", &folder("unused")).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, CompileError::NoCompiler), "{said}");
    for words in [
        "NVRTC, which compiles the CUDA kernels, is not found",
        "`pip install nvidia-cuda-nvrtc`",
        "set STREAMREC_CUDA_LIBRARIES to the folder of libnvrtc.so.*",
        "run `streamrec kernels` of this version where NVRTC is, and set STREAMREC_CUDA_KERNELS",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn kernels_compiled_ahead_serve_where_there_is_no_compiler() {
    let source = of_name("groups");
    if compiled(source, source.kernels, "sm_80").is_none() {
        return;
    }
    let folder = folder("ahead");
    let paths = compile_ahead(source, &folder).unwrap();
    assert!(find_ahead(source, "sm_90").is_none(), "no folder is named");
    // SAFETY: tests run in processes of their own.
    unsafe { std::env::set_var(AHEAD_VARIABLE, &folder) };
    for (architecture, machine_code) in [("sm_80", true), ("sm_90", true), ("sm_120", false)] {
        let found = find_ahead(source, architecture).unwrap();
        assert_eq!(found.symbols.len(), source.kernels.len());
        assert_eq!(found.is_machine_code(), machine_code, "{architecture}");
    }
    let found = find_ahead(source, "sm_120").unwrap();
    let text = CStr::from_bytes_with_nul(&found.image).unwrap();
    let text = text.to_str().unwrap();
    assert!(text.contains(".target sm_80"), "{}", &text[..500]);
    for symbol in &found.symbols {
        assert!(text.contains(&format!(".entry {symbol}(")), "{symbol}");
    }
    let looked = AheadFolder::look().unwrap();
    assert_eq!(
        (looked.path, looked.targets),
        (folder.clone(), Vec::new()),
        "the other sources are not there"
    );
    // Nothing is compiled, or kept, where machine code is there.
    let nowhere = folder.join("nowhere");
    let (found, _) = compile_cached(source, source.kernels, "sm_90", &nowhere).unwrap();
    assert!(found.is_machine_code() && found.log.is_empty() && !nowhere.exists());
    assert!(
        find_ahead(of_name("cast"), "sm_90").is_none(),
        "of no other source"
    );
    for path in paths {
        let mut damaged = std::fs::read(&path).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        std::fs::write(&path, damaged).unwrap();
    }
    assert!(find_ahead(source, "sm_90").is_none(), "damaged");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn an_architecture_that_the_compiler_does_not_know_gets_ptx() {
    let source = of_name("cast");
    if compiled(source, source.kernels, "sm_80").is_none() {
        return;
    }
    let folder = folder("later");
    let (later, _) = compile_cached(source, source.kernels, "sm_990", &folder).unwrap();
    assert!(!later.is_machine_code());
    // One that is too old for PTX of ours does not.
    let error = compile_cached(source, source.kernels, "sm_12", &folder).unwrap_err();
    assert!(matches!(error, CompileError::Refused { .. }), "{error}");
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The assembler refuses what a version does not have, as drivers that know no later one do.
#[test]
fn ptx_holds_nothing_that_the_version_it_is_marked_with_does_not_have() {
    let Some(assembler) = find_file("nvidia/*/bin/ptxas").or_else(|| {
        let path = std::env::var_os("PATH")?;
        let mut files = std::env::split_paths(&path).map(|folder| folder.join("ptxas"));
        files.find(|file| file.is_file())
    }) else {
        eprintln!("NOT TESTED: ptxas is not installed; scripts/test installs it");
        return;
    };
    let folder = folder("assembled");
    std::fs::create_dir_all(&folder).unwrap();
    for source in SOURCES {
        let Some(compiled) = compiled(source, source.kernels, "compute_80") else {
            return;
        };
        let text = compiled.image.strip_suffix(b"\0").unwrap();
        let text = str::from_utf8(text).unwrap();
        assert!(text.contains("\n.version 8.0\n"), "{}", &text[..500]);
        let file = folder.join(format!("{}.ptx", source.name));
        std::fs::write(&file, text).unwrap();
        let output = Command::new(&assembler)
            .args(["-O0", "-arch=sm_80", "-o", "/dev/null"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", source.name);
    }
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
