use streamrec_kernels::factorization_machine::{backward, forward};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

#[test]
fn second_order_terms_match_float64_and_candle() {
    let context = context();
    for (batch, features, dim) in [(1, 1, 1), (3, 2, 17), (70, 5, 3), (2, 27, 64)] {
        let mut random = Random(17);
        let shape = [batch, features * dim];
        let x = random.floats(batch * features * dim);
        let (dy, before) = (random.floats(batch), random.floats(x.len()));
        let (xs, dys) = (Strided::new(&x, shape), Strided::new(&dy, [batch, 1]));
        let mut y = Strided::zeros([batch, 1]);
        forward(&context, xs.view(), features, dim, y.view_mut()).unwrap();
        let (mut dx, mut sum) = (Strided::zeros(shape), Strided::new(&before, shape));
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
            inputs: &[(&x, shape)],
            reference: &|operands| {
                // The sum over pairs itself, not the identity under test.
                let pair = |x: &[f64], i: usize, j: usize| -> f64 {
                    (0..dim).map(|d| x[i * dim + d] * x[j * dim + d]).sum()
                };
                operands[0]
                    .chunks_exact(features * dim)
                    .map(|x| {
                        (0..features)
                            .flat_map(|i| (0..i).map(move |j| (i, j)))
                            .map(|(i, j)| pair(x, i, j))
                            .sum()
                    })
                    .collect()
            },
            candle: &|operands| {
                let x = operands[0].reshape((batch, features, dim))?;
                let square_of_sum = x.sum(1)?.sqr()?;
                let sum_of_squares = x.sqr()?.sum(1)?;
                (square_of_sum - sum_of_squares)?.sum_keepdim(1)? * 0.5
            },
        }
        .check(&y.elements(), &dy, &[&dx.elements()]);
    }
}
