//! Compiles a `.cu` file with the host's C++ compiler and runs launches of its kernels.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use bytemuck::Pod;
use libloading::Library;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use streamrec_kernels::DType;
use streamrec_kernels::cuda::{Address, Launch, Matrix, SOURCES};

use crate::executor::Work;

const PAGE: usize = 4096;

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

/// Memory between pages that nobody may touch. Its end lies at one of them, up to the bytes that fill
/// it to a multiple of 16: these hold NaN, and are checked.
struct Buffer {
    name: CString,
    mapping: *mut c_void,
    mapped: usize,
    start: usize,
    bytes: usize,
}

impl Buffer {
    fn new(name: &str, bytes: usize) -> Self {
        let data = bytes.next_multiple_of(16).max(16);
        let pages = data.next_multiple_of(PAGE);
        let mapped = pages + 2 * PAGE;
        // SAFETY: a new mapping, of which the pages in the middle become accessible.
        let mapping = unsafe {
            let mapping = mmap_anonymous(
                std::ptr::null_mut(),
                mapped,
                ProtFlags::empty(),
                MapFlags::PRIVATE,
            )
            .expect("address space");
            let flags = MprotectFlags::READ | MprotectFlags::WRITE;
            mprotect(mapping.cast::<u8>().add(PAGE).cast(), pages, flags).expect("pages");
            mapping
        };
        let start = mapping as usize + PAGE + pages - data;
        // SAFETY: inside the accessible pages. All bits set is NaN in every type of float.
        unsafe { std::ptr::write_bytes(start as *mut u8, 0xff, data) };
        Self {
            name: CString::new(name).expect("a name"),
            mapping,
            mapped,
            start,
            bytes,
        }
    }

    fn slice(&self) -> &[u8] {
        // SAFETY: `bytes` bytes of the mapping; nothing writes while a test reads.
        unsafe { std::slice::from_raw_parts(self.start as *const u8, self.bytes) }
    }

    fn check_slack(&self) {
        let slack = self.bytes.next_multiple_of(16).max(16) - self.bytes;
        // SAFETY: the bytes that fill the buffer to a multiple of 16 are accessible.
        let slack =
            unsafe { std::slice::from_raw_parts((self.start + self.bytes) as *const u8, slack) };
        assert!(
            slack.iter().all(|&byte| byte == 0xff),
            "bytes after the end of `{}` were written",
            self.name.to_string_lossy()
        );
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.mapping, self.mapped) };
    }
}

/// A device whose memory are guarded buffers.
#[derive(Default)]
pub struct Emulator {
    buffers: Vec<Buffer>,
    /// In which order blocks and threads run: 0 ascending, 1 descending, others at random.
    pub seed: u64,
    /// What is asked for while a step is recorded.
    pub recording: Option<Vec<Work>>,
}

/// Orders in which a kernel must give the same result.
pub const SEEDS: [u64; 3] = [0, 1, 77];

impl Emulator {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Memory of `bytes` bytes that are all 0xff: NaN, or -1.
    pub fn empty(&mut self, name: &str, bytes: usize) -> Address {
        let buffer = Buffer::new(name, bytes);
        let address = Address(buffer.start as u64);
        self.buffers.push(buffer);
        address
    }

    pub fn upload<T: Pod>(&mut self, name: &str, values: &[T]) -> Address {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.empty(name, bytes.len());
        // SAFETY: the buffer has room for exactly these bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address.0 as *mut u8, bytes.len()) };
        address
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
        let address = self.empty(name, elements * dtype.bytes());
        for row in 0..rows {
            let bytes = super::values::narrow(&values[row * columns..][..columns], dtype);
            let to = address.0 as usize + row * row_stride * dtype.bytes();
            // SAFETY: the row lies inside the buffer.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        }
        Matrix {
            address,
            dtype,
            shape,
            row_stride,
        }
    }

    pub fn download<T: Pod>(&self, address: Address) -> Vec<T> {
        let buffer = self
            .buffers
            .iter()
            .find(|buffer| buffer.start as u64 == address.0);
        let bytes = buffer.expect("an address of a buffer").slice();
        super::values::read(bytes)
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

    /// The elements of a matrix, widened, after checking that what lies between rows is untouched.
    pub fn elements(&self, matrix: &Matrix) -> Vec<f32> {
        let bytes: Vec<u8> = self.download(matrix.address);
        let all = super::values::widen(&bytes, matrix.dtype);
        let [rows, columns] = matrix.shape;
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
        let _turn = ONE_AT_A_TIME
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
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

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The compiled emulation of a source of the product, or of `tests/cuda/NAME.cu`.
fn library(source: &str) -> &'static Library {
    static LIBRARIES: OnceLock<Mutex<HashMap<String, &'static Library>>> = OnceLock::new();
    let mut libraries = LIBRARIES
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(library) = libraries.get(source) {
        return library;
    }
    let path = compile(source);
    // SAFETY: our own emulation, whose load runs no code.
    let library = unsafe { Library::new(&path) }.expect("a library that was just compiled");
    let library = Box::leak(Box::new(library));
    libraries.insert(source.to_owned(), library);
    library
}

/// The file that the compiler reads: the emulation, the kernels, their list.
fn translation_unit(source: &str) -> String {
    let (file, kernels) = match SOURCES.iter().find(|known| known.name == source) {
        Some(known) => (format!("{source}.cu"), known.kernels),
        None => (format!("tests/cuda/{source}.cu"), super::emulation::KERNELS),
    };
    let list: Vec<String> = kernels
        .iter()
        .map(|name| {
            format!("{{\"{name}\", [](void** arguments) {{ emulate::call(&{name}, arguments); }}}}")
        })
        .collect();
    format!(
        "#include \"emulate/emulate.hpp\"\n#include \"{file}\"\nEMULATE_KERNELS({})\n",
        list.join(",\n    ")
    )
}

/// Every file that a translation unit may include.
fn inputs(source: &str) -> Vec<PathBuf> {
    let mut files = vec![folder().join("streamrec.cuh")];
    for place in ["emulate", "."] {
        let entries = fs::read_dir(folder().join(place)).expect("a folder of the project");
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.push(folder().join(format!("tests/cuda/{source}.cu")));
    let ours = |path: &PathBuf| {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        path.extension()
            .is_some_and(|extension| extension == "hpp" || extension == "cuh")
            || stem == Some(source) && path.extension().is_some_and(|extension| extension == "cu")
    };
    files.retain(|path| ours(path) && path.is_file());
    files.sort();
    files
}

/// Compiles once for the same text, also when several test processes ask at a time.
fn compile(source: &str) -> PathBuf {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let flags = [
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-fwrapv",
        "-fno-strict-aliasing",
    ];
    let warnings = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-function",
        "-Wno-unknown-pragmas",
    ];
    let unit = translation_unit(source);
    let mut hasher = DefaultHasher::new();
    (&compiler, flags, &unit).hash(&mut hasher);
    for file in inputs(source) {
        fs::read(&file).expect("a source file").hash(&mut hasher);
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulate");
    fs::create_dir_all(&place).expect("a folder below the target folder");
    let stem = place.join(format!("{source}-{:016x}", hasher.finish()));
    let library = stem.with_extension("so");
    let lock = File::create(place.join(format!("{source}.lock"))).expect("a lock file");
    lock.lock().expect("a lock");
    if library.exists() {
        return library;
    }
    let file = stem.with_extension("cpp");
    fs::write(&file, unit).expect("room in the target folder");
    let fresh = stem.with_extension("new");
    let output = Command::new(&compiler)
        .args(flags)
        .args(warnings)
        .arg("-I")
        .arg(folder())
        .args([&file, Path::new("-o"), &fresh])
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "cannot run the C++ compiler `{compiler}`, which emulates the CUDA kernels: {error}; \
                 install g++ or clang++, or set CXX"
            )
        });
    assert!(
        output.status.success(),
        "{compiler} on {}:\n{}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(&fresh, &library).expect("the same folder");
    library
}
