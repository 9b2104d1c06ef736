//! Collectives of GPUs, by NCCL.

mod library;

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUstream;

use super::Gpu;
use crate::cuda::{
    collective::{Collective, Element, Reduce},
    executor::DeviceError,
    launch::Address,
};

use library::{Comm, Config, Functions, MAX, SUM, UniqueId, data_type, status};

/// How long ranks that end well wait for one another.
const FAREWELL: Duration = Duration::from_secs(10);
/// Between two looks at what is under way.
const PAUSE: Duration = Duration::from_micros(50);

/// The functions of NCCL that are used, and the types they are called with: for tests against its header.
#[doc(hidden)]
pub const DECLARATIONS: &[(&str, &str)] = library::DECLARATIONS;

/// A GPU among those of all ranks.
pub struct Nccl {
    functions: &'static Functions,
    comm: Comm,
    gpu: Gpu,
    rank: usize,
    ranks: usize,
    /// How long a call of the host may take.
    timeout: Duration,
}

// SAFETY: the handle is a name of the library's object, which is called through one borrow at a time, and whose functions
// may be called from any thread.
unsafe impl Send for Nccl {}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Nccl(rank {} of {})", self.rank, self.ranks)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.comm.is_null() || self.gpu.bind().is_err() {
            return;
        }
        // SAFETY: the communicator lives, and is gone afterwards. A failure leaks it.
        unsafe {
            let ended = match (self.functions.finalize)(self.comm) {
                status::SUCCESS | status::IN_PROGRESS => self.settle("leaving", FAREWELL).is_ok(),
                _ => false,
            };
            let _ = match ended {
                true => (self.functions.destroy)(self.comm),
                false => (self.functions.abort)(self.comm),
            };
        }
    }
}

impl Nccl {
    /// What ranks need to find each other: made by one of them, given to all.
    ///
    /// # Errors
    /// When NCCL is missing or has no network to use.
    pub fn unique_id() -> Result<Vec<u8>, DeviceError> {
        let functions = Functions::get()?;
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: the id is as large as the library's.
        let status = unsafe { (functions.unique_id)(&mut id) };
        match status {
            status::SUCCESS => Ok(id.0.to_vec()),
            _ => Err(failure(
                functions,
                ("meeting", "ncclGetUniqueId"),
                status,
                std::ptr::null_mut(),
            )),
        }
    }

    /// Looks whether the library has all that is needed; returns its version.
    ///
    /// # Errors
    /// When it is missing or too old.
    pub fn probe() -> Result<String, DeviceError> {
        let functions = Functions::get()?;
        let mut version = 0;
        // SAFETY: writes one integer.
        unsafe { (functions.version)(&mut version) };
        let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
        Ok(format!("{major}.{minor}.{patch}"))
    }

    /// Meets the other ranks with an id of [`unique_id`](Self::unique_id). Waits for all, up to `timeout`, which is also
    /// how long the host waits whenever NCCL is slow to take up work.
    ///
    /// # Errors
    /// When NCCL is missing, a rank does not come, or two ranks have the same GPU (NCCL 2.30 and later allow it where
    /// `NCCL_MULTI_RANK_GPU_ENABLE=1` is set).
    pub fn connect(
        gpu: &Gpu,
        id: &[u8],
        [rank, ranks]: [usize; 2],
        timeout: Duration,
    ) -> Result<Self, DeviceError> {
        let functions = Functions::get()?;
        let id: [u8; UniqueId::BYTES] = id.try_into().map_err(|_| DeviceError::Collective {
            what: "meeting",
            call: "ncclCommInitRankConfig".to_owned(),
            message: format!("an id has {} bytes, not {}", UniqueId::BYTES, id.len()),
        })?;
        gpu.bind()?;
        let mut own = Self {
            functions,
            comm: std::ptr::null_mut(),
            gpu: gpu.clone(),
            rank,
            ranks,
            timeout,
        };
        let mut config = Config::non_blocking();
        // SAFETY: all pointers live during the call; the configuration is as long as it says.
        let status = unsafe {
            (functions.init_rank)(
                &mut own.comm,
                ranks as c_int,
                UniqueId(id),
                rank as c_int,
                &mut config,
            )
        };
        own.accept(("meeting", "ncclCommInitRankConfig"), status)?;
        Ok(own)
    }

    /// `[rank, ranks]`
    pub fn rank(&self) -> [usize; 2] {
        [self.rank, self.ranks]
    }

    /// Queues collectives in a stream, as one.
    pub(super) fn queue(
        &self,
        what: &'static str,
        collectives: &[Collective],
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        self.alive(what)?;
        // SAFETY: a group of calls of this thread, ended below.
        let status = unsafe { (self.functions.group_start)() };
        self.check((what, "ncclGroupStart"), status)?;
        let mut outcome = Ok(());
        for collective in collectives {
            outcome = self.queue_one(what, collective, stream);
            if outcome.is_err() {
                break;
            }
        }
        // SAFETY: the group was started above.
        let status = unsafe { (self.functions.group_end)() };
        outcome?;
        self.accept((what, "ncclGroupEnd"), status)
    }

    fn queue_one(
        &self,
        what: &'static str,
        collective: &Collective,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        let (functions, comm) = (self.functions, self.comm);
        let status = match *collective {
            Collective::AllReduce {
                at,
                len,
                element,
                reduce,
            } => {
                let (to, element) = (pointer(at), data_type(element));
                // SAFETY: `len` elements at an address of the device's memory, for which the caller answers, as
                // `Executor` says.
                unsafe { (functions.all_reduce)(to, to, len, element, op(reduce), comm, stream) }
            }
            Collective::AllGather {
                from,
                to,
                len,
                element,
            } => {
                let element = data_type(element);
                // SAFETY: as above.
                unsafe {
                    (functions.all_gather)(pointer(from), pointer(to), len, element, comm, stream)
                }
            }
            Collective::ReduceScatter {
                from,
                to,
                len,
                element,
                reduce,
            } => {
                let (from, to, element) = (pointer(from), pointer(to), data_type(element));
                // SAFETY: as above.
                unsafe {
                    (functions.reduce_scatter)(from, to, len, element, op(reduce), comm, stream)
                }
            }
            Collective::Broadcast {
                at,
                len,
                element,
                root,
            } => {
                let (to, element) = (pointer(at), data_type(element));
                // SAFETY: as above.
                unsafe { (functions.broadcast)(to, to, len, element, root as c_int, comm, stream) }
            }
            Collective::AllToAll {
                from,
                to,
                ref sends,
                ref receives,
                element,
            } => {
                return self.queue_all_to_all(
                    what,
                    [(from, sends), (to, receives)],
                    element,
                    stream,
                );
            }
        };
        self.check((what, collective.name()), status)
    }

    /// A pair of calls for each rank, which the group makes one.
    fn queue_all_to_all(
        &self,
        what: &'static str,
        [(from, sends), (to, receives)]: [(Address, &Vec<usize>); 2],
        element: Element,
        stream: CUstream,
    ) -> Result<(), DeviceError> {
        let (functions, comm) = (self.functions, self.comm);
        let (mut from, mut to) = (from.0, to.0);
        for (peer, (&sent, &received)) in sends.iter().zip(receives).enumerate() {
            let (peer, kind) = (peer as c_int, data_type(element));
            if sent > 0 {
                // SAFETY: as for the others.
                let status = unsafe {
                    (functions.send)(pointer(Address(from)), sent, kind, peer, comm, stream)
                };
                self.check((what, "ncclSend"), status)?;
            }
            if received > 0 {
                // SAFETY: as for the others.
                let status = unsafe {
                    (functions.receive)(pointer(Address(to)), received, kind, peer, comm, stream)
                };
                self.check((what, "ncclRecv"), status)?;
            }
            from += (sent * element.bytes()) as u64;
            to += (received * element.bytes()) as u64;
        }
        Ok(())
    }

    /// Whether something failed since, here or on another rank.
    pub(super) fn look(&self, what: &'static str) -> Result<(), DeviceError> {
        self.alive(what)?;
        let mut state = status::SUCCESS;
        // SAFETY: the communicator lives.
        let status = unsafe { (self.functions.async_error)(self.comm, &mut state) };
        self.check((what, "ncclCommGetAsyncError"), status)?;
        self.check((what, "a collective"), state)
    }

    /// Gives up what never ends.
    pub(super) fn abandon(&mut self) {
        if !self.comm.is_null() && self.gpu.bind().is_ok() {
            // SAFETY: the communicator lives, and is gone afterwards.
            let _ = unsafe { (self.functions.abort)(self.comm) };
        }
        self.comm = std::ptr::null_mut();
    }

    fn alive(&self, what: &'static str) -> Result<(), DeviceError> {
        match self.comm.is_null() {
            false => Ok(()),
            true => Err(DeviceError::Collective {
                what,
                call: "a collective".to_owned(),
                message: "an earlier one was given up".to_owned(),
            }),
        }
    }

    /// Passes what succeeded, or will.
    fn check(&self, call: (&'static str, &'static str), status: c_int) -> Result<(), DeviceError> {
        match status {
            status::SUCCESS | status::IN_PROGRESS => Ok(()),
            _ => Err(failure(self.functions, call, status, self.comm)),
        }
    }

    /// Passes what succeeded, waits for what is in progress.
    fn accept(&self, call: (&'static str, &'static str), status: c_int) -> Result<(), DeviceError> {
        self.check(call, status)?;
        match status {
            status::SUCCESS => Ok(()),
            _ => self.settle(call.0, self.timeout),
        }
    }

    /// Waits until the host's side of all calls is over.
    fn settle(&self, what: &'static str, timeout: Duration) -> Result<(), DeviceError> {
        let began = Instant::now();
        loop {
            let mut state = status::SUCCESS;
            // SAFETY: the communicator lives.
            let status = unsafe { (self.functions.async_error)(self.comm, &mut state) };
            self.check((what, "ncclCommGetAsyncError"), status)?;
            self.check((what, "a collective"), state)?;
            if state == status::SUCCESS {
                return Ok(());
            }
            if began.elapsed() > timeout {
                let waited = began.elapsed().as_secs_f64();
                return Err(DeviceError::Collective {
                    what,
                    call: "ncclCommGetAsyncError".to_owned(),
                    message: format!("the other ranks did not come within {waited:.1} s"),
                });
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn pointer(address: Address) -> *mut c_void {
    address.0 as *mut c_void
}

fn op(reduce: Reduce) -> c_int {
    match reduce {
        Reduce::Sum => SUM,
        Reduce::Max => MAX,
    }
}

fn failure(
    functions: &Functions,
    (what, call): (&'static str, &'static str),
    status: c_int,
    comm: Comm,
) -> DeviceError {
    DeviceError::Collective {
        what,
        call: call.to_owned(),
        message: functions.message(status, comm),
    }
}
