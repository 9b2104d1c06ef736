use std::ffi::{c_char, c_int, c_uint};

use libloading::Library;

/// The release of NVIDIA's driver, such as `580.95.05`: as NVML tells it, else the kernel module. `None` without a driver.
pub fn driver_release() -> Option<String> {
    of_nvml().or_else(|| {
        let told = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
        of_kernel_module(&told)
    })
}

fn of_nvml() -> Option<String> {
    const BYTES: usize = 96;
    type Plain = unsafe extern "C" fn() -> c_int;
    type Write = unsafe extern "C" fn(*mut c_char, c_uint) -> c_int;
    // SAFETY: NVIDIA's library may be loaded at any time; the functions have had these signatures since their first version,
    // and what is written ends with 0 within the length that is told.
    unsafe {
        let library = Library::new("libnvidia-ml.so.1").ok()?;
        let begin = library.get::<Plain>(b"nvmlInit_v2\0").ok()?;
        let end = library.get::<Plain>(b"nvmlShutdown\0").ok()?;
        let release = library.get::<Write>(b"nvmlSystemGetDriverVersion\0").ok()?;
        if begin() != 0 {
            return None;
        }
        let mut text = [0; BYTES];
        let told = release(text.as_mut_ptr(), BYTES as c_uint - 1);
        end();
        let bytes = text.iter().map(|&c| c as u8).take_while(|&c| c != 0);
        let text = String::from_utf8(bytes.collect()).ok()?;
        (told == 0 && !text.is_empty()).then_some(text)
    }
}

/// The first word that is a release in the line of the kernel module.
fn of_kernel_module(told: &str) -> Option<String> {
    let line = told.lines().find(|line| line.starts_with("NVRM version"))?;
    let is_release = |word: &&str| {
        word.contains('.')
            && word
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    line.split_whitespace().find(is_release).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::of_kernel_module;

    #[test]
    fn the_kernel_module_tells_its_release() {
        let of = |line: &str| of_kernel_module(&format!("{line}\nGCC version: gcc 12.2.0\n"));
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.105.17  Tue Mar 28 18:02:59 UTC 2023";
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (root@host)";
        assert_eq!(of(closed).as_deref(), Some("525.105.17"));
        assert_eq!(of(open).as_deref(), Some("580.95.05"));
        assert_eq!(of("NVRM version: unknown"), None);
    }
}
