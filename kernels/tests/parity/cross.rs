use streamrec_kernels::cross::{combine_backward, combine_forward};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

#[test]
fn a_cross_layer_matches_float64_and_candle() {
    let context = context();
    for shape @ [batch, columns] in [[1, 1], [3, 17], [130, 5], [2, 64]] {
        let mut random = Random(13);
        let len = batch * columns;
        let (x0, p, x) = (random.floats(len), random.floats(len), random.floats(len));
        let (dy, before) = (random.floats(len), random.floats(len));
        let (x0s, ps, xs) = (
            Strided::new(&x0, shape),
            Strided::new(&p, shape),
            Strided::new(&x, shape),
        );
        let dys = Strided::new(&dy, shape);
        let mut y = Strided::zeros(shape);
        combine_forward(&context, x0s.view(), ps.view(), xs.view(), y.view_mut()).unwrap();
        let run = |accumulate: bool| {
            let (mut dp, mut dx0, mut dx) = (
                Strided::new(&before, shape),
                Strided::new(&before, shape),
                Strided::new(&before, shape),
            );
            combine_backward(
                &context,
                x0s.view(),
                ps.view(),
                dys.view(),
                dp.view_mut(),
                dx0.view_mut(),
                accumulate,
                dx.view_mut(),
                accumulate,
            )
            .unwrap();
            (dp.elements(), dx0.elements(), dx.elements())
        };
        let (dp, dx0, dx) = run(false);
        let (dp2, dx0_sum, dx_sum) = run(true);
        assert_eq!(dp, dp2);
        assert_close("accumulated dx0", &dx0_sum, &plus(&before, &dx0));
        assert_close("accumulated dx", &dx_sum, &plus(&before, &dx));
        Operation {
            inputs: &[(&x0, shape), (&p, shape), (&x, shape)],
            reference: &|operands| {
                (0..len)
                    .map(|i| operands[0][i] * operands[1][i] + operands[2][i])
                    .collect()
            },
            candle: &|operands| (&operands[0] * &operands[1])? + &operands[2],
        }
        .check(&y.elements(), &dy, &[&dx0, &dp, &dx]);
    }
}
