//! A folder that takes the place of another: made beside it, then swapped with it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::output_lock::OutputLock;
use super::{RunError, folder};

/// A folder to be made under a name that another may have now.
///
/// The new one is built in the sibling `.NAME.next`. Until it is whole, the old one stays as it is.
/// The two names are then exchanged in one step, so the name always stands for a whole folder. A
/// file system that cannot exchange names takes two steps: the old one is first moved to
/// `.NAME.old`. A crash between them leaves the name empty and both folders whole beside it.
///
/// `.NAME.lock` keeps other commands away from these names until this one is done.
#[derive(Debug)]
pub(super) struct Replacement {
    out: PathBuf,
    /// Until the replacement drops.
    _lock: OutputLock,
    /// Where the new folder is built, if there is an old one.
    next: Option<PathBuf>,
}

impl Replacement {
    /// Prepares to make `out`. An old folder is replaced only with `overwrite`, and only where it
    /// holds the file `marker`, as every `product` (such as "dataset") does.
    ///
    /// # Errors
    /// Another command is making this folder, the old one may not be replaced, or what an earlier
    /// replacement left cannot be removed.
    pub(super) fn of(
        out: &Path,
        product: &str,
        marker: &str,
        overwrite: bool,
    ) -> Result<Self, RunError> {
        // A link and `.` have siblings only where they lead to.
        let place = match out.canonicalize() {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => out.to_owned(),
            Err(error) => return Err(RunError::file("find", out)(error)),
        };
        let parent = parent(&place);
        std::fs::create_dir_all(parent).map_err(RunError::file("make", parent))?;
        let lock = OutputLock::take(sibling(&place, "lock"), out)?;
        if !out.exists() {
            return Ok(Self {
                out: place,
                _lock: lock,
                next: None,
            });
        }
        let shown = out.display();
        if !overwrite {
            return Err(RunError::Usage(format!(
                "{shown} exists; replace the {product} in it by --overwrite, or choose another --out"
            )));
        }
        if !out.join(marker).exists() {
            return Err(RunError::Usage(format!(
                "{shown} holds no {product}, so it is not overwritten; choose another --out"
            )));
        }
        let next = sibling(&place, "next");
        // What an earlier replacement left that was killed.
        folder::remove(&next)?;
        Ok(Self {
            out: place,
            _lock: lock,
            next: Some(next),
        })
    }

    /// Where to make the new folder; nothing is there.
    pub(super) fn folder(&self) -> &Path {
        self.next.as_deref().unwrap_or(&self.out)
    }

    /// Puts the new folder, which is whole and on the disk, in its place and removes the old one.
    ///
    /// # Errors
    /// The file system refuses; the message says where both are.
    pub(super) fn finish(self) -> Result<(), RunError> {
        let Some(next) = &self.next else {
            return Ok(());
        };
        let failed = || {
            RunError::other::<io::Error>(format!(
                "cannot put {} in the place of {}; both are whole, rename them by hand",
                next.display(),
                self.out.display()
            ))
        };
        let old = match renameat_with(CWD, next, CWD, &self.out, RenameFlags::EXCHANGE) {
            Ok(()) => next.clone(),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                let old = sibling(&self.out, "old");
                folder::remove(&old)?;
                swap_in_two_steps(next, &self.out, &old).map_err(failed())?;
                old
            }
            Err(error) => return Err(failed()(error.into())),
        };
        let parent = parent(&self.out);
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(RunError::file("sync", parent))?;
        std::fs::remove_dir_all(&old).map_err(RunError::file("remove", &old))
    }
}

/// Where names cannot be exchanged: `out` becomes `old`, then `next` becomes `out`.
fn swap_in_two_steps(next: &Path, out: &Path, old: &Path) -> io::Result<()> {
    std::fs::rename(out, old)?;
    std::fs::rename(next, out).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::rename(old, out);
    })
}

/// The folder that holds `out`.
pub(super) fn parent(out: &Path) -> &Path {
    match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// The hidden file `.NAME.end` beside `out`.
pub(super) fn sibling(out: &Path, end: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(out.file_name().unwrap_or_default());
    name.push(".");
    name.push(end);
    out.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_steps_swap_as_one_does_and_a_failed_one_is_undone() {
        let folder = tempfile::tempdir().expect("a folder");
        let [next, out, old] = ["next", "out", "old"].map(|name| folder.path().join(name));
        for made in [&next, &out] {
            std::fs::create_dir(made).expect("made");
            std::fs::write(made.join("name"), made.as_os_str().as_encoded_bytes())
                .expect("written");
        }
        let holds = |folder: &Path| {
            PathBuf::from(std::fs::read_to_string(folder.join("name")).expect("read"))
        };
        swap_in_two_steps(&next, &out, &old).expect("swapped");
        assert_eq!((holds(&out), holds(&old)), (next.clone(), out.clone()));
        std::fs::remove_dir_all(&old).expect("removed");
        swap_in_two_steps(&next, &out, &old).expect_err("there is no next");
        assert_eq!(holds(&out), next);
    }
}
