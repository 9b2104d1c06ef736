use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    path::Path,
};

use cudarc::driver::{result, sys};

use super::failed;
use crate::cuda::{
    compiler::{Compiled, NotKept, compile_cached, compile_portable},
    executor::DeviceError,
    launch::Kernel,
    source::{SOURCES, Source},
};

/// Shared memory that every kernel may use without being told.
const SHARED_BYTES: u32 = 48 << 10;

/// The kernels of one GPU: each source is compiled, or read from the cache, when one of its kernels is first
/// asked for.
#[derive(Default)]
pub(super) struct Modules {
    loaded: Vec<sys::CUmodule>,
    functions: HashMap<Kernel, Function>,
    /// Why kernels that were compiled were not kept.
    pub(super) not_kept: Option<NotKept>,
}

struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it may use.
    shared_bytes: u32,
}

impl Modules {
    pub(super) fn function(
        &mut self,
        kernel: Kernel,
        shared_bytes: u32,
        architecture: &str,
        cache: &Path,
    ) -> Result<sys::CUfunction, DeviceError> {
        if !self.functions.contains_key(&kernel) {
            let mut sources = SOURCES.iter();
            if let Some(source) = sources.find(|source| source.name == kernel.source) {
                self.load(source, architecture, cache)?;
            }
        }
        let Some(function) = self.functions.get_mut(&kernel) else {
            return Err(DeviceError::Driver {
                call: "finding a kernel",
                message: format!("`{}` is not in {}.cu", kernel.name, kernel.source),
            });
        };
        if shared_bytes > function.shared_bytes {
            let attribute =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that stays loaded.
            unsafe {
                result::function::set_function_attribute(
                    function.handle,
                    attribute,
                    shared_bytes as i32,
                )
            }
            .map_err(failed("asking for shared memory"))?;
            function.shared_bytes = shared_bytes;
        }
        Ok(function.handle)
    }

    /// Loads a source's kernels, unless they are there.
    pub(super) fn load(
        &mut self,
        source: &Source,
        architecture: &str,
        cache: &Path,
    ) -> Result<(), DeviceError> {
        let first = Kernel::new(source.name, source.kernels[0]);
        if self.functions.contains_key(&first) {
            return Ok(());
        }
        let (mut compiled, not_kept) = compile_cached(source, source.kernels, architecture, cache)?;
        self.not_kept = not_kept.or(self.not_kept.take());
        let module = match load(&compiled) {
            // The driver may be older than the compiler whose machine code it refuses, and yet take PTX.
            Err(error) if compiled.is_machine_code() => {
                compiled = compile_portable(source, architecture, cache).map_err(|_| error)?;
                load(&compiled)
            }
            outcome => outcome,
        }?;
        self.loaded.push(module);
        for (kernel, symbol) in source.kernels.iter().zip(&compiled.symbols) {
            let symbol = CString::new(symbol.as_str()).unwrap_or_default();
            // SAFETY: the module is loaded, and stays so.
            let handle = unsafe { result::module::get_function(module, symbol) }
                .map_err(failed("finding a kernel"))?;
            let function = Function {
                handle,
                shared_bytes: SHARED_BYTES,
            };
            self.functions
                .insert(Kernel::new(source.name, kernel), function);
        }
        Ok(())
    }

    /// # Safety
    /// The context is current, and nothing runs a kernel any more.
    pub(super) unsafe fn unload(&mut self) {
        self.functions.clear();
        for module in self.loaded.drain(..) {
            // SAFETY: loaded once, unloaded once; nothing uses it by contract. A failure leaks it.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

fn load(compiled: &Compiled) -> Result<sys::CUmodule, DeviceError> {
    // SAFETY: the image is a whole ELF file, or a text that ends with 0, which the driver copies.
    unsafe { result::module::load_data(compiled.image.as_ptr().cast::<c_void>()) }
        .map_err(failed("loading kernels"))
}
