//! Interactions between the vectors of a sample.

use streamrec_kernels::cuda::{
    Executor, Matrix, cross, dot_interaction as dot, factorization_machine as fm,
};
use streamrec_kernels::{DType, dot_interaction};

use super::memory::bytes;
use super::{FLOATS, Memory, Operation, Outcome, Shapes, Visit};

pub fn each<E: Executor>(
    memory: &mut Memory<'_, E>,
    shapes: &Shapes,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    // The vectors of the tables, and that of the dense features.
    let (features, dim) = (shapes.features + 1, shapes.dim);
    for dtype in FLOATS {
        dots(memory, [shapes.batch, features, dim], dtype, visit)?;
        if dtype.is_half() {
            dots(memory, shapes.large_samples, dtype, visit)?;
        }
        crosses(memory, [shapes.batch, features * dim], dtype, visit)?;
    }
    for (vectors, sums) in [
        (DType::F32, DType::F32),
        (DType::Bf16, DType::Bf16),
        (DType::F16, DType::F16),
        (DType::Bf16, DType::F32),
        (DType::F16, DType::F32),
    ] {
        let shape @ [batch, features, dim] = [shapes.batch, features, dim];
        let x = memory.matrix(vectors, [batch, features * dim])?;
        let dx = memory.matrix(vectors, [batch, features * dim])?;
        let y = memory.matrix(sums, [batch, 1])?;
        let what = describe(shape, &format!("{vectors}, sums {sums}"));
        let forward = (fm::forward(&x, features, dim, &y)?, bytes(&x) + bytes(&y));
        visit(
            memory.executor,
            Operation::new("factorization machine", what.clone(), [forward]),
        )?;
        let backward = fm::backward(&x, features, dim, &y, &dx, false)?;
        let backward = (backward, 2 * bytes(&x) + bytes(&y));
        let name = "gradient of a factorization machine";
        visit(memory.executor, Operation::new(name, what, [backward]))?;
    }
    Ok(())
}

fn describe([batch, features, dim]: [usize; 3], what: &str) -> String {
    format!("batch {batch}, {features} features of {dim}, {what}")
}

fn dots<E: Executor>(
    memory: &mut Memory<'_, E>,
    shape @ [batch, features, dim]: [usize; 3],
    dtype: DType,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let columns = dot_interaction::output_columns(features, dim);
    let [x, dx] = [
        memory.matrix(dtype, [batch, features * dim])?,
        memory.matrix(dtype, [batch, features * dim])?,
    ];
    let [y, dy] = [
        memory.matrix(dtype, [batch, columns])?,
        memory.matrix(dtype, [batch, columns])?,
    ];
    let forward = dot::forward(&dot::Forward {
        x,
        features,
        dim,
        y,
    })?;
    let backward = dot::backward(&dot::Backward {
        x,
        features,
        dim,
        dy,
        dx,
        accumulate: false,
    })?;
    let what = describe(shape, &dtype.to_string());
    for (name, launch, bytes) in [
        ("dot interaction", forward, bytes(&x) + bytes(&y)),
        (
            "gradient of a dot interaction",
            backward,
            bytes(&x) + bytes(&dy) + bytes(&dx),
        ),
    ] {
        visit(
            memory.executor,
            Operation::new(name, what.clone(), [(launch, bytes)]),
        )?;
    }
    Ok(())
}

fn crosses<E: Executor>(
    memory: &mut Memory<'_, E>,
    shape: [usize; 2],
    dtype: DType,
    visit: Visit<'_, E>,
) -> Outcome<()> {
    let mut next = || memory.matrix(dtype, shape);
    let [x0, projection, x, y]: [Matrix; 4] = [next()?, next()?, next()?, next()?];
    let [dy, d_projection, dx0, dx] = [y, next()?, next()?, next()?];
    let forward = cross::combine_forward(&x0, &projection, &x, &y)?;
    let backward = cross::combine_backward(&cross::Backward {
        x0,
        projection,
        dy,
        d_projection,
        dx0,
        accumulate_dx0: true,
        dx,
        accumulate_dx: false,
    })?;
    let what = format!("{} x {}, {dtype}", shape[0], shape[1]);
    for (name, launch, matrices) in [
        ("cross layer", forward, 4),
        ("gradient of a cross layer", backward, 7),
    ] {
        let work = [(launch, matrices * bytes(&x))];
        visit(memory.executor, Operation::new(name, what.clone(), work))?;
    }
    Ok(())
}
