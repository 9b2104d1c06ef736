use candle_core::Tensor;
use proptest::prelude::*;
use streamrec_kernels::{
    Context, Error, TensorMut, TensorRef,
    embedding_bag::{
        BagSource, Bags, GroupedTable, Groups, Lookup, Pooling, RowGradients, RowGradientsRef,
        forward, merge, segment_sum,
    },
};

use crate::oracle::{Operation, Random, Strided, assert_close, context};

/// Owned bags, some empty, with repeated ids.
pub struct Batch {
    pub ids: Vec<i64>,
    pub offsets: Vec<i64>,
    pub weights: Option<Vec<f32>>,
    pub batch: usize,
    pub features: usize,
}

impl Batch {
    pub fn random(
        random: &mut Random,
        batch: usize,
        features: usize,
        rows: usize,
        longest: usize,
        weighted: bool,
    ) -> Self {
        let (mut ids, mut offsets) = (vec![], vec![0]);
        for _ in 0..features * batch {
            for _ in 0..random.below(longest + 1) {
                ids.push(random.below(rows) as i64);
            }
            offsets.push(ids.len() as i64);
        }
        let weights = weighted.then(|| random.floats(ids.len()));
        Self {
            ids,
            offsets,
            weights,
            batch,
            features,
        }
    }

    pub fn bags(&self) -> Bags<'_> {
        Bags {
            ids: &self.ids,
            offsets: &self.offsets,
            weights: self.weights.as_deref(),
            batch: self.batch,
            features: self.features,
        }
    }

    /// (sample, id, factor in the pooled vector) of each lookup of a feature.
    pub fn lookups(&self, feature: usize, pooling: Pooling) -> Vec<(usize, usize, f64)> {
        let mut lookups = vec![];
        for sample in 0..self.batch {
            let bag = feature * self.batch + sample;
            let range = self.offsets[bag] as usize..self.offsets[bag + 1] as usize;
            let len = range.len() as f64;
            for position in range {
                let weight = self
                    .weights
                    .as_ref()
                    .map_or(1.0, |w| f64::from(w[position]));
                let factor = if pooling == Pooling::Mean {
                    weight / len
                } else {
                    weight
                };
                lookups.push((sample, self.ids[position] as usize, factor));
            }
        }
        lookups
    }
}

/// Two features share a table of `rows` rows; the output has a column to spare on each side.
fn check(batch: usize, rows: usize, dim: usize, longest: usize, pooling: Pooling, weighted: bool) {
    let context = context();
    let mut random = Random(47);
    let data = Batch::random(&mut random, batch, 2, rows, longest, weighted);
    let table = random.floats(rows * dim);
    let columns = 2 * dim + 2;
    let dy = random.floats(batch * columns);
    let tables = Strided::new(&table, [rows, dim]);
    let lookup = |feature: usize| Lookup {
        feature,
        table: tables.view(),
        pooling,
        column: 1 + feature * dim,
    };
    let mut y = Strided::zeros([batch, columns]);
    forward(
        &context,
        &data.bags(),
        &[lookup(0), lookup(1)],
        y.view_mut(),
    )
    .unwrap();

    let mut groups = Groups::default();
    groups.build(&context, &data.bags(), &[0, 1], rows).unwrap();
    let source = |feature: usize| BagSource {
        feature,
        pooling,
        column: 1 + feature * dim,
    };
    let (mut gradients, dys) = (RowGradients::default(), Strided::new(&dy, [batch, columns]));
    let sources = [source(0), source(1)];
    segment_sum(&context, &groups, dim, &sources, dys.view(), &mut gradients).unwrap();
    let mut dense = vec![0.0; rows * dim];
    for (index, &id) in gradients.ids.iter().enumerate() {
        dense[id as usize * dim..][..dim].copy_from_slice(&gradients.rows[index * dim..][..dim]);
    }

    // The pooling of each feature as a matrix [batch, rows].
    let pooling_matrix = |feature: usize| {
        let mut matrix = vec![0.0; batch * rows];
        for (sample, id, factor) in data.lookups(feature, pooling) {
            matrix[sample * rows + id] += factor;
        }
        matrix
    };
    let matrices = [pooling_matrix(0), pooling_matrix(1)];
    Operation {
        inputs: &[(&table, [rows, dim])],
        reference: &|operands| {
            let mut y = vec![0.0; batch * columns];
            for feature in 0..2 {
                for (sample, id, factor) in data.lookups(feature, pooling) {
                    for d in 0..dim {
                        y[sample * columns + 1 + feature * dim + d] +=
                            factor * operands[0][id * dim + d];
                    }
                }
            }
            y
        },
        candle: &|operands| {
            let device = operands[0].device();
            let spare = Tensor::zeros((batch, 1), candle_core::DType::F64, device)?;
            let pooled = |matrix: &Vec<f64>| {
                Tensor::from_slice(matrix, (batch, rows), device)?.matmul(&operands[0])
            };
            Tensor::cat(
                &[
                    &spare,
                    &pooled(&matrices[0])?,
                    &pooled(&matrices[1])?,
                    &spare,
                ],
                1,
            )
        },
    }
    .check(&y.elements(), &dy, &[&dense]);
}

#[test]
fn pooled_lookups_and_row_gradients_match_float64_and_candle() {
    for pooling in [Pooling::Sum, Pooling::Mean] {
        for weighted in [false, true] {
            check(1, 1, 1, 1, pooling, weighted);
            check(3, 7, 17, 4, pooling, weighted);
            check(17, 3, 64, 2, pooling, weighted);
            check(300, 50, 3, 3, pooling, weighted);
            check(2, 40, 100, 30, pooling, weighted);
        }
    }
}

#[test]
fn an_empty_bag_gives_zeros() {
    let table = [1.0, 2.0];
    let mut out = [9.0; 2];
    for pooling in [Pooling::Sum, Pooling::Mean] {
        let bags = Bags {
            ids: &[],
            offsets: &[0, 0],
            weights: None,
            batch: 1,
            features: 1,
        };
        let table = TensorRef::from_f32(&table, &[1, 2]);
        let lookup = Lookup {
            feature: 0,
            table,
            pooling,
            column: 0,
        };
        forward(
            &context(),
            &bags,
            &[lookup],
            TensorMut::from_f32(&mut out, &[1, 2]),
        )
        .unwrap();
        assert_eq!(out, [0.0; 2]);
    }
}

#[test]
fn an_id_outside_its_table_is_named() {
    let table = [0.0; 6];
    for (ids, id, position) in [([0, 1, 3], 3, 2), ([0, -1, 2], -1, 1)] {
        let bags = Bags {
            ids: &ids,
            offsets: &[0, 1, 3],
            weights: None,
            batch: 1,
            features: 2,
        };
        let table = TensorRef::from_f32(&table, &[3, 2]);
        let lookup = |feature| Lookup {
            feature,
            table,
            pooling: Pooling::Sum,
            column: 0,
        };
        let mut out = [9.0; 2];
        let view = TensorMut::from_f32(&mut out, &[1, 2]);
        let error = forward(&context(), &bags, &[lookup(0), lookup(1)], view).unwrap_err();
        let mut groups = Groups::default();
        let again = groups.build(&context(), &bags, &[0, 1], 3).unwrap_err();
        for error in [error, again] {
            match error {
                Error::IdOutOfRange {
                    feature: 1,
                    position: p,
                    id: i,
                    rows: 3,
                    ..
                } => {
                    assert_eq!((i, p), (id, position));
                }
                other => panic!("{other}"),
            }
        }
        assert_eq!(out, [9.0; 2], "nothing is computed");
    }
}

#[test]
fn malformed_offsets_are_refused() {
    for offsets in [&[0, 2][..], &[-1, 1, 2], &[0, 2, 1], &[0, 1, 3]] {
        let bags = Bags {
            ids: &[0, 0],
            offsets,
            weights: None,
            batch: 2,
            features: 1,
        };
        let good = Bags {
            offsets: &[0, 1, 2],
            ..bags
        };
        let mut groups = Groups::default();
        groups.build(&context(), &good, &[0], 1).unwrap();
        groups.build(&context(), &bags, &[0], 1).unwrap_err();
        assert!(groups.ids().is_empty() && groups.lookups() == 0);
    }
}

#[test]
fn a_batch_without_ids_touches_no_row() {
    let bags = Bags {
        ids: &[],
        offsets: &[0, 0, 0],
        weights: None,
        batch: 2,
        features: 1,
    };
    let mut groups = Groups::default();
    groups.build(&context(), &bags, &[0], 5).unwrap();
    let mut gradients = RowGradients {
        ids: vec![3],
        rows: vec![1.0],
    };
    let dout = TensorRef::from_f32(&[1.0, 2.0], &[2, 1]);
    let source = BagSource {
        feature: 0,
        pooling: Pooling::Sum,
        column: 0,
    };
    segment_sum(&context(), &groups, 1, &[source], dout, &mut gradients).unwrap();
    assert_eq!(gradients, RowGradients::default());
}

#[test]
fn building_all_tables_equals_building_each() {
    let context = context();
    let mut random = Random(53);
    let data = Batch::random(&mut random, 200, 3, 40, 3, true);
    let tables: [(&[usize], usize); 2] = [(&[1], 40), (&[2, 0], 50)];
    let grouped = tables.map(|(features, rows)| GroupedTable { features, rows });
    let mut all = [Groups::default(), Groups::default()];
    Groups::build_all(&context, &data.bags(), &grouped, &mut all).unwrap();
    for (groups, (features, rows)) in all.iter().zip(tables) {
        let mut single = Groups::default();
        single
            .build(&context, &data.bags(), features, rows)
            .unwrap();
        assert_eq!(format!("{groups:?}"), format!("{single:?}"));
    }
}

#[test]
fn sources_of_another_feature_are_refused() {
    let context = context();
    let data = Batch::random(&mut Random(1), 4, 2, 5, 2, false);
    let mut groups = Groups::default();
    groups.build(&context, &data.bags(), &[1], 5).unwrap();
    let source = BagSource {
        feature: 0,
        pooling: Pooling::Sum,
        column: 0,
    };
    let dout = TensorRef::from_f32(&[0.0; 8], &[4, 2]);
    segment_sum(
        &context,
        &groups,
        2,
        &[source],
        dout,
        &mut RowGradients::default(),
    )
    .unwrap_err();
}

fn reference_merge(parts: &[RowGradients], dim: usize) -> RowGradients {
    let mut rows = std::collections::BTreeMap::<i64, Vec<f32>>::new();
    for part in parts {
        for (index, id) in part.ids.iter().enumerate() {
            let row = &part.rows[index * dim..][..dim];
            rows.entry(*id)
                .and_modify(|sum| sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x))
                .or_insert_with(|| row.to_vec());
        }
    }
    RowGradients {
        ids: rows.keys().copied().collect(),
        rows: rows.into_values().flatten().collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_adds_rows_in_rank_order(
        ids in prop::collection::vec(prop::collection::btree_set(0i64..60, 0..40), 0..6),
        dim in 1usize..20,
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        let parts: Vec<RowGradients> = ids
            .into_iter()
            .map(|ids| RowGradients { rows: random.floats(ids.len() * dim), ids: ids.into_iter().collect() })
            .collect();
        let views: Vec<RowGradientsRef<'_>> = parts.iter().map(RowGradients::view).collect();
        let mut merged = RowGradients { ids: vec![9; 3], rows: vec![7.0; 100] };
        merge(&context(), &views, dim, &mut merged).unwrap();
        prop_assert_eq!(merged, reference_merge(&parts, dim));
    }

    #[test]
    fn groups_hold_every_lookup_once_in_batch_order(
        seed in any::<u64>(),
        batch in 1usize..40,
        features in 1usize..4,
        rows in 1usize..500,
        longest in 0usize..6,
    ) {
        let context = Context::cpu(1, false).unwrap();
        let mut random = Random(seed);
        let data = Batch::random(&mut random, batch, features, rows, longest, false);
        let all: Vec<usize> = (0..features).collect();
        let mut groups = Groups::default();
        groups.build(&context, &data.bags(), &all, rows).unwrap();
        prop_assert!(groups.ids().windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert_eq!(groups.lookups(), data.ids.len());
        // Powers of ten apart, the float sum of two gradients depends on their order: equality
        // with the sequential sum shows the order too.
        let dout: Vec<f32> = (0..batch * features)
            .map(|_| random.float() * 10f32.powi(random.below(8) as i32))
            .collect();
        let mut expected = std::collections::BTreeMap::<i64, f32>::new();
        for feature in 0..features {
            for (sample, id, _) in data.lookups(feature, Pooling::Sum) {
                *expected.entry(id as i64).or_insert(0.0) += dout[sample * features + feature];
            }
        }
        let sources: Vec<BagSource> = all
            .iter()
            .map(|&feature| BagSource { feature, pooling: Pooling::Sum, column: feature })
            .collect();
        let view = TensorRef::from_f32(&dout, &[batch, features]);
        let mut gradients = RowGradients::default();
        segment_sum(&context, &groups, 1, &sources, view, &mut gradients).unwrap();
        prop_assert_eq!(gradients.ids, expected.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(gradients.rows, expected.into_values().collect::<Vec<_>>());
    }
}

#[test]
fn merging_unsorted_ids_is_refused() {
    for ids in [[2, 1], [1, 1], [-1, 1]] {
        let part = RowGradientsRef {
            ids: &ids,
            rows: &[0.0; 2],
        };
        merge(&context(), &[part], 1, &mut RowGradients::default()).unwrap_err();
    }
}

#[test]
fn merged_halves_equal_the_whole_batch() {
    let context = context();
    let mut random = Random(59);
    let (batch, rows, dim) = (64, 20, 5);
    let data = Batch::random(&mut random, batch, 1, rows, 3, false);
    let dout = random.floats(batch * dim);
    let sum = |samples: std::ops::Range<usize>| {
        let bags = Bags {
            ids: &data.ids,
            offsets: &data.offsets[samples.start..=samples.end],
            weights: None,
            batch: samples.len(),
            features: 1,
        };
        let mut groups = Groups::default();
        groups.build(&context, &bags, &[0], rows).unwrap();
        let dout = TensorRef::from_f32(&dout, &[batch, dim]).rows(samples);
        let mut gradients = RowGradients::default();
        let source = BagSource {
            feature: 0,
            pooling: Pooling::Sum,
            column: 0,
        };
        segment_sum(&context, &groups, dim, &[source], dout, &mut gradients).unwrap();
        gradients
    };
    let (whole, halves) = (sum(0..batch), [sum(0..batch / 2), sum(batch / 2..batch)]);
    let mut merged = RowGradients::default();
    merge(
        &context,
        &[halves[0].view(), halves[1].view()],
        dim,
        &mut merged,
    )
    .unwrap();
    assert_eq!(whole.ids, merged.ids);
    let expected: Vec<f64> = whole.rows.iter().map(|&x| f64::from(x)).collect();
    assert_close("rows", &merged.rows, &expected);
}
