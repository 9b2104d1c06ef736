use std::{
    ffi::{CStr, CString, c_char},
    fs, io,
    path::{Path, PathBuf},
    ptr,
};

use cudarc::nvrtc::{result, sys};

use super::{
    ahead::{AHEAD_VARIABLE, find_ahead},
    library::{CudaLibrary, load_nvrtc},
    source::{HEADERS, Source, texts},
};

/// Why kernels could not be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// There is no compiler.
    #[error(
        "NVRTC, which compiles the CUDA kernels, is not found; {}; or run `streamrec kernels` of this version where NVRTC is, \
         and set {AHEAD_VARIABLE} to the folder that it writes",
        CudaLibrary::Nvrtc.remedy()
    )]
    NoCompiler,
    /// The compiler refused the source: a fault of this program, or an architecture it does not know.
    #[error("NVRTC refused {file} for {architecture}: {log}")]
    Refused {
        /// The source file.
        file: String,
        /// The architecture, such as `sm_90`.
        architecture: String,
        /// What the compiler says.
        log: String,
    },
    /// The cache folder cannot be written.
    #[error("cannot keep compiled kernels in {}; set another folder", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Kernels of one source, compiled for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// What the driver loads: machine code, an ELF image; or of a virtual architecture PTX, a text that ends with 0.
    pub image: Vec<u8>,
    /// The name in `image` of each kernel, in the order they were asked for.
    pub symbols: Vec<String>,
    /// What the assembler tells of each kernel: registers, shared memory, spills. Empty when the
    /// kernels come from a cache.
    pub log: String,
}

/// Compiles kernels of a source for an architecture such as `sm_90`, or a virtual one such as `compute_80`.
///
/// # Errors
/// When there is no compiler, or it refuses the source.
pub fn compile(
    source: &Source,
    kernels: &[&str],
    architecture: &str,
) -> Result<Compiled, CompileError> {
    if !load_nvrtc() {
        return Err(CompileError::NoCompiler);
    }
    let program =
        Program::new(source).map_err(|error| refused(source, architecture, error.to_string()))?;
    program
        .compile(kernels, architecture)
        .map_err(|log| refused(source, architecture, log))
}

fn refused(source: &Source, architecture: &str, log: String) -> CompileError {
    CompileError::Refused {
        file: format!("{}.cu", source.name),
        architecture: architecture.to_owned(),
        log,
    }
}

/// A program of NVRTC's, destroyed when dropped.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program was created and is not used afterwards. A failure leaks it.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}

impl Program {
    fn new(source: &Source) -> Result<Self, result::NvrtcError> {
        let [text, name] = [source.text, source.name].map(c_string);
        let headers = HEADERS.map(|(_, text)| c_string(text));
        let header_names = HEADERS.map(|(name, _)| c_string(name));
        let [headers, header_names] = [&headers, &header_names]
            .map(|strings| strings.each_ref().map(|string| string.as_ptr()));
        let mut program = ptr::null_mut();
        // SAFETY: all strings end with 0 and outlive the call, which copies them; there are as many headers as names.
        unsafe {
            sys::nvrtcCreateProgram(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as i32,
                headers.as_ptr(),
                header_names.as_ptr(),
            )
        }
        .result()?;
        Ok(Self(program))
    }

    /// The error is the compiler's log.
    fn compile(&self, kernels: &[&str], architecture: &str) -> Result<Compiled, String> {
        let text = |error: result::NvrtcError| error.to_string();
        let names: Vec<CString> = kernels.iter().copied().map(c_string).collect();
        for name in &names {
            // SAFETY: the program is alive; the name is copied.
            let status = unsafe { sys::nvrtcAddNameExpression(self.0, name.as_ptr()) };
            status.result().map_err(text)?;
        }
        let options = [
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".to_owned(),
            "--ptxas-options=-v".to_owned(),
        ];
        // SAFETY: the program is alive.
        let outcome = unsafe { result::compile_program(self.0, &options) };
        let log = self.log();
        if let Err(error) = outcome {
            return Err(if log.is_empty() {
                error.to_string()
            } else {
                log
            });
        }
        let symbols: Result<Vec<String>, String> =
            names.iter().map(|name| self.symbol(name)).collect();
        Ok(Compiled {
            image: match architecture.starts_with("compute_") {
                true => self.ptx(),
                false => self.cubin(),
            }
            .map_err(text)?,
            symbols: symbols?,
            log,
        })
    }

    fn log(&self) -> String {
        // SAFETY: the program is alive.
        let log = unsafe { result::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log
            .iter()
            .map(|&c| c as u8)
            .take_while(|&c| c != 0)
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn symbol(&self, name: &CStr) -> Result<String, String> {
        let mut symbol: *const c_char = ptr::null();
        // SAFETY: the program is alive and compiled, and `name` was registered.
        let status = unsafe { sys::nvrtcGetLoweredName(self.0, name.as_ptr(), &mut symbol) };
        status.result().map_err(|error| error.to_string())?;
        // SAFETY: the call succeeded, and the string lives as long as the program.
        Ok(unsafe { CStr::from_ptr(symbol) }
            .to_string_lossy()
            .into_owned())
    }

    fn ptx(&self) -> Result<Vec<u8>, result::NvrtcError> {
        // SAFETY: the program is alive and compiled.
        let text = unsafe { result::get_ptx(self.0) }?;
        Ok(text.iter().map(|&c| c as u8).collect())
    }

    fn cubin(&self) -> Result<Vec<u8>, result::NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program is alive and compiled; the buffer has the size that the first call tells.
        unsafe {
            sys::nvrtcGetCUBINSize(self.0, &mut bytes).result()?;
            let mut cubin = vec![0u8; bytes];
            sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()).result()?;
            Ok(cubin)
        }
    }
}

fn c_string(text: &str) -> CString {
    // Our sources and names hold no zero byte; one that did would be cut there, and refused.
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// As [`compile`], but looks into `folder` first, and keeps there what it compiled: a file is found by
/// the source, the kernels, the architecture and the compiler's version. Without a compiler, kernels that were compiled
/// [ahead](super::compile_ahead) serve.
///
/// # Errors
/// As [`compile`], and when the folder cannot be written.
pub fn compile_cached(
    source: &Source,
    kernels: &[&str],
    architecture: &str,
    folder: &Path,
) -> Result<Compiled, CompileError> {
    let Some(compiler) = CudaLibrary::Nvrtc.find() else {
        return find_ahead(source).ok_or(CompileError::NoCompiler);
    };
    let target = format!("{architecture} {:?}", compiler.version);
    let key = fingerprint(&texts(source, [&kernels.join("\n"), &target]));
    let path = folder.join(format!("{}-{architecture}-{key:016x}.kernels", source.name));
    if let Some(cached) = fs::read(&path)
        .ok()
        .and_then(|bytes| decode(&bytes, kernels.len()))
    {
        return Ok(cached);
    }
    let compiled = compile(source, kernels, architecture)?;
    store(&path, &encode(&compiled)).map_err(|source| CompileError::Cache {
        folder: folder.to_owned(),
        source,
    })?;
    Ok(compiled)
}

/// FNV-1a over all parts (<http://www.isthe.com/chongo/tech/comp/fnv/>).
pub(super) fn fingerprint(parts: &[&str]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, step)
}

/// Symbols, one a line, then an empty line, the image's fingerprint, and the image.
pub(super) fn encode(compiled: &Compiled) -> Vec<u8> {
    let mut bytes = compiled.symbols.join("\n").into_bytes();
    bytes.extend_from_slice(b"\n\n");
    bytes.extend_from_slice(&checksum(&compiled.image).to_le_bytes());
    bytes.extend_from_slice(&compiled.image);
    bytes
}

/// What `encode` wrote; `None` for anything else.
pub(super) fn decode(bytes: &[u8], kernels: usize) -> Option<Compiled> {
    let end = bytes.windows(2).position(|pair| pair == b"\n\n")?;
    let symbols: Vec<String> = str::from_utf8(&bytes[..end])
        .ok()?
        .lines()
        .map(str::to_owned)
        .collect();
    let (sum, image) = bytes[end + 2..].split_first_chunk::<8>()?;
    let whole = symbols.len() == kernels && checksum(image) == u64::from_le_bytes(*sum);
    whole.then(|| Compiled {
        image: image.to_vec(),
        symbols,
        log: String::new(),
    })
}

fn checksum(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// Writes beside the file's place and renames: several ranks may start at the same time.
pub(super) fn store(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cached_is_read_back_and_damage_is_seen() {
        let compiled = Compiled {
            image: vec![0x7f, b'E', 10, 10, 0, 3],
            symbols: vec!["_Z3bce".to_owned(), "sum".to_owned()],
            log: String::new(),
        };
        let bytes = encode(&compiled);
        assert_eq!(decode(&bytes, 2), Some(compiled));
        assert_eq!(decode(&bytes, 3), None);
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at], 2), None, "cut at {at}");
        }
        let mut damaged = bytes;
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(decode(&damaged, 2), None);
    }
}
