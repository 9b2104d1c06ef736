//! Kernels compiled ahead, for machines without NVRTC: PTX, of which the driver makes machine code for its GPU.

use std::path::{Path, PathBuf};

use super::{
    compiler::{CompileError, Compiled, compile, decode, encode, fingerprint, store},
    source::{Source, texts},
};

/// The environment variable that names the folder of kernels that were compiled ahead.
pub const AHEAD_VARIABLE: &str = "STREAMREC_CUDA_KERNELS";

/// What the PTX is for: this and every later GPU.
const ARCHITECTURE: &str = "compute_80";

/// Compiles a source to PTX into a folder. Needs NVRTC, and no GPU.
///
/// # Errors
/// When there is no compiler, it refuses the source, or the folder cannot be written.
pub fn compile_ahead(source: &Source, folder: &Path) -> Result<PathBuf, CompileError> {
    let compiled = compile(source, source.kernels, ARCHITECTURE)?;
    let path = path(source, folder);
    store(&path, &encode(&compiled)).map_err(|source| CompileError::Cache {
        folder: folder.to_owned(),
        source,
    })?;
    Ok(path)
}

/// The kernels of a source in the folder that [`AHEAD_VARIABLE`] names, if this very source was compiled.
pub fn find_ahead(source: &Source) -> Option<Compiled> {
    let folder = std::env::var_os(AHEAD_VARIABLE).map(PathBuf::from)?;
    let bytes = std::fs::read(path(source, &folder)).ok()?;
    decode(&bytes, source.kernels.len())
}

fn path(source: &Source, folder: &Path) -> PathBuf {
    let kernels = source.kernels.join("\n");
    let key = fingerprint(&texts(source, [&kernels, ARCHITECTURE]));
    folder.join(format!("{}-{ARCHITECTURE}-{key:016x}.kernels", source.name))
}
