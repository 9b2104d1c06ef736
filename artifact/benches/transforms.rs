//! How many values a second the encoder transforms, one thread: `cargo bench -p streamrec-artifact`.
//! `STREAMREC_VECTOR_UNIT` holds it to a narrower vector unit.

mod catalogue;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// As the reader encodes.
const ROWS: usize = 8192;

fn transforms(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("transforms");
    for mut operation in catalogue::operations(ROWS) {
        group.throughput(Throughput::Elements(operation.values as u64));
        group.bench_function(&operation.name, |bencher| bencher.iter(&mut operation.run));
    }
    group.finish();
}

criterion_group!(benches, transforms);
criterion_main!(benches);
