//! `streamrec kernels`: the CUDA kernels, compiled ahead for machines without NVRTC.

use streamrec_kernels::cuda::{AHEAD_VARIABLE, SOURCES, compile_ahead};

use super::RunError;
use super::cli::KernelsArgs;

pub(super) fn run(args: &KernelsArgs) -> Result<(), RunError> {
    for source in SOURCES {
        let compiled = compile_ahead(source, &args.out);
        for path in compiled.map_err(|error| RunError::Usage(error.to_string()))? {
            println!("{}", path.display());
        }
    }
    println!(
        "These kernels serve this version of streamrec on GPUs from sm_80 on: machine code for sm_80 to sm_90, PTX for later \
         ones. Copy the folder to the machine with the GPU and set {AHEAD_VARIABLE} to it."
    );
    Ok(())
}
