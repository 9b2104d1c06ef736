use std::ops::Range;

use streamrec_kernels::DType;
use streamrec_kernels::cuda::Address;
use streamrec_kernels::cuda::sparse_optimizer::{UpdateRows, fuses, sum, update};
use streamrec_kernels::cuda::whole_rows::{Columns, of_columns, pack, packed_width, row_products};
use streamrec_kernels::sparse_optimizer::SparseRule;

use crate::device::SEEDS;
use crate::embedding_bag::HostBags;
use crate::on_device::{Case, OnDevice};
use crate::values::{assert_close, epsilon};

pub const SGD: SparseRule = SparseRule::Sgd {
    weight_decay: 0.0,
    max_row_norm: None,
};
pub const ROW_WISE: SparseRule = SparseRule::RowWiseAdagrad {
    eps: 1e-8,
    initial_accumulator: 0.1,
    weight_decay: 0.02,
    max_row_norm: Some(0.5),
};
pub const ADAGRAD: SparseRule = SparseRule::Adagrad {
    eps: 0.0,
    initial_accumulator: 0.2,
    weight_decay: 0.0,
    max_row_norm: Some(1.0),
};
pub const ADAM: SparseRule = SparseRule::LazyAdam {
    beta1: 0.9,
    beta2: 0.99,
    eps: 1e-8,
    weight_decay: 0.01,
    max_row_norm: None,
};
const RULES: [SparseRule; 4] = [SGD, ROW_WISE, ADAGRAD, ADAM];

pub const TYPES: [(DType, DType); 5] = [
    (DType::F32, DType::F32),
    (DType::Bf16, DType::F32),
    (DType::Bf16, DType::Bf16),
    (DType::F16, DType::F32),
    (DType::F16, DType::F16),
];

#[test]
fn fused_updates_are_the_cpus() {
    for rule in RULES {
        for types in TYPES {
            for dims in [[16, 16], [128, 4], [5, 33], [1, 64]] {
                let case = Case::random(dims, types);
                case.check(&rule, &case.fused(&rule, 0));
            }
        }
    }
}

#[test]
fn one_row_in_every_bag_is_summed_over_many_tiles() {
    for types in TYPES {
        // 3 tiles: a group of lanes; 40: a block.
        for (batch, dims) in [(70, [8, 20]), (1300, [32, 4]), (1300, [128, 7])] {
            let case = Case::hot(dims, types, batch);
            case.check(&ROW_WISE, &case.fused(&ROW_WISE, 1));
        }
    }
}

#[test]
fn every_order_of_threads_gives_the_same_bits() {
    for types in [TYPES[0], TYPES[2]] {
        let case = Case::hot([20, 64], types, 1000);
        let run = |seed| {
            let on = case.fused(&ROW_WISE, seed);
            (on.tables(), on.states())
        };
        let first = run(SEEDS[0]);
        assert!(SEEDS.iter().all(|&seed| run(seed) == first));
    }
}

#[test]
fn sums_then_updates_are_the_cpus_also_for_long_rows() {
    for rule in RULES {
        for types in TYPES {
            for dims in [[12, 40], [300, 64]] {
                let case = Case::random(dims, types);
                let (on, overflow) = case.in_two_phases(&rule, 0);
                assert_eq!(overflow, 0);
                case.check(&rule, &on);
            }
        }
    }
    let case = Case::hot([1024, 1], TYPES[0], 700);
    let (on, _) = case.in_two_phases(&ROW_WISE, 2);
    case.check(&ROW_WISE, &on);
}

/// Two devices hold the columns of each row, and add up what its update needs of all of them.
pub fn check_apart(rule: &SparseRule, dims: [usize; 2], types: (DType, DType)) {
    // Sums in another order may round to the other neighbour.
    let tolerance = (2.0 * epsilon(types.1)).max(4e-6);
    let whole = Case::random(dims, types);
    let (tables, states) = whole.on_cpu(rule);
    let parts: [fn(usize) -> Range<usize>; 2] = [|dim| 0..dim / 3, |dim| dim / 3..dim];
    let cases = parts.map(|part| whole.columns(part));
    let mut sums = vec![0.0f64; 3 * (whole.bags.ids.len() + 10)];
    for case in &cases {
        case.apart(rule, 1, |on, rows| {
            let products = on.device.empty("products", 24 * on.capacity);
            let rows = UpdateRows { products, ..rows };
            on.device.run([row_products(&rows).unwrap()]);
            let own = on.device.download::<f64>(products);
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            Address::NULL
        });
    }
    let touched = sums.chunks(3).filter(|row| row[2] > 0.0).count();
    assert!(touched > 10 && sums[3 * touched..].iter().all(|&x| x == 0.0));
    for (case, part) in cases.iter().zip(parts) {
        let upload = |on: &mut OnDevice, _: UpdateRows<'_>| on.device.upload("products", &sums);
        let (on, _) = case.apart(rule, 2, upload);
        for (table, got) in on.tables().iter().enumerate() {
            let rows = tables[table].chunks(whole.shapes[table][1]);
            let expected: Vec<f32> = rows.flat_map(|row| row[part(row.len())].to_vec()).collect();
            assert_close("table", got, &expected, tolerance);
        }
        for (got, expected) in on.states().iter().zip(&states) {
            assert_close("state", got, expected, 4e-6);
        }
    }
}

pub const CLIPPED: SparseRule = SparseRule::Sgd {
    weight_decay: 0.03,
    max_row_norm: Some(0.2),
};

#[test]
fn rows_whose_columns_are_apart_are_updated_as_whole_ones() {
    for rule in [ROW_WISE, CLIPPED] {
        for (dims, types) in [
            ([12, 40], (DType::F32, DType::F32)),
            ([300, 6], (DType::F16, DType::F32)),
            ([12, 40], (DType::Bf16, DType::Bf16)),
            ([300, 6], (DType::F32, DType::Bf16)),
            ([12, 40], (DType::F32, DType::F16)),
            ([300, 6], (DType::F16, DType::F16)),
        ] {
            check_apart(&rule, dims, types);
        }
    }
}

/// Devices hold the columns of each row, and bring them together: their updates are those of one device, to the bit.
pub fn check_together(rule: &SparseRule, ranks: usize, dims: [usize; 2], types: (DType, DType)) {
    let whole = Case::random(dims, types);
    let (one, _) = whole.in_two_phases(rule, 0);
    let part = |rank: usize| move |dim: usize| rank * dim / ranks..(rank + 1) * dim / ranks;
    let cases: Vec<Case> = (0..ranks).map(|rank| whole.columns(part(rank))).collect();
    let width = packed_width(dims[0].max(dims[1]), ranks);
    let columns = |own, all| Columns {
        ranks,
        width,
        own,
        all,
    };
    let mut all: Vec<f32> = Vec::new();
    for case in &cases {
        case.apart(rule, 1, |on, rows| {
            let own = on
                .device
                .upload("own", &vec![f32::NAN; on.capacity * 2 * width]);
            let launch = pack(&rows, &columns(own, Address::NULL)).unwrap();
            on.device.run([launch]);
            all.extend(on.device.download::<f32>(own));
            Address::NULL
        });
    }
    for (rank, case) in cases.iter().enumerate() {
        let gathered = |on: &mut OnDevice, rows: UpdateRows<'_>| {
            let all = on.device.upload("all", &all);
            let products = on.device.empty("products", 24 * on.capacity);
            let rows = UpdateRows { products, ..rows };
            let launch = of_columns(&rows, rule, &columns(Address::NULL, all)).unwrap();
            on.device.run([launch]);
            products
        };
        let (on, _) = case.apart(rule, 2, gathered);
        assert_eq!(on.states(), one.states());
        for (table, (got, expected)) in on.tables().iter().zip(one.tables()).enumerate() {
            let rows = expected.chunks(whole.shapes[table][1]);
            let expected: Vec<f32> = rows
                .flat_map(|row| row[part(rank)(row.len())].to_vec())
                .collect();
            assert!(
                *got == expected,
                "{dims:?}, rank {rank} of {ranks}, table {table}"
            );
        }
    }
}

pub const DECAYED: SparseRule = SparseRule::RowWiseAdagrad {
    eps: 1e-8,
    initial_accumulator: 0.1,
    weight_decay: 0.3,
    max_row_norm: Some(0.2),
};

#[test]
fn columns_that_are_brought_together_are_updated_to_the_bit() {
    for (rule, ranks, dims, types) in [
        (ROW_WISE, 2, [12, 40], TYPES[1]),
        (DECAYED, 3, [300, 7], TYPES[1]),
        (DECAYED, 4, [5, 4], TYPES[1]),
        (ROW_WISE, 2, [12, 40], TYPES[2]),
        (DECAYED, 3, [300, 7], TYPES[4]),
        (DECAYED, 4, [15, 9], (DType::F32, DType::Bf16)),
    ] {
        check_together(&rule, ranks, dims, types);
    }
}

/// A row that is looked up 1 to 700 times is summed alike behind any number of others, and beside longer ones.
#[test]
fn a_rows_sum_does_not_depend_on_where_it_lies() {
    for gradient in [DType::F32, DType::Bf16] {
        for lookups in [1, 31, 32, 33, 64, 65, 700] {
            let sums = [(0, 4), (1, 4), (17, 9), (32, 200), (90, 33)].map(|(before, wide)| {
                let case = Case::new([6, wide], (gradient, DType::F32), |random, rows| {
                    let batch = before + lookups;
                    let mut bags = HostBags::random(random, batch, rows, 0, false);
                    // The others have the smaller row, and another table's behind.
                    bags.ids = [vec![3; before], vec![5; lookups], vec![2; batch]].concat();
                    let ends = (0..=3 * batch as i64).map(|end| end.min(2 * batch as i64));
                    bags.offsets = ends.collect();
                    bags
                });
                let own = case.with_gradients(before, lookups);
                let (on, _) = own.in_two_phases(&SGD, 1);
                let row = on.tables()[0][5 * 6..6 * 6].to_vec();
                if fuses(wide, gradient) {
                    let fused = own.fused(&SGD, 2).tables()[0][5 * 6..6 * 6].to_vec();
                    assert_eq!(row, fused, "{lookups} lookups, {before} before");
                }
                row
            });
            for (place, sum) in sums.iter().enumerate() {
                assert_eq!(*sum, sums[0], "{gradient} {lookups} lookups, place {place}");
            }
        }
    }
}

#[test]
fn both_ways_give_the_same_bits() {
    for types in TYPES {
        let case = Case::hot([64, 9], types, 600);
        let (on, _) = case.in_two_phases(&SGD, 0);
        assert_eq!(on.tables(), case.fused(&SGD, 0).tables());
    }
}

#[test]
fn gradients_are_unscaled_first() {
    let mut case = Case::random([16, 8], TYPES[3]);
    let (expected, _) = case.on_cpu(&ADAM);
    case.dout.iter_mut().for_each(|x| *x *= 512.0);
    case.step.inverse_scale = 1.0 / 512.0;
    for (got, expected) in case.fused(&ADAM, 0).tables().iter().zip(&expected) {
        assert_close("table", got, expected, 1e-5);
    }
    let (on, _) = case.in_two_phases(&ADAM, 0);
    for (got, expected) in on.tables().iter().zip(&expected) {
        assert_close("table", got, expected, 1e-5);
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_told_and_changes_no_row() {
    for bad in [f32::INFINITY, f32::NAN] {
        let mut case = Case::random([16, 16], TYPES[0]);
        let sample = case
            .bags
            .offsets
            .windows(2)
            .position(|bag| bag[1] > bag[0])
            .unwrap();
        case.dout[sample * case.columns + case.sources[0].column as usize + 5] = bad;
        // A weight of 1: 0 * infinity would be another story.
        case.bags.weights.as_mut().unwrap().fill(1.0);
        let id = case.bags.ids[case.bags.offsets[sample] as usize];
        let on = case.fused(&SGD, 0);
        let row = id as usize * 16..id as usize * 16 + 16;
        assert_eq!(on.tables()[0][row.clone()], case.tables[0][row]);
        let told = on.device.download::<u64>(on.not_finite)[0];
        assert!(told <= id as u64);
        let (_, overflow) = case.in_two_phases(&SGD, 0);
        assert_eq!(overflow, 1);
    }
}

#[test]
fn a_skipped_step_changes_nothing() {
    let mut case = Case::random([16, 16], TYPES[4]);
    case.step.skip = 1;
    let (on, _) = case.in_two_phases(&ADAM, 0);
    assert_eq!(on.tables(), case.tables);
    assert!(on.states().iter().flatten().all(|&x| x == 0.0));
}

/// Where every number before the rounding is exact, so is the rounding: CPU and device choose the same neighbours.
#[test]
fn half_tables_are_rounded_as_on_the_cpu_to_the_bit() {
    for weights in [DType::Bf16, DType::F16] {
        for dims in [[16, 33], [128, 5]] {
            let mut case = Case::new(dims, (weights, weights), |random, rows| {
                let mut bags = HostBags::random(random, 6, rows, 0, false);
                // Each row at most once: sums have one part.
                bags.ids = (0..18).map(|index| index % 6 + index / 12 * 6).collect();
                bags.offsets = (0..=18).collect();
                bags
            });
            case.step.sparse_learning_rate = 1.0 / 1024.0;
            case.sources.iter_mut().for_each(|source| source.mean = 0);
            let (expected, _) = case.on_cpu(&SGD);
            assert!(expected != case.tables);
            assert_eq!(case.fused(&SGD, 0).tables(), expected, "{weights} {dims:?}");
            let (on, _) = case.in_two_phases(&SGD, 1);
            assert_eq!(on.tables(), expected, "{weights} {dims:?}");
            // The columns of a rank are rounded as those of whole rows.
            let part = case.columns(|dim| dim / 3..dim);
            let (on, _) = part.in_two_phases(&SGD, 2);
            for (table, got) in on.tables().iter().enumerate() {
                let dim = case.shapes[table][1];
                let rows = expected[table].chunks(dim);
                let expected: Vec<f32> = rows.flat_map(|row| row[dim / 3..].to_vec()).collect();
                assert_eq!(*got, expected, "{weights} {dims:?}, columns");
            }
        }
    }
}

/// The mean over many steps of a table in half precision follows float32, though each step is smaller than half
/// the distance to the next number.
#[test]
fn small_updates_of_half_tables_are_not_lost() {
    let mut case = Case::hot([32, 4], (DType::Bf16, DType::Bf16), 40);
    case.dout.fill(1.0 / 64.0);
    case.step.sparse_learning_rate = 1e-3;
    case.tables[0].fill(1.0);
    let mut moved = 0.0;
    for number in 1..=40 {
        case.step.number = number;
        case.tables[0].fill(1.0);
        let tables = case.fused(&SGD, 0).tables();
        moved += tables[0][5 * 32..6 * 32]
            .iter()
            .map(|w| 1.0 - f64::from(*w))
            .sum::<f64>()
            / 32.0;
    }
    let lookups = case.bags.ids.iter().enumerate();
    let of_row = lookups
        .filter(|(index, id)| **id == 5 && !(40..80).contains(index))
        .count();
    let expected = 40.0 * 1e-3 / 64.0 * of_row as f64;
    assert!(
        (moved / expected - 1.0).abs() < 0.25,
        "moved {moved}, expected {expected}"
    );
}

#[test]
fn rows_that_are_too_long_for_a_kernel_are_refused() {
    assert!(fuses(128, DType::F32) && !fuses(129, DType::F32) && fuses(256, DType::Bf16));
    let case = Case::random([129, 4], TYPES[0]);
    let mut on = case.upload(&SGD, 0);
    let not_finite = on.not_finite;
    let error = update(&on.gradients(&case), &SGD, DType::F32, not_finite).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rows of a fused update has shape [129], expected [128]"),
        "{error}"
    );
    let case = Case::random([1025, 4], TYPES[0]);
    let mut on = case.upload(&SGD, 0);
    let rows = on.rows;
    let error = sum(&on.gradients(&case), &rows, Address::NULL).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("rows of a table has shape [1025], expected [1024]"),
        "{error}"
    );
}
