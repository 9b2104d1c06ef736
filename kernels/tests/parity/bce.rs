use streamrec_kernels::{TensorRef, bce::forward_backward};

use crate::oracle::{Operation, Random, Strided, assert_close, context};

#[test]
fn loss_and_gradient_match_float64_and_candle() {
    let context = context();
    for shape @ [batch, heads] in [[1, 1], [3, 2], [17, 1], [1100, 3]] {
        let mut random = Random(31);
        let len = batch * heads;
        let logits: Vec<f32> = random.floats(len).iter().map(|x| 6.0 * x).collect();
        let labels: Vec<f32> = (0..len).map(|_| random.below(2) as f32).collect();
        let weights: Vec<f32> = (0..batch).map(|_| random.below(3) as f32).collect();
        let head_weights: Vec<f32> = (1..=heads).map(|head| head as f32 / 2.0).collect();
        // The weight sum is the global batch's: more than this part of it holds.
        let weight_sum = weights.iter().map(|&w| f64::from(w)).sum::<f64>() + 2.5;
        let (zs, ts) = (Strided::new(&logits, shape), Strided::new(&labels, shape));
        let (mut dz, mut p) = (Strided::zeros(shape), Strided::zeros(shape));
        let loss = forward_backward(
            &context,
            zs.view(),
            ts.view(),
            TensorRef::from_f32(&weights, &[batch]),
            weight_sum,
            &head_weights,
            1.0,
            dz.view_mut(),
            p.view_mut(),
        )
        .unwrap();
        let factor = |index: usize| {
            f64::from(weights[index / heads]) * f64::from(head_weights[index % heads]) / weight_sum
        };
        let expected: Vec<f64> = logits
            .iter()
            .map(|&z| 1.0 / (1.0 + (-f64::from(z)).exp()))
            .collect();
        assert_close("probabilities", &p.elements(), &expected);
        let factors: Vec<f64> = (0..len).map(factor).collect();
        Operation {
            inputs: &[(&logits, shape)],
            reference: &|operands| {
                let loss = |(index, z): (usize, &f64)| {
                    let p = 1.0 / (1.0 + (-z).exp());
                    let t = f64::from(labels[index]);
                    -factor(index) * (t * p.ln() + (1.0 - t) * (1.0 - p).ln())
                };
                vec![operands[0].iter().enumerate().map(loss).sum()]
            },
            candle: &|operands| {
                let like = |x: Vec<f64>| {
                    candle_core::Tensor::from_vec(x, (batch, heads), operands[0].device())
                };
                let t = like(labels.iter().map(|&t| f64::from(t)).collect())?;
                let factors = like(factors.clone())?;
                let p = (operands[0].neg()?.exp()? + 1.0)?.recip()?;
                let q = (1.0 - &p)?;
                let bce = ((&t * p.log()?)? + ((1.0 - &t)? * q.log()?)?)?;
                (bce * factors)?.sum_all()?.neg()
            },
        }
        .check(&[loss as f32], &[1.0], &[&dz.elements()]);
    }
}

#[test]
fn extreme_logits_stay_finite() {
    let (logits, labels) = ([200.0, -200.0, 90.0], [0.0, 1.0, 1.0]);
    let (mut dz, mut p) = (Strided::zeros([3, 1]), Strided::zeros([3, 1]));
    let loss = forward_backward(
        &context(),
        TensorRef::from_f32(&logits, &[3, 1]),
        TensorRef::from_f32(&labels, &[3, 1]),
        TensorRef::from_f32(&[1.0; 3], &[3]),
        3.0,
        &[1.0],
        1.0,
        dz.view_mut(),
        p.view_mut(),
    )
    .unwrap();
    assert!((loss - 400.0 / 3.0).abs() < 1e-9, "{loss}");
    assert_eq!(p.elements(), [1.0, 0.0, 1.0]);
    assert_close("gradient", &dz.elements(), &[1.0 / 3.0, -1.0 / 3.0, 0.0]);
}

#[test]
fn padding_rows_of_weight_zero_change_nothing() {
    let context = context();
    let mut random = Random(5);
    let (logits, labels) = (random.floats(6), [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let run = |rows: usize, weights: &[f32]| {
        let (mut dz, mut p) = (Strided::zeros([rows, 1]), Strided::zeros([rows, 1]));
        let loss = forward_backward(
            &context,
            TensorRef::from_f32(&logits[..rows], &[rows, 1]),
            TensorRef::from_f32(&labels[..rows], &[rows, 1]),
            TensorRef::from_f32(weights, &[rows]),
            4.0,
            &[1.0],
            1.0,
            dz.view_mut(),
            p.view_mut(),
        )
        .unwrap();
        (loss, dz.elements())
    };
    let (loss, gradient) = run(4, &[1.0; 4]);
    let (padded_loss, padded_gradient) = run(6, &[1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(loss, padded_loss);
    assert_eq!(gradient, padded_gradient[..4]);
    assert_eq!(padded_gradient[4..], [0.0, 0.0]);
    let (loss, gradient) = run(2, &[0.0, 0.0]);
    assert_eq!((loss, gradient), (0.0, vec![0.0, 0.0]));
}
