//! CUDA's libraries as packages of the tests' Python bring them.

use std::path::{Path, PathBuf};
use std::process::Command;

use streamrec_kernels::cuda::LIBRARIES_VARIABLE;

/// The file at `pattern` below the packages of the tests' Python, if it is there.
pub fn find_file(pattern: &str) -> Option<PathBuf> {
    let python = std::env::var("STREAMREC_TEST_PYTHON").ok()?;
    let script = format!(
        "import glob, sysconfig; print(*glob.glob(sysconfig.get_path('purelib') + '/{pattern}')[:1])"
    );
    let output = Command::new(python)
        .args(["-c", &script])
        .output()
        .expect("the tests' Python");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    path.is_file().then_some(path)
}

/// Points the loader to the library at `pattern` below the packages of the tests' Python, if it is there.
pub fn point_loader_to(pattern: &str) {
    let path = find_file(pattern);
    if let Some(folder) = path.as_deref().and_then(Path::parent) {
        // SAFETY: nextest runs each test in a process of its own, which has no other thread yet that reads the environment.
        unsafe { std::env::set_var(LIBRARIES_VARIABLE, folder) };
    }
}
