//! Updates of tables in half precision: in float32, and rounded so that small ones are not lost.

use streamrec_kernels::{
    Context, DType, Tensor,
    embedding_bag::RowGradients,
    sparse_optimizer::{Rounding, SparseGradient, SparseRule, SparseState, SparseStep, update},
};

use crate::{
    oracle::{Random, context},
    sparse_optimizer::{LEARNING_RATE, ROWS, rules},
};

/// Each number of a touched row is one of the two neighbours of what float32 gives; state is that of float32; both forms of
/// the gradient, and any number of threads, give the same bits.
#[test]
fn half_tables_are_updated_in_float32_and_rounded_to_a_neighbour() {
    for dtype in [DType::Bf16, DType::F16] {
        for (dim, norm) in [(1, None), (16, Some(0.7)), (45, None)] {
            for rule in rules(norm, 0.02) {
                let mut random = Random(9);
                let rows: Vec<f32> = random.floats(ROWS * dim);
                let gradient = RowGradients {
                    ids: (0..ROWS as i64).step_by(2).collect(),
                    rows: random.floats(ROWS / 2 * dim),
                };
                let step = SparseStep::new(LEARNING_RATE, 1).rounded(Rounding {
                    seed: 3,
                    step: 8,
                    first_row: 1000,
                    first_column: 0,
                });
                let updated = |dtype: DType, threads: usize, from: &[f32]| {
                    let context = Context::cpu(threads, false).unwrap();
                    let mut table = Tensor::zeros(&context, dtype, &[ROWS, dim]);
                    table.view_mut().set_f32(from);
                    let mut state = SparseState::new(&context, &rule, ROWS, dim);
                    let gradient = SparseGradient::Rows(&gradient);
                    let view = table.view_mut();
                    update(&context, &rule, step, view, &mut state, gradient).unwrap();
                    let state = state.tensors().map(|(_, tensor)| tensor.f32().to_vec());
                    (table.view().to_f32(), state.collect::<Vec<_>>())
                };
                let mut stored = Tensor::zeros(&context(), dtype, &[ROWS, dim]);
                stored.view_mut().set_f32(&rows);
                let rows = stored.view().to_f32();
                let (expected, states) = updated(DType::F32, 1, &rows);
                let (got, own_states) = updated(dtype, 1, &rows);
                assert_eq!(own_states, states, "{rule:?}");
                assert_eq!(got, updated(dtype, 2, &rows).0, "{rule:?}");
                let mut apart = 0;
                for (index, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
                    let error = (got - expected).abs();
                    let ulp = match dtype {
                        DType::Bf16 => expected.abs() / 128.0,
                        _ => expected.abs() / 1024.0 + 6e-8,
                    };
                    assert!(error <= ulp, "{rule:?} {index}: {got} {expected}");
                    assert!(index / dim % 2 == 0 || got == rows[index], "untouched");
                    apart += usize::from(error > 0.51 * ulp);
                }
                assert!(apart > 0, "nearest numbers are no claim");
            }
        }
    }
}

/// Updates of a fiftieth of the distance between neighbours, of which rounding to nearest would lose each: the mean moves
/// as in float32.
#[test]
fn small_updates_of_half_tables_are_not_lost() {
    let (context, dim, steps) = (context(), 512, 200);
    let rule = SparseRule::Sgd {
        weight_decay: 0.0,
        max_row_norm: None,
    };
    for (dtype, ulp) in [(DType::Bf16, 1.0 / 128.0), (DType::F16, 1.0 / 1024.0)] {
        let mut table = Tensor::zeros(&context, dtype, &[1, dim]);
        table.view_mut().set_f32(&vec![1.0; dim]);
        let mut state = SparseState::new(&context, &rule, 1, dim);
        let gradient = RowGradients {
            ids: vec![0],
            // Away from 1: below it neighbours are nearer.
            rows: vec![-1.0; dim],
        };
        for number in 1..=steps {
            let step = SparseStep::new(ulp / 50.0, number).rounded(Rounding {
                seed: 1,
                step: number,
                ..Rounding::default()
            });
            let gradient = SparseGradient::Rows(&gradient);
            update(
                &context,
                &rule,
                step,
                table.view_mut(),
                &mut state,
                gradient,
            )
            .unwrap();
        }
        let moved: f32 = table.view().to_f32().iter().map(|w| w - 1.0).sum();
        let (moved, expected) = (moved / dim as f32, steps as f32 * ulp / 50.0);
        assert!(
            (moved / expected - 1.0).abs() < 0.08,
            "{dtype}: moved {moved}, expected {expected}"
        );
    }
}
