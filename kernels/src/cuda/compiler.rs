use std::{
    ffi::{CStr, CString, c_char},
    fs, io,
    path::{Path, PathBuf},
    ptr,
};

use cudarc::nvrtc::{result, sys};

use super::{
    ahead::{AHEAD_VARIABLE, PORTABLE, find_ahead, find_portable, serves},
    cache::CACHE_VARIABLE,
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
    /// The folder of kernels that are compiled ahead cannot be written.
    #[error("cannot write compiled kernels to {}; name another folder", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Kernels were compiled, and could not be kept for the next start.
#[derive(Debug, thiserror::Error)]
#[error(
    "compiled kernels cannot be kept in {} ({source}), so that every start compiles them anew; set {CACHE_VARIABLE} to a \
     folder that can be written",
    folder.display()
)]
pub struct NotKept {
    folder: PathBuf,
    source: io::Error,
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

impl Compiled {
    /// Whether this is machine code, not PTX.
    pub fn is_machine_code(&self) -> bool {
        self.image.starts_with(b"\x7fELF")
    }
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
        let text: Vec<u8> = text.iter().map(|&c| c as u8).collect();
        Ok(for_older_drivers(text))
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

/// The version that PTX is marked with: that of CUDA 12.0, which drivers from 525 on read.
const PTX_VERSION: [u32; 2] = [8, 0];

/// PTX marked with the version that it needs. Compilers mark it with their own, which older drivers refuse, whatever it
/// holds; that ours holds nothing newer is shown by a test, which lets an assembler read it.
fn for_older_drivers(ptx: Vec<u8>) -> Vec<u8> {
    const MARK: &str = ".version ";
    let Ok(text) = str::from_utf8(&ptx) else {
        return ptx;
    };
    let mark = |line: &str| -> Option<[u32; 2]> {
        let (major, minor) = line.strip_prefix(MARK)?.trim().split_once('.')?;
        Some([major.parse().ok()?, minor.parse().ok()?])
    };
    let [major, minor] = PTX_VERSION;
    let lines = text.split_inclusive('\n').map(|line| match mark(line) {
        Some(version) if version > PTX_VERSION => format!("{MARK}{major}.{minor}\n"),
        _ => line.to_owned(),
    });
    lines.collect::<String>().into_bytes()
}

/// As [`compile`], but machine code that was compiled [ahead](super::compile_ahead) comes first; then what is in `folder`,
/// where what was compiled is kept: a file is found by the source, the kernels, the architecture and the compiler's
/// version. Without a compiler, or where it knows no such architecture, PTX serves. Beside the kernels, why they were not
/// kept.
///
/// # Errors
/// As [`compile`].
pub fn compile_cached(
    source: &Source,
    kernels: &[&str],
    architecture: &str,
    folder: &Path,
) -> Result<(Compiled, Option<NotKept>), CompileError> {
    let ahead = match kernels == source.kernels {
        true => find_ahead(source, architecture),
        false => None,
    };
    if let Some(found) = ahead.as_ref().filter(|found| found.is_machine_code()) {
        return Ok((found.clone(), None));
    }
    match kept(source, kernels, architecture, folder) {
        Err(CompileError::NoCompiler) => match ahead {
            Some(ahead) => Ok((ahead, None)),
            None => Err(CompileError::NoCompiler),
        },
        Err(error) if serves(PORTABLE, architecture) => match ahead {
            Some(ahead) => Ok((ahead, None)),
            // A fault of the source is one there too.
            None => kept(source, kernels, PORTABLE, folder).map_err(|_| error),
        },
        other => other,
    }
}

/// PTX of all kernels of a source, compiled ahead or now and kept: what is left where a driver refuses machine code.
///
/// # Errors
/// As [`compile`].
pub(super) fn compile_portable(
    source: &Source,
    architecture: &str,
    folder: &Path,
) -> Result<Compiled, CompileError> {
    if !serves(PORTABLE, architecture) {
        let log = format!("its GPUs do not run PTX of {PORTABLE}");
        return Err(refused(source, architecture, log));
    }
    match find_portable(source) {
        Some(found) => Ok(found),
        None => Ok(kept(source, source.kernels, PORTABLE, folder)?.0),
    }
}

/// Compiled now, or earlier and kept.
fn kept(
    source: &Source,
    kernels: &[&str],
    architecture: &str,
    folder: &Path,
) -> Result<(Compiled, Option<NotKept>), CompileError> {
    let Some(compiler) = CudaLibrary::Nvrtc.version_in_use() else {
        return Err(CompileError::NoCompiler);
    };
    let target = format!("{architecture} {compiler}");
    let key = fingerprint(&texts(source, [&kernels.join("\n"), &target]));
    let path = folder.join(format!("{}-{architecture}-{key:016x}.kernels", source.name));
    if let Some(cached) = fs::read(&path)
        .ok()
        .and_then(|bytes| decode(&bytes, kernels.len()))
    {
        return Ok((cached, None));
    }
    let compiled = compile(source, kernels, architecture)?;
    let not_kept = store(&path, &encode(&compiled)).err();
    let not_kept = not_kept.map(|source| NotKept {
        folder: folder.to_owned(),
        source,
    });
    Ok((compiled, not_kept))
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
    fn ptx_is_marked_with_a_version_that_drivers_read() {
        let marked = |version: &str| {
            let text = format!("// made by NVRTC\n.version {version}\n.target sm_80\n\0");
            String::from_utf8(for_older_drivers(text.into_bytes())).unwrap()
        };
        let expected =
            |version: &str| format!("// made by NVRTC\n.version {version}\n.target sm_80\n\0");
        assert_eq!(marked("9.5"), expected("8.0"));
        assert_eq!(marked("8.10"), expected("8.0"));
        assert_eq!(marked("7.8"), expected("7.8"));
        assert_eq!(marked("unknown"), expected("unknown"));
    }

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
