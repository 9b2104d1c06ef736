use streamrec_kernels::cuda::embedding_bag::{Bags, Forward, Lookup, forward};
use streamrec_kernels::cuda::{Address, Matrix};
use streamrec_kernels::embedding_bag::{self, Pooling};
use streamrec_kernels::{Context, DType, TensorMut, TensorRef};

use crate::device::{Device, SEEDS};
use crate::values::{Random, assert_close, epsilon, narrow};

/// Ids of a batch in host memory.
#[derive(Clone)]
pub struct HostBags {
    pub ids: Vec<i64>,
    pub offsets: Vec<i64>,
    pub weights: Option<Vec<f32>>,
    pub batch: usize,
    pub features: usize,
}

impl HostBags {
    /// Bags of 0 to `hotness` ids; `rows[feature]` is the size of its table.
    pub fn random(
        random: &mut Random,
        batch: usize,
        rows: &[usize],
        hotness: usize,
        weighted: bool,
    ) -> Self {
        let (mut ids, mut offsets) = (vec![], vec![0]);
        for &rows in rows {
            for _ in 0..batch {
                for _ in 0..random.below(hotness + 1) {
                    ids.push(random.below(rows) as i64);
                }
                offsets.push(ids.len() as i64);
            }
        }
        Self {
            weights: weighted.then(|| random.floats(ids.len())),
            ids,
            offsets,
            batch,
            features: rows.len(),
        }
    }

    pub fn view(&self) -> embedding_bag::Bags<'_> {
        embedding_bag::Bags {
            ids: &self.ids,
            offsets: &self.offsets,
            weights: self.weights.as_deref(),
            batch: self.batch,
            features: self.features,
        }
    }

    pub fn upload(&self, device: &mut Device) -> Bags {
        Bags {
            ids: device.upload("ids", &self.ids),
            offsets: device.upload("offsets", &self.offsets),
            weights: match &self.weights {
                Some(weights) => device.upload("weights", weights),
                None => Address::NULL,
            },
            batch: self.batch,
            features: self.features,
        }
    }
}

/// A table in host memory and on the device.
struct Table {
    values: Vec<f32>,
    matrix: Matrix,
}

/// One lookup a table, each pooled behind the other with a gap of `gap` columns.
pub fn check(
    dims: &[usize],
    types: (DType, DType),
    hotness: usize,
    weighted: bool,
    pad: usize,
    seed: u64,
) {
    let (table_type, out_type) = types;
    let mut random = Random(seed ^ dims[0] as u64);
    let rows: Vec<usize> = (0..dims.len()).map(|table| 3 + 5 * table).collect();
    let bags = HostBags::random(&mut random, 19, &rows, hotness, weighted);
    let mut device = Device::new(seed);
    let tables: Vec<Table> = (rows.iter().zip(dims))
        .map(|(&rows, &dim)| {
            let values = random.floats_of(rows * dim, table_type);
            let matrix = device.matrix("table", &values, table_type, [rows, dim], dim + pad);
            Table { values, matrix }
        })
        .collect();
    let (mut lookups, mut column) = (vec![], pad);
    for (feature, table) in tables.iter().enumerate() {
        lookups.push(lookup(&table.matrix, feature, column));
        column += dims[feature];
    }
    let out = vec![f32::NAN; bags.batch * column];
    let out = device.matrix("out", &out, out_type, [bags.batch, column], column + pad);
    let operands = Forward {
        bags: bags.upload(&mut device),
        lookups: &lookups,
        lookups_on_device: device.upload("lookups", &lookups),
        table: table_type,
        out,
        first_bad: device.upload("first_bad", &[u64::MAX]),
    };
    device.run([forward(&operands).unwrap()]);
    assert_eq!(device.download::<u64>(operands.first_bad), [u64::MAX]);

    let mut expected = vec![f32::NAN; bags.batch * column];
    let host: Vec<_> = (lookups.iter().zip(&tables))
        .map(|(lookup, table)| embedding_bag::Lookup {
            feature: lookup.feature as usize,
            table: TensorRef::from_f32(&table.values, &table.matrix.shape),
            pooling: if lookup.mean == 1 {
                Pooling::Mean
            } else {
                Pooling::Sum
            },
            column: lookup.column as usize,
        })
        .collect();
    let context = Context::cpu(1, false).unwrap();
    let view = TensorMut::from_f32(&mut expected, &[bags.batch, column]);
    embedding_bag::forward(&context, &bags.view(), &host, view).unwrap();
    let got = device.elements(&out);
    for (got, expected) in got.chunks(column).zip(expected.chunks(column)) {
        assert!(
            got[..pad].iter().all(|x| x.is_nan()),
            "columns of no lookup were written"
        );
        assert_close("pooled", &got[pad..], &expected[pad..], epsilon(out_type));
    }
}

fn lookup(table: &Matrix, feature: usize, column: usize) -> Lookup {
    Lookup {
        table: table.address.0,
        rows: table.shape[0] as i64,
        row_stride: table.row_stride as i64,
        dim: table.shape[1] as u32,
        feature: feature as u32,
        column: column as u32,
        mean: feature as u32 % 2,
    }
}

pub const TYPES: [(DType, DType); 9] = [
    (DType::F32, DType::F32),
    (DType::F32, DType::Bf16),
    (DType::F32, DType::F16),
    (DType::Bf16, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::Bf16, DType::F16),
    (DType::F16, DType::F32),
    (DType::F16, DType::Bf16),
    (DType::F16, DType::F16),
];

#[test]
fn pooled_vectors_are_the_cpus() {
    for types in TYPES {
        check(&[16, 16], types, 3, false, 0, 0);
        check(&[128, 4, 64], types, 1, false, 0, 1);
        check(&[5, 33, 1], types, 9, true, 0, 2);
        check(&[256, 130], types, 2, true, 3, 3);
    }
}

#[test]
fn every_order_of_threads_gives_the_same_bits() {
    let run = |seed| {
        let mut random = Random(9);
        let bags = HostBags::random(&mut random, 40, &[11], 6, true);
        let values = random.floats(11 * 24);
        let mut device = Device::new(seed);
        let table = device.matrix("table", &values, DType::F32, [11, 24], 24);
        let lookups = [lookup(&table, 0, 0)];
        let out = device.empty("out", 40 * 24 * 4);
        let out = Matrix::new(out, DType::F32, [40, 24]);
        let operands = Forward {
            bags: bags.upload(&mut device),
            lookups: &lookups,
            lookups_on_device: device.upload("lookups", &lookups),
            table: DType::F32,
            out,
            first_bad: device.upload("first_bad", &[u64::MAX]),
        };
        device.run([forward(&operands).unwrap()]);
        device.elements(&out)
    };
    let first = run(SEEDS[0]);
    assert!(SEEDS.iter().all(|&seed| run(seed) == first));
}

#[test]
fn an_id_outside_its_table_is_told_and_counts_as_zeros() {
    let mut device = Device::new(0);
    let table = device.matrix("table", &[1.0; 12], DType::F32, [3, 4], 4);
    let bags = HostBags {
        ids: vec![2, 3, -1, 0],
        offsets: vec![0, 2, 3, 4],
        weights: None,
        batch: 3,
        features: 1,
    };
    let lookups = [lookup(&table, 0, 0)];
    let out = device.empty("out", 3 * 4 * 4);
    let out = Matrix::new(out, DType::F32, [3, 4]);
    let operands = Forward {
        bags: bags.upload(&mut device),
        lookups: &lookups,
        lookups_on_device: device.upload("lookups", &lookups),
        table: DType::F32,
        out,
        first_bad: device.upload("first_bad", &[u64::MAX]),
    };
    device.run([forward(&operands).unwrap()]);
    assert_eq!(device.download::<u64>(operands.first_bad), [1]);
    let expected = [[1.0; 4], [0.0; 4], [1.0; 4]];
    assert_eq!(device.elements(&out), expected.as_flattened());
}

/// A table of 2^32 + 2^20 elements, of which the emulation has the last row only: an offset that wraps around in 32 bits
/// ends in memory that nobody may touch, or on a GPU in zeros.
fn check_last_row(types: (DType, DType)) {
    let (table_type, out_type) = types;
    let (dim, rows) = (128usize, (1usize << 25) + (1 << 13));
    // Numbers that every type holds.
    let row: Vec<f32> = (1..=dim).map(|x| x as f32).collect();
    let mut device = Device::large(0);
    let bytes = rows * dim * table_type.bytes();
    let table = device.ending("table", bytes, &narrow(&row, table_type));
    let bags = HostBags {
        ids: vec![rows as i64 - 1],
        offsets: vec![0, 1],
        weights: None,
        batch: 1,
        features: 1,
    };
    let matrix = Matrix::new(table, table_type, [rows, dim]);
    let lookups = [lookup(&matrix, 0, 0)];
    let out = device.empty("out", dim * out_type.bytes());
    let out = Matrix::new(out, out_type, [1, dim]);
    let operands = Forward {
        bags: bags.upload(&mut device),
        lookups: &lookups,
        lookups_on_device: device.upload("lookups", &lookups),
        table: table_type,
        out,
        first_bad: device.upload("first_bad", &[u64::MAX]),
    };
    device.run([forward(&operands).unwrap()]);
    assert_eq!(device.elements(&out), row, "{types:?}");
}

#[test]
fn the_last_row_of_a_table_of_more_than_2_32_elements_is_found_whatever_its_type() {
    TYPES.into_iter().for_each(check_last_row);
}
