//! Behavioural tests: what a ranker must do, whatever its metrics say.
//!
//! In CheckList's terms: minimum functionality (MFT), invariance (INV), directional expectation (DIR).

mod rows;
mod run;
mod suite;

use std::path::PathBuf;

pub use run::{BehaviourReport, Scorer, TestResult, run};
pub use suite::{
    BEHAVIOUR_VERSION, BehaviourSuite, BehaviourTest, Case, Direction, Directional, Invariance,
    MinimumFunctionality, Perturbation, Row, TestKind,
};

/// Tests that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum BehaviourError {
    /// A suite's file that cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A suite that is wrong.
    #[error("the tests {} cannot be used:\n  {}", path.display(), problems.join("\n  "))]
    Suite {
        /// The file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
    /// A test that does not fit the model.
    #[error("test `{test}`: {problem}")]
    Test {
        /// Its name.
        test: String,
        /// What does not fit.
        problem: String,
    },
    /// Rows that could not be scored.
    #[error("test `{test}`: its rows could not be scored")]
    Score {
        /// Its name.
        test: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
