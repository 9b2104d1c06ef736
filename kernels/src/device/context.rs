use std::{
    fmt, io,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{Device, Scratch, affinity, scratch::ScratchPool};
use crate::{
    error::{Error, Result},
    simd, tile,
};

/// A device with what operations need to run on it: its own threads and reusable scratch memory.
///
/// Every operation takes a context. Clones share threads and scratch.
#[derive(Clone)]
pub struct Context {
    shared: Arc<Shared>,
}

struct Shared {
    threads: rayon::ThreadPool,
    scratch: ScratchPool,
}

impl Context {
    /// A context on the CPU with a pool of `threads` threads of its own (at least one).
    ///
    /// With `pin`, thread `i` stays on the `i`-th CPU this process may use (wrapping around), so
    /// that its caches stay warm from one operation to the next. Give each process of a host its
    /// own set of CPUs before it asks for pinning.
    ///
    /// # Errors
    /// When the threads cannot be started or pinned, or `STREAMREC_VECTOR_UNIT` or
    /// `STREAMREC_BF16_UNIT` names no unit.
    pub fn cpu(threads: usize, pin: bool) -> Result<Self> {
        simd::limit()?;
        tile::check_limit()?;
        let cpus = if pin {
            affinity::allowed_cpus().map_err(Error::Pin)?
        } else {
            Vec::new()
        };
        let pin_failure: Arc<Mutex<Option<io::Error>>> = Arc::default();
        let failure = Arc::clone(&pin_failure);
        let pool = rayon::ThreadPoolBuilder::new()
            // Rayon would read 0 as "all".
            .num_threads(threads.max(1))
            .thread_name(|index| format!("streamrec-{index}"))
            .start_handler(move |index| {
                if cpus.is_empty() {
                    return;
                }
                if let Err(error) = affinity::pin_current_thread(cpus[index % cpus.len()]) {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            })
            .build()
            .map_err(|source| Error::ThreadPool { threads, source })?;
        // A thread answers the broadcast only after its start handler has run.
        pool.broadcast(|_| ());
        if let Some(error) = pin_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Err(Error::Pin(error));
        }
        Ok(Self {
            shared: Arc::new(Shared {
                threads: pool,
                scratch: ScratchPool::default(),
            }),
        })
    }

    /// The device operations of this context run on.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The number of threads operations of this context use.
    pub fn threads(&self) -> usize {
        self.shared.threads.current_num_threads()
    }

    /// Runs `work` on one of the context's threads.
    ///
    /// Operations called inside start at once, without waking the pool for each of them: wrap a
    /// whole pass in one call.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.shared.threads.install(work)
    }

    /// Calls `work` once for each panel of at most `panel` consecutive indices of `0..len`, in
    /// parallel. The panels do not depend on the number of threads, so what is computed per panel
    /// does not either.
    ///
    /// Each thread takes the next panel when it is done with one: large panels are best put first.
    pub(crate) fn for_each_panel(
        &self,
        len: usize,
        panel: usize,
        work: impl Fn(Range<usize>) + Sync + Send,
    ) {
        let panels = len.div_ceil(panel);
        let next = AtomicUsize::new(0);
        let take_panels = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= panels {
                    return;
                }
                work(index * panel..len.min((index + 1) * panel));
            }
        };
        match self.threads().min(panels) {
            0 => {}
            1 => take_panels(),
            threads => self.install(|| on_threads(threads, &take_panels)),
        }
    }

    /// Memory for `len` floats of arbitrary content, given back when dropped.
    pub(crate) fn scratch(&self, len: usize) -> Scratch<'_> {
        self.shared.scratch.take(len)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("device", &self.device())
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// Calls `work` on up to `threads` threads of this pool: on fewer where they are at work elsewhere, since the caller does not
/// wait for one that has not begun.
fn on_threads(threads: usize, work: &(impl Fn() + Sync)) {
    if threads <= 1 {
        return work();
    }
    let half = threads / 2;
    rayon::join(
        || on_threads(threads - half, work),
        || on_threads(half, work),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_cover_every_index_once() {
        let context = Context::cpu(3, false).unwrap();
        for (len, panel) in [(0, 4), (1, 4), (4, 4), (17, 4), (100, 1)] {
            let seen: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            context.for_each_panel(len, panel, |range| {
                assert!(range.len() <= panel && !range.is_empty());
                for index in range {
                    seen[index].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_long_panel_holds_up_no_other() {
        let context = Context::cpu(2, false).unwrap();
        let others = AtomicUsize::new(0);
        context.for_each_panel(8, 1, |panel| {
            if panel.start > 0 {
                others.fetch_add(1, Ordering::Relaxed);
                return;
            }
            while others.load(Ordering::Relaxed) < 7 {
                std::thread::yield_now();
            }
        });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pinned_threads_keep_one_cpu_each() {
        let context = Context::cpu(2, true).unwrap();
        let cpus = context
            .shared
            .threads
            .broadcast(|_| affinity::allowed_cpus().unwrap().len());
        assert_eq!(cpus, [1, 1]);
    }
}
