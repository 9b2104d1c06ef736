//! What is measured: every kernel, at the shapes of a large DLRM, with the bytes that it cannot do without.

mod activations;
mod interactions;
pub mod lookups;
mod memory;
mod optimizers;
mod ranks;
mod shapes;
mod tables;

use std::error::Error;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::{Address, DeviceError, Executor, Kernel, Launch};

pub use memory::Memory;
pub use shapes::Shapes;

pub type Outcome<T> = Result<T, Box<dyn Error>>;

const FLOATS: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

/// Something that a training step does.
pub struct Operation {
    pub name: &'static str,
    pub shape: String,
    /// Runs once before.
    pub prepare: Vec<Launch>,
    /// The work, over several sets of operands where one would stay in the GPU's cache.
    pub variants: Vec<Vec<Work>>,
    /// Numbers that are `u64::MAX` before, and after work that went well.
    pub untouched: Vec<Address>,
}

#[derive(Clone)]
pub enum Work {
    /// A kernel, and the bytes that it reads and writes at least.
    Kernel(Box<Launch>, usize),
    /// Bytes that become zero, without which the kernels could not run again.
    Zero(Address, usize),
}

impl Operation {
    fn new(
        name: &'static str,
        shape: String,
        work: impl IntoIterator<Item = (Launch, usize)>,
    ) -> Self {
        Self {
            name,
            shape,
            prepare: Vec::new(),
            variants: vec![kernels(work)],
            untouched: Vec::new(),
        }
    }

    /// The kernels of one variant, each with its bytes.
    pub fn kernels(&self) -> impl Iterator<Item = (Kernel, usize)> {
        let first = self.variants.first();
        first.into_iter().flatten().filter_map(|work| match work {
            Work::Kernel(launch, bytes) => Some((launch.kernel, *bytes)),
            Work::Zero(..) => None,
        })
    }

    /// Bytes of one variant.
    pub fn bytes(&self) -> usize {
        self.kernels().map(|(_, bytes)| bytes).sum()
    }

    /// Runs what has to be there before.
    pub fn prepare<E: Executor>(&self, executor: &mut E) -> Outcome<()> {
        for launch in &self.prepare {
            executor.launch(launch)?;
        }
        Ok(executor.synchronize()?)
    }

    /// Runs the work on every set of operands, or has it recorded.
    pub fn run<E: Executor>(&self, executor: &mut E) -> Result<(), DeviceError> {
        for work in self.variants.iter().flatten() {
            match work {
                Work::Kernel(launch, _) => executor.launch(launch)?,
                Work::Zero(at, bytes) => executor.zero(*at, *bytes)?,
            }
        }
        Ok(())
    }

    /// Checks that no kernel met what it complains of.
    pub fn check<E: Executor>(&self, executor: &mut E) -> Outcome<()> {
        for &at in &self.untouched {
            let mut told = [0; 8];
            executor.download(at, &mut told)?;
            if told != [0xff; 8] {
                let told = u64::from_ne_bytes(told);
                return Err(format!(
                    "{} {}: kernels complain of number {told}",
                    self.name, self.shape
                )
                .into());
            }
        }
        Ok(())
    }
}

fn kernels(work: impl IntoIterator<Item = (Launch, usize)>) -> Vec<Work> {
    let kernel = |(launch, bytes)| Work::Kernel(Box::new(launch), bytes);
    work.into_iter().map(kernel).collect()
}

/// What is done with each operation, while its operands are what it takes.
pub type Visit<'a, E> = &'a mut dyn FnMut(&mut E, Operation) -> Outcome<()>;

/// Operations that share memory. Each part is given an executor of its own, which ends with it.
pub struct Part<E> {
    pub name: &'static str,
    pub each: fn(&mut Memory<'_, E>, &Shapes, Visit<'_, E>) -> Outcome<()>,
}

/// All operations.
pub fn parts<E: Executor>() -> [Part<E>; 5] {
    [
        Part {
            name: "tables",
            each: tables::each,
        },
        Part {
            name: "ranks",
            each: ranks::each,
        },
        Part {
            name: "activations",
            each: activations::each,
        },
        Part {
            name: "interactions",
            each: interactions::each,
        },
        Part {
            name: "optimizers",
            each: optimizers::each,
        },
    ]
}
