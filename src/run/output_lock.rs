//! One command at a time writes an output folder.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::RunError;

/// The right to write one folder: a locked file beside it.
///
/// The lock ends with the process, however that ends. A killed command leaves the file, which keeps
/// nobody out: the next command locks it, and removes it when it is done.
#[derive(Debug)]
pub(super) struct OutputLock {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl OutputLock {
    /// Locks the file at `path` for the command that writes `out`.
    ///
    /// # Errors
    /// Another command holds it, or the file system refuses.
    pub(super) fn take(path: PathBuf, out: &Path) -> Result<Self, RunError> {
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .map_err(RunError::other(format!(
                    "{} cannot be written: its folder takes no file; choose another place",
                    out.display()
                )))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(RunError::Busy { path: out.into() }),
                Err(TryLockError::Error(error)) => {
                    return Err(RunError::file("lock", &path)(error));
                }
            }
            if is_named(&file, &path).map_err(RunError::file("read", &path))? {
                return Ok(Self { path, _file: file });
            }
            // The last holder removed the file between the opening and the locking; the next
            // command would lock another one of this name.
        }
    }
}

impl Drop for OutputLock {
    fn drop(&mut self) {
        // Before the lock is gone. A file that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Whether `path` still stands for this open file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, out) = (folder.path().join(".out.lock"), folder.path().join("out"));
        let take = || OutputLock::take(path.clone(), &out);
        let held = take().expect("nobody has it");
        let message = take().expect_err("held").to_string();
        assert!(message.contains("another command"), "{message}");
        assert!(message.contains(&out.display().to_string()), "{message}");
        drop(held);
        assert!(!path.exists());
        // What a killed command leaves.
        std::fs::write(&path, "").expect("written");
        drop(take().expect("nobody has it"));
        assert!(!path.exists());
    }

    #[test]
    fn a_removed_file_is_no_longer_the_named_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("lock");
        let file = File::create(&path).expect("made");
        assert!(is_named(&file, &path).expect("read"));
        std::fs::remove_file(&path).expect("removed");
        assert!(!is_named(&file, &path).expect("read"));
        File::create(&path).expect("made");
        assert!(!is_named(&file, &path).expect("read"));
    }
}
