//! Where the kernels of a test run: under the emulation, or with `STREAMREC_TEST_DEVICE=cuda` on the first GPU that this
//! process sees. The same test holds both to the same results.

use std::cell::RefCell;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Mutex, OnceLock};

use bytemuck::Pod;
use streamrec_emulation::Emulator;
pub use streamrec_emulation::SEEDS;
use streamrec_kernels::DType;
use streamrec_kernels::cuda::gpu::{Gpu, GpuExecutor};
use streamrec_kernels::cuda::product::Product;
use streamrec_kernels::cuda::{
    Address, CompileError, DeviceError, Executor, Kernel, Launch, Matrix, Source, cache_folder,
    gpus,
};

use crate::values::{narrow, widen};

pub const VARIABLE: &str = "STREAMREC_TEST_DEVICE";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Buffers with guard pages.
    Emulated,
    /// The emulation where a GPU would be: what tests do with a GPU is tested without one.
    InPlaceOfAGpu,
    Cuda,
}

fn kind() -> Kind {
    match std::env::var(VARIABLE).as_deref() {
        Ok("cuda") => Kind::Cuda,
        Ok("in-place-of-a-gpu") => Kind::InPlaceOfAGpu,
        Ok("emulated") | Err(_) => Kind::Emulated,
        Ok(other) => panic!("{VARIABLE}={other}: expected `cuda` or `emulated`"),
    }
}

/// Whether tests run on a GPU.
pub fn asks_for_a_gpu() -> bool {
    kind() == Kind::Cuda
}

/// The GPU that tests run on, opened once a process.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Result<Gpu, DeviceError>> = OnceLock::new();
    let open = || Gpu::new(0, &cache_folder());
    match GPU.get_or_init(open) {
        Ok(gpu) => gpu,
        Err(error) => {
            panic!("{VARIABLE}=cuda asks for a GPU: {error}; without it, tests run emulated")
        }
    }
}

/// The GPU of this machine for tests that run beside the emulation too, or nothing, said loudly.
pub fn gpu_if_any() -> Option<&'static Gpu> {
    if asks_for_a_gpu() || !gpus().is_empty() {
        return Some(gpu());
    }
    eprintln!("NOT TESTED: this machine has no GPU");
    None
}

/// The emulation, for what only it can tell: it sees accesses outside of buffers, and runs threads in an order that one
/// can choose. Nothing on a GPU, said plainly.
pub fn emulation(seed: u64) -> Option<Emulator> {
    if kind() != Kind::Emulated {
        eprintln!("NOT TESTED on a GPU: only the emulation can tell this");
        return None;
    }
    Some(Emulator::new(seed))
}

/// Memory with what runs launches and products on it.
#[allow(clippy::large_enum_variant)] // One a test.
pub enum Device {
    Emulated(Emulator),
    Shared(RefCell<Memory>),
}

impl Device {
    /// No memory yet. `seed` chooses the emulation's order of blocks and threads; a GPU has its own, another one each
    /// time.
    pub fn new(seed: u64) -> Self {
        match kind() {
            Kind::Emulated => Self::Emulated(Emulator::new(seed)),
            kind => Self::Shared(RefCell::new(Memory::new(kind))),
        }
    }

    /// Likewise, for memory that only a GPU holds: under emulation a part of it exists.
    pub fn large(seed: u64) -> Self {
        match kind() {
            Kind::Cuda => Self::new(seed),
            _ => Self::Emulated(Emulator::new(seed)),
        }
    }

    /// Likewise, for kernels of a test's own source. Nothing where the GPU's machine cannot compile it, said loudly.
    pub fn with_source(source: &'static Source, file: &'static str, seed: u64) -> Option<Self> {
        if !asks_for_a_gpu() {
            streamrec_emulation::add_source(source.name, file, source.kernels);
            return Some(Self::new(seed));
        }
        match gpu().load(source) {
            Ok(()) => Some(Self::new(seed)),
            Err(DeviceError::Compile(CompileError::NoCompiler)) => {
                eprintln!(
                    "NOT TESTED: {file} is no kernel of the product's, and NVRTC is not installed"
                );
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Memory of `bytes` bytes that are all 0xff: NaN, or -1.
    pub fn empty(&mut self, name: &str, bytes: usize) -> Address {
        match self {
            Self::Emulated(emulator) => emulator.empty(name, bytes),
            Self::Shared(own) => own.get_mut().upload(name, &vec![0xff; bytes]),
        }
    }

    /// Memory that holds `values`.
    pub fn upload<T: Pod>(&mut self, name: &str, values: &[T]) -> Address {
        match self {
            Self::Emulated(emulator) => emulator.upload(name, values),
            Self::Shared(own) => own.get_mut().upload(name, bytemuck::cast_slice(values)),
        }
    }

    /// Memory of `bytes` bytes, a multiple of 16, that ends with `values`. What lies before is zero on a GPU, and does not
    /// exist under emulation. For [`large`](Self::large) devices.
    pub fn ending<T: Pod>(&mut self, name: &str, bytes: usize, values: &[T]) -> Address {
        match self {
            Self::Emulated(emulator) => emulator.ending(name, bytes, values),
            Self::Shared(own) => own
                .get_mut()
                .ending(name, bytes, bytemuck::cast_slice(values)),
        }
    }

    /// A matrix of float32 values, rounded to `dtype`, in rows of `row_stride` elements.
    pub fn matrix(
        &mut self,
        name: &str,
        values: &[f32],
        dtype: DType,
        shape: [usize; 2],
        row_stride: usize,
    ) -> Matrix {
        let [rows, columns] = shape;
        assert_eq!(values.len(), rows * columns);
        let elements = rows.saturating_sub(1) * row_stride + if rows > 0 { columns } else { 0 };
        // What lies between rows is NaN.
        let mut bytes = vec![0xff; elements * dtype.bytes()];
        for row in 0..rows {
            let own = narrow(&values[row * columns..][..columns], dtype);
            bytes[row * row_stride * dtype.bytes()..][..own.len()].copy_from_slice(&own);
        }
        Matrix {
            address: self.upload(name, &bytes),
            dtype,
            shape,
            row_stride,
        }
    }

    /// The content of the memory at `address`.
    ///
    /// # Panics
    /// When no memory begins there.
    pub fn download<T: Pod>(&self, address: Address) -> Vec<T> {
        match self {
            Self::Emulated(emulator) => emulator.download(address),
            Self::Shared(own) => {
                streamrec_emulation::values::read(&own.borrow_mut().download(address))
            }
        }
    }

    /// `len` bytes that lie in one buffer.
    pub fn part(&self, address: Address, len: usize) -> Vec<u8> {
        match self {
            Self::Emulated(emulator) => {
                let place = emulator.place(address, len);
                // SAFETY: the bytes are inside a buffer, and nothing writes meanwhile.
                unsafe { std::slice::from_raw_parts(place, len) }.to_vec()
            }
            Self::Shared(own) => own.borrow_mut().part(address, len),
        }
    }

    /// The elements of a matrix, widened, after checking that what lies between rows is untouched.
    pub fn elements(&self, matrix: &Matrix) -> Vec<f32> {
        let [rows, columns] = matrix.shape;
        let len = rows.saturating_sub(1) * matrix.row_stride + if rows > 0 { columns } else { 0 };
        let bytes = self.part(matrix.address, len * matrix.dtype.bytes());
        let all = widen(&bytes, matrix.dtype);
        for (index, value) in all.iter().enumerate() {
            let inside = index % matrix.row_stride.max(1) < columns;
            assert!(
                inside || value.is_nan(),
                "element {index} between rows was written"
            );
        }
        (0..rows)
            .flat_map(|row| all[row * matrix.row_stride..][..columns].to_vec())
            .collect()
    }

    /// Runs launches in turn.
    #[track_caller]
    pub fn run(&self, launches: impl IntoIterator<Item = Launch>) {
        let launches = launches.into_iter().inspect(note);
        match self {
            Self::Emulated(emulator) => emulator.run(launches),
            Self::Shared(own) => {
                for launch in launches {
                    let done = own.borrow_mut().executor().launch(&launch);
                    done.unwrap_or_else(|error| panic!("{}: {error}", launch.kernel.name));
                }
                own.borrow_mut().check_slack();
            }
        }
    }

    /// Multiplies.
    #[track_caller]
    pub fn multiply(&mut self, product: &Product) {
        match self {
            Self::Emulated(emulator) => Executor::multiply(emulator, product).unwrap(),
            Self::Shared(own) => {
                let own = own.get_mut();
                let done = own.executor().multiply(product);
                done.unwrap_or_else(|error| panic!("{product}: {error}"));
                own.check_slack();
            }
        }
    }
}

/// A file that receives the kernels that tests run.
pub const KERNELS_VARIABLE: &str = "STREAMREC_TEST_KERNELS";

/// Writes down that a kernel runs, where that is asked for.
fn note(launch: &Launch) {
    static FILE: OnceLock<Option<Mutex<File>>> = OnceLock::new();
    let open = || {
        let path = std::env::var_os(KERNELS_VARIABLE)?;
        Some(Mutex::new(File::create(path).expect("a file of kernels")))
    };
    if let Some(file) = FILE.get_or_init(open) {
        let mut file = file.lock().expect("no panic");
        let Kernel { source, name } = launch.kernel;
        writeln!(file, "{source}: {name}").expect("room for names");
    }
}

/// Bytes that tests share; larger ones are taken for their test alone.
const SHARED_BYTES: usize = 64 << 20;
const ALIGNMENT: usize = 256;

/// What tests ask of an executor, whatever it is.
trait Runs {
    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError>;
    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError>;
    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError>;
    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError>;
    /// Waits, so that a failure is told with the name of what failed.
    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError>;
    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError>;
}

impl<E: Executor> Runs for E {
    fn allocate(&mut self, bytes: usize) -> Result<Address, DeviceError> {
        Executor::allocate(self, bytes)
    }

    fn upload(&mut self, from: &[u8], to: Address) -> Result<(), DeviceError> {
        Executor::upload(self, from, to)
    }

    fn download(&mut self, from: Address, to: &mut [u8]) -> Result<(), DeviceError> {
        Executor::download(self, from, to)
    }

    fn zero(&mut self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        Executor::zero(self, at, bytes)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), DeviceError> {
        Executor::launch(self, launch)?;
        self.synchronize()
    }

    fn multiply(&mut self, product: &Product) -> Result<(), DeviceError> {
        Executor::multiply(self, product)?;
        self.synchronize()
    }
}

/// An executor with memory that tests use one after the other.
struct Shared {
    executor: Box<dyn Runs>,
    memory: Address,
}

impl Shared {
    fn new(kind: Kind) -> Self {
        let mut executor: Box<dyn Runs> = match kind {
            Kind::Cuda => Box::new(GpuExecutor::new(gpu()).expect("a stream of the GPU")),
            _ => Box::new(Emulator::new(1)),
        };
        let memory = executor.allocate(SHARED_BYTES).expect("memory");
        Self { executor, memory }
    }
}

thread_local! {
    static IDLE: RefCell<Vec<Shared>> = const { RefCell::new(Vec::new()) };
}

/// A test's memory.
pub struct Memory {
    /// Until it is given back.
    shared: Option<Shared>,
    used: usize,
    /// Whether there is memory that no other test is to keep.
    is_large: bool,
    buffers: Vec<Buffer>,
}

struct Buffer {
    name: String,
    address: Address,
    bytes: usize,
    /// Bytes behind the end that nobody may write: 0xff.
    slack: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // After a failure nobody knows what still runs.
        if let Some(shared) = self.shared.take()
            && !std::thread::panicking()
            && !self.is_large
        {
            IDLE.with_borrow_mut(|idle| idle.push(shared));
        }
    }
}

impl Memory {
    fn new(kind: Kind) -> Self {
        let idle = IDLE.with_borrow_mut(Vec::pop);
        Self {
            shared: Some(idle.unwrap_or_else(|| Shared::new(kind))),
            used: 0,
            is_large: false,
            buffers: Vec::new(),
        }
    }

    fn executor(&mut self) -> &mut dyn Runs {
        let shared = self.shared.as_mut();
        shared.expect("is given back at the end").executor.as_mut()
    }

    fn upload(&mut self, name: &str, values: &[u8]) -> Address {
        let whole = (values.len() + 16).next_multiple_of(ALIGNMENT);
        let address = self.take(whole);
        self.place(name, address, (values.len(), values))
    }

    fn ending(&mut self, name: &str, bytes: usize, tail: &[u8]) -> Address {
        let address = self.take((bytes + 16).next_multiple_of(ALIGNMENT));
        let zeroed = self.executor().zero(address, bytes);
        zeroed.unwrap_or_else(|error| panic!("{name}: {error}"));
        self.place(name, address, (bytes, tail))
    }

    /// Fills the end of a buffer of so many bytes, and what lies behind.
    fn place(&mut self, name: &str, address: Address, (bytes, tail): (usize, &[u8])) -> Address {
        let slack = (bytes + 16).next_multiple_of(ALIGNMENT) - bytes;
        let mut content = tail.to_vec();
        content.resize(tail.len() + slack, 0xff);
        let first = Address(address.0 + (bytes - tail.len()) as u64);
        let uploaded = self.executor().upload(&content, first);
        uploaded.unwrap_or_else(|error| panic!("{name}: {error}"));
        self.buffers.push(Buffer {
            name: name.to_owned(),
            address,
            bytes,
            slack,
        });
        address
    }

    fn take(&mut self, bytes: usize) -> Address {
        if self.used + bytes > SHARED_BYTES {
            self.is_large = true;
            let taken = self.executor().allocate(bytes);
            return taken.unwrap_or_else(|error| panic!("{error}"));
        }
        let first = self
            .shared
            .as_ref()
            .expect("is given back at the end")
            .memory;
        let address = Address(first.0 + self.used as u64);
        self.used += bytes;
        address
    }

    fn download(&mut self, address: Address) -> Vec<u8> {
        let mut buffers = self.buffers.iter();
        let buffer = buffers.find(|buffer| buffer.address == address);
        let bytes = buffer.expect("an address of a buffer").bytes;
        self.part(address, bytes)
    }

    fn part(&mut self, address: Address, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let downloaded = self.executor().download(address, &mut bytes);
        downloaded.unwrap_or_else(|error| panic!("{error}"));
        bytes
    }

    /// As the emulation's guard pages, for writes just behind a buffer.
    #[track_caller]
    fn check_slack(&mut self) {
        let buffers = std::mem::take(&mut self.buffers);
        for buffer in &buffers {
            let mut slack = vec![0; buffer.slack];
            let end = Address(buffer.address.0 + buffer.bytes as u64);
            let downloaded = self.executor().download(end, &mut slack);
            downloaded.unwrap_or_else(|error| panic!("{error}"));
            assert!(
                slack.iter().all(|&byte| byte == 0xff),
                "bytes after the end of `{}` were written",
                buffer.name
            );
        }
        self.buffers = buffers;
    }
}
