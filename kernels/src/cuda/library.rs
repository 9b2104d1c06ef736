use std::{
    ffi::c_int,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use cudarc::{cublaslt, driver, nvrtc};
use libloading::Library;

/// The environment variable that names folders with CUDA's libraries, such as those of Python packages, with `:`
/// between them: libraries are looked for there first, in this order.
pub const LIBRARIES_VARIABLE: &str = "STREAMREC_CUDA_LIBRARIES";

/// A library of NVIDIA's that is loaded when it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaLibrary {
    /// The driver.
    Driver,
    /// The run-time compiler.
    Nvrtc,
    /// Matrix products.
    CublasLt,
    /// Collectives.
    Nccl,
}

impl CudaLibrary {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Driver, Self::Nvrtc, Self::CublasLt, Self::Nccl];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Nvrtc => "NVRTC",
            Self::CublasLt => "cuBLASLt",
            Self::Nccl => "NCCL",
        }
    }

    /// What to install where it is missing.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Driver => {
                "install NVIDIA's driver: 580 or later for CUDA 13's libraries, 525 or later for CUDA 12's"
            }
            Self::Nvrtc => {
                "install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, and set STREAMREC_CUDA_LIBRARIES to the folder of libnvrtc.so.*"
            }
            Self::CublasLt => {
                "install the CUDA toolkit or `pip install nvidia-cublas`, and set STREAMREC_CUDA_LIBRARIES to the folder of libcublasLt.so.*"
            }
            Self::Nccl => {
                "install libnccl2 or `pip install nvidia-nccl-cu13`, and set STREAMREC_CUDA_LIBRARIES to the folder of libnccl.so.2"
            }
        }
    }

    /// File names, newest first.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Driver => &["libcuda.so.1", "libcuda.so"],
            Self::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            Self::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            Self::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// Loads the library, and keeps it loaded. `None` when there is none.
    pub fn find(self) -> Option<FoundLibrary> {
        let folders = std::env::var_os(LIBRARIES_VARIABLE).unwrap_or_default();
        let in_folders = std::env::split_paths(&folders).flat_map(|folder| {
            let files = self.files().iter();
            files.map(move |file| folder.join(file))
        });
        let anywhere = self.files().iter().map(PathBuf::from);
        in_folders.chain(anywhere).find_map(|path| self.load(&path))
    }

    /// The version of the library that is used, and loads it. `None` where there is none.
    pub fn version_in_use(self) -> Option<String> {
        let found = self.find()?;
        let Some(bound) = self.bound() else {
            return found.version;
        };
        // SAFETY: the library is loaded; the calls write integers, and need no initialisation.
        unsafe {
            let mut version = 0;
            match bound {
                Bound::Absent => None,
                Bound::Driver => {
                    let told = driver::sys::cuDriverGetVersion(&mut version).result();
                    told.is_ok().then(|| cuda_version(version))
                }
                Bound::Nvrtc => {
                    let mut minor = 0;
                    let told = nvrtc::sys::nvrtcVersion(&mut version, &mut minor).result();
                    told.is_ok().then(|| format!("{version}.{minor}"))
                }
                Bound::CublasLt => Some(cublas_version(cublaslt::sys::cublasLtGetVersion())),
            }
        }
    }

    /// Whether another version is used than the one that was found. The bindings open libraries by their names, of which
    /// the system's loader may know another file than the one in the folder of [`LIBRARIES_VARIABLE`].
    pub fn two_versions(self) -> Option<TwoVersions> {
        let found = self.find()?;
        let (version, used) = (found.version?, self.version_in_use()?);
        (version != used).then_some(TwoVersions {
            library: self,
            path: found.path,
            found: version,
            used,
        })
    }

    /// What the bindings open; none where there are no bindings.
    fn bound(self) -> Option<Bound> {
        // SAFETY: NVIDIA's libraries may be loaded at any time.
        let (present, bound) = unsafe {
            match self {
                Self::Driver => (driver::sys::is_culib_present(), Bound::Driver),
                Self::Nvrtc => (nvrtc::sys::is_culib_present(), Bound::Nvrtc),
                Self::CublasLt => (cublaslt::sys::is_culib_present(), Bound::CublasLt),
                Self::Nccl => return None,
            }
        };
        Some(if present { bound } else { Bound::Absent })
    }

    fn load(self, path: &Path) -> Option<FoundLibrary> {
        static LOADED: Mutex<Vec<Library>> = Mutex::new(Vec::new());
        // SAFETY: NVIDIA's libraries may be loaded at any time; they stay so until the process ends,
        // and whoever asks for their name afterwards gets the same.
        let library = unsafe { Library::new(path) }.ok()?;
        let version = self.version(&library);
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.push(library);
        Some(FoundLibrary {
            path: path.to_owned(),
            version,
        })
    }

    fn version(self, library: &Library) -> Option<String> {
        // SAFETY: the functions have these signatures since their first version, write one or two
        // integers, and need no initialisation.
        unsafe {
            match self {
                Self::Driver => {
                    let get = library
                        .get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"cuDriverGetVersion\0");
                    let mut version = 0;
                    (get.ok()?(&mut version) == 0).then(|| cuda_version(version))
                }
                Self::Nvrtc => {
                    let get = library.get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(
                        b"nvrtcVersion\0",
                    );
                    let (mut major, mut minor) = (0, 0);
                    (get.ok()?(&mut major, &mut minor) == 0).then(|| format!("{major}.{minor}"))
                }
                Self::CublasLt => {
                    let get =
                        library.get::<unsafe extern "C" fn() -> usize>(b"cublasLtGetVersion\0");
                    Some(cublas_version(get.ok()?()))
                }
                Self::Nccl => {
                    let get = library
                        .get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0");
                    let mut version = 0;
                    (get.ok()?(&mut version) == 0).then(|| {
                        format!(
                            "{}.{}.{}",
                            version / 10_000,
                            version / 100 % 100,
                            version % 100
                        )
                    })
                }
            }
        }
    }
}

/// A library as the bindings have it, without which they would end the thread with a panic.
enum Bound {
    Absent,
    Driver,
    Nvrtc,
    CublasLt,
}

/// `13000` is CUDA 13.0.
fn cuda_version(version: c_int) -> String {
    format!("CUDA {}.{}", version / 1000, version % 1000 / 10)
}

/// `130501` is 13.5.1.
fn cublas_version(version: usize) -> String {
    let (major, minor) = (version / 10_000, version / 100 % 100);
    format!("{major}.{minor}.{}", version % 100)
}

/// One version of a library was found and another is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {used} is used, which the system's loader gives, not {found} ({}); to use that one, put its folder into \
     LD_LIBRARY_PATH with a link that is called lib*.so, or remove the other",
    library.name(), path.display()
)]
pub struct TwoVersions {
    /// The library.
    pub library: CudaLibrary,
    /// Where the one that was found lies.
    pub path: PathBuf,
    /// Its version.
    pub found: String,
    /// The version of the one that is used.
    pub used: String,
}

/// A library that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundLibrary {
    /// The name or path it was found by.
    pub path: PathBuf,
    /// Its version, as it tells it.
    pub version: Option<String>,
}

/// One GPU of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_bytes: usize,
    /// Its compute capability, such as `[9, 0]`.
    pub capability: [i32; 2],
}

/// The GPUs of this host; none without a driver.
pub fn gpus() -> Vec<Gpu> {
    // cudarc ends the process's thread with a panic where the library is missing: look first.
    use driver::{result, sys::CUdevice_attribute};
    if !load_driver() || result::init().is_err() {
        return Vec::new();
    }
    let count = result::device::get_count().unwrap_or(0);
    (0..count)
        .filter_map(|ordinal| {
            let device = result::device::get(ordinal).ok()?;
            // SAFETY: the driver has just given the device.
            let (memory_bytes, attribute) = unsafe {
                let of = |attribute| result::device::get_attribute(device, attribute);
                let major = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
                let minor = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
                (
                    result::device::total_mem(device).ok()?,
                    [of(major).ok()?, of(minor).ok()?],
                )
            };
            Some(Gpu {
                name: result::device::get_name(device).ok()?,
                memory_bytes,
                capability: attribute,
            })
        })
        .collect()
}

/// Loads the driver; whether the bindings find it too.
pub(super) fn load_driver() -> bool {
    // SAFETY: NVIDIA's library may be loaded at any time.
    CudaLibrary::Driver.find().is_some() && unsafe { driver::sys::is_culib_present() }
}

/// Loads cuBLASLt; whether the bindings find it too.
pub(super) fn load_cublas_lt() -> bool {
    // SAFETY: NVIDIA's library may be loaded at any time.
    CudaLibrary::CublasLt.find().is_some() && unsafe { cublaslt::sys::is_culib_present() }
}

/// Loads NVRTC; whether the bindings find it too.
pub(super) fn load_nvrtc() -> bool {
    // SAFETY: NVIDIA's library may be loaded at any time.
    CudaLibrary::Nvrtc.find().is_some() && unsafe { nvrtc::sys::is_culib_present() }
}
