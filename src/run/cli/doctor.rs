use clap::Args;

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Also let each GPU train small models of every kind and precision, with tables of every type, and compare it with the
    /// CPU. Compiles the kernels first, where they are not kept.
    #[arg(long)]
    pub check: bool,
}
