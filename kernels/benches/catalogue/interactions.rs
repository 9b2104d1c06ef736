//! What layers make of the vectors of features.

use streamrec_kernels::{dot_interaction, factorization_machine, sum_features};

use super::{DIM, FEATURES, Operation, Sizes, operation};

const WIDE: usize = FEATURES * DIM;

pub(super) fn operations(sizes: &Sizes<'_>) -> Vec<Operation> {
    let batch = sizes.batch;
    let make = |columns: usize| sizes.tensor(&[batch, columns]);
    let columns = dot_interaction::output_columns(FEATURES, DIM);
    let flops = batch * FEATURES * (FEATURES - 1) * DIM;
    let [first, second, third, fourth, fifth, sixth] = [(); 6].map(|()| sizes.context.clone());
    let (x, mut y) = (make(WIDE), make(columns));
    let forward = operation(
        "dot_interaction/forward/27x64",
        batch * (WIDE + columns),
        flops,
        move || dot_interaction::forward(&first, x.view(), FEATURES, DIM, y.view_mut()),
    );
    let (x, dy, mut dx) = (make(WIDE), make(columns), make(WIDE));
    let backward = operation(
        "dot_interaction/backward/27x64",
        batch * (2 * WIDE + columns),
        2 * flops,
        move || {
            let (x, dy, dx) = (x.view(), dy.view(), dx.view_mut());
            dot_interaction::backward(&second, x, FEATURES, DIM, dy, dx, false)
        },
    );
    let (x, mut y) = (make(WIDE), make(1));
    let machine = operation(
        "factorization_machine/forward/27x64",
        batch * (WIDE + 1),
        4 * batch * WIDE,
        move || factorization_machine::forward(&third, x.view(), FEATURES, DIM, y.view_mut()),
    );
    let (x, dy, mut dx) = (make(WIDE), make(1), make(WIDE));
    let machine_backward = operation(
        "factorization_machine/backward/27x64",
        batch * (2 * WIDE + 1),
        3 * batch * WIDE,
        move || {
            let (x, dy, dx) = (x.view(), dy.view(), dx.view_mut());
            factorization_machine::backward(&fifth, x, FEATURES, DIM, dy, dx, false)
        },
    );
    let (x, mut y) = (make(WIDE), make(DIM));
    let sum = operation(
        "sum_features/forward/27x64",
        batch * (WIDE + DIM),
        batch * WIDE,
        move || sum_features::forward(&fourth, x.view(), FEATURES, DIM, y.view_mut()),
    );
    let (dy, mut dx) = (make(DIM), make(WIDE));
    let sum_backward = operation(
        "sum_features/backward/27x64",
        batch * (WIDE + DIM),
        0,
        move || sum_features::backward(&sixth, FEATURES, DIM, dy.view(), dx.view_mut(), false),
    );
    vec![
        forward,
        backward,
        machine,
        sum,
        machine_backward,
        sum_backward,
    ]
}
