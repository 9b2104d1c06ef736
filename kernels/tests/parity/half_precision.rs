//! Operations on operands in half precision: what float32 gives for the same numbers, rounded once.

use streamrec_kernels::{
    Context, DType, Element, Tensor, TensorMut, TensorRef, add, bf16, cast, cross, dot_interaction,
    embedding_bag::{self, BagSource, Bags, Groups, Lookup, Pooling, RowGradients},
    f16, factorization_machine,
    linear::{self, Activation, LinearBackward},
    norm, sum_features,
};

use crate::oracle::{Random, context};

const HALVES: [DType; 2] = [DType::Bf16, DType::F16];

/// A matrix in some type.
struct Matrix {
    tensor: Tensor,
}

impl Matrix {
    fn of(context: &Context, dtype: DType, x: &[f32], shape: [usize; 2]) -> Self {
        let mut tensor = Tensor::zeros(context, dtype, &shape);
        add::copy(context, TensorRef::from_f32(x, &shape), tensor.view_mut()).unwrap();
        Self { tensor }
    }

    fn random(context: &Context, dtype: DType, random: &mut Random, shape: [usize; 2]) -> Self {
        Self::of(context, dtype, &random.floats(shape[0] * shape[1]), shape)
    }

    fn floats(&self, context: &Context) -> Vec<f32> {
        let shape = self.tensor.view().shape();
        let mut floats = vec![0.0; shape[0] * shape[1]];
        let to = TensorMut::from_f32(&mut floats, &shape);
        add::copy(context, self.tensor.view(), to).unwrap();
        floats
    }

    /// The same numbers in float32.
    fn wide(&self, context: &Context) -> Self {
        let shape = self.tensor.view().shape();
        Self::of(context, DType::F32, &self.floats(context), shape)
    }

    fn view(&self) -> TensorRef<'_> {
        self.tensor.view()
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        self.tensor.view_mut()
    }
}

/// Asserts that `half` holds the numbers of `wide`, rounded.
#[track_caller]
fn assert_rounded(context: &Context, what: &str, half: &Matrix, wide: &Matrix) {
    let dtype = half.tensor.dtype();
    let expected = Matrix::of(context, dtype, &wide.floats(context), half.view().shape());
    // One rounding apart, where a float32 sum was taken in another order.
    let step = if dtype == DType::Bf16 {
        1.0 / 128.0
    } else {
        1.0 / 1024.0
    };
    for (got, expected) in half.floats(context).iter().zip(expected.floats(context)) {
        let error = (got - expected).abs();
        assert!(
            error <= step * expected.abs() + 1e-6,
            "{what} in {dtype}: {got}, expected {expected}"
        );
    }
}

#[test]
fn a_linear_layer_in_half_precision_is_the_float32_one_rounded() {
    let context = context();
    for dtype in HALVES {
        for [batch, inputs, outputs] in [[1, 3, 2], [300, 17, 33], [700, 40, 1]] {
            let mut random = Random(3);
            let mut half = |shape| Matrix::random(&context, dtype, &mut random, shape);
            let (x, w, b) = (
                half([batch, inputs]),
                half([outputs, inputs]),
                half([1, outputs]),
            );
            let dy = half([batch, outputs]);
            let run = |wide: bool| {
                let of = |matrix: &Matrix| match wide {
                    true => matrix.wide(&context),
                    false => Matrix::of(
                        &context,
                        dtype,
                        &matrix.floats(&context),
                        matrix.view().shape(),
                    ),
                };
                let (x, w, b, mut dy) = (of(&x), of(&w), of(&b), of(&dy));
                let zeros = |shape: [usize; 2]| vec![0.0f32; shape[0] * shape[1]];
                let into = if wide { DType::F32 } else { dtype };
                let mut y = Matrix::of(&context, into, &zeros([batch, outputs]), [batch, outputs]);
                let relu = Activation::Relu;
                linear::forward(
                    &context,
                    x.view(),
                    w.view(),
                    Some(b.view()),
                    relu,
                    y.view_mut(),
                )
                .unwrap();
                let mut dx = Matrix::of(&context, into, &zeros([batch, inputs]), [batch, inputs]);
                let mut dw = Matrix::of(
                    &context,
                    DType::F32,
                    &zeros([outputs, inputs]),
                    [outputs, inputs],
                );
                let mut db = Matrix::of(&context, DType::F32, &zeros([1, outputs]), [1, outputs]);
                let operands = LinearBackward {
                    x: x.view(),
                    w: w.view(),
                    y: y.view(),
                    activation: relu,
                    dy: dy.view_mut(),
                    dw: dw.view_mut(),
                    db: Some(db.view_mut()),
                    accumulate_weights: false,
                    dx: Some(dx.view_mut()),
                    accumulate_dx: false,
                    x_activation: Activation::None,
                };
                linear::backward(&context, operands).unwrap();
                [y, dx, dw, db]
            };
            let (half, wide) = (run(false), run(true));
            for (index, what) in ["y", "dx"].into_iter().enumerate() {
                assert_rounded(&context, what, &half[index], &wide[index]);
            }
            // Gradients of parameters are float32.
            for index in [2, 3] {
                let (got, expected) = (half[index].floats(&context), wide[index].floats(&context));
                for (got, expected) in got.iter().zip(expected) {
                    assert!(
                        (got - expected).abs() < 1e-4 * batch as f32,
                        "{got}, {expected}"
                    );
                }
            }
        }
    }
}

/// `left: [rows, depth]` times `right: [depth, columns]`, of numbers told by their places.
fn product(
    [rows, depth, columns]: [usize; 3],
    left: impl Fn(usize, usize) -> f32,
    right: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let at = |row, column| {
        let terms = (0..depth).map(|k| f64::from(left(row, k)) * f64::from(right(k, column)));
        terms.sum::<f64>() as f32
    };
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    places.map(|(row, column)| at(row, column)).collect()
}

#[test]
fn a_layer_whose_weights_are_packed_in_several_parts_matches_float64() {
    let context = context();
    let [batch, inputs, outputs] = [130, 500, 300];
    let mut random = Random(5);
    let mut half = |shape| Matrix::random(&context, DType::Bf16, &mut random, shape);
    let (x, w, mut dy) = (
        half([batch, inputs]),
        half([outputs, inputs]),
        half([batch, outputs]),
    );
    let [xs, ws, dys] = [&x, &w, &dy].map(|matrix| matrix.floats(&context));
    let mut y = half([batch, outputs]);
    let (mut dx, mut dw) = (half([batch, inputs]), w.wide(&context));
    let none = Activation::None;
    linear::forward(&context, x.view(), w.view(), None, none, y.view_mut()).unwrap();
    let operands = LinearBackward {
        x: x.view(),
        w: w.view(),
        y: y.view(),
        activation: none,
        dy: dy.view_mut(),
        dw: dw.view_mut(),
        db: None,
        accumulate_weights: false,
        dx: Some(dx.view_mut()),
        accumulate_dx: false,
        x_activation: none,
    };
    linear::backward(&context, operands).unwrap();
    let weight = |output: usize, input: usize| ws[output * inputs + input];
    let expected_y = product(
        [batch, inputs, outputs],
        |row, input| xs[row * inputs + input],
        |input, output| weight(output, input),
    );
    let expected_dx = product(
        [batch, outputs, inputs],
        |row, output| dys[row * outputs + output],
        weight,
    );
    for (what, got, expected) in [("y", &y, expected_y), ("dx", &dx, expected_dx)] {
        for (got, expected) in got.floats(&context).iter().zip(expected) {
            let error = (got - expected).abs();
            assert!(
                error <= expected.abs() / 128.0 + 1e-3,
                "{what}: {got}, expected {expected}"
            );
        }
    }
}

#[test]
fn factors_in_float32_are_rounded_to_the_weights_type() {
    let context = context();
    // Neither is a bf16 number: 1 + 2^-9 rounds to 1.
    let x = Matrix::of(&context, DType::F32, &[1.0 + 2f32.powi(-9)], [1, 1]);
    let w = Matrix::of(&context, DType::Bf16, &[3.0], [1, 1]);
    let mut y = Matrix::of(&context, DType::F32, &[0.0], [1, 1]);
    let none = Activation::None;
    linear::forward(&context, x.view(), w.view(), None, none, y.view_mut()).unwrap();
    assert_eq!(y.floats(&context), [3.0]);
}

#[test]
fn interactions_in_half_precision_are_the_float32_ones_rounded() {
    let context = context();
    let (batch, features, dim) = (70, 5, 20);
    let columns = dot_interaction::output_columns(features, dim);
    for dtype in HALVES {
        let mut random = Random(5);
        let mut half = |width| Matrix::random(&context, dtype, &mut random, [batch, width]);
        let (x, dy, dx) = (half(features * dim), half(columns), half(features * dim));
        let (one, sum) = (half(1), half(dim));
        let run = |of: &dyn Fn(&Matrix) -> Matrix| {
            let (x, dy, one, sum) = (of(&x), of(&dy), of(&one), of(&sum));
            let mut out = [&dy, &one, &sum, &dx, &dx, &dx].map(of);
            let [y, second, total, d_dot, d_second, d_total] = &mut out;
            let (x, c) = (x.view(), &context);
            dot_interaction::forward(c, x, features, dim, y.view_mut()).unwrap();
            factorization_machine::forward(c, x, features, dim, second.view_mut()).unwrap();
            sum_features::forward(c, x, features, dim, total.view_mut()).unwrap();
            let (dy, into) = (dy.view(), d_dot.view_mut());
            dot_interaction::backward(c, x, features, dim, dy, into, true).unwrap();
            let (dy, into) = (one.view(), d_second.view_mut());
            factorization_machine::backward(c, x, features, dim, dy, into, true).unwrap();
            let (dy, into) = (sum.view(), d_total.view_mut());
            sum_features::backward(c, features, dim, dy, into, false).unwrap();
            out
        };
        let same = |matrix: &Matrix| {
            Matrix::of(
                &context,
                dtype,
                &matrix.floats(&context),
                matrix.view().shape(),
            )
        };
        let (half, wide) = (run(&same), run(&|matrix| matrix.wide(&context)));
        for (half, wide) in half.iter().zip(&wide) {
            assert_rounded(&context, "an interaction", half, wide);
        }
    }
}

#[test]
fn a_cross_layer_in_half_precision_is_the_float32_one_rounded() {
    let context = context();
    for dtype in HALVES {
        let mut random = Random(7);
        let operands: [Matrix; 4] =
            std::array::from_fn(|_| Matrix::random(&context, dtype, &mut random, [40, 19]));
        let run = |of: &dyn Fn(&Matrix) -> Matrix| {
            let [x0, p, x, dy] = [0, 1, 2, 3].map(|index| of(&operands[index]));
            let [mut y, mut dp, mut dx0, mut dx] = [0, 1, 2, 3].map(|index| of(&operands[index]));
            let c = &context;
            cross::combine_forward(c, x0.view(), p.view(), x.view(), y.view_mut()).unwrap();
            let (x0, p, dy) = (x0.view(), p.view(), dy.view());
            let (d, into, dx_into) = (dp.view_mut(), dx0.view_mut(), dx.view_mut());
            cross::combine_backward(c, x0, p, dy, d, into, true, dx_into, false).unwrap();
            [y, dp, dx0, dx]
        };
        let same = |matrix: &Matrix| {
            Matrix::of(
                &context,
                dtype,
                &matrix.floats(&context),
                matrix.view().shape(),
            )
        };
        let (half, wide) = (run(&same), run(&|matrix| matrix.wide(&context)));
        for (half, wide) in half.iter().zip(&wide) {
            assert_rounded(&context, "a cross layer", half, wide);
        }
    }
}

#[test]
fn vectors_are_pooled_into_half_precision_and_their_gradients_summed_from_it() {
    fn claim<E: Element>(narrow: fn(f32) -> E) {
        let context = context();
        let (batch, rows, dim) = (50, 9, 35);
        let mut random = Random(11);
        let table = random.floats(rows * dim);
        let ids: Vec<i64> = (0..2 * batch).map(|_| random.below(rows) as i64).collect();
        let offsets: Vec<i64> = (0..=batch as i64).map(|bag| 2 * bag).collect();
        let bags = Bags {
            ids: &ids,
            offsets: &offsets,
            weights: None,
            batch,
            features: 1,
        };
        let lookup = Lookup {
            feature: 0,
            table: TensorRef::from_f32(&table, &[rows, dim]),
            pooling: Pooling::Mean,
            column: 0,
        };
        let mut wide = vec![0.0; batch * dim];
        let mut half = vec![narrow(0.0); batch * dim];
        let shape = [batch, dim];
        let out = TensorMut::from_f32(&mut wide, &shape);
        embedding_bag::forward(&context, &bags, &[lookup], out).unwrap();
        let out = TensorMut::from_elements(&mut half, &shape);
        embedding_bag::forward(&context, &bags, &[lookup], out).unwrap();
        let rounded: Vec<E> = wide.iter().map(|&x| narrow(x)).collect();
        assert_eq!(
            bytemuck::cast_slice::<E, u8>(&half),
            bytemuck::cast_slice::<E, u8>(&rounded)
        );

        let mut groups = Groups::default();
        groups.build(&context, &bags, &[0], rows).unwrap();
        let source = BagSource {
            feature: 0,
            pooling: Pooling::Mean,
            column: 0,
        };
        let sum = |dout: TensorRef<'_>| {
            let mut sum = RowGradients::default();
            embedding_bag::segment_sum(&context, &groups, dim, &[source], dout, &mut sum).unwrap();
            sum
        };
        let mut exact = vec![0.0; batch * dim];
        let halves = TensorRef::from_elements(&half, &shape);
        add::copy(&context, halves, TensorMut::from_f32(&mut exact, &shape)).unwrap();
        assert_eq!(sum(halves), sum(TensorRef::from_f32(&exact, &shape)));
    }
    claim(bf16::from_f32);
    claim(f16::from_f32);
}

#[test]
fn flat_arrays_are_rounded_whole() {
    let context = context();
    for len in [0, 1, 16_384, 40_001] {
        let x = Random(13).floats(len);
        let mut y = Tensor::zeros(&context, DType::Bf16, &[len]);
        cast::round(&context, &x, &mut y).unwrap();
        let expected: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
        assert_eq!(y.elements::<bf16>(), expected);
    }
}

#[test]
fn scaling_tells_whether_all_was_finite() {
    let context = context();
    for (bad, finite) in [
        (1.0, true),
        (f32::MAX, true),
        (f32::INFINITY, false),
        (f32::NAN, false),
    ] {
        let mut x = vec![2.0; 40_000];
        x[39_999] = bad;
        assert_eq!(norm::scale_if_finite(&context, &mut x, 0.5), finite);
        assert_eq!(x[0], 1.0);
    }
}

/// A table in half precision is pooled as the same numbers in float32, to the bit where the result is float32.
#[test]
fn lookups_in_half_tables_are_those_of_the_same_numbers() {
    let context = context();
    for dtype in HALVES {
        for dim in [1, 15, 16, 70] {
            let mut random = Random(17);
            let table = Matrix::random(&context, dtype, &mut random, [9, dim]);
            let wide = table.wide(&context);
            let (ids, offsets) = ([3, 0, 8, 8, 1, 5], [0, 2, 2, 5, 6]);
            let bags = Bags {
                ids: &ids,
                offsets: &offsets,
                weights: Some(&[0.5, 2.0, -1.0, 0.25, 1.0, 3.0]),
                batch: 4,
                features: 1,
            };
            for into in [DType::F32, DType::Bf16, DType::F16] {
                let pooled = |table: &Matrix| {
                    let lookup = Lookup {
                        feature: 0,
                        table: table.view(),
                        pooling: Pooling::Mean,
                        column: 0,
                    };
                    let mut out = Tensor::zeros(&context, into, &[4, dim]);
                    embedding_bag::forward(&context, &bags, &[lookup], out.view_mut()).unwrap();
                    out.view().to_f32()
                };
                assert_eq!(pooled(&table), pooled(&wide), "{dtype} to {into}, {dim}");
            }
        }
    }
}
