//! Which version of the model answers, and how another takes over.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};

use streamrec_artifact::Verdict;

use crate::error_chain::error_chain;
use crate::metrics::Metrics;
use crate::ranker::{LoadError, Ranker};

/// The one model of this server.
#[derive(Debug)]
pub struct Repository {
    name: String,
    folder: PathBuf,
    /// Whether only what a release gate passed is served.
    require_verdict: bool,
    live: RwLock<Arc<Ranker>>,
    /// One load at a time; requests do not wait for it.
    loading: Mutex<()>,
    metrics: Arc<Metrics>,
}

impl Repository {
    /// Loads the artifact in `folder`, which answers as `name`, or by the manifest's name; with `require_verdict`,
    /// this and every later one only if a release gate passed it as it is.
    ///
    /// # Errors
    /// When the artifact cannot be served.
    pub fn open(
        folder: &Path,
        name: Option<String>,
        require_verdict: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let ranker = load(folder, require_verdict)?;
        metrics.version(ranker.version());
        tracing::info!(
            version = ranker.version(),
            golden_difference = ranker.golden_difference(),
            "the artifact reproduces its golden examples"
        );
        Ok(Self {
            name: name.unwrap_or_else(|| ranker.manifest().name.clone()),
            folder: folder.to_owned(),
            require_verdict,
            live: RwLock::new(Arc::new(ranker)),
            loading: Mutex::new(()),
            metrics,
        })
    }

    /// The model's name in paths.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that answers new requests.
    pub fn live(&self) -> Arc<Ranker> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&live)
    }

    /// Whether a version is being loaded.
    pub fn is_loading(&self) -> bool {
        matches!(self.loading.try_lock(), Err(TryLockError::WouldBlock))
    }

    /// Loads what stands in the folder now, after a load under way; requests under way end with the version that they
    /// began with. The version before stays if this one cannot be served.
    ///
    /// # Errors
    /// When the artifact cannot be served.
    pub fn reload(&self) -> Result<Arc<Ranker>, LoadError> {
        let _one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let next = load(&self.folder, self.require_verdict).inspect_err(|error| {
            let stays = self.live();
            tracing::error!(version = stays.version(), "stays: {}", error_chain(error));
        })?;
        let next = Arc::new(next);
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *live, Arc::clone(&next));
        drop(live);
        self.metrics.swaps.inc();
        self.metrics.version(next.version());
        tracing::info!(
            version = next.version(),
            before = before.version(),
            "took over"
        );
        Ok(next)
    }
}

fn load(folder: &Path, require_verdict: bool) -> Result<Ranker, LoadError> {
    if require_verdict {
        Verdict::require_pass(folder).map_err(Box::new)?;
    }
    Ranker::load(folder)
}
