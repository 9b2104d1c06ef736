//! The benchmark of the kernels, at tiny shapes: its launches are right, and it leaves no kernel out.

use std::collections::{BTreeSet, HashMap};

use streamrec_emulation::Emulator;
use streamrec_kernels::cuda::{Executor, Launch, SOURCES};

use crate::nowhere::Nowhere;

use operations::lookups::{Ids, Lookups};
use operations::{Memory, Operation, Shapes, Work, parts};
use report::{Line, Report};
use timing::Times;

// What the benchmark alone uses: its large shapes, its tables of figures, its clock.
#[allow(dead_code)]
#[path = "../../benches/device/operations/mod.rs"]
mod operations;
#[allow(dead_code)]
#[path = "../../benches/device/report.rs"]
mod report;
#[allow(dead_code)]
#[path = "../../benches/device/timing.rs"]
mod timing;

#[test]
fn every_kernel_is_measured_and_does_nothing_wrong() {
    if crate::device::asks_for_a_gpu() {
        eprintln!("NOT TESTED on a GPU: the benchmark itself runs there");
        return;
    }
    let mut measured = BTreeSet::new();
    for part in parts::<Emulator>() {
        let mut emulator = Emulator::new(1);
        let mut visit = |emulator: &mut Emulator, operation: Operation| {
            let what = format!("{}, {}", operation.name, operation.shape);
            timing::measure(emulator, &operation, 0.0).expect(&what);
            operation.check(emulator).expect(&what);
            for (kernel, bytes) in operation.kernels() {
                assert!(bytes > 0, "{what}");
                measured.insert((kernel.source, kernel.name));
            }
            Ok(())
        };
        (part.each)(&mut Memory::new(&mut emulator), &Shapes::TINY, &mut visit).expect(part.name);
    }
    let all = SOURCES.iter().flat_map(|source| {
        let kernels = source.kernels.iter();
        kernels.map(|kernel| (source.name, *kernel))
    });
    assert_eq!(measured, all.collect());
}

/// What is measured on a GPU: no shape is refused, it fits a GPU of 80 GB, and no cache holds what is measured, but of
/// kernels that come behind others.
#[test]
fn large_shapes_are_described_without_a_gpu() {
    for part in parts::<Nowhere>() {
        let mut device = Nowhere::default();
        let mut small = BTreeSet::new();
        let mut visit = |device: &mut Nowhere, operation: Operation| {
            operation.prepare(device)?;
            operation.run(device)?;
            if timing::working_set(&operation) < 100 << 20 {
                small.insert(operation.name);
            }
            Ok(())
        };
        (part.each)(&mut Memory::new(&mut device), &Shapes::LARGE, &mut visit).expect(part.name);
        assert!(device.launches > 0, "{}", part.name);
        let gigabytes = device.allocated as f64 / 1e9;
        assert!(gigabytes < 70.0, "{}: {gigabytes} GB", part.name);
        println!("{}: {gigabytes:.1} GB, small: {small:?}", part.name);
        let expected: &[&str] = match part.name {
            "tables" | "ranks" => &["end of a list of rows", "merge of lists", "sort of lookups"],
            "optimizers" => &["norm of gradients", "numbers of a step"],
            _ => &[],
        };
        assert!(
            small.iter().all(|name| expected.contains(name)),
            "{small:?}"
        );
    }
}

fn notes(count: usize) -> Vec<Work> {
    let note = || Launch::custom("step", "note", 1, 1);
    (0..count)
        .map(|_| Work::Kernel(Box::new(note()), 500))
        .collect()
}

#[test]
fn what_a_kernel_complains_of_ends_the_benchmark() {
    let mut emulator = Emulator::new(0);
    let operation = Operation {
        name: "a lookup",
        shape: "of a row that is not there".to_owned(),
        prepare: Vec::new(),
        variants: vec![notes(1)],
        untouched: vec![Memory::new(&mut emulator).complaint().unwrap()],
    };
    operation.check(&mut emulator).unwrap();
    Executor::upload(&mut emulator, &7u64.to_ne_bytes(), operation.untouched[0]).unwrap();
    let error = operation.check(&mut emulator).unwrap_err().to_string();
    let expected = "a lookup of a row that is not there: kernels complain of number 7";
    assert_eq!(error, expected);
}

/// One kernel that runs twice, in 4 and 6 µs by events, and the whole in 8 µs: 1,000 bytes, at 1 GB/s of copies.
#[test]
fn lines_tell_medians_rates_and_shares() {
    let operation = Operation {
        name: "two notes",
        shape: "small".to_owned(),
        prepare: Vec::new(),
        variants: vec![notes(2)],
        untouched: Vec::new(),
    };
    let times = Times {
        windows: vec![7.0, 8.0, 10.0],
        kernels: vec![vec![3.0, 4.0, 5.0], vec![6.0, 6.0, 9.0]],
    };
    let report = Report::new("sm_90".to_owned(), 1e9);
    let lines = Line::of(&operation, &times);
    let told: Vec<String> = lines.iter().map(|line| report.json(line)).collect();
    let end = "\"cached\":true,\"gpu\":\"sm_90\"}";
    let expected = [
        format!(
            "{{\"operation\":\"two notes\",\"shape\":\"small\",\"kernel\":null,\"clock\":\"repetitions\",\
             \"microseconds\":8.00,\"microseconds_least\":7.00,\"microseconds_most\":10.00,\"bytes\":1000,\
             \"gigabytes_per_second\":0.1,\"share_of_copy\":0.125,{end}"
        ),
        format!(
            "{{\"operation\":\"two notes\",\"shape\":\"small\",\"kernel\":\"note\",\"clock\":\"events\",\
             \"microseconds\":10.00,\"microseconds_least\":9.00,\"microseconds_most\":14.00,\"bytes\":1000,\
             \"gigabytes_per_second\":0.1,\"share_of_copy\":0.100,{end}"
        ),
    ];
    assert_eq!(told, expected);
}

/// The bytes of an update depend on how often rows are looked up.
#[test]
fn rows_and_pieces_of_a_batch_are_counted() {
    let (batch, features, rows) = (5000, 2, 1000);
    for ids in [Ids::Uniform, Ids::Zipf] {
        let lookups = Lookups::new(ids, batch, features, rows);
        let mut often: HashMap<(usize, i64), usize> = HashMap::new();
        for (place, &id) in lookups.ids.iter().enumerate() {
            assert!((0..rows as i64).contains(&id));
            *often.entry((place / batch, id)).or_default() += 1;
        }
        let long = || often.values().filter(|&&lookups| lookups > 32);
        let pieces: usize = long().map(|lookups| lookups.div_ceil(32)).sum();
        assert_eq!(lookups.rows, often.len());
        assert_eq!(
            (lookups.long_rows, lookups.pieces),
            (long().count(), pieces)
        );
        let most = often.values().max().unwrap();
        // The first of 1,000 rows has a share of 0.156.
        let zipf = (600..1000).contains(most);
        assert_eq!(zipf, ids == Ids::Zipf, "{most} lookups of one row");
    }
}
