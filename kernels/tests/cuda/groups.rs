use streamrec_kernels::DType;
use streamrec_kernels::cuda::embedding_bag::Bags;
use streamrec_kernels::cuda::groups::{
    Build, ListAsked, Memory, PlaceRows, Rows, Sorted, Source, build, end_rows, list_asked, merge,
    place_rows,
};
use streamrec_kernels::cuda::radix_sort::counts_len;
use streamrec_kernels::cuda::sparse_optimizer::Table;
use streamrec_kernels::cuda::{Address, Step};

use crate::device::{Device, SEEDS};
use crate::embedding_bag::HostBags;
use crate::values::Random;

/// Memory for the groups of up to `capacity` lookups.
pub fn memory(device: &mut Device, capacity: usize) -> Memory {
    let mut of = |name: &str, bytes: usize| device.empty(name, bytes);
    Memory {
        keys: [of("keys", 8 * capacity), of("other keys", 8 * capacity)],
        positions: [
            of("positions", 4 * capacity),
            of("other positions", 4 * capacity),
        ],
        bags: of("bags", 4 * capacity),
        counts: of("counts", 4 * counts_len(capacity).max(1)),
        totals: of("totals", 4 * 256),
        list_lengths: of("list_lengths", 8),
        capacity,
    }
}

pub fn rows(device: &mut Device, capacity: usize) -> Rows {
    Rows {
        keys: device.empty("row keys", 8 * capacity),
        row_of: device.empty("row_of", 4 * capacity),
        count: device.empty("row count", 4),
    }
}

struct Grouped {
    device: Device,
    sorted: Sorted,
    rows: Rows,
    first_bad: Address,
}

fn group(bags: &HostBags, sources: &[Source], capacity: usize, seed: u64) -> Grouped {
    let mut device = Device::new(seed);
    let memory = memory(&mut device, capacity);
    let rows = rows(&mut device, capacity);
    let mut ids = bags.ids.clone();
    ids.resize(capacity, -7);
    let mut on_device = bags.upload(&mut device);
    on_device.ids = device.upload("ids", &ids);
    let first_bad = device.upload("first_bad", &[u64::MAX]);
    let operands = Build {
        bags: on_device,
        sources,
        sources_on_device: device.upload("sources", sources),
        memory,
        rows: Some(rows),
        first_bad,
    };
    let (launches, sorted) = build(&operands).unwrap();
    device.run(launches);
    assert_eq!(device.download::<u32>(memory.list_lengths), [0, 0]);
    Grouped {
        device,
        sorted,
        rows,
        first_bad,
    }
}

fn source(rows: usize, table: u32) -> Source {
    Source {
        rows: rows as i64,
        table,
        column: 0,
        mean: 0,
        reserved: 0,
    }
}

/// Features 0 and 2 share table 1; ids outside of tables and the room behind the lookups count for nothing.
pub fn check(batch: usize, hotness: usize, spare: usize) {
    let table_rows = [900, 5, 900];
    let sources = [source(900, 1), source(5, 0), source(900, 1)];
    let mut bags = HostBags::random(
        &mut Random(batch as u64),
        batch,
        &table_rows,
        hotness,
        false,
    );
    let bad = if bags.ids.len() > 20 {
        Some(bags.ids.len() / 2)
    } else {
        None
    };
    if let Some(bad) = bad {
        bags.ids[bad] = 1 << 40;
        bags.ids[bad + 3] = -1;
    }
    let mut expected: Vec<(u64, u32)> = vec![];
    for (bag, place) in bags.offsets.windows(2).enumerate() {
        let source = &sources[bag / batch];
        for at in place[0]..place[1] {
            let id = bags.ids[at as usize];
            if (0..source.rows).contains(&id) {
                expected.push((u64::from(source.table) << 10 | id as u64, at as u32));
            }
        }
    }
    expected.sort();
    let capacity = bags.ids.len() + spare;
    for seed in SEEDS {
        let Grouped {
            device,
            sorted,
            rows,
            first_bad,
        } = group(&bags, &sources, capacity, seed);
        assert_eq!(
            (sorted.layout.row_bits, sorted.layout.nothing),
            (10, 2 << 10)
        );
        let keys: Vec<u64> = device.download(sorted.keys);
        let positions: Vec<u32> = device.download(sorted.positions);
        let got: Vec<(u64, u32)> = keys.into_iter().zip(positions).collect();
        assert_eq!(got[..expected.len()], expected);
        assert!(got[expected.len()..].iter().all(|pair| pair.0 == 2 << 10));
        assert_eq!(
            device.download::<u64>(first_bad),
            [bad.map_or(u64::MAX, |bad| bad as u64)]
        );

        let mut distinct: Vec<u64> = expected.iter().map(|pair| pair.0).collect();
        let row_of: Vec<u32> = device.download(rows.row_of);
        distinct.dedup();
        assert_eq!(device.download::<u32>(rows.count), [distinct.len() as u32]);
        assert_eq!(
            device.download::<u64>(rows.keys)[..distinct.len()],
            distinct
        );
        for (pair, row) in expected.iter().zip(row_of) {
            assert_eq!(distinct[row as usize], pair.0);
        }
    }
}

#[test]
fn lookups_are_grouped_by_table_and_row() {
    for (batch, hotness, spare) in [(1, 1, 0), (700, 4, 0), (50, 3, 3000), (3, 0, 5)] {
        check(batch, hotness, spare);
    }
}

/// Rows of tables larger than any memory: no bit of theirs is lost on the way.
#[test]
fn rows_behind_2_32_others_are_grouped_as_any() {
    let rows = 1usize << 40;
    let last = rows as i64 - 1;
    let ids = vec![last, 5, 1 << 32, last, 5, (1 << 32) + 5, 0, last];
    let bags = HostBags {
        offsets: (0..=ids.len() as i64).collect(),
        weights: None,
        batch: ids.len(),
        features: 1,
        ids,
    };
    let sources = [source(rows, 0)];
    for seed in SEEDS {
        let grouped = group(&bags, &sources, bags.ids.len(), seed);
        let Grouped { device, sorted, .. } = &grouped;
        let keys: Vec<u64> = device.download(sorted.keys);
        let positions: Vec<u32> = device.download(sorted.positions);
        let mut expected: Vec<(u64, u32)> =
            (bags.ids.iter().map(|&id| id as u64)).zip(0..).collect();
        expected.sort();
        assert!(keys.into_iter().zip(positions).eq(expected.iter().copied()));
        let mut once: Vec<u64> = expected.iter().map(|pair| pair.0).collect();
        once.dedup();
        assert_eq!(
            device.download::<u32>(grouped.rows.count),
            [once.len() as u32]
        );
        assert_eq!(
            device.download::<u64>(grouped.rows.keys)[..once.len()],
            once
        );
        assert_eq!(device.download::<u64>(grouped.first_bad), [u64::MAX]);
    }
}

#[test]
fn keys_of_more_than_64_bits_are_refused() {
    let error = build_error(&[source(1 << 62, 3)]);
    assert!(
        error.contains("fit 64 bits together, but at index 0 came 65"),
        "{error}"
    );
}

fn build_error(sources: &[Source]) -> String {
    let mut device = Device::new(0);
    let bags = HostBags::random(&mut Random(1), 2, &[4], 1, false);
    let operands = Build {
        bags: bags.upload(&mut device),
        sources,
        sources_on_device: Address::NULL,
        memory: memory(&mut device, 8),
        rows: None,
        first_bad: Address::NULL,
    };
    build(&operands).unwrap_err().to_string()
}

/// Three ranks' lists, with unused room behind each, are merged: equal rows lie in the order of the ranks, and each is
/// listed once.
#[test]
fn lists_of_several_ranks_are_merged_in_rank_order() {
    let (ranks, capacity) = (3, 700);
    let sources = [source(900, 1), source(5, 0)];
    let nothing = 2u64 << 10;
    let mut random = Random(6);
    let lists: Vec<Vec<u64>> = (0..ranks)
        .map(|rank| {
            let mut keys: Vec<u64> = (0..[0, 300, 700][rank] * 2)
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

/// Rows of two tables, listed by key, come to the places that follow the tables' first rows.
#[test]
fn listed_rows_come_to_their_places() {
    let (stride, row_bits) = (8, 3);
    let listed = [(0u64, 2u64), (0, 5), (1, 0), (1, 3)];
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

/// Two ranks ask for rows of two tables in each of two micro-batches: the lists of a rank lie one behind the other.
#[test]
fn rows_that_ranks_ask_for_are_listed_apart() {
    let (ranks, rows, width, stride) = (2, 3, 7, 8);
    let sources = [
        source(9, 1),
        // Of a table that is not trained.
        source(0, 0),
        Source {
            column: 5,
            ..source(4, 0)
        },
    ];
    let table = |dim: u32| Table {
        dim,
        ..bytemuck::Zeroable::zeroed()
    };
    let tables = [table(2), table(5)];
    // Of each feature the ids of rank 0, then those of rank 1, in each micro-batch.
    let asked: [[[&[i64]; 2]; 3]; 2] = [
        [[&[1, 8], &[0, 1, 7]], [&[2], &[2]], [&[], &[3]]],
        [[&[4], &[]], [&[], &[1]], [&[0, 1, 2], &[2]]],
    ];
    let nothing = 2u64 << 4;
    for seed in SEEDS {
        let mut device = Device::new(seed);
        let capacity = sources.len() * rows;
        let keys = device.empty("keys", 8 * 4 * capacity);
        let gradients = device.upload("gradients", &vec![-1.0f32; 4 * capacity * stride]);
        let step = Step::new(0.1, 1, [0.0; 2]);
        let step = device.upload(
            "step",
            &[Step {
                inverse_scale: 0.5,
                ..step
            }],
        );
        let mut expected_keys = vec![nothing; 4 * capacity];
        let mut expected = vec![-1.0f32; 4 * capacity * stride];
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
                        let place = (rank * 2 + list) * capacity + feature * rows + row;
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
                lists: [2, list],
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
