use std::path::PathBuf;

/// The environment variable that names the folder of a user's caches.
pub(super) const CACHE_VARIABLE: &str = "XDG_CACHE_HOME";

/// Where compiled kernels are kept from run to run: `streamrec/cuda` in the folder of the user's caches, or where none
/// can be told, in that of temporary files.
pub fn cache_folder() -> PathBuf {
    let absolute = |name: &str| {
        let folder = std::env::var_os(name).map(PathBuf::from);
        folder.filter(|folder| folder.is_absolute())
    };
    let folder = absolute(CACHE_VARIABLE)
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    folder.join("streamrec").join("cuda")
}
