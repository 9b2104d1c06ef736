//! Weights that a server packs once: a layer's forward pass, and the last product of a cross layer.

use streamrec_kernels::{
    DType, Error, Tensor, TensorMut, TensorRef,
    cross::combine_forward,
    linear::{Activation, PackedWeights},
};

use crate::oracle::{Random, Strided, assert_close, context};

#[test]
fn packed_weights_give_the_sums_of_float64_for_each_sample_alone_or_beside_others() {
    let context = context();
    for [batch, inputs, outputs] in [[1, 3, 1], [7, 33, 17], [300, 130, 49], [4, 0, 5]] {
        let mut random = Random(3);
        let (x, w) = (
            random.floats(batch * inputs),
            random.floats(outputs * inputs),
        );
        let bias = random.floats(outputs);
        let ws = Strided::new(&w, [outputs, inputs]);
        for w in [ws.view(), TensorRef::from_f32(&w, &[outputs, inputs])] {
            let packed = PackedWeights::new(&context, w).unwrap();
            assert_eq!(packed.shape(), [outputs, inputs]);
            let y = |rows: std::ops::Range<usize>| {
                let shape = [rows.len(), outputs];
                let mut y = vec![f32::NAN; shape[0] * shape[1]];
                let x = &x[rows.start * inputs..rows.end * inputs];
                let x = TensorRef::from_f32(x, &[shape[0], inputs]);
                let bias = Some(TensorRef::from_f32(&bias, &[outputs]));
                let y_view = TensorMut::from_f32(&mut y, &shape);
                packed
                    .forward(&context, x, bias, Activation::Relu, y_view)
                    .unwrap();
                y
            };
            let all = y(0..batch);
            let exact: Vec<f64> = (0..batch * outputs)
                .map(|at| {
                    let (row, output) = (at / outputs, at % outputs);
                    let dot: f64 = (0..inputs)
                        .map(|k| f64::from(x[row * inputs + k]) * f64::from(w.row(output)[k]))
                        .sum();
                    (dot + f64::from(bias[output])).max(0.0)
                })
                .collect();
            assert_close("packed", &all, &exact);
            assert_close(
                "alone",
                &y(batch - 1..batch),
                &exact[(batch - 1) * outputs..],
            );
        }
    }
}

#[test]
fn the_last_product_of_a_cross_layer_has_the_bits_of_its_two_operations() {
    let context = context();
    for [batch, inputs, outputs] in [[1, 3, 1], [7, 33, 17], [300, 16, 49], [4, 0, 5]] {
        let mut random = Random(5);
        let mut floats = |rows, columns| random.floats(rows * columns);
        let (inner, w, bias) = (
            floats(batch, inputs),
            floats(outputs, inputs),
            floats(1, outputs),
        );
        let (x0, x) = (floats(batch, outputs), floats(batch, outputs));
        let view = |floats| TensorRef::from_f32(floats, &[batch, outputs]);
        let inner = TensorRef::from_f32(&inner, &[batch, inputs]);
        let bias = Some(TensorRef::from_f32(&bias, &[outputs]));
        let packed =
            PackedWeights::new(&context, TensorRef::from_f32(&w, &[outputs, inputs])).unwrap();
        let mut y = vec![f32::NAN; batch * outputs];
        let into = TensorMut::from_f32(&mut y, &[batch, outputs]);
        let beside = [view(&x0), view(&x)];
        packed.cross(&context, inner, bias, beside, into).unwrap();
        let (mut projection, mut expected) = (y.clone(), y.clone());
        let into = TensorMut::from_f32(&mut projection, &[batch, outputs]);
        packed
            .forward(&context, inner, bias, Activation::None, into)
            .unwrap();
        let into = TensorMut::from_f32(&mut expected, &[batch, outputs]);
        combine_forward(&context, view(&x0), view(&projection), view(&x), into).unwrap();
        assert_eq!(y, expected, "{batch} {inputs} {outputs}");
    }
}

#[test]
fn packed_weights_refuse_what_does_not_fit() {
    let context = context();
    let w = Tensor::zeros(&context, DType::Bf16, &[2, 3]);
    let error = PackedWeights::new(&context, w.view()).unwrap_err();
    assert!(matches!(error, Error::DType { .. }), "{error}");
    let w = Tensor::zeros(&context, DType::F32, &[2, 3]);
    let packed = PackedWeights::new(&context, w.view()).unwrap();
    let (x, mut y) = ([0.0; 8], [0.0; 4]);
    let x = TensorRef::from_f32(&x, &[2, 4]);
    let y = TensorMut::from_f32(&mut y, &[2, 2]);
    let error = packed
        .forward(&context, x, None, Activation::None, y)
        .unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    let (x, x0, mut y) = ([0.0; 6], [0.0; 2], [0.0; 4]);
    let inner = TensorRef::from_f32(&x, &[2, 3]);
    let x0 = TensorRef::from_f32(&x0, &[2, 1]);
    let y = TensorMut::from_f32(&mut y, &[2, 2]);
    let error = packed.cross(&context, inner, None, [x0; 2], y).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}
