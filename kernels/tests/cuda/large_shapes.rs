//! Shapes that no emulation gets through: on a GPU the large ones, under emulation small ones of the same kind.

use streamrec_kernels::cuda::embedding_bag::{Forward, Lookup, forward};
use streamrec_kernels::cuda::sparse_optimizer::UpdateRows;
use streamrec_kernels::cuda::whole_rows::{Columns, pack, row_products};
use streamrec_kernels::cuda::{Address, Matrix};
use streamrec_kernels::embedding_bag::{self, Pooling};
use streamrec_kernels::sparse_optimizer::SparseRule;
use streamrec_kernels::{Context, DType, TensorMut, TensorRef};

use crate::device::asks_for_a_gpu;
use crate::on_device::{Case, OnDevice};
use crate::sparse_optimizer::{ADAGRAD, ADAM, ROW_WISE, SGD};
use crate::values::FLOATS;

/// Samples, and tables, rows and columns: those of a large DLRM on a GPU.
fn shape() -> (usize, [usize; 3]) {
    match asks_for_a_gpu() {
        true => (65_536, [26, 20_000, 128]),
        false => (1300, [3, 70, 128]),
    }
}

const TYPES: [(DType, DType); 3] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F32),
];

#[test]
fn lookups_of_a_large_batch_are_the_cpus() {
    let (batch, tables) = shape();
    for types in TYPES {
        let case = Case::of_tables(batch, tables, types);
        let mut on = case.upload(&ROW_WISE, 0);
        let lookup = |feature: usize| Lookup {
            table: on.matrices[feature].address.0,
            rows: tables[1] as i64,
            row_stride: tables[2] as i64,
            dim: tables[2] as u32,
            feature: feature as u32,
            column: case.sources[feature].column,
            mean: 0,
        };
        let lookups: Vec<Lookup> = (0..tables[0]).map(lookup).collect();
        let out = on.device.empty("out", 4 * batch * case.columns);
        let out = Matrix::new(out, DType::F32, [batch, case.columns]);
        let operands = Forward {
            bags: case.bags.upload(&mut on.device),
            lookups: &lookups,
            lookups_on_device: on.device.upload("lookups", &lookups),
            table: case.weights,
            out,
            first_bad: on.device.upload("first_bad", &[u64::MAX]),
        };
        on.device.run([forward(&operands).unwrap()]);
        let host: Vec<_> = (case.tables.iter().enumerate())
            .map(|(feature, values)| embedding_bag::Lookup {
                feature,
                table: TensorRef::from_f32(values, &tables[1..]),
                pooling: Pooling::Sum,
                column: feature * tables[2],
            })
            .collect();
        let mut expected = vec![0.0; batch * case.columns];
        let view = TensorMut::from_f32(&mut expected, &[batch, case.columns]);
        let context = Context::cpu(1, false).unwrap();
        embedding_bag::forward(&context, &case.bags.view(), &host, view).unwrap();
        // One row a bag: nothing is rounded.
        assert!(on.device.elements(&out) == expected, "{types:?}");
    }
}

#[test]
fn updates_of_a_large_batch_are_the_cpus() {
    let (batch, tables) = shape();
    for types in TYPES {
        let case = Case::of_tables(batch, tables, types);
        case.check(&ROW_WISE, &case.fused(&ROW_WISE, 0));
        let (on, overflow) = case.in_two_phases(&ROW_WISE, 1);
        assert_eq!(overflow, 0);
        case.check(&ROW_WISE, &on);
    }
}

/// Elements before those that a table holds: more than 32 bits count.
const BEFORE: usize = (1 << 25) + (1 << 13) + 3;
const BEFORE_WIDE: usize = (1 << 23) + (1 << 11) + 3;

/// Weights and states of up to 2^32 elements and more lie before the rows that are updated: an offset that wraps around in
/// 31 or 32 bits ends in memory that nobody may touch, or on a GPU changes other rows.
#[test]
fn rows_behind_2_32_elements_are_updated_as_the_first_ones() {
    for (rule, types) in [
        (ROW_WISE, (DType::F32, DType::F32)),
        (ADAGRAD, (DType::F16, DType::F16)),
        (ADAM, (DType::Bf16, DType::F32)),
        (SGD, (DType::Bf16, DType::Bf16)),
        (ROW_WISE, (DType::F16, DType::F32)),
    ] {
        // Also where one row is in every bag, which is summed over many tiles.
        for first in [
            Case::random([128, 4], types),
            Case::hot([128, 4], types, 1300),
        ] {
            let behind = first.behind(BEFORE);
            first.check(&rule, &behind.fused(&rule, 0));
            let (on, _) = behind.in_two_phases(&rule, 1);
            first.check(&rule, &on);
        }
    }
    // Longer rows take other kernels.
    for (rule, types) in [
        (ADAM, (DType::F32, DType::F32)),
        (SGD, (DType::F32, DType::Bf16)),
        (SGD, (DType::F16, DType::F16)),
    ] {
        let first = Case::random([516, 4], types);
        let behind = first.behind(BEFORE_WIDE);
        let (on, _) = behind.in_two_phases(&rule, 1);
        first.check(&rule, &on);
    }
}

/// What ranks exchange of rows, of each of which the device has some columns: products, and packed columns.
fn exchanged(case: &Case, rule: &SparseRule) -> (Vec<f64>, Vec<f32>) {
    let mut told = (vec![], vec![]);
    case.apart(rule, 1, |on: &mut OnDevice, rows: UpdateRows<'_>| {
        let width = case.dim_max();
        let products = on.device.empty("products", 24 * on.capacity);
        let own = vec![f32::NAN; on.capacity * 2 * width];
        let columns = Columns {
            ranks: 2,
            width,
            own: on.device.upload("own", &own),
            all: Address::NULL,
        };
        let launches = [
            row_products(&UpdateRows { products, ..rows }).unwrap(),
            pack(&rows, &columns).unwrap(),
        ];
        on.device.run(launches);
        told = (
            on.device.download(products),
            on.device.download(columns.own),
        );
        Address::NULL
    });
    told
}

#[test]
fn what_ranks_exchange_of_rows_behind_2_32_elements_is_that_of_the_first_ones() {
    let shapes = [([128, 4], BEFORE), ([516, 4], BEFORE_WIDE)];
    for ((dims, before), weights) in shapes.into_iter().flat_map(|of| FLOATS.map(|w| (of, w))) {
        let first = Case::random(dims, (DType::F32, weights));
        let (products, packed) = exchanged(&first, &ROW_WISE);
        let (products_behind, packed_behind) = exchanged(&first.behind(before), &ROW_WISE);
        assert!(products.iter().any(|&x| x > 0.0));
        assert_eq!(products, products_behind);
        assert_eq!(known(&packed), known(&packed_behind));
    }
}

/// Numbers, with one that says that nothing was written.
fn known(values: &[f32]) -> Vec<f32> {
    values
        .iter()
        .map(|x| if x.is_nan() { 1e9 } else { *x })
        .collect()
}
