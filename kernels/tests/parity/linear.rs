use streamrec_kernels::{
    DType, Error, Tensor, TensorMut, TensorRef, add,
    linear::{Activation, LinearBackward, backward, backward_input, forward},
};

use crate::oracle::{Operation, Random, Strided, assert_close, context, plus};

struct Case {
    batch: usize,
    inputs: usize,
    outputs: usize,
    activation: Activation,
    bias: bool,
}

fn check(case: &Case) {
    let Case {
        batch,
        inputs,
        outputs,
        activation,
        bias,
    } = *case;
    let context = context();
    let mut random = Random(7);
    let (x, w) = (
        random.floats(batch * inputs),
        random.floats(outputs * inputs),
    );
    let (b, dy) = (random.floats(outputs), random.floats(batch * outputs));
    let (xs, ws) = (
        Strided::new(&x, [batch, inputs]),
        Strided::new(&w, [outputs, inputs]),
    );
    let mut ys = Strided::zeros([batch, outputs]);
    let bias_view = bias.then(|| TensorRef::from_f32(&b, &[outputs]));
    forward(
        &context,
        xs.view(),
        ws.view(),
        bias_view,
        activation,
        ys.view_mut(),
    )
    .unwrap();

    let run = |accumulate: bool, before: f32| {
        let mut dys = Strided::new(&dy, [batch, outputs]);
        let mut dw = Strided::new(&vec![before; outputs * inputs], [outputs, inputs]);
        let mut dx = Strided::new(&vec![before; batch * inputs], [batch, inputs]);
        let mut db = vec![before; outputs];
        backward(
            &context,
            LinearBackward {
                x: xs.view(),
                w: ws.view(),
                y: ys.view(),
                activation,
                dy: dys.view_mut(),
                dw: dw.view_mut(),
                db: bias.then(|| TensorMut::from_f32(&mut db, &[outputs])),
                accumulate_weights: accumulate,
                dx: Some(dx.view_mut()),
                accumulate_dx: accumulate,
                x_activation: Activation::None,
            },
        )
        .unwrap();
        (dx.elements(), dw.elements(), db)
    };
    let (dx, dw, db) = run(false, 5.0);
    let (dx2, dw2, db2) = run(true, 5.0);
    assert_close("accumulated dx", &dx2, &plus(&vec![5.0; dx.len()], &dx));
    assert_close("accumulated dw", &dw2, &plus(&vec![5.0; dw.len()], &dw));
    if bias {
        assert_close("accumulated db", &db2, &plus(&vec![5.0; db.len()], &db));
    }

    let no_bias = vec![0.0; outputs];
    let b = if bias { &b } else { &no_bias };
    let relu = activation == Activation::Relu;
    let db = if bias { db } else { vec![] };
    let gradients: &[&[f32]] = if bias { &[&dx, &dw, &db] } else { &[&dx, &dw] };
    Operation {
        inputs: &[
            (&x, [batch, inputs]),
            (&w, [outputs, inputs]),
            (b, [1, outputs]),
        ],
        reference: &|operands| {
            let [x, w, b] = operands else { unreachable!() };
            let mut y = vec![0.0; batch * outputs];
            for row in 0..batch {
                for output in 0..outputs {
                    let dot: f64 = (0..inputs)
                        .map(|k| x[row * inputs + k] * w[output * inputs + k])
                        .sum();
                    let sum = dot + b[output];
                    y[row * outputs + output] = if relu { sum.max(0.0) } else { sum };
                }
            }
            y
        },
        candle: &|operands| {
            let sums = operands[0]
                .matmul(&operands[1].t()?)?
                .broadcast_add(&operands[2])?;
            if relu { sums.relu() } else { Ok(sums) }
        },
    }
    .check(&ys.elements(), &dy, gradients);
}

#[test]
fn a_layer_matches_float64_and_candle_at_odd_sizes() {
    for (batch, inputs, outputs) in [(1, 1, 1), (3, 17, 5), (17, 3, 33), (65, 64, 1), (1, 40, 40)] {
        for activation in [Activation::None, Activation::Relu] {
            for bias in [false, true] {
                check(&Case {
                    batch,
                    inputs,
                    outputs,
                    activation,
                    bias,
                });
            }
        }
    }
}

#[test]
fn a_batch_of_several_panels_matches() {
    check(&Case {
        batch: 1030,
        inputs: 5,
        outputs: 9,
        activation: Activation::Relu,
        bias: true,
    });
    check(&Case {
        batch: 300,
        inputs: 400,
        outputs: 43,
        activation: Activation::Relu,
        bias: true,
    });
    check(&Case {
        batch: 1030,
        inputs: 9,
        outputs: 1,
        activation: Activation::None,
        bias: true,
    });
}

#[test]
fn what_is_not_a_number_stays_so_through_relu() {
    let context = context();
    for (x, bias) in [(f32::NAN, true), (f32::NAN, false)] {
        let x = [x, 1.0, -1.0];
        let x = TensorRef::from_f32(&x, &[3, 1]);
        let w = TensorRef::from_f32(&[2.0], &[1, 1]);
        let bias = bias.then(|| TensorRef::from_f32(&[0.5], &[1]));
        let mut y = [0.0; 3];
        let out = TensorMut::from_f32(&mut y, &[3, 1]);
        forward(&context, x, w, bias, Activation::Relu, out).unwrap();
        assert!(y[0].is_nan() && y[1] > 0.0 && y[2] == 0.0, "{y:?}");
        let (mut dy, mut dw) = ([1.0, 1.0, 1.0], [0.0]);
        let operands = LinearBackward {
            x,
            w,
            y: TensorRef::from_f32(&y, &[3, 1]),
            activation: Activation::Relu,
            dy: TensorMut::from_f32(&mut dy, &[3, 1]),
            dw: TensorMut::from_f32(&mut dw, &[1, 1]),
            db: None,
            accumulate_weights: false,
            dx: None,
            accumulate_dx: false,
            x_activation: Activation::None,
        };
        backward(&context, operands).unwrap();
        assert_eq!(dy, [1.0, 1.0, 0.0]);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    // The longest pieces exceed what one pass over their depth takes.
    // 17 outputs would leave one to a thread of its own.
    for (batch, inputs, outputs) in [
        (1500, 70, 50),
        (8200, 20, 100),
        (8200, 70, 100),
        (8200, 70, 17),
        // Threads share halves of the batch, columns of the gradient, or its rows.
        (1500, 130, 150),
        (1500, 330, 60),
        (1500, 60, 330),
    ] {
        let one = gradients(1, batch, inputs, outputs);
        for threads in [2, 3, 20] {
            let many = gradients(threads, batch, inputs, outputs);
            assert!(
                one == many,
                "{threads} threads, {batch} x {inputs} x {outputs}"
            );
        }
    }
}

/// The output, and the gradients of weights and bias, computed by some threads.
fn gradients(
    threads: usize,
    batch: usize,
    inputs: usize,
    outputs: usize,
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut random = Random(3);
    let (x, w) = (
        random.floats(batch * inputs),
        random.floats(outputs * inputs),
    );
    let dy = random.floats(batch * outputs);
    let context = streamrec_kernels::Context::cpu(threads, false).unwrap();
    let (mut y, mut dz) = (vec![0.0; batch * outputs], dy.clone());
    let (mut dw, mut db) = (vec![0.0; outputs * inputs], vec![0.0; outputs]);
    let (x, w) = (
        TensorRef::from_f32(&x, &[batch, inputs]),
        TensorRef::from_f32(&w, &[outputs, inputs]),
    );
    let out = TensorMut::from_f32(&mut y, &[batch, outputs]);
    forward(&context, x, w, None, Activation::Relu, out).unwrap();
    let operands = LinearBackward {
        x,
        w,
        y: TensorRef::from_f32(&y, &[batch, outputs]),
        activation: Activation::Relu,
        dy: TensorMut::from_f32(&mut dz, &[batch, outputs]),
        dw: TensorMut::from_f32(&mut dw, &[outputs, inputs]),
        db: Some(TensorMut::from_f32(&mut db, &[outputs])),
        accumulate_weights: false,
        dx: None,
        accumulate_dx: false,
        x_activation: Activation::None,
    };
    backward(&context, operands).unwrap();
    (y, dw, db)
}

#[test]
fn a_backward_pass_in_two_halves_has_the_bits_of_one() {
    let context = context();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        for activation in [Activation::None, Activation::Relu] {
            // The last two: threads share rows or columns of the gradient.
            for [batch, inputs, outputs] in
                [[3, 5, 2], [700, 40, 33], [1030, 130, 150], [300, 400, 43]]
            {
                let mut random = Random(5);
                let mut matrix = |shape: [usize; 2]| {
                    let mut tensor = Tensor::zeros(&context, dtype, &shape);
                    let floats = random.floats(shape[0] * shape[1]);
                    let floats = TensorRef::from_f32(&floats, &shape);
                    add::copy(&context, floats, tensor.view_mut()).unwrap();
                    tensor
                };
                let [x, w] = [[batch, inputs], [outputs, inputs]].map(&mut matrix);
                let [y, dy] = [[batch, outputs]; 2].map(&mut matrix);
                let run = |halves: bool| {
                    let mut dz = Tensor::zeros(&context, dtype, &[batch, outputs]);
                    add::copy(&context, dy.view(), dz.view_mut()).unwrap();
                    let mut dw = vec![0.5; outputs * inputs];
                    let mut db = vec![0.5; outputs];
                    let mut dx = vec![0.5; batch * inputs];
                    let to = TensorMut::from_f32(&mut dx, &[batch, inputs]);
                    let mut operands = LinearBackward {
                        x: x.view(),
                        w: w.view(),
                        y: y.view(),
                        activation,
                        dy: dz.view_mut(),
                        dw: TensorMut::from_f32(&mut dw, &[outputs, inputs]),
                        db: Some(TensorMut::from_f32(&mut db, &[outputs])),
                        accumulate_weights: true,
                        dx: None,
                        accumulate_dx: false,
                        x_activation: Activation::None,
                    };
                    if halves {
                        backward_input(&context, &mut operands, to).unwrap();
                    } else {
                        operands.dx = Some(to);
                    }
                    backward(&context, operands).unwrap();
                    (dx, dw, db)
                };
                assert!(
                    run(true) == run(false),
                    "{dtype}, {activation:?}, {batch} x {inputs} x {outputs}"
                );
            }
        }
    }
}

#[test]
fn the_gradient_of_a_rectified_input_is_masked_in_the_same_pass() {
    let context = context();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        // Few rows are products that mask afterwards.
        for [batch, inputs, outputs] in [[3, 5, 2], [300, 49, 33], [700, 64, 1]] {
            let mut random = Random(11);
            let mut matrix = |shape: [usize; 2]| {
                let mut tensor = Tensor::zeros(&context, dtype, &shape);
                let mut floats = random.floats(shape[0] * shape[1]);
                (floats[0], floats[1]) = (0.0, -0.0);
                let floats = TensorRef::from_f32(&floats, &shape);
                add::copy(&context, floats, tensor.view_mut()).unwrap();
                tensor
            };
            let [x, w, dy] =
                [[batch, inputs], [outputs, inputs], [batch, outputs]].map(&mut matrix);
            for accumulate_dx in [false, true] {
                let run = |x_activation: Activation| {
                    let mut dz = Tensor::zeros(&context, dtype, &[batch, outputs]);
                    add::copy(&context, dy.view(), dz.view_mut()).unwrap();
                    let mut dw = vec![0.0; outputs * inputs];
                    let mut dx = vec![0.5; batch * inputs];
                    let operands = LinearBackward {
                        x: x.view(),
                        w: w.view(),
                        y: dy.view(),
                        activation: Activation::None,
                        dy: dz.view_mut(),
                        dw: TensorMut::from_f32(&mut dw, &[outputs, inputs]),
                        db: None,
                        accumulate_weights: false,
                        dx: Some(TensorMut::from_f32(&mut dx, &[batch, inputs])),
                        accumulate_dx,
                        x_activation,
                    };
                    backward(&context, operands).unwrap();
                    (dx, dw)
                };
                let ((dx, dw), (masked, same)) = (run(Activation::None), run(Activation::Relu));
                let mut values = vec![0.0; batch * inputs];
                let to = TensorMut::from_f32(&mut values, &[batch, inputs]);
                add::copy(&context, x.view(), to).unwrap();
                let of = |(&value, &dx): (&f32, &f32)| if value <= 0.0 { 0.0 } else { dx };
                let expected: Vec<f32> = values.iter().zip(&dx).map(of).collect();
                let what = format!("{dtype}, {batch} x {inputs} x {outputs}");
                assert!(masked == expected && dw == same, "{what}");
                assert!(expected.contains(&0.0) && expected.iter().any(|&dx| dx != 0.0));
            }
        }
    }
}

#[test]
fn an_empty_batch_gives_zero_gradients() {
    let context = context();
    let (w, mut dw, mut db) = ([1.0; 6], [9.0; 6], [9.0; 2]);
    let operands = LinearBackward {
        x: TensorRef::from_f32(&[], &[0, 3]),
        w: TensorRef::from_f32(&w, &[2, 3]),
        y: TensorRef::from_f32(&[], &[0, 2]),
        activation: Activation::Relu,
        dy: TensorMut::from_f32(&mut [], &[0, 2]),
        dw: TensorMut::from_f32(&mut dw, &[2, 3]),
        db: Some(TensorMut::from_f32(&mut db, &[2])),
        accumulate_weights: false,
        dx: None,
        accumulate_dx: false,
        x_activation: Activation::None,
    };
    backward(&context, operands).unwrap();
    assert_eq!((dw, db), ([0.0; 6], [0.0; 2]));
}

#[test]
fn a_wrong_shape_is_refused_by_name() {
    let (x, w) = ([0.0; 6], [0.0; 8]);
    let mut y = [0.0; 4];
    let error = forward(
        &context(),
        TensorRef::from_f32(&x, &[2, 3]),
        TensorRef::from_f32(&w, &[2, 4]),
        None,
        Activation::None,
        TensorMut::from_f32(&mut y, &[2, 2]),
    )
    .unwrap_err();
    match error {
        Error::Shape {
            operation: "linear::forward",
            operand: "x",
            expected,
            got,
        } => {
            assert_eq!((expected, got), (vec![2, 4], vec![2, 3]));
        }
        other => panic!("{other}"),
    }
}
