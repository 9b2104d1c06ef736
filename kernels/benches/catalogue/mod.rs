//! Every operation at the sizes of a DLRM, with what each must move and compute at least.

mod elementwise;
mod interactions;
mod layers;
mod optimizers;
mod tables;

use streamrec_kernels::{Context, DType, Tensor, bf16};

const FEATURES: usize = 27;
const DIM: usize = 64;
const HOTNESS: usize = 4;

/// One operation, ready to run again and again.
pub struct Operation {
    /// Its name, as `module/function/sizes`; a type other than float32 stands behind the function.
    pub name: String,
    /// Bytes of its operands, each read or written once.
    pub bytes: f64,
    /// Floating-point operations; a multiplication and its addition are two.
    pub flops: f64,
    /// Runs it once.
    pub run: Box<dyn FnMut()>,
}

/// Of what size operands are.
struct Sizes<'a> {
    context: &'a Context,
    batch: usize,
    /// Rows of the table, and dense parameters.
    rows: usize,
}

type Family = fn(&Sizes<'_>) -> Vec<Operation>;

/// Operations that are made together, by what their names begin with.
const FAMILIES: [(&[&str], Family); 6] = [
    (&["linear/"], layers::operations),
    (
        &[
            "dot_interaction/",
            "factorization_machine/",
            "sum_features/",
        ],
        interactions::operations,
    ),
    (
        &["cross/", "norm/", "add/", "cast/", "bce/"],
        elementwise::operations,
    ),
    (
        &[
            "embedding_bag/forward/",
            "embedding_bag/groups",
            "sparse_optimizer/adagrad/",
        ],
        tables::operations,
    ),
    (&["dense_optimizer/"], optimizers::operations),
    (
        &["embedding_bag/", "sparse_optimizer/"],
        tables::other_operations,
    ),
];

/// Every operation on `batch` samples, with a table of `rows` rows and as many dense parameters; or, quicker, the one that is
/// called `only` and those that are made with it.
pub fn operations(
    context: &Context,
    batch: usize,
    rows: usize,
    only: Option<&str>,
) -> Vec<Operation> {
    let sizes = Sizes {
        context,
        batch,
        rows,
    };
    let mut all = Vec::new();
    for (names, family) in FAMILIES {
        if only.is_none_or(|only| names.iter().any(|name| only.starts_with(name))) {
            all.extend(family(&sizes));
        }
        // The last family has what is left of two modules.
        if only.is_some_and(|only| all.iter().any(|made: &Operation| made.name == only)) {
            break;
        }
    }
    all
}

impl Sizes<'_> {
    /// Values between -1 and 1 that are not all alike.
    fn tensor(&self, shape: &[usize]) -> Tensor {
        let mut tensor = Tensor::zeros(self.context, DType::F32, shape);
        for (index, value) in tensor.f32_mut().iter_mut().enumerate() {
            *value = value_at(index);
        }
        tensor
    }

    /// The same values in bf16.
    fn halves(&self, shape: &[usize]) -> Tensor {
        let mut tensor = Tensor::zeros(self.context, DType::Bf16, shape);
        for (index, value) in tensor.elements_mut::<bf16>().iter_mut().enumerate() {
            *value = bf16::from_f32(value_at(index));
        }
        tensor
    }
}

fn value_at(index: usize) -> f32 {
    (index % 251) as f32 / 125.0 - 1.0
}

/// `floats` count four bytes each; of bf16 two are one.
fn operation(
    name: &str,
    floats: usize,
    flops: usize,
    mut run: impl FnMut() -> streamrec_kernels::Result<()> + 'static,
) -> Operation {
    let name = name.to_owned();
    Operation {
        bytes: 4.0 * floats as f64,
        flops: flops as f64,
        run: Box::new(move || run().expect("operands of these sizes fit")),
        name,
    }
}
