//! CUDA's libraries as packages of the tests' Python bring them.

use std::path::PathBuf;
use std::process::Command;

use streamrec_kernels::cuda::LIBRARIES_VARIABLE;

/// Points the loader to the library at `pattern` below the packages of the tests' Python, if it is there.
pub fn point_loader_to(pattern: &str) {
    let Ok(python) = std::env::var("STREAMREC_TEST_PYTHON") else {
        return;
    };
    let script = format!(
        "import glob, sysconfig; print(*glob.glob(sysconfig.get_path('purelib') + '/{pattern}')[:1])"
    );
    let output = Command::new(python)
        .args(["-c", &script])
        .output()
        .expect("the tests' Python");
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if let Some(folder) = path.parent().filter(|folder| folder.is_dir()) {
        // SAFETY: nextest runs each test in a process of its own, which has no other thread yet that reads the environment.
        unsafe { std::env::set_var(LIBRARIES_VARIABLE, folder) };
    }
}
