//! Kernels compiled ahead: machine code for the GPUs that most have, and PTX, of which a driver makes machine code for
//! every later one.

use std::path::{Path, PathBuf};

use super::{
    compiler::{CompileError, Compiled, compile, decode, encode, fingerprint, store},
    source::{SOURCES, Source, texts},
};

/// The environment variable that names the folder of kernels that were compiled ahead.
pub const AHEAD_VARIABLE: &str = "STREAMREC_CUDA_KERNELS";

/// The architecture of PTX, for this and every later GPU.
pub(super) const PORTABLE: &str = "compute_80";

/// What is compiled ahead, the best for a GPU first.
const TARGETS: [&str; 3] = ["sm_90", "sm_80", PORTABLE];

/// What is in the folder that [`AHEAD_VARIABLE`] names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AheadFolder {
    /// The folder.
    pub path: PathBuf,
    /// The targets of which each source of this version is there, whole.
    pub targets: Vec<&'static str>,
}

impl AheadFolder {
    /// Looks into it; `None` where no folder is named.
    pub fn look() -> Option<Self> {
        let folder = std::env::var_os(AHEAD_VARIABLE).map(PathBuf::from)?;
        let whole = |target: &&str| {
            let mut sources = SOURCES.iter();
            sources.all(|source| read(source, target, &folder).is_some())
        };
        let targets = TARGETS.into_iter().filter(whole).collect();
        Some(Self {
            path: folder,
            targets,
        })
    }
}

/// Compiles a source into a folder, to one file each of machine code for sm_80 and sm_90, and one of PTX. Needs NVRTC,
/// and no GPU.
///
/// # Errors
/// When there is no compiler, it refuses the source, or the folder cannot be written.
pub fn compile_ahead(source: &Source, folder: &Path) -> Result<Vec<PathBuf>, CompileError> {
    let to = |target| {
        let compiled = compile(source, source.kernels, target)?;
        let path = path(source, target, folder);
        store(&path, &encode(&compiled)).map_err(|source| CompileError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
        Ok(path)
    };
    TARGETS.into_iter().map(to).collect()
}

/// The kernels of a source for an architecture such as `sm_90` in the folder that [`AHEAD_VARIABLE`] names, if this very
/// source was compiled: machine code, else PTX.
pub fn find_ahead(source: &Source, architecture: &str) -> Option<Compiled> {
    find(source, |target| serves(target, architecture))
}

/// Likewise PTX alone.
pub(super) fn find_portable(source: &Source) -> Option<Compiled> {
    find(source, |target| target == PORTABLE)
}

fn find(source: &Source, fits: impl Fn(&str) -> bool) -> Option<Compiled> {
    let folder = std::env::var_os(AHEAD_VARIABLE).map(PathBuf::from)?;
    let mut targets = TARGETS.into_iter().filter(|target| fits(target));
    targets.find_map(|target| read(source, target, &folder))
}

fn read(source: &Source, target: &str, folder: &Path) -> Option<Compiled> {
    let bytes = std::fs::read(path(source, target, folder)).ok()?;
    decode(&bytes, source.kernels.len())
}

/// Whether a GPU of an architecture runs what was compiled for a target: machine code of its own generation that is not
/// newer, and any PTX that is not.
pub(super) fn serves(target: &str, architecture: &str) -> bool {
    let number = |name: &str| name.rsplit('_').next()?.parse::<u32>().ok();
    let (Some(of), Some(gpu)) = (number(target), number(architecture)) else {
        return false;
    };
    let same_generation = of / 10 == gpu / 10 || target.starts_with("compute_");
    same_generation && of <= gpu
}

fn path(source: &Source, target: &str, folder: &Path) -> PathBuf {
    let kernels = source.kernels.join("\n");
    let key = fingerprint(&texts(source, [&kernels, target]));
    folder.join(format!("{}-{target}-{key:016x}.kernels", source.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_serves_its_generation_and_ptx_all_that_came_later() {
        let serving = |architecture| {
            let targets = TARGETS.into_iter();
            targets
                .filter(|target| serves(target, architecture))
                .collect::<Vec<_>>()
        };
        assert_eq!(serving("sm_80"), ["sm_80", PORTABLE]);
        assert_eq!(serving("sm_89"), ["sm_80", PORTABLE]);
        assert_eq!(serving("sm_90"), ["sm_90", PORTABLE]);
        assert_eq!(serving("sm_100"), [PORTABLE]);
        assert_eq!(serving("sm_75"), [""; 0]);
        assert_eq!(serving("sm_x"), [""; 0]);
    }
}
