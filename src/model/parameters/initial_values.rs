//! First values of parameters: a function of seed, name and position alone.

use rayon::prelude::*;
use streamrec_artifact::Parameter;
use streamrec_kernels::{Context, DType, Tensor};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Extent;

/// Elements of one parallel task, about.
const CHUNK: usize = 1 << 14;
/// Elements that are in float32 before they are rounded, about.
const ROUNDED_AT_ONCE: usize = 1 << 22;
/// The increment of SplitMix64: the golden ratio in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fills `values`, the part `extent` of a parameter, uniformly in `[-bound, bound)`, `bound` being the
/// parameter's.
///
/// Element `i` of the whole parameter is output `i` of SplitMix64 started from a hash of seed and name, so it depends
/// neither on the world, nor on how ranks share the parameter, nor on the order in which parameters are made, nor on threads.
pub(super) fn fill(
    context: &Context,
    seed: u64,
    parameter: &Parameter,
    extent: &Extent,
    values: &mut [f32],
) {
    let bound = parameter.init_bound();
    if bound == 0.0 || values.is_empty() {
        values.fill(0.0);
        return;
    }
    let key = xxh3_64_with_seed(parameter.name.as_bytes(), seed);
    let (width, columns) = (extent.width(), extent.columns.len());
    let rows_per_chunk = (CHUNK / columns).max(1);
    let first = |row: usize| (extent.rows.start + row) * width + extent.columns.start;
    context.install(|| {
        let chunks = values.par_chunks_mut(rows_per_chunk * columns).enumerate();
        chunks.for_each(|(chunk, values)| {
            let rows = values.chunks_exact_mut(columns).enumerate();
            for (row, values) in rows {
                let first = first(chunk * rows_per_chunk + row) as u64;
                for (value, index) in values.iter_mut().zip(first..) {
                    *value = (bound * symmetric(random(key, index))) as f32;
                }
            }
        });
    });
}

/// The part `extent` of a table, in the type in which it is stored: what [`fill`] gives, rounded to nearest.
pub(super) fn table(
    context: &Context,
    seed: u64,
    parameter: &Parameter,
    extent: &Extent,
    dtype: DType,
) -> Tensor {
    let mut weights = Tensor::zeros(context, dtype, &extent.local_shape());
    if dtype == DType::F32 {
        fill(context, seed, parameter, extent, weights.f32_mut());
        return weights;
    }
    let (rows, columns) = (extent.rows.len(), extent.columns.len());
    let rows_at_once = (ROUNDED_AT_ONCE / columns.max(1)).max(1);
    let mut values = Vec::new();
    for first in (0..rows).step_by(rows_at_once) {
        let own = first..rows.min(first + rows_at_once);
        let part = Extent {
            rows: extent.rows.start + own.start..extent.rows.start + own.end,
            ..extent.clone()
        };
        values.resize(part.len(), 0.0);
        fill(context, seed, parameter, &part, &mut values);
        weights.view_mut().rows(own).set_f32(&values);
    }
    weights
}

/// Output `index` of SplitMix64 with the state `key`: <https://doi.org/10.1145/2714064.2660195>.
fn random(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in `[-1, 1)`, on a grid that f32 holds exactly.
fn symmetric(random: u64) -> f64 {
    (random >> 40) as f64 / f64::from(1 << 23) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use streamrec_artifact::Init;

    fn parameter(name: &str, shape: &[usize]) -> Parameter {
        Parameter {
            name: name.into(),
            shape: shape.to_vec(),
            fan_in: 2,
            fan_out: 4,
            init: Init::GlorotUniform,
        }
    }

    fn values(seed: u64, name: &str, len: usize, threads: usize) -> Vec<f32> {
        let parameter = parameter(name, &[len]);
        let mut values = vec![f32::NAN; len];
        fill(
            &Context::cpu(threads, false).unwrap(),
            seed,
            &parameter,
            &Extent::whole(&parameter.shape),
            &mut values,
        );
        values
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // The first outputs for seed 1234567, from the reference implementation.
        let expected = [
            6457827717110365317,
            3203168211198807973,
            9817491932198370423,
        ];
        assert_eq!([0, 1, 2].map(|index| random(1234567, index)), expected);
    }

    #[test]
    fn values_depend_on_seed_name_and_position_alone() {
        let all = values(1, "a.weight", 40_000, 2);
        assert_eq!(all[..100], values(1, "a.weight", 100, 1));
        assert_ne!(all[..100], values(2, "a.weight", 100, 1));
        assert_ne!(all[..100], values(1, "b.weight", 100, 1));
    }

    #[test]
    fn a_part_has_the_values_of_the_whole() {
        let (rows, columns) = (301, 64);
        let parameter = parameter("a.weight", &[rows, columns]);
        let context = Context::cpu(2, false).unwrap();
        let part = |extent: &Extent| {
            let mut values = vec![f32::NAN; extent.len()];
            fill(&context, 1, &parameter, extent, &mut values);
            values
        };
        let whole = Extent::whole(&parameter.shape);
        let all = part(&whole);
        assert_eq!(part(&whole.clone().row_part(1, 2)), all[150 * columns..]);
        let own = part(&whole.column_part(2, 4));
        let expected = all.chunks(columns).flat_map(|row| &row[32..48]).copied();
        assert_eq!(own, expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_table_in_half_precision_begins_with_the_values_of_float32_rounded() {
        let (rows, columns) = (5 * ROUNDED_AT_ONCE / 2048, 1024);
        let parameter = parameter("embedding.a", &[rows, columns]);
        let context = Context::cpu(2, false).unwrap();
        let extent = Extent::whole(&parameter.shape).row_part(1, 2);
        let of = |dtype| table(&context, 3, &parameter, &extent, dtype);
        let mut expected = Tensor::zeros(&context, DType::Bf16, &extent.local_shape());
        expected.view_mut().set_f32(of(DType::F32).f32());
        assert!(of(DType::Bf16).view().bytes() == expected.view().bytes());
    }

    #[test]
    fn values_are_uniform_in_the_bound() {
        let values = values(1, "a.weight", 40_000, 1);
        assert!(values.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / 40_000.0;
        let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 40_000.0;
        assert!(mean.abs() < 0.01, "{mean}");
        assert!((square - 1.0 / 3.0).abs() < 0.01, "{square}");
    }
}
