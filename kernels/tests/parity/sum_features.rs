use streamrec_kernels::sum_features::{backward, forward};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

#[test]
fn sums_over_features_match_float64_and_candle() {
    let context = context();
    for (batch, features, dim) in [(1, 1, 1), (3, 2, 17), (150, 5, 3), (2, 27, 64)] {
        let mut random = Random(19);
        let shape = [batch, features * dim];
        let x = random.floats(batch * features * dim);
        let (dy, before) = (random.floats(batch * dim), random.floats(x.len()));
        let (xs, dys) = (Strided::new(&x, shape), Strided::new(&dy, [batch, dim]));
        let mut y = Strided::new(&random.floats(batch * dim), [batch, dim]);
        forward(&context, xs.view(), features, dim, y.view_mut()).unwrap();
        let (mut dx, mut sum) = (Strided::zeros(shape), Strided::new(&before, shape));
        backward(&context, features, dim, dys.view(), dx.view_mut(), false).unwrap();
        backward(&context, features, dim, dys.view(), sum.view_mut(), true).unwrap();
        assert_close(
            "accumulated dx",
            &sum.elements(),
            &plus(&before, &dx.elements()),
        );
        Operation {
            inputs: &[(&x, shape)],
            reference: &|operands| {
                let mut y = vec![];
                for x in operands[0].chunks_exact(features * dim) {
                    y.extend((0..dim).map(|d| (0..features).map(|f| x[f * dim + d]).sum::<f64>()));
                }
                y
            },
            candle: &|operands| operands[0].reshape((batch, features, dim))?.sum(1),
        }
        .check(&y.elements(), &dy, &[&dx.elements()]);
    }
}
