//! A run's folder: what stands where.
//!
//! ```text
//! runs/NAME/
//!     experiment.toml     the resolved experiment
//!     environment.json    program, machine, world and dataset of the last start
//!     features/           schema.json and vocabularies.safetensors, fitted on the training split
//!     dataset.json        the description of the dataset that it trains on
//!     history.bin         trailing counts at the end of that dataset
//!     checkpoints/        docs/formats/checkpoint.md
//!     graph.json          the model
//!     metrics.jsonl       one record a line
//!     evaluations.jsonl   what `streamrec evaluate` found
//!     tensorboard/        event files
//!     logs/               each rank's output, when launched
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use streamrec_artifact::Graph;

use super::RunError;
use crate::checkpoint::CheckpointFolder;
use crate::config::Experiment;
use crate::data::Dataset;

const DATASET_FILE: &str = "dataset.json";
const HISTORY_FILE: &str = "history.bin";

/// The folder of one run.
#[derive(Debug, Clone)]
pub(super) struct RunFolder {
    root: PathBuf,
}

impl RunFolder {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// An existing run, to evaluate or export.
    pub(super) fn open(root: &Path) -> Result<(Self, Experiment), RunError> {
        let folder = Self::new(root);
        let path = folder.experiment();
        if !path.exists() {
            return Err(RunError::Usage(format!(
                "{} is no run: it holds no experiment.toml; train one with `streamrec launch`",
                root.display()
            )));
        }
        let experiment = Experiment::load(&path, &[])?;
        Ok((folder, experiment))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn experiment(&self) -> PathBuf {
        self.root.join("experiment.toml")
    }

    pub(super) fn environment(&self) -> PathBuf {
        self.root.join("environment.json")
    }

    pub(super) fn features(&self) -> PathBuf {
        self.root.join("features")
    }

    /// Keeps what later data needs to go on from this dataset: its description and counts.
    pub(super) fn keep_history(&self, dataset: &Dataset) -> Result<(), RunError> {
        let mut files = vec![DATASET_FILE];
        files.extend(dataset.history.is_some().then_some(HISTORY_FILE));
        for file in files {
            let path = dataset.folder.join(file);
            let mut from = File::open(&path).map_err(RunError::file("open", &path))?;
            replace_by(&self.root.join(file), |to| {
                io::copy(&mut from, to).map(drop)
            })?;
        }
        Ok(())
    }

    /// The description of the dataset that the run trains on, with the counts at its end beside it.
    pub(super) fn trained_on(&self) -> Result<Dataset, RunError> {
        Ok(Dataset::open(self.root())?)
    }

    /// Refuses other rows than those that the run's features and weights come from.
    pub(super) fn check_dataset(&self, dataset: &Dataset) -> Result<(), RunError> {
        let (own, found) = (self.trained_on()?.version(), dataset.version());
        if own == found {
            return Ok(());
        }
        Err(RunError::Usage(format!(
            "{} was trained on data of version {own}, {} holds version {found}: its features and \
             weights come from other rows; put version {own} back in its place, judge the run on \
             the new rows by `streamrec evaluate RUN --data FOLDER`, or train on them in a new run",
            self.root.display(),
            dataset.folder.display()
        )))
    }

    pub(super) fn metrics(&self) -> PathBuf {
        self.root.join("metrics.jsonl")
    }

    pub(super) fn evaluations(&self) -> PathBuf {
        self.root.join("evaluations.jsonl")
    }

    fn graph(&self) -> PathBuf {
        self.root.join("graph.json")
    }

    pub(super) fn write_graph(&self, graph: &Graph) -> Result<(), RunError> {
        let text = serde_json::to_vec_pretty(graph)
            .map_err(RunError::other("the graph has no JSON form"))?;
        replace(&self.graph(), &text)
    }

    /// The model as it was trained, whoever wrote it.
    pub(super) fn read_graph(&self) -> Result<Graph, RunError> {
        let path = self.graph();
        let text = fs::read(&path).map_err(RunError::file("read", &path))?;
        serde_json::from_slice(&text)
            .map_err(RunError::other(format!("{} is no graph", path.display())))
    }

    pub(super) fn checkpoints(&self) -> CheckpointFolder {
        CheckpointFolder::new(self.root.join("checkpoints"))
    }

    /// Where the planner put tables.
    pub(super) fn placements(&self) -> PathBuf {
        self.root.join("placements.toml")
    }

    pub(super) fn profile(&self) -> PathBuf {
        self.root.join("profile")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// An error where a run is already there.
    pub(super) fn refuse_present(&self) -> Result<(), RunError> {
        if self.experiment().exists() {
            return Err(RunError::Usage(format!(
                "{} already holds a run; go on with it by --resume, replace it by --overwrite, or \
                 choose another folder by --set output=FOLDER",
                self.root.display()
            )));
        }
        Ok(())
    }

    /// Makes the folder ready for a fresh run. What is not a run is never removed.
    pub(super) fn prepare(&self, overwrite: bool) -> Result<(), RunError> {
        if !overwrite {
            self.refuse_present()?;
        }
        if self.experiment().exists() {
            // Logs stay: the launcher that started this very rank writes there.
            for folder in ["checkpoints", "features", "tensorboard"] {
                remove(&self.root.join(folder))?;
            }
            let files = [
                "metrics.jsonl",
                "evaluations.jsonl",
                "graph.json",
                DATASET_FILE,
                HISTORY_FILE,
                "environment.json",
            ];
            // The experiment goes last: as long as it is there, the folder is a run.
            for file in files.into_iter().chain(["experiment.toml"]) {
                remove(&self.root.join(file))?;
            }
        }
        fs::create_dir_all(&self.root).map_err(RunError::file("make", &self.root))
    }
}

/// Removes a file or a folder with all that is in it, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), RunError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else if path.exists() {
        fs::remove_file(path)
    } else {
        Ok(())
    };
    removed.map_err(RunError::file("remove", path))
}

/// Writes `path` so that a reader sees the old file or the new one, whatever happens.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    replace_by(path, |file| file.write_all(bytes))
}

fn replace_by(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), RunError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The name is on the disk only once its folder is.
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(RunError::file("write", path))
}

/// Adds one JSON record to a file of lines.
pub(super) fn append_line(path: &Path, record: &impl Serialize) -> Result<(), RunError> {
    let mut text = serde_json::to_string(record).map_err(RunError::other(format!(
        "a line of {} has no JSON form",
        path.display()
    )))?;
    text.push('\n');
    let append = || {
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(text.as_bytes())
    };
    append().map_err(RunError::file("write", path))
}
