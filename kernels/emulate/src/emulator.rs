use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytemuck::Pod;
use libloading::Library;
use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{Address, DeviceError, Launch, Measured};

use crate::{
    buffer::Buffer,
    collective::Ranks,
    executor::{Call, Work},
    library::library,
};

/// As `emulate::Buffer` in `emulate/emulate.hpp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawBuffer {
    name: *const c_char,
    start: usize,
    bytes: u64,
}

type LaunchFunction = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    *const c_uint,
    c_uint,
    *mut *mut c_void,
    u64,
    *const RawBuffer,
    c_uint,
    *mut c_char,
    usize,
) -> c_int;

/// What a host did, while there is a list.
pub type Calls = Arc<Mutex<Option<Vec<Call>>>>;

/// Tells work that a device does wrongly.
pub type Spoils = Arc<dyn Fn(&Work) -> bool + Send + Sync>;

/// A device whose memory are guarded buffers.
#[derive(Default)]
pub struct Emulator {
    pub(crate) buffers: Vec<Buffer>,
    /// In which order blocks and threads run: 0 ascending, 1 descending, others at random.
    pub seed: u64,
    /// Says that work is not done yet, as a device does that waits for one that is gone.
    pub hangs: bool,
    /// Products that the device's library does not have.
    pub refuses: Option<fn(&Product) -> bool>,
    /// Work that the device does wrongly: it leaves a launch out, and writes other numbers over the first
    /// column of a product.
    pub spoils: Option<Spoils>,
    /// How many more batches can be copied to it.
    pub copies_left: Option<Arc<AtomicUsize>>,
    /// The most bytes that there is memory for.
    pub room: Option<usize>,
    /// What a host does in turn, in whatever thread, where somebody wants to know.
    pub calls: Calls,
    /// What is asked for while a step is recorded.
    pub(crate) recording: Option<Vec<Work>>,
    /// While recorded work runs.
    pub(crate) replays: bool,
    /// The devices of other ranks.
    pub(crate) ranks: Ranks,
    /// What was measured, since when.
    pub(crate) times: Option<(Instant, Vec<Measured>)>,
}

/// Orders in which a kernel must give the same result.
pub const SEEDS: [u64; 3] = [0, 1, 77];

impl Emulator {
    /// No memory yet. `seed` chooses the order of blocks and threads.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Makes other devices of the same kind, with the same faults, without memory and without other ranks.
    pub fn maker(&self) -> impl Fn() -> Result<Self, DeviceError> + Send + 'static {
        let (seed, refuses, spoils) = (self.seed, self.refuses, self.spoils.clone());
        move || {
            Ok(Self {
                refuses,
                spoils: spoils.clone(),
                ..Self::new(seed)
            })
        }
    }

    /// Memory of `bytes` bytes that are all 0xff: NaN, or -1.
    pub fn empty(&mut self, name: &str, bytes: usize) -> Address {
        let buffer = Buffer::new(name, bytes);
        let address = Address(buffer.start as u64);
        self.buffers.push(buffer);
        address
    }

    /// Memory of `bytes` bytes, a multiple of 16, that ends with `values`. What lies before them does not exist, as far as
    /// pages reach: whoever touches it is told.
    pub fn ending<T: Pod>(&mut self, name: &str, bytes: usize, values: &[T]) -> Address {
        let tail: &[u8] = bytemuck::cast_slice(values);
        assert!(
            bytes.is_multiple_of(16) && tail.len() <= bytes,
            "{name}: {bytes} bytes"
        );
        let buffer = Buffer::ending(name, bytes, tail.len());
        let address = Address(buffer.start as u64);
        let to = (buffer.start + bytes - tail.len()) as *mut u8;
        // SAFETY: the end of the buffer has room for exactly these bytes, and exists.
        unsafe { std::ptr::copy_nonoverlapping(tail.as_ptr(), to, tail.len()) };
        self.buffers.push(buffer);
        address
    }

    /// Memory that holds `values`.
    pub fn upload<T: Pod>(&mut self, name: &str, values: &[T]) -> Address {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.empty(name, bytes.len());
        // SAFETY: the buffer has room for exactly these bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.0 as *mut u8, bytes.len()) };
        address
    }

    /// The content of the memory at `address`.
    ///
    /// # Panics
    /// When no memory begins there.
    pub fn download<T: Pod>(&self, address: Address) -> Vec<T> {
        let buffer = self
            .buffers
            .iter()
            .find(|buffer| buffer.start as u64 == address.0);
        let bytes = buffer.expect("an address of a buffer").slice();
        crate::values::read(bytes)
    }

    /// Where `len` bytes lie.
    ///
    /// # Panics
    /// When they are not all in one buffer.
    pub fn place(&self, address: Address, len: usize) -> *mut u8 {
        let inside = |buffer: &&Buffer| {
            let (start, end) = (buffer.start as u64, (buffer.start + buffer.bytes) as u64);
            start <= address.0 && address.0 + len as u64 <= end
        };
        let found = self.buffers.iter().find(inside);
        assert!(
            found.is_some(),
            "{len} bytes at {:#x} are in no buffer",
            address.0
        );
        address.0 as *mut u8
    }

    /// Runs launches in turn.
    #[track_caller]
    pub fn run(&self, launches: impl IntoIterator<Item = Launch>) {
        for launch in launches {
            if let Err(error) = self.try_run(launch) {
                panic!("{error}");
            }
        }
    }

    /// Runs a launch, or tells what it did wrong.
    pub fn try_run(&self, launch: Launch) -> Result<(), String> {
        let library = library(launch.kernel.source);
        self.call(library, launch)
    }

    fn call(&self, library: &Library, mut launch: Launch) -> Result<(), String> {
        // The emulation has one set of threads for all.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let name = CString::new(launch.kernel.name).expect("a name");
        let block = [launch.threads, 1, 1];
        let buffers: Vec<RawBuffer> = self
            .buffers
            .iter()
            .map(|buffer| RawBuffer {
                name: buffer.name.as_ptr(),
                start: buffer.start,
                bytes: buffer.bytes as u64,
            })
            .collect();
        let mut error = vec![0u8; 1024];
        let (grid, shared_bytes) = (launch.grid, launch.shared_bytes);
        let mut arguments = launch.arguments();
        // SAFETY: the signature is that of `emulate_launch`, and all pointers outlive the call. A
        // kernel that leaves its buffers is stopped at a guard page.
        let status = unsafe {
            let function = library
                .get::<LaunchFunction>(b"emulate_launch\0")
                .expect("the emulation's entry");
            function(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                shared_bytes,
                arguments.as_mut_ptr(),
                self.seed,
                buffers.as_ptr(),
                buffers.len() as c_uint,
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        self.buffers.iter().for_each(Buffer::check_slack);
        if status == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).expect("a message that ends");
        Err(text.to_string_lossy().into_owned())
    }
}
