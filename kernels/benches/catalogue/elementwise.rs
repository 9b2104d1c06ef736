//! Passes over numbers one by one.

use streamrec_kernels::{Context, DType, Tensor, add, bce, cast, cross, norm};

use super::{DIM, FEATURES, Operation, Sizes, operation};

const WIDE: usize = FEATURES * DIM;

pub(super) fn operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let mut all = vec![combine_forward(sizes), combine_backward(sizes)];
    all.extend(norms(sizes));
    all.extend(additions(sizes));
    all.extend([broadcast(sizes), broadcast_backward(sizes)]);
    all.extend([round(sizes), loss(sizes)]);
    all
}

fn matrix(sizes: &Sizes<'_>) -> Tensor {
    sizes.tensor(&[sizes.batch, WIDE])
}

fn combine_forward(sizes: &Sizes<'_>) -> Operation {
    let (context, count) = (sizes.context.clone(), sizes.batch * WIDE);
    let [x0, projection, x, mut y] = [(); 4].map(|()| matrix(sizes));
    operation(
        "cross/combine_forward/1728",
        4 * count,
        2 * count,
        move || {
            let (x0, x) = (x0.view(), x.view());
            cross::combine_forward(&context, x0, projection.view(), x, y.view_mut())
        },
    )
}

fn combine_backward(sizes: &Sizes<'_>) -> Operation {
    let (context, count) = (sizes.context.clone(), sizes.batch * WIDE);
    let [x0, projection, dy] = [(); 3].map(|()| matrix(sizes));
    let [mut d_projection, mut dx0, mut dx] = [(); 3].map(|()| matrix(sizes));
    operation(
        "cross/combine_backward/1728",
        6 * count,
        2 * count,
        move || {
            let (x0, projection, dy) = (x0.view(), projection.view(), dy.view());
            let (own, dx0, dx) = (d_projection.view_mut(), dx0.view_mut(), dx.view_mut());
            cross::combine_backward(&context, x0, projection, dy, own, dx0, false, dx, false)
        },
    )
}

fn norms(sizes: &Sizes<'_>) -> [Operation; 3] {
    let count = sizes.batch * WIDE;
    let [first, second, third] = [(); 3].map(|()| sizes.context.clone());
    let values = vec![0.5f32; count];
    let squares = operation("norm/sum_of_squares", count, 2 * count, move || {
        std::hint::black_box(norm::sum_of_squares(&first, &values));
        Ok(())
    });
    // A factor of one leaves numbers that no later run finds subnormal.
    let mut values = vec![0.5f32; count];
    let scale = operation("norm/scale", 2 * count, count, move || {
        norm::scale(&second, &mut values, std::hint::black_box(1.0));
        Ok(())
    });
    let mut values = vec![0.5f32; count];
    let scale_if_finite = operation("norm/scale_if_finite", 2 * count, count, move || {
        let factor = std::hint::black_box(1.0);
        assert!(norm::scale_if_finite(&third, &mut values, factor));
        Ok(())
    });
    [squares, scale, scale_if_finite]
}

fn additions(sizes: &Sizes<'_>) -> [Operation; 2] {
    let count = sizes.batch * WIDE;
    let [first, second] = [(); 2].map(|()| sizes.context.clone());
    let (x, mut y) = (matrix(sizes), matrix(sizes));
    let copy = operation("add/copy/1728", 2 * count, 0, move || {
        add::copy(&first, x.view(), y.view_mut())
    });
    let (x, mut y) = (matrix(sizes), matrix(sizes));
    let accumulate = operation("add/accumulate/1728", 3 * count, count, move || {
        add::accumulate(&second, x.view(), y.view_mut())
    });
    [copy, accumulate]
}

fn broadcast(sizes: &Sizes<'_>) -> Operation {
    let (context, count) = (sizes.context.clone(), sizes.batch * DIM);
    let (x, mut y) = (
        sizes.tensor(&[sizes.batch, 1]),
        sizes.tensor(&[sizes.batch, DIM]),
    );
    operation("add/broadcast/64", count + sizes.batch, 0, move || {
        add::broadcast(&context, x.view(), y.view_mut(), false)
    })
}

fn broadcast_backward(sizes: &Sizes<'_>) -> Operation {
    let (context, count) = (sizes.context.clone(), sizes.batch * DIM);
    let (dy, mut dx) = (
        sizes.tensor(&[sizes.batch, DIM]),
        sizes.tensor(&[sizes.batch, 1]),
    );
    operation(
        "add/broadcast_backward/64",
        count + sizes.batch,
        count,
        move || add::broadcast_backward(&context, dy.view(), dx.view_mut(), false),
    )
}

fn round(sizes: &Sizes<'_>) -> Operation {
    let (context, count) = (sizes.context.clone(), sizes.rows);
    let x = sizes.tensor(&[count]);
    let mut y = Tensor::zeros(&context, DType::Bf16, &[count]);
    let x: Vec<f32> = x.f32().to_vec();
    operation("cast/round", count * 3 / 2, 0, move || {
        cast::round(&context, &x, &mut y)
    })
}

/// Loss, gradient and probabilities of one label.
fn loss(sizes: &Sizes<'_>) -> Operation {
    let (context, batch): (Context, usize) = (sizes.context.clone(), sizes.batch);
    let column = || sizes.tensor(&[batch, 1]);
    let (logits, mut d_logits, mut probabilities) = (column(), column(), column());
    let labels = {
        let mut labels = column();
        let each = labels.f32_mut().iter_mut().enumerate();
        each.for_each(|(sample, label)| *label = f32::from(u8::from(sample % 4 == 0)));
        labels
    };
    let mut weights = Tensor::zeros(&context, DType::F32, &[batch]);
    weights.f32_mut().fill(1.0);
    // An exponential and a logarithm are counted as one operation each.
    operation("bce/forward_backward", 5 * batch, 12 * batch, move || {
        let (logits, labels, weights) = (logits.view(), labels.view(), weights.view());
        let (sum, out) = (batch as f64, d_logits.view_mut());
        let probabilities = probabilities.view_mut();
        bce::forward_backward(
            &context,
            logits,
            labels,
            weights,
            sum,
            &[1.0],
            1.0,
            out,
            probabilities,
        )
        .map(|loss| {
            std::hint::black_box(loss);
        })
    })
}
