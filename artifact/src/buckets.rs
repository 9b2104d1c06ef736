//! Rows by intervals, over whole columns and without a jump.

use crate::vector_unit::{self, ColumnLoop};

/// How many values are held at a time: they and their counts fit the registers of every unit with vectors.
const BLOCK: usize = 32;
/// Up to so many edges all are compared with every value; among more, values are searched for.
const COMPARED_MAX: usize = 32;

/// Row 0 for a value that is not finite, else 1 and how many edges are not above it.
#[derive(Debug, Clone)]
pub(crate) struct Buckets {
    /// Strictly ascending and finite; where they are searched, NaN follows up to one less than a power of two.
    edges: Vec<f32>,
    searched: bool,
}

impl Buckets {
    /// Intervals between finite, strictly ascending `edges`.
    pub(crate) fn new(mut edges: Vec<f32>) -> Self {
        let searched = edges.len() > COMPARED_MAX;
        if searched {
            // No value is above NaN.
            edges.resize((edges.len() + 1).next_power_of_two() - 1, f32::NAN);
        }
        Self { edges, searched }
    }

    /// Writes the row of each value.
    ///
    /// # Panics
    /// If there are not as many rows as values.
    pub(crate) fn rows(&self, values: &[f32], to: &mut [i64]) {
        vector_unit::run(self.fill(values, to));
    }

    fn fill<'a>(&'a self, values: &'a [f32], to: &'a mut [i64]) -> Fill<'a> {
        assert_eq!(values.len(), to.len(), "one row a value");
        let buckets = self;
        Fill {
            buckets,
            values,
            to,
        }
    }
}

struct Fill<'a> {
    buckets: &'a Buckets,
    values: &'a [f32],
    to: &'a mut [i64],
}

impl ColumnLoop for Fill<'_> {
    #[inline(always)]
    fn run(self, _: bool) {
        let edges = &self.buckets.edges[..];
        for (values, rows) in self.values.chunks(BLOCK).zip(self.to.chunks_mut(BLOCK)) {
            let mut block = [0.0f32; BLOCK];
            block[..values.len()].copy_from_slice(values);
            let counts = if self.buckets.searched {
                search(edges, &block)
            } else {
                compare(edges, &block)
            };
            for ((row, &count), &value) in rows.iter_mut().zip(&counts).zip(values) {
                *row = if value.is_finite() {
                    1 + i64::from(count)
                } else {
                    0
                };
            }
        }
    }
}

/// How many edges are not above each value, edge by edge.
#[inline(always)]
fn compare(edges: &[f32], values: &[f32; BLOCK]) -> [u32; BLOCK] {
    let mut counts = [0u32; BLOCK];
    for &edge in edges {
        for (count, &value) in counts.iter_mut().zip(values) {
            *count = count.wrapping_add(u32::from(edge <= value));
        }
    }
    counts
}

/// The same by halving, all values one step at a time.
#[inline(always)]
fn search(edges: &[f32], values: &[f32; BLOCK]) -> [u32; BLOCK] {
    let mut counts = [0u32; BLOCK];
    let mut step = edges.len().div_ceil(2);
    while step > 0 {
        for (count, &value) in counts.iter_mut().zip(values) {
            let above = *count as usize + step;
            let taken = edges[above - 1] <= value;
            *count = if taken { above as u32 } else { *count };
        }
        step /= 2;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the rows of artifacts in the field are.
    fn by_partition(edges: &[f32], value: f32) -> i64 {
        if value.is_finite() {
            1 + edges.partition_point(|&edge| edge <= value) as i64
        } else {
            0
        }
    }

    fn check(edges: &[f32], values: &[f32]) {
        let expected: Vec<i64> = values
            .iter()
            .map(|&value| by_partition(edges, value))
            .collect();
        let buckets = Buckets::new(edges.to_vec());
        for unit in ["baseline", "avx2", "avx512"] {
            let mut rows = vec![-1; values.len()];
            vector_unit::run_on(unit, buckets.fill(values, &mut rows));
            assert_eq!(rows, expected, "{} edges, {unit}", edges.len());
        }
    }

    proptest! {
        #[test]
        fn rows_are_those_of_a_partition(
            mut edges in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO | prop::num::f32::SUBNORMAL, 0..300),
            mut values in prop::collection::vec(prop::num::f32::ANY, 0..100),
        ) {
            edges.sort_by(f32::total_cmp);
            edges.dedup_by(|a, b| a == b);
            // On the edges and next to them.
            values.extend(edges.iter().flat_map(|&edge| [edge.next_down(), edge, edge.next_up()]));
            values.extend([0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
            check(&edges, &values);
        }
    }

    #[test]
    fn every_number_of_edges_has_its_intervals() {
        for count in 0..300u16 {
            let edges: Vec<f32> = (0..count).map(f32::from).collect();
            let values: Vec<f32> = (0..=2 * count)
                .map(|half| f32::from(half) / 2.0 - 0.5)
                .collect();
            check(&edges, &values);
        }
    }
}
