//! NCCL's library and header are what we take them for, where they are installed. No GPU is needed for that.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use streamrec_kernels::cuda::CudaLibrary;
use streamrec_kernels::cuda::gpu::{NCCL_DECLARATIONS, Nccl};

use crate::device::asks_for_a_gpu;
use crate::python_packages::point_loader_to;

/// Points the loader to NCCL of the tests' Python, if it has it. Returns the library's path, or nothing, said loudly.
fn find_nccl() -> Option<PathBuf> {
    point_loader_to("nvidia/nccl/lib/libnccl.so*");
    let found = CudaLibrary::Nccl.find();
    if found.is_none() {
        eprintln!("NOT TESTED: NCCL is not installed; scripts/test installs it");
    }
    found.map(|found| found.path)
}

#[test]
fn without_the_library_it_is_told_what_to_install() {
    if CudaLibrary::Nccl.find().is_some() {
        eprintln!("NOT TESTED: this system has NCCL in its usual folders");
        return;
    }
    let said = Nccl::probe().unwrap_err().to_string();
    for words in [
        "NCCL is not found",
        "install libnccl2",
        "`pip install nvidia-nccl-cu13`",
        "STREAMREC_CUDA_LIBRARIES",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert_eq!(said, Nccl::unique_id().unwrap_err().to_string());
}

#[test]
fn the_library_has_every_function_that_is_used_and_makes_ids() {
    if find_nccl().is_none() {
        return;
    }
    let version = Nccl::probe().unwrap();
    assert!(version.starts_with("2."), "{version}");
    let ids = [Nccl::unique_id().unwrap(), Nccl::unique_id().unwrap()];
    assert_eq!(ids[0].len(), 128);
    assert_ne!(ids[0], ids[1]);
}

/// The C type of an argument as the bindings have it.
fn c_type(rust: &str) -> &'static str {
    match rust.replace(' ', "").as_str() {
        "c_int" => "int",
        "usize" => "size_t",
        "*mutc_int" => "int*",
        "*mutComm" => "ncclComm_t*",
        "Comm" => "ncclComm_t",
        "UniqueId" => "ncclUniqueId",
        "*mutUniqueId" => "ncclUniqueId*",
        "*mutConfig" => "ncclConfig_t*",
        "CUstream" => "cudaStream_t",
        "*constc_void" => "const void*",
        "*mutc_void" => "void*",
        "*constc_char" => "const char*",
        other => panic!("no C type is known for {other}"),
    }
}

/// A program that compiles where the header declares each function with arguments of our types, in which enumerations
/// are integers.
fn checks() -> String {
    let mut program = String::from(
        "#include <cstddef>\n#include <nccl.h>\n#include <type_traits>\n\
         template <typename T> struct Plain { using type = T; };\n\
         template <> struct Plain<ncclResult_t> { using type = int; };\n\
         template <> struct Plain<ncclResult_t*> { using type = int*; };\n\
         template <> struct Plain<ncclDataType_t> { using type = int; };\n\
         template <> struct Plain<ncclRedOp_t> { using type = int; };\n\
         template <typename F> struct Of;\n\
         template <typename R, typename... A> struct Of<R(A...)> { using type = typename Plain<R>::type(typename Plain<A>::type...); };\n\
         static_assert(sizeof(ncclResult_t) == 4 && sizeof(ncclDataType_t) == 4 && sizeof(ncclRedOp_t) == 4, \"integers\");\n\
         static_assert(sizeof(ncclUniqueId) == 128, \"an id\");\n\
         static_assert(ncclSuccess == 0 && ncclInProgress == 7 && ncclSum == 0 && ncclMax == 2, \"numbers\");\n\
         static_assert(ncclUint8 == 1 && ncclUint32 == 3 && ncclUint64 == 5 && ncclFloat16 == 6 && ncclFloat32 == 7 && ncclFloat64 == 8 && ncclBfloat16 == 9, \"types\");\n\
         static_assert(offsetof(ncclConfig_t, magic) == 8 && offsetof(ncclConfig_t, version) == 12 && offsetof(ncclConfig_t, blocking) == 16 && offsetof(ncclConfig_t, netName) == 32 && offsetof(ncclConfig_t, splitShare) == 40, \"the configuration\");\n\
         constexpr ncclConfig_t fresh = NCCL_CONFIG_INITIALIZER;\n\
         static_assert(fresh.magic == 0xcafebeef && fresh.blocking == NCCL_CONFIG_UNDEF_INT && NCCL_CONFIG_UNDEF_INT == -2147483647 - 1, \"defaults\");\n",
    );
    for (symbol, types) in NCCL_DECLARATIONS {
        let (result, arguments) = types.split_once('(').expect("arguments");
        let arguments = arguments.trim_end().trim_end_matches(')').split(',');
        let arguments: Vec<&str> = arguments
            .map(str::trim)
            .filter(|argument| !argument.is_empty())
            .map(c_type)
            .collect();
        let (result, arguments) = (c_type(result), arguments.join(", "));
        writeln!(
            program,
            "static_assert(std::is_same<Of<decltype({symbol})>::type, {result}({arguments})>::value, \"{symbol}\");"
        )
        .expect("a string");
    }
    program
}

#[test]
fn the_header_declares_every_function_as_it_is_called() {
    if asks_for_a_gpu() {
        eprintln!("NOT TESTED on a GPU: whose machine may have no C++ compiler");
        return;
    }
    let Some(header) = find_nccl().and_then(|library| {
        let header = library.parent()?.parent()?.join("include/nccl.h");
        header.is_file().then_some(header)
    }) else {
        eprintln!("NOT TESTED: nccl.h is not beside the library");
        return;
    };
    let folder = std::env::temp_dir().join(format!("streamrec-nccl-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // NCCL asks CUDA's headers for streams, events and types that no function here takes.
    let stub = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let stream = "#pragma once\ntypedef struct CUstream_st* cudaStream_t;\ntypedef struct CUevent_st* cudaEvent_t;\n#define CUDART_VERSION 13000\n";
    stub("cuda_runtime.h", stream);
    for name in ["cuda_fp16.h", "cuda_bf16.h", "cuda_fp8.h"] {
        stub(name, "#pragma once\n");
    }
    stub("check.cpp", &checks());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let output = Command::new(compiler)
        .args(["-std=c++17", "-fsyntax-only", "-I"])
        .arg(&folder)
        .arg("-I")
        .arg(header.parent().unwrap())
        .arg(folder.join("check.cpp"))
        .output()
        .expect("a C++ compiler");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    std::fs::remove_dir_all(&folder).unwrap();
}
