use candle_core::Tensor;
use streamrec_kernels::dot_interaction::{backward, forward, output_columns};
use streamrec_kernels::{DType, Tensor as OwnTensor};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

fn check(batch: usize, features: usize, dim: usize) {
    let context = context();
    let mut random = Random(11);
    let columns = output_columns(features, dim);
    let x = random.floats(batch * features * dim);
    let dy = random.floats(batch * columns);
    let before = random.floats(x.len());
    let xs = Strided::new(&x, [batch, features * dim]);
    let dys = Strided::new(&dy, [batch, columns]);
    let mut y = Strided::zeros([batch, columns]);
    forward(&context, xs.view(), features, dim, y.view_mut()).unwrap();
    let mut dx = Strided::new(&before, [batch, features * dim]);
    let mut sum = dx.clone();
    backward(
        &context,
        xs.view(),
        features,
        dim,
        dys.view(),
        dx.view_mut(),
        false,
    )
    .unwrap();
    backward(
        &context,
        xs.view(),
        features,
        dim,
        dys.view(),
        sum.view_mut(),
        true,
    )
    .unwrap();
    assert_close(
        "accumulated dx",
        &sum.elements(),
        &plus(&before, &dx.elements()),
    );

    Operation {
        inputs: &[(&x, [batch, features * dim])],
        reference: &|operands| {
            let mut y = vec![];
            for x in operands[0].chunks_exact(features * dim) {
                y.extend_from_slice(&x[..dim]);
                for i in 0..features {
                    for j in 0..i {
                        y.push((0..dim).map(|d| x[i * dim + d] * x[j * dim + d]).sum());
                    }
                }
            }
            y
        },
        candle: &|operands| {
            let x = operands[0].reshape((batch, features, dim))?;
            let products = x.matmul(&x.transpose(1, 2)?)?;
            let products = products.reshape((batch, features * features))?;
            let pairs = (0..features as u32)
                .flat_map(|i| (0..i).map(move |j| i * features as u32 + j))
                .collect::<Vec<u32>>();
            let dense = operands[0].narrow(1, 0, dim)?;
            if pairs.is_empty() {
                return Ok(dense);
            }
            let index = Tensor::new(pairs, x.device())?;
            Tensor::cat(&[&dense, &products.index_select(&index, 1)?], 1)
        },
    }
    .check(&y.elements(), &dy, &[&dx.elements()]);
}

#[test]
fn products_and_gradients_match_float64_and_candle() {
    for (batch, features, dim) in [
        (1, 1, 1),
        (3, 2, 3),
        (17, 5, 17),
        (2, 27, 64),
        (70, 9, 20),
        (1, 33, 130),
        (2, 16, 16),
    ] {
        check(batch, features, dim);
    }
}

#[test]
fn every_remainder_of_rows_matches() {
    for features in 3..20 {
        check(1, features, 5);
    }
}

#[test]
fn a_gradient_that_is_stored_past_the_caches_is_that_of_its_parts() {
    let (context, mut random) = (context(), Random(12));
    // 8.3 MiB of gradients, in rows that start cache lines and in rows that do not.
    for (batch, features, dim) in [(1_260, 27, 64), (1_300, 27, 62)] {
        let mut make = |columns: usize| {
            let mut tensor = OwnTensor::zeros(&context, DType::F32, &[batch, columns]);
            let floats = random.floats(batch * columns);
            tensor.f32_mut().copy_from_slice(&floats);
            tensor
        };
        let (x, dy) = (make(features * dim), make(output_columns(features, dim)));
        let (mut whole, mut parts) = (make(features * dim), make(features * dim));
        let (x, dy) = (x.view(), dy.view());
        backward(&context, x, features, dim, dy, whole.view_mut(), false).unwrap();
        for part in [0..batch / 2, batch / 2..batch] {
            let (x, dy) = (x.rows(part.clone()), dy.rows(part.clone()));
            let dx = parts.view_mut().rows(part);
            backward(&context, x, features, dim, dy, dx, false).unwrap();
        }
        assert!(whole.f32() == parts.f32(), "{batch} x {features} x {dim}");
    }
}
