//! Lists of touched rows, as ranks exchange them: merged, put to their places, made of what ranks ask for.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::embedding_bag::Bags;
use streamrec_kernels::cuda::groups::{
    ListAsked, Memory, PlaceRows, Rows, Source, end_rows, list_asked, merge, place_rows,
};
use streamrec_kernels::cuda::sparse_optimizer::{Table, row_stride};
use streamrec_kernels::cuda::{Address, Step};

use crate::device::{Device, SEEDS};
use crate::groups::{memory, rows, source};
use crate::values::Random;

/// Ranks' lists, with unused room behind each, are merged: equal rows lie in the order of the ranks, and each is listed once.
pub fn check_merge(random: &mut Random, capacity: usize, lens: &[usize]) {
    let ranks = lens.len();
    let sources = [source(900, 1), source(5, 0)];
    let nothing = 2u64 << 10;
    let lists: Vec<Vec<u64>> = (lens.iter())
        .map(|len| {
            let mut keys: Vec<u64> = (0..len * 2)
                .map(|_| (1 << 10) | (random.bits() % 900))
                .collect();
            keys.sort();
            keys.dedup();
            keys.truncate(capacity);
            keys
        })
        .collect();
    let mut expected: Vec<(u64, u32)> = Vec::new();
    for (rank, list) in lists.iter().enumerate() {
        let places = (rank * capacity) as u32..;
        expected.extend(list.iter().copied().zip(places));
    }
    expected.sort();
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let mut gathered = Vec::new();
        for list in &lists {
            let mut keys = list.clone();
            // Unused room holds anything.
            keys.resize(capacity, (1 << 10) | 3);
            let rows = Rows {
                keys: device.upload("row keys", &keys),
                row_of: Address::NULL,
                count: device.upload("row count", &[list.len() as u32]),
            };
            device.run([end_rows(&rows, capacity, &sources).unwrap()]);
            let ended: Vec<u64> = device.download(rows.keys);
            assert_eq!(ended[..list.len()], list[..]);
            assert!(ended[list.len()..].iter().all(|&key| key == nothing));
            gathered.extend(ended);
        }
        let memory = Memory {
            keys: [
                device.upload("gathered", &gathered),
                device.empty("other keys", 8 * ranks * capacity),
            ],
            ..memory(&mut device, ranks * capacity)
        };
        let listed = rows(&mut device, ranks * capacity);
        let (launches, sorted) = merge(&memory, &sources, Some(&listed)).unwrap();
        device.run(launches);
        let keys: Vec<u64> = device.download(sorted.keys);
        let positions: Vec<u32> = device.download(sorted.positions);
        let got: Vec<(u64, u32)> = keys.into_iter().zip(positions).collect();
        assert_eq!(got[..expected.len()], expected);
        assert!(got[expected.len()..].iter().all(|(key, _)| *key == nothing));
        let bags: Vec<u32> = device.download(sorted.bags);
        assert!(bags.into_iter().eq(0..(ranks * capacity) as u32));
        let mut once: Vec<u64> = expected.iter().map(|(key, _)| *key).collect();
        once.dedup();
        let count = device.download::<u32>(listed.count)[0] as usize;
        let row_keys: Vec<u64> = device.download(listed.keys);
        assert_eq!(row_keys[..count], once);
        assert_eq!(device.download::<u32>(memory.list_lengths), [0, 0]);
    }
}

#[test]
fn lists_of_several_ranks_are_merged_in_rank_order() {
    check_merge(&mut Random(6), 700, &[0, 300, 700]);
}

/// Rows of two tables, listed by key, come to the places that follow the tables' first rows.
pub fn check_places(listed: &[(u64, u64)], stride: usize) {
    let row_bits = 3;
    let keys: Vec<u64> = listed
        .iter()
        .map(|(table, row)| table << row_bits | row)
        .collect();
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let own = Rows {
            keys: device.upload("keys", &keys),
            row_of: Address::NULL,
            count: device.upload("count", &[listed.len() as u32]),
        };
        let values: Vec<f32> = (0..listed.len() * stride).map(|x| x as f32).collect();
        let out = device.upload("out", &vec![-1.0f32; 12 * stride]);
        let operands = PlaceRows {
            rows: own,
            capacity: 100,
            gradients: device.upload("gradients", &values),
            stride,
            row_bits,
            first_rows: device.upload("first_rows", &[0u32, 7]),
            out,
        };
        device.run([place_rows(&operands).unwrap()]);
        let mut expected = vec![-1.0f32; 12 * stride];
        for (index, (table, row)) in listed.iter().enumerate() {
            let place = (7 * table + row) as usize * stride;
            expected[place..place + stride].copy_from_slice(&values[index * stride..][..stride]);
        }
        assert_eq!(device.download::<f32>(out), expected);
    }
}

#[test]
fn listed_rows_come_to_their_places() {
    check_places(&[(0, 2), (0, 5), (1, 0), (1, 3)], 8);
}

/// The ids that ranks ask for, one each in the first samples: of each micro-batch, of each feature of a rank.
type Asked = Vec<[Vec<Vec<i64>>; 3]>;

/// Ranks ask for rows of two tables, of 4 and 9 rows and so many columns: the lists of a rank lie one behind the other.
pub fn check_asked(asked: &Asked, rows: usize, dims: [usize; 2]) {
    let (lists, ranks) = (asked.len(), asked[0][0].len());
    let (width, stride) = (dims[0] + dims[1], row_stride(dims[0].max(dims[1])));
    let sources = [
        source(9, 1),
        // Of a table that is not trained.
        source(0, 0),
        Source {
            column: dims[1] as u32,
            ..source(4, 0)
        },
    ];
    let tables = dims.map(|dim| Table {
        dim: dim as u32,
        ..bytemuck::Zeroable::zeroed()
    });
    let (all, nothing) = (lists * ranks, 2u64 << 4);
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let capacity = sources.len() * rows;
        let keys = device.empty("keys", 8 * all * capacity);
        let gradients = device.upload("gradients", &vec![-1.0f32; all * capacity * stride]);
        let step = Step::new(0.1, 1, [0.0; 2]);
        let step = device.upload(
            "step",
            &[Step {
                inverse_scale: 0.5,
                ..step
            }],
        );
        let mut expected_keys = vec![nothing; all * capacity];
        let mut expected = vec![-1.0f32; all * capacity * stride];
        for (list, of_features) in asked.iter().enumerate() {
            let (mut ids, mut offsets) = (Vec::new(), vec![0i64]);
            let dout: Vec<f32> = (0..ranks * rows * width)
                .map(|x| (x + 100 * list) as f32)
                .collect();
            for (feature, of_ranks) in of_features.iter().enumerate() {
                for (rank, own) in of_ranks.iter().enumerate() {
                    let first = ids.len();
                    ids.extend_from_slice(own);
                    offsets.extend((1..=rows).map(|row| (first + row.min(own.len())) as i64));
                    let source = &sources[feature];
                    for (row, id) in own.iter().enumerate().filter(|_| source.rows > 0) {
                        let place = (rank * lists + list) * capacity + feature * rows + row;
                        expected_keys[place] = u64::from(source.table) << 4 | *id as u64;
                        let dim = tables[source.table as usize].dim as usize;
                        let from = (rank * rows + row) * width + source.column as usize;
                        let scaled = dout[from..from + dim].iter().map(|x| x * 0.5);
                        expected[place * stride..]
                            .iter_mut()
                            .zip(scaled)
                            .for_each(|(to, x)| *to = x);
                    }
                }
            }
            let operands = ListAsked {
                bags: Bags {
                    ids: device.upload("ids", &ids),
                    offsets: device.upload("offsets", &offsets),
                    weights: Address::NULL,
                    batch: ranks * rows,
                    features: sources.len(),
                },
                sources: &sources,
                sources_on_device: device.upload("sources", &sources),
                tables: &tables,
                tables_on_device: device.upload("tables", &tables),
                dout: device.matrix("dout", &dout, DType::F32, [ranks * rows, width], width),
                ranks,
                lists: [lists, list],
                keys,
                gradients,
                stride,
                step,
            };
            device.run([list_asked(&operands).unwrap()]);
        }
        assert_eq!(device.download::<u64>(keys), expected_keys);
        assert_eq!(device.download::<f32>(gradients), expected);
        assert_eq!(device.download::<Step>(step)[0].overflow, 0);
    }
}

#[test]
fn rows_that_ranks_ask_for_are_listed_apart() {
    let of = |of_ranks: [&[i64]; 2]| of_ranks.map(<[i64]>::to_vec).to_vec();
    let asked = vec![
        [of([&[1, 8], &[0, 1, 7]]), of([&[2], &[2]]), of([&[], &[3]])],
        [of([&[4], &[]]), of([&[], &[1]]), of([&[0, 1, 2], &[2]])],
    ];
    check_asked(&asked, 3, [2, 5]);
}

/// One rank asks for row 2 of a table of 3 columns, of which the last has this gradient.
fn asked_once<'a>(
    device: &mut Device,
    (sources, tables): (&'a [Source], &'a [Table]),
    gradient: f32,
) -> ListAsked<'a> {
    let dout = [1.0, 2.0, gradient];
    ListAsked {
        bags: Bags {
            ids: device.upload("ids", &[2i64]),
            offsets: device.upload("offsets", &[0i64, 1]),
            weights: Address::NULL,
            batch: 1,
            features: 1,
        },
        sources,
        sources_on_device: device.upload("sources", sources),
        tables,
        tables_on_device: device.upload("tables", tables),
        dout: device.matrix("dout", &dout, DType::F32, [1, 3], 3),
        ranks: 1,
        lists: [1, 0],
        keys: device.empty("keys", 8),
        gradients: device.empty("gradients", 4 * 4),
        stride: 4,
        step: device.upload("step", &[Step::new(0.1, 1, [0.0; 2])]),
    }
}

fn three_columns() -> Table {
    Table {
        dim: 3,
        ..bytemuck::Zeroable::zeroed()
    }
}

#[test]
fn a_listed_gradient_that_is_not_finite_is_told() {
    let (sources, tables) = ([source(5, 0)], [three_columns()]);
    for (gradient, expected) in [(3.0, 0), (f32::INFINITY, 1), (f32::NAN, 1)] {
        let mut device = Device::new(0);
        let operands = asked_once(&mut device, (&sources, &tables), gradient);
        device.run([list_asked(&operands).unwrap()]);
        let overflow = device.download::<Step>(operands.step)[0].overflow;
        assert_eq!(overflow, expected, "{gradient}");
    }
}

#[test]
fn rows_that_do_not_fit_are_not_listed() {
    let (sources, tables) = ([source(5, 0)], [three_columns()]);
    let mut device = Device::new(0);
    let fits = asked_once(&mut device, (&sources, &tables), 1.0);
    let wide = [Table {
        dim: 4,
        ..tables[0]
    }];
    for (operands, expected) in [
        (
            ListAsked { stride: 2, ..fits },
            "a row of gradients has shape [2], expected [3]",
        ),
        (
            ListAsked { ranks: 2, ..fits },
            "the bags of a feature has shape [1], expected [0]",
        ),
        (
            ListAsked {
                tables: &wide,
                ..fits
            },
            "dout has shape [1, 3], expected [1, 4]",
        ),
    ] {
        let error = list_asked(&operands).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
