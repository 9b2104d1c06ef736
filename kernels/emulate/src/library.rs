//! Compiles a `.cu` file with the host's C++ compiler.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libloading::Library;
use streamrec_kernels::cuda::SOURCES;

/// The crate of the kernels.
fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where compiled emulations are kept: Cargo's folder for files of tests, of the target folder that this
/// program was built in.
fn cache() -> PathBuf {
    let program = std::env::current_exe().expect("the program's own path");
    // target/PROFILE/deps/PROGRAM
    let target = program.ancestors().nth(3).expect("a target folder");
    target.join("tmp").join("emulate")
}

/// A source that is not the product's: its file, from the crate of the kernels, and its kernels.
type OwnSource = (&'static str, &'static [&'static str]);

fn own_sources() -> MutexGuard<'static, HashMap<&'static str, OwnSource>> {
    static OWN: OnceLock<Mutex<HashMap<&'static str, OwnSource>>> = OnceLock::new();
    let own = OWN.get_or_init(Mutex::default);
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets launches name a source of a test's own: its file, from the crate of the kernels, and its kernels.
pub fn add_source(name: &'static str, file: &'static str, kernels: &'static [&'static str]) {
    own_sources().insert(name, (file, kernels));
}

/// The file and the kernels of a source.
fn file_of(source: &str) -> (String, &'static [&'static str]) {
    if let Some(known) = SOURCES.iter().find(|known| known.name == source) {
        return (format!("{source}.cu"), known.kernels);
    }
    let &(file, kernels) = own_sources().get(source).expect("a source that was added");
    (file.to_owned(), kernels)
}

/// The compiled emulation of a source.
pub(crate) fn library(source: &str) -> &'static Library {
    static LIBRARIES: OnceLock<Mutex<HashMap<String, &'static Library>>> = OnceLock::new();
    let mut libraries = LIBRARIES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = libraries.get(source) {
        return library;
    }
    let path = compile(source);
    // SAFETY: our own emulation, whose load runs no code.
    let library = unsafe { Library::new(&path) }.expect("a library that was just compiled");
    let library = Box::leak(Box::new(library));
    libraries.insert(source.to_owned(), library);
    library
}

/// The file that the compiler reads: the emulation, the kernels, their list.
fn translation_unit(source: &str) -> String {
    let (file, kernels) = file_of(source);
    let list: Vec<String> = kernels
        .iter()
        .map(|name| {
            format!("{{\"{name}\", [](void** arguments) {{ emulate::call(&{name}, arguments); }}}}")
        })
        .collect();
    format!(
        "#include \"emulate/emulate.hpp\"\n#include \"{file}\"\nEMULATE_KERNELS({})\n",
        list.join(",\n    ")
    )
}

/// Every file that a translation unit may include.
fn inputs(source: &str) -> Vec<PathBuf> {
    let mut files = vec![folder().join("streamrec.cuh")];
    for place in ["emulate", "."] {
        let entries = fs::read_dir(folder().join(place)).expect("a folder of the project");
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.push(folder().join(file_of(source).0));
    let ours = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        path.extension()
            .is_some_and(|extension| extension == "hpp" || extension == "cuh")
            || stem == Some(source) && path.extension().is_some_and(|extension| extension == "cu")
    };
    files.retain(|path| ours(path) && path.is_file());
    files.sort();
    files.dedup();
    files
}

/// Compiles once for the same text, also when several test processes ask at a time.
fn compile(source: &str) -> PathBuf {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let flags = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-fwrapv",
        "-fno-strict-aliasing",
    ];
    let warnings = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-unknown-pragmas",
    ];
    let unit = translation_unit(source);
    let mut hasher = DefaultHasher::new();
    (&compiler, flags, &unit).hash(&mut hasher);
    for file in inputs(source) {
        fs::read(&file).expect("a source file").hash(&mut hasher);
    }
    let place = cache();
    fs::create_dir_all(&place).expect("a folder below the target folder");
    let stem = place.join(format!("{source}-{:016x}", hasher.finish()));
    let library = stem.with_extension("so");
    let lock = File::create(place.join(format!("{source}.lock"))).expect("a lock file");
    lock.lock().expect("a lock");
    if library.exists() {
        return library;
    }
    let file = stem.with_extension("cpp");
    fs::write(&file, unit).expect("room in the target folder");
    let fresh = stem.with_extension("new");
    let output = Command::new(&compiler)
        .args(flags)
        .args(warnings)
        .arg("-I")
        .arg(folder())
        .args([&file, Path::new("-o"), &fresh])
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run the C++ compiler `{compiler}`, which emulates the CUDA kernels: {error}; \
                 install g++ or clang++, or set CXX"
            )
        });
    assert!(
        output.status.success(),
        "{compiler} on {}:\n{}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&fresh, &library).expect("the same folder");
    library
}
