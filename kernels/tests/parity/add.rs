use streamrec_kernels::add::{accumulate, broadcast, broadcast_backward, copy};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

#[test]
fn copies_and_sums_keep_to_their_columns() {
    let context = context();
    for shape @ [rows, columns] in [[1, 1], [3, 17], [600, 5]] {
        let mut random = Random(23);
        let (x, before) = (random.floats(rows * columns), random.floats(rows * columns));
        let (xs, mut y) = (Strided::new(&x, shape), Strided::new(&before, shape));
        accumulate(&context, xs.view(), y.view_mut()).unwrap();
        assert_close("sum", &y.elements(), &plus(&before, &x));
        copy(&context, xs.view(), y.view_mut()).unwrap();
        assert_eq!(y.elements(), x);
    }
}

#[test]
fn a_broadcast_matches_candle_and_its_gradient_sums_the_columns() {
    let context = context();
    for [rows, columns] in [[1, 1], [3, 17], [600, 4]] {
        let mut random = Random(29);
        let (x, dy) = (random.floats(rows), random.floats(rows * columns));
        let before = random.floats(rows * columns);
        let (xs, dys) = (
            Strided::new(&x, [rows, 1]),
            Strided::new(&dy, [rows, columns]),
        );
        let mut y = Strided::new(&before, [rows, columns]);
        let mut sum = y.clone();
        broadcast(&context, xs.view(), y.view_mut(), false).unwrap();
        broadcast(&context, xs.view(), sum.view_mut(), true).unwrap();
        assert_close(
            "accumulated y",
            &sum.elements(),
            &plus(&before, &y.elements()),
        );
        let (mut dx, mut dx_sum) = (Strided::zeros([rows, 1]), Strided::new(&x, [rows, 1]));
        broadcast_backward(&context, dys.view(), dx.view_mut(), false).unwrap();
        broadcast_backward(&context, dys.view(), dx_sum.view_mut(), true).unwrap();
        assert_close(
            "accumulated dx",
            &dx_sum.elements(),
            &plus(&x, &dx.elements()),
        );
        Operation {
            inputs: &[(&x, [rows, 1])],
            reference: &|operands| {
                operands[0]
                    .iter()
                    .flat_map(|x| std::iter::repeat_n(*x, columns))
                    .collect()
            },
            candle: &|operands| operands[0].broadcast_as((rows, columns))?.contiguous(),
        }
        .check(&y.elements(), &dy, &[&dx.elements()]);
    }
}
