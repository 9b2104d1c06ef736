//! Fully connected layers: those of training, in float32 and bf16, and those of a server.

use streamrec_kernels::{
    TensorRef,
    linear::{self, Activation, LinearBackward, PackedWeights},
};

use super::{DIM, FEATURES, Operation, Sizes, operation};

/// The rank of a cross layer.
const RANK: usize = 128;

pub(super) fn operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let mut all = Vec::new();
    for (inputs, outputs) in [(512, 256), (415, 512)] {
        all.push(forward(sizes, inputs, outputs));
        all.push(backward(sizes, inputs, outputs));
    }
    all.push(forward_bf16(sizes, 512, 256));
    all.push(backward_bf16(sizes, 512, 256));
    all.push(backward_input(sizes, 512, 256));
    all.push(finish(sizes, 256));
    all.push(packed_forward(sizes, 512, 256));
    all.push(packed_cross(sizes));
    all
}

fn forward(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, w, b) = (
        sizes.tensor(&[batch, inputs]),
        sizes.tensor(&[outputs, inputs]),
        sizes.tensor(&[outputs]),
    );
    let mut y = sizes.tensor(&[batch, outputs]);
    operation(
        &format!("linear/forward/{inputs}x{outputs}"),
        batch * (inputs + outputs) + inputs * outputs,
        2 * batch * inputs * outputs,
        move || {
            let bias = Some(b.view());
            let y = y.view_mut();
            linear::forward(&context, x.view(), w.view(), bias, Activation::Relu, y)
        },
    )
}

fn backward(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, w, y) = (
        sizes.tensor(&[batch, inputs]),
        sizes.tensor(&[outputs, inputs]),
        sizes.tensor(&[batch, outputs]),
    );
    let (mut dy, mut dw, mut db, mut dx) = (
        sizes.tensor(&[batch, outputs]),
        sizes.tensor(&[outputs, inputs]),
        sizes.tensor(&[outputs]),
        sizes.tensor(&[batch, inputs]),
    );
    operation(
        &format!("linear/backward/{inputs}x{outputs}"),
        batch * (2 * inputs + 3 * outputs) + 2 * inputs * outputs,
        4 * batch * inputs * outputs,
        move || {
            let operands = LinearBackward {
                x: x.view(),
                w: w.view(),
                y: y.view(),
                activation: Activation::Relu,
                dy: dy.view_mut(),
                dw: dw.view_mut(),
                db: Some(db.view_mut()),
                accumulate_weights: false,
                dx: Some(dx.view_mut()),
                accumulate_dx: false,
                x_activation: Activation::None,
            };
            linear::backward(&context, operands)
        },
    )
}

/// Operands and result in bf16.
fn forward_bf16(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, w, b) = (
        sizes.halves(&[batch, inputs]),
        sizes.halves(&[outputs, inputs]),
        sizes.halves(&[outputs]),
    );
    let mut y = sizes.halves(&[batch, outputs]);
    operation(
        &format!("linear/forward_bf16/{inputs}x{outputs}"),
        (batch * (inputs + outputs) + inputs * outputs) / 2,
        2 * batch * inputs * outputs,
        move || {
            let bias = Some(b.view());
            let y = y.view_mut();
            linear::forward(&context, x.view(), w.view(), bias, Activation::Relu, y)
        },
    )
}

/// Operands in bf16, gradients of parameters in float32.
fn backward_bf16(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, w, y) = (
        sizes.halves(&[batch, inputs]),
        sizes.halves(&[outputs, inputs]),
        sizes.halves(&[batch, outputs]),
    );
    let (mut dy, mut dx) = (
        sizes.halves(&[batch, outputs]),
        sizes.halves(&[batch, inputs]),
    );
    let (mut dw, mut db) = (sizes.tensor(&[outputs, inputs]), sizes.tensor(&[outputs]));
    operation(
        &format!("linear/backward_bf16/{inputs}x{outputs}"),
        batch * (2 * inputs + 3 * outputs) / 2 + inputs * outputs * 3 / 2,
        4 * batch * inputs * outputs,
        move || {
            let operands = LinearBackward {
                x: x.view(),
                w: w.view(),
                y: y.view(),
                activation: Activation::Relu,
                dy: dy.view_mut(),
                dw: dw.view_mut(),
                db: Some(db.view_mut()),
                accumulate_weights: false,
                dx: Some(dx.view_mut()),
                accumulate_dx: false,
                x_activation: Activation::None,
            };
            linear::backward(&context, operands)
        },
    )
}

/// The half of a backward pass that other ranks wait for.
fn backward_input(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, w, y) = (
        sizes.tensor(&[batch, inputs]),
        sizes.tensor(&[outputs, inputs]),
        sizes.tensor(&[batch, outputs]),
    );
    let (mut dy, mut dw, mut dx) = (
        sizes.tensor(&[batch, outputs]),
        sizes.tensor(&[outputs, inputs]),
        sizes.tensor(&[batch, inputs]),
    );
    operation(
        &format!("linear/backward_input/{inputs}x{outputs}"),
        batch * (inputs + 3 * outputs) + inputs * outputs,
        2 * batch * inputs * outputs,
        move || {
            let mut operands = LinearBackward {
                x: x.view(),
                w: w.view(),
                y: y.view(),
                activation: Activation::Relu,
                dy: dy.view_mut(),
                dw: dw.view_mut(),
                db: None,
                accumulate_weights: false,
                dx: None,
                accumulate_dx: false,
                x_activation: Activation::None,
            };
            linear::backward_input(&context, &mut operands, dx.view_mut())
        },
    )
}

/// Bias and activation of sums that several ranks added up.
fn finish(sizes: &Sizes<'_>, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (sums, bias) = (sizes.tensor(&[batch, outputs]), sizes.tensor(&[outputs]));
    let mut y = sizes.tensor(&[batch, outputs]);
    operation(
        &format!("linear/finish/{outputs}"),
        2 * batch * outputs,
        batch * outputs,
        move || {
            let (bias, y) = (Some(bias.view()), y.view_mut());
            linear::finish(&context, sums.view(), bias, Activation::Relu, y)
        },
    )
}

/// Of a server, which packed its weights when it loaded.
fn packed_forward(sizes: &Sizes<'_>, inputs: usize, outputs: usize) -> Operation {
    let (context, batch) = (sizes.context.clone(), sizes.batch);
    let (x, bias) = (sizes.tensor(&[batch, inputs]), sizes.tensor(&[outputs]));
    let w = sizes.tensor(&[outputs, inputs]);
    let weights = PackedWeights::new(&context, w.view()).expect("weights in float32");
    let mut y = sizes.tensor(&[batch, outputs]);
    operation(
        &format!("linear/packed_forward/{inputs}x{outputs}"),
        batch * (inputs + outputs) + inputs * outputs,
        2 * batch * inputs * outputs,
        move || {
            let (bias, y) = (Some(bias.view()), y.view_mut());
            weights.forward(&context, x.view(), bias, Activation::Relu, y)
        },
    )
}

/// The second product of a server's cross layer, with what follows it.
fn packed_cross(sizes: &Sizes<'_>) -> Operation {
    let (context, batch, wide) = (sizes.context.clone(), sizes.batch, FEATURES * DIM);
    let w = sizes.tensor(&[wide, RANK]);
    let weights = PackedWeights::new(&context, w.view()).expect("weights in float32");
    let (inner, bias) = (sizes.tensor(&[batch, RANK]), sizes.tensor(&[wide]));
    let [x0, x, mut y] = [(); 3].map(|()| sizes.tensor(&[batch, wide]));
    operation(
        &format!("linear/packed_cross/{RANK}x{wide}"),
        batch * (RANK + 3 * wide) + RANK * wide,
        2 * batch * wide * (RANK + 1),
        move || {
            let beside: [TensorRef<'_>; 2] = [x0.view(), x.view()];
            let (bias, y) = (Some(bias.view()), y.view_mut());
            weights.cross(&context, inner.view(), bias, beside, y)
        },
    )
}
