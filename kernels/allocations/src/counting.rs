use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// The most allocations of which it is noted where they were made.
const PLACES: usize = 16;

static COUNTS: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static PLACES_OF_COUNTED: Mutex<Vec<Backtrace>> = Mutex::new(Vec::new());

thread_local! {
    /// Whether this thread notes an allocation, which takes memory itself.
    static NOTES: Cell<bool> = const { Cell::new(false) };
}

/// The system's allocator, which counts while [`count`] runs:
///
/// ```ignore
/// #[global_allocator]
/// static ALLOCATOR: Counting = Counting;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Counting;

// SAFETY: every call is handed to the system's allocator as it came; what is counted beside it changes no memory of others.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's contract is that of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, bytes) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

/// Counts an allocation, and notes where it is made.
fn note() {
    if !COUNTS.load(Ordering::Relaxed) || NOTES.get() {
        return;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) < PLACES {
        NOTES.set(true);
        let place = Backtrace::force_capture();
        let places = PLACES_OF_COUNTED.lock();
        places.unwrap_or_else(PoisonError::into_inner).push(place);
        NOTES.set(false);
    }
}

/// What was taken from the heap.
#[derive(Debug)]
pub struct Allocations {
    /// How often, by all threads of the process. Memory that grew counts.
    pub count: usize,
    places: Vec<Backtrace>,
}

/// The first places of allocations, each with the functions of this project that led there.
impl fmt::Display for Allocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} allocations", self.count)?;
        for place in &self.places {
            let place = place.to_string();
            let own = place.lines().map(str::trim);
            let own = own.filter(|line| {
                line.contains("streamrec") && !line.contains("streamrec_allocations")
            });
            write!(f, "\n- {}", own.take(5).collect::<Vec<_>>().join("\n  "))?;
        }
        Ok(())
    }
}

/// What all threads of this process take from the heap while `work` runs, where [`Counting`] is its allocator. One call at a time.
pub fn count<R>(work: impl FnOnce() -> R) -> (R, Allocations) {
    COUNT.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::SeqCst);
    let result = work();
    COUNTS.store(false, Ordering::SeqCst);
    let mut places = PLACES_OF_COUNTED
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let allocations = Allocations {
        count: COUNT.load(Ordering::Relaxed),
        places: std::mem::take(&mut places),
    };
    (result, allocations)
}
