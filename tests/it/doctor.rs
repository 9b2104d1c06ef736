//! `streamrec doctor` tells what is there, and a device that is not there is refused in words.

use std::path::Path;
use std::process::{Command, Output};

use crate::workbench::{Workbench, expect_success, said, streamrec};

#[test]
fn doctor_tells_what_is_missing_and_what_to_install() {
    let output = streamrec(&["doctor"]);
    expect_success(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("`train.device` = \"auto\" trains on GPUs"),
        "{text}"
    );
    for name in [
        "CPU",
        "bf16 products",
        "AMX",
        "shared memory",
        "MPI",
        "driver",
        "NVRTC",
        "cuBLASLt",
        "NCCL",
        "GPU",
    ] {
        assert!(text.contains(name), "{name} in:\n{text}");
    }
    let lines = text.lines().filter(|line| line.contains("not found"));
    for line in lines {
        assert!(line.contains("install"), "{line}");
    }
}

/// NCCL of the tests' Python: no GPU is needed to see that it has what is used of it.
#[test]
fn doctor_looks_into_nccl_where_it_is_installed() {
    let python = std::env::var("STREAMREC_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = "import glob, sysconfig; \
                  print(*glob.glob(sysconfig.get_path('purelib') + '/nvidia/nccl/lib')[:1])";
    let found = Command::new(python).args(["-c", script]).output();
    let folder = found.map_or_else(|_| String::new(), |output| text(&output.stdout));
    let folder = folder.trim();
    if folder.is_empty() {
        eprintln!("NOT TESTED: NCCL is not installed; scripts/test installs it");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_streamrec"))
        .arg("doctor")
        .env("STREAMREC_CUDA_LIBRARIES", folder)
        .output()
        .unwrap();
    expect_success(&output);
    let said = text(&output.stdout);
    assert!(said.contains(&format!("({folder}/libnccl.so")), "{said}");
    assert!(said.contains("GPUs of several ranks can meet"), "{said}");
}

/// Libraries that tell what NVIDIA's would, of whatever version a test wants.
const STANDS_IN: [(&str, &str); 4] = [
    (
        "driver/libcuda.so.1",
        "int cuDriverGetVersion(int* v) { *v = 13000; return 0; } int cuInit(unsigned) { return 100; }",
    ),
    (
        "driver/libnvidia-ml.so.1",
        "int nvmlInit_v2() { return 0; } int nvmlShutdown() { return 0; } \
         int nvmlSystemGetDriverVersion(char* to, unsigned) { const char* from = \"580.95.05\"; while ((*to++ = *from++)) {} return 0; }",
    ),
    (
        "system/libcublasLt.so",
        "unsigned long cublasLtGetVersion() { return 120804; }",
    ),
    (
        "named/libcublasLt.so.13",
        "unsigned long cublasLtGetVersion() { return 130002; }",
    ),
];

fn build(library: &Path, text: &str) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    std::fs::create_dir_all(library.parent().unwrap()).unwrap();
    let source = library.with_extension("cpp");
    std::fs::write(&source, format!("extern \"C\" {{ {text} }}\n")).unwrap();
    let built = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-o"])
        .args([library, source.as_path()])
        .output();
    expect_success(&built.expect("a C++ compiler"));
}

/// A driver with one GPU, of compute capability 9.9, that nothing can run on.
const ONE_GPU: &str = "int cuDriverGetVersion(int* v) { *v = 13000; return 0; } int cuInit(unsigned) { return 0; } \
                       int cuDeviceGetCount(int* n) { *n = 1; return 0; } int cuDeviceGet(int* d, int) { *d = 0; return 0; } \
                       int cuDeviceTotalMem_v2(unsigned long* n, int) { *n = 1ul << 33; return 0; } \
                       int cuDeviceGetAttribute(int* n, int, int) { *n = 9; return 0; } \
                       int cuDeviceGetName(char* to, int, int) { to[0] = 'G'; to[1] = 0; return 0; } \
                       int cuDevicePrimaryCtxRetain(void** c, int) { *c = c; return 0; } \
                       int cuDevicePrimaryCtxRelease_v2(int) { return 0; } int cuCtxSetCurrent(void*) { return 0; } \
                       int cuStreamCreate(void** s, unsigned) { *s = s; return 0; } \
                       int cuStreamDestroy_v2(void*) { return 0; }";

/// Whoever lets the program choose gets a model, and hears why the GPU did not train it.
#[test]
fn a_gpu_that_cannot_be_used_is_told_of_and_the_cpu_trains() {
    let cublas = streamrec_kernels::cuda::CudaLibrary::CublasLt.find();
    if !streamrec_kernels::cuda::gpus().is_empty() || cublas.is_some() {
        eprintln!("NOT TESTED: this machine has a driver or libraries of its own");
        return;
    }
    let bench = Workbench::with_events(2_000);
    build(Path::new(&bench.path("driver/libcuda.so.1")), ONE_GPU);
    let trains = |ranks, run: &str, device: &str| {
        let device = format!("train.device={device:?}");
        let settings = [device.as_str(), "train.max_steps=3"];
        let mut command = bench.launch_command(ranks, "synthetic_dlrm.toml", run, &settings);
        command.env("LD_LIBRARY_PATH", bench.path("driver"));
        command.output().expect("starts")
    };
    for (ranks, reason) in [
        (1, "cuBLASLt is not found; install"),
        (
            2,
            "rank 0 of 2 cannot use its GPU, so none does: cuBLASLt is not found",
        ),
    ] {
        let output = trains(ranks, &format!("auto-{ranks}"), "auto");
        expect_success(&output);
        let said = said(&output);
        let told = "training runs on the CPU, though there is a GPU: ";
        assert_eq!(said.matches(told).count(), 1, "{said}");
        assert!(said.contains(reason), "{said}");
    }
    let output = trains(1, "cuda", "cuda");
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("`train.device` = \"cuda\": cuBLASLt is not found"));
}

/// What a machine with two GPUs has else, up to where ranks meet: memory, modules, cuBLASLt, and a compiler that makes
/// nothing of anything.
const BESIDE_THE_GPUS: [(&str, &str); 2] = [
    (
        "cublas/libcublasLt.so",
        "unsigned long cublasLtGetVersion() { return 130002; } int cublasLtCreate(void** h) { *h = h; return 0; } \
         int cublasLtDestroy(void*) { return 0; }",
    ),
    (
        "nvrtc/libnvrtc.so",
        "int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 5; return 0; } \
         int nvrtcCreateProgram(void** p, const char*, const char*, int, const char**, const char**) { *p = p; return 0; } \
         int nvrtcDestroyProgram(void**) { return 0; } int nvrtcAddNameExpression(void*, const char*) { return 0; } \
         int nvrtcCompileProgram(void*, int, const char**) { return 0; } \
         int nvrtcGetProgramLogSize(void*, unsigned long* n) { *n = 1; return 0; } \
         int nvrtcGetProgramLog(void*, char* log) { *log = 0; return 0; } \
         int nvrtcGetLoweredName(void*, const char* name, const char** symbol) { *symbol = name; return 0; } \
         int nvrtcGetCUBINSize(void*, unsigned long* n) { *n = 4; return 0; } \
         int nvrtcGetCUBIN(void*, char* to) { for (int i = 0; i < 4; i++) to[i] = \"\\x7f\" \"ELF\"[i]; return 0; }",
    ),
];
const MEMORY_AND_MODULES: &str = "int cuMemAlloc_v2(unsigned long* at, unsigned long) { *at = 1ul << 32; return 0; } \
    int cuMemFree_v2(unsigned long) { return 0; } int cuModuleLoadData(void** m, const void*) { *m = m; return 0; } \
    int cuModuleGetFunction(void** f, void*, const char*) { *f = f; return 0; } \
    int cuModuleUnload(void*) { return 0; }";

/// Ranks of a machine with GPUs that has all but one library.
#[test]
fn a_gpus_machine_without_nvrtc_or_nccl_is_told_what_to_install() {
    use streamrec_kernels::cuda::{CudaLibrary, gpus};
    let has_some = CudaLibrary::ALL.iter().any(|own| own.find().is_some());
    if !gpus().is_empty() || has_some {
        eprintln!("NOT TESTED: this machine has a driver or libraries of its own");
        return;
    }
    let bench = Workbench::with_events(2_000);
    let two_gpus = ONE_GPU.replace("*n = 1; return", "*n = 2; return");
    let driver = format!("{two_gpus} {MEMORY_AND_MODULES}");
    build(Path::new(&bench.path("driver/libcuda.so.1")), &driver);
    for (library, text) in BESIDE_THE_GPUS {
        build(Path::new(&bench.path(library)), text);
    }
    let trains = |ranks, folders: &[&str], device: &str| {
        let run = format!("{ranks}-{device}");
        let device = format!("train.device={device:?}");
        let settings = [device.as_str(), "train.max_steps=3"];
        let mut command = bench.launch_command(ranks, "synthetic_dlrm.toml", &run, &settings);
        let folders: Vec<String> = folders.iter().map(|folder| bench.path(folder)).collect();
        command.env("LD_LIBRARY_PATH", folders.join(":"));
        command.env("XDG_CACHE_HOME", bench.path("cache"));
        command.output().expect("starts")
    };
    let nvrtc = "NVRTC, which compiles the CUDA kernels, is not found; install the CUDA toolkit or \
                 `pip install nvidia-cuda-nvrtc`, and set STREAMREC_CUDA_LIBRARIES";
    let nccl = "NCCL is not found; install libnccl2 or `pip install nvidia-nccl-cu13`, and set STREAMREC_CUDA_LIBRARIES";
    for (ranks, folders, missing) in [
        (1, vec!["driver", "cublas"], nvrtc),
        (2, vec!["driver", "cublas", "nvrtc"], nccl),
    ] {
        let output = trains(ranks, &folders, "cuda");
        assert!(!output.status.success());
        let text = said(&output);
        assert!(text.contains("`train.device` = \"cuda\": "), "{text}");
        assert!(text.contains(missing), "{text}");
        // Whoever lets the program choose gets a model.
        let output = trains(ranks, &folders, "auto");
        expect_success(&output);
        let text = said(&output);
        let told = "training runs on the CPU, though there is a GPU: ";
        assert_eq!(text.matches(told).count(), 1, "{text}");
        assert!(text.contains(missing), "{text}");
    }
}

#[test]
fn doctor_tells_the_drivers_release_and_of_two_versions_of_a_library() {
    if !streamrec_kernels::cuda::gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has a driver of its own");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in STANDS_IN {
        build(&folder.path().join(file), text);
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_streamrec"))
        .arg("doctor")
        .env(
            "LD_LIBRARY_PATH",
            format!("{}:{}", path("driver"), path("system")),
        )
        // The second of two folders.
        .env(
            "STREAMREC_CUDA_LIBRARIES",
            format!("{}:{}", path("nothing"), path("named")),
        )
        .env("STREAMREC_CUDA_KERNELS", path("kernels"))
        .output()
        .unwrap();
    expect_success(&output);
    let said = text(&output.stdout);
    assert!(said.contains("CUDA 13.0, release 580.95.05"), "{said}");
    let found = format!("13.0.2 ({})", path("named/libcublasLt.so.13"));
    assert!(said.contains(&found), "{said}");
    assert!(said.contains("cuBLASLt 12.8.4 is used"), "{said}");
    assert!(said.contains("LD_LIBRARY_PATH"), "{said}");
    let ahead = format!(
        "{} holds no kernels of this version; run `streamrec kernels --out",
        path("kernels")
    );
    assert!(said.contains(&ahead), "{said}");
}

/// Whatever this CPU has: with AMX, what is asked for instead of it is named.
#[test]
fn doctor_tells_what_became_of_amx() {
    let told = |unit: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_streamrec"));
        command.arg("doctor");
        unit.map(|unit| command.env("STREAMREC_BF16_UNIT", unit));
        let said = text(&command.output().unwrap().stdout);
        let line = |name: &str| {
            let mut lines = said.lines().map(str::trim);
            lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        ["AMX", "bf16 products"].map(|name| line(name).unwrap_or_else(|| panic!("{name}: {said}")))
    };
    let [amx, unit] = told(None);
    assert_eq!(
        amx == "multiplies bf16 matrices",
        unit == "amx",
        "{amx}, {unit}"
    );
    let [without, unit] = told(Some("float32"));
    assert_eq!(unit, "float32");
    match amx.starts_with("none") {
        true => assert_eq!(without, amx),
        false => assert!(without.starts_with("there, and"), "{without}"),
    }
}

#[cfg(feature = "mpi")]
#[test]
fn doctor_tells_which_mpi_is_built_in() {
    let said = text(&streamrec(&["doctor"]).stdout);
    let mpi = said.lines().find(|line| line.contains(" MPI ")).unwrap();
    let (_, version) = mpi.split_once("built in, ").expect(mpi);
    assert!(version.chars().any(|c| c.is_ascii_digit()), "{mpi}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn training_on_a_gpu_that_is_not_there_is_refused_and_says_what_to_do() {
    refused_without_a_gpu(|| {
        let experiment = "configs/synthetic_dlrm.toml";
        streamrec(&["train", experiment, "--set", "train.device=\"cuda\""])
    });
}

#[test]
fn ranks_on_gpus_that_are_not_there_end_together() {
    refused_without_a_gpu(|| {
        let bench = Workbench::with_events(2_000);
        let settings = ["train.device=\"cuda\""];
        let mut command = bench.launch_command(2, "synthetic_dlrm.toml", "run", &settings);
        command.output().expect("starts")
    });
}

fn refused_without_a_gpu(start: impl FnOnce() -> Output) {
    if !streamrec_kernels::cuda::gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has a GPU");
        return;
    }
    let output = start();
    assert!(!output.status.success());
    let text = said(&output);
    assert!(text.contains("`train.device` = \"cuda\": "), "{text}");
    let told = [
        "install NVIDIA's driver",
        "there is no GPU 0",
        "starting the driver",
    ];
    assert!(told.iter().any(|words| text.contains(words)), "{text}");
    assert!(text.contains("or set \"cpu\""), "{text}");
}
