//! The command line of `streamrec kernels`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `kernels`.
#[derive(Debug, Args)]
pub struct KernelsArgs {
    /// The folder to write.
    #[arg(long)]
    pub out: PathBuf,
}
