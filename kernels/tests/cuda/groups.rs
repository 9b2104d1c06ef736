use streamrec_kernels::cuda::Address;
use streamrec_kernels::cuda::groups::{Build, Memory, Rows, Sorted, Source, build};
use streamrec_kernels::cuda::radix_sort::counts_len;

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

pub fn source(rows: usize, table: u32) -> Source {
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
