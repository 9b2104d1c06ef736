//! `streamrec doctor` tells what is there, and a device that is not there is refused in words.

use crate::workbench::{expect_success, said, streamrec};

#[test]
fn doctor_tells_what_is_missing_and_what_to_install() {
    let output = streamrec(&["doctor"]);
    expect_success(&output);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in [
        "CPU",
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

#[test]
fn training_on_a_gpu_that_is_not_there_is_refused_and_says_what_to_do() {
    if !streamrec_kernels::cuda::gpus().is_empty() {
        eprintln!("NOT TESTED: this machine has a GPU");
        return;
    }
    let arguments = [
        "train",
        "configs/synthetic_dlrm.toml",
        "--set",
        "train.device=\"cuda\"",
    ];
    let output = streamrec(&arguments);
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
