//! The functions of NCCL that are used, as `nccl.h` declares them.
//!
//! They are not taken from `cudarc`: its results are Rust enumerations, and a library newer than they are may return
//! what is none of their values.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::CUstream;
use libloading::Library;

use crate::cuda::{collective::Element, executor::DeviceError, library::CudaLibrary};

/// `ncclUniqueId`
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; Self::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;
}

/// `ncclComm_t`
pub(super) type Comm = *mut c_void;

/// `ncclResult_t`
pub(super) mod status {
    use std::ffi::c_int;

    pub const SUCCESS: c_int = 0;
    pub const IN_PROGRESS: c_int = 7;
}

/// `ncclRedOp_t`
pub(super) const SUM: c_int = 0;
/// `ncclRedOp_t`
pub(super) const MAX: c_int = 2;

/// `ncclDataType_t`
pub(super) fn data_type(element: Element) -> c_int {
    match element {
        Element::U8 => 1,
        Element::U32 => 3,
        Element::U64 => 5,
        Element::F16 => 6,
        Element::F32 => 7,
        Element::F64 => 8,
        Element::Bf16 => 9,
    }
}

/// `ncclConfig_t` as of NCCL 2.18; later versions read what is here and take their defaults for the rest.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return before they are done, and [`CommGetAsyncError`](Nccl) tells when they are.
    pub(super) fn non_blocking() -> Self {
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 21_800,
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*) -> $result:ty;)*) => {
        /// The library's functions.
        pub(super) struct Functions {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> $result,)*
            // Last: the functions are in it.
            _library: Library,
        }

        impl Functions {
            /// All functions, or the name of one that is missing.
            fn load(library: Library) -> Result<Self, &'static str> {
                // SAFETY: the signatures are those of `nccl.h`, which a test compares.
                unsafe {
                    $(let $field = library
                        .get::<unsafe extern "C" fn($($argument),*) -> $result>(
                            concat!($symbol, "\0").as_bytes(),
                        )
                        .map(|symbol| *symbol)
                        .map_err(|_| $symbol)?;)*
                    Ok(Self { $($field,)* _library: library })
                }
            }
        }

        /// The C declarations of the functions, each with the types that are used here.
        pub(super) const DECLARATIONS: &[(&str, &str)] = &[
            $(($symbol, stringify!($result ($($argument),*))),)*
        ];
    };
}

functions! {
    version = "ncclGetVersion" (*mut c_int) -> c_int;
    unique_id = "ncclGetUniqueId" (*mut UniqueId) -> c_int;
    init_rank = "ncclCommInitRankConfig" (*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int;
    async_error = "ncclCommGetAsyncError" (Comm, *mut c_int) -> c_int;
    finalize = "ncclCommFinalize" (Comm) -> c_int;
    destroy = "ncclCommDestroy" (Comm) -> c_int;
    abort = "ncclCommAbort" (Comm) -> c_int;
    error_string = "ncclGetErrorString" (c_int) -> *const c_char;
    last_error = "ncclGetLastError" (Comm) -> *const c_char;
    group_start = "ncclGroupStart" () -> c_int;
    group_end = "ncclGroupEnd" () -> c_int;
    all_reduce = "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int;
    all_gather = "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Comm, CUstream) -> c_int;
    reduce_scatter = "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int;
    broadcast = "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int;
    send = "ncclSend" (*const c_void, usize, c_int, c_int, Comm, CUstream) -> c_int;
    receive = "ncclRecv" (*mut c_void, usize, c_int, c_int, Comm, CUstream) -> c_int;
}

impl Functions {
    /// The functions of this machine's NCCL.
    ///
    /// # Errors
    /// When there is none, or it is too old.
    pub(super) fn get() -> Result<&'static Self, DeviceError> {
        static FUNCTIONS: OnceLock<Result<Functions, Option<&'static str>>> = OnceLock::new();
        let functions = FUNCTIONS.get_or_init(|| {
            let found = CudaLibrary::Nccl.find().ok_or(None)?;
            // SAFETY: NVIDIA's library may be loaded at any time, and `find` has loaded it already.
            let library = unsafe { Library::new(&found.path) }.map_err(|_| None)?;
            Self::load(library).map_err(Some)
        });
        match functions {
            Ok(functions) => Ok(functions),
            Err(None) => Err(DeviceError::Missing(CudaLibrary::Nccl)),
            Err(Some(symbol)) => Err(DeviceError::Collective {
                what: "loading NCCL",
                call: (*symbol).to_owned(),
                message: "the library has no such function; install NCCL 2.18 or later".to_owned(),
            }),
        }
    }

    /// Says what a status means.
    pub(super) fn message(&self, status: c_int, comm: Comm) -> String {
        let text = |pointer: *const c_char| match pointer.is_null() {
            true => String::new(),
            // SAFETY: the library's texts end and stay.
            false => unsafe { CStr::from_ptr(pointer) }
                .to_string_lossy()
                .into_owned(),
        };
        // SAFETY: any status may be asked for; no communicator, or one that lives.
        let (meaning, details) = unsafe {
            (
                text((self.error_string)(status)),
                text((self.last_error)(comm)),
            )
        };
        match details.trim() {
            "" => meaning,
            details => format!("{meaning}: {details}"),
        }
    }
}
