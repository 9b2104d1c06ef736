//! A real browser, driven by a script of `tests/oracles/`, which holds each of its claims or fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workbench::{expect_success, said};

/// Chromium, its driver, and the Python with Selenium that drives it.
pub struct Browser {
    python: String,
    axe: Option<String>,
}

impl Browser {
    /// The browser of this machine; where there is none, says what is missing.
    pub fn find() -> Option<Self> {
        let python = std::env::var("STREAMREC_TEST_PYTHON").unwrap_or_default();
        let selenium = || {
            let run = Command::new(&python)
                .args(["-c", "import selenium"])
                .output();
            run.is_ok_and(|output| output.status.success())
        };
        if python.is_empty() || !Path::new("/usr/bin/chromedriver").exists() || !selenium() {
            eprintln!(
                "SKIPPED: a browser test needs chromium, chromium-driver and selenium: see scripts/test"
            );
            return None;
        }
        let axe = std::env::var("STREAMREC_TEST_AXE").ok();
        if axe.is_none() {
            eprintln!(
                "SKIPPED: axe-core's rules; STREAMREC_TEST_AXE names no axe.min.js: see scripts/test"
            );
        }
        Some(Self { python, axe })
    }

    /// Runs a script on a page, and expects that so many claims hold. Pictures of the pages are left in
    /// the folder `STREAMREC_TEST_PICTURES`, where that is set.
    pub fn holds(&self, script: &str, page: &str, claims: usize) {
        let pictures = std::env::var("STREAMREC_TEST_PICTURES").unwrap_or_default();
        if !pictures.is_empty() {
            fs::create_dir_all(&pictures).unwrap();
        }
        let scripts = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/oracles");
        let output = Command::new(&self.python)
            .arg("-B")
            .arg(scripts.join(script))
            .args([page, &pictures])
            .args(&self.axe)
            .output()
            .unwrap();
        expect_success(&output);
        let said = said(&output);
        assert_eq!(said.matches("holds:").count(), claims, "{said}");
    }
}
