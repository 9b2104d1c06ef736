//! Updates of dense parameters.

use streamrec_kernels::dense_optimizer::{self, Adagrad, Adam, Sgd};

use super::{Operation, Sizes, operation};

pub(super) fn operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let len = sizes.rows;
    let [first, second, third] = [(); 3].map(|()| sizes.context.clone());
    let (mut w, g, mut s) = (vec![0.5f32; len], vec![0.1f32; len], vec![0.0f32; len]);
    let adagrad = Adagrad {
        learning_rate: 0.01,
        eps: 1e-8,
        weight_decay: 0.0,
    };
    let adagrad = operation("dense_optimizer/adagrad", 5 * len, 6 * len, move || {
        dense_optimizer::adagrad(&first, &adagrad, &mut w, &g, &mut s)
    });
    let (mut w, g) = (vec![0.5f32; len], vec![0.1f32; len]);
    let (mut m, mut v) = (vec![0.0f32; len], vec![0.0f32; len]);
    let adam = Adam {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        decoupled: true,
    };
    let adam = operation("dense_optimizer/adam", 7 * len, 12 * len, move || {
        dense_optimizer::adam(&second, &adam, 1, &mut w, &g, &mut m, &mut v)
    });
    let (mut w, g, mut v) = (vec![0.5f32; len], vec![0.1f32; len], vec![0.0f32; len]);
    let sgd = Sgd {
        learning_rate: 1e-3,
        momentum: 0.9,
        nesterov: false,
        weight_decay: 0.0,
    };
    let sgd = operation("dense_optimizer/sgd", 5 * len, 6 * len, move || {
        dense_optimizer::sgd(&third, &sgd, &mut w, &g, &mut v)
    });
    vec![adagrad, adam, sgd]
}
