//! How many rows a second one rank reads, raw and encoded: 13 dense columns, 26 keys and a label, the
//! shape of Criteo's data. `cargo bench --bench reader [-- rows]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use streamrec::data::counter::Stream;
use streamrec::data::{
    BatchReader, Block, Column, ColumnKind, DEFAULT_BLOCK_ROWS, Inputs, PackWriter, RawColumn,
    ReaderSettings, Role, SourceType,
};
use streamrec_artifact::{
    CategoricalFeature, DenseFeature, DenseSource, DenseStep, Encoder, Encoding, FeatureSchema,
    Pooling, TableSchema, Vocabularies, Vocabulary,
};

const DENSE: usize = 13;
const KEYS: usize = 26;
const DISTINCT_KEYS: u64 = 10_000;
const GLOBAL_BATCH: usize = 8192;

fn columns() -> Vec<Column> {
    let dense = (0..DENSE).map(|i| {
        Column::new(
            format!("dense_{i}"),
            ColumnKind::Dense,
            SourceType::Float,
            Role::Feature,
        )
    });
    let keys = (0..KEYS).map(|i| {
        Column::new(
            format!("key_{i}"),
            ColumnKind::Key,
            SourceType::Integer,
            Role::Feature,
        )
    });
    let label = Column::new("click", ColumnKind::Dense, SourceType::Boolean, Role::Label);
    dense.chain(keys).chain([label]).collect()
}

fn write(path: &Path, rows: usize) -> streamrec::data::Result<()> {
    let mut writer = PackWriter::create(path, &columns(), DEFAULT_BLOCK_ROWS)?;
    let mut block = Block::new(&columns());
    let mut stream = Stream::new(&[7]);
    for first in (0..rows).step_by(DEFAULT_BLOCK_ROWS) {
        block.clear();
        block.rows = DEFAULT_BLOCK_ROWS.min(rows - first);
        for (place, column) in block.columns.iter_mut().enumerate() {
            match column {
                RawColumn::Dense(values) if place < DENSE => {
                    values.extend((0..block.rows).map(|_| stream.uniform() as f32));
                }
                RawColumn::Dense(labels) => {
                    labels.extend((0..block.rows).map(|_| f32::from(u8::from(stream.chance(0.2)))));
                }
                RawColumn::Key(keys) => {
                    keys.extend((0..block.rows).map(|_| stream.below(DISTINCT_KEYS)));
                }
                other => unreachable!("there is no {} column", other.kind()),
            }
        }
        writer.push_block(&block)?;
    }
    writer.finish().map(|_| ())
}

/// All features through vocabularies, all dense values standardised.
fn encoder() -> Result<Encoder, Box<dyn std::error::Error>> {
    let columns = columns();
    let inputs: Vec<_> = columns[..DENSE + KEYS]
        .iter()
        .map(|column| column.input(false))
        .collect();
    let mut vocabularies = Vocabularies::new();
    let mut schema = FeatureSchema {
        labels: vec!["click".into()],
        ..FeatureSchema::default()
    };
    for input in &inputs {
        let name = input.name.clone();
        if input.kind == ColumnKind::Dense {
            schema.dense.push(DenseFeature {
                source: DenseSource::Column(name.clone()),
                name,
                steps: vec![
                    DenseStep::Log1p,
                    DenseStep::Standardise {
                        mean: 0.4,
                        std: 0.2,
                    },
                ],
                fill: 0.0,
            });
        } else {
            vocabularies.insert(name.clone(), Vocabulary::new((0..DISTINCT_KEYS).collect())?);
            schema.tables.push(TableSchema {
                name: name.clone(),
                rows: 2 + DISTINCT_KEYS as usize,
                dim: None,
            });
            schema.categorical.push(CategoricalFeature {
                input: name.clone(),
                table: name.clone(),
                name,
                encoding: Encoding::Vocabulary { unseen_rows: 1 },
                pooling: Pooling::Sum,
                max_length: None,
            });
        }
    }
    schema.inputs = inputs;
    Ok(Encoder::new(&schema, &vocabularies)?)
}

/// Reads two epochs and tells the rows a second of the second.
fn measure(file: PathBuf, inputs: Inputs, threads: usize) -> streamrec::data::Result<f64> {
    let mut reader = BatchReader::new(ReaderSettings {
        threads,
        ..ReaderSettings::new(vec![file], inputs, vec!["click".into()], GLOBAL_BATCH)
    })?;
    let mut rows_per_s = 0.0;
    for epoch in 0..2 {
        let start = Instant::now();
        let mut rows = 0;
        reader.start(epoch, 0)?;
        while let Some(batch) = reader.next()? {
            rows += batch.filled;
            reader.recycle(batch);
        }
        rows_per_s = rows as f64 / start.elapsed().as_secs_f64();
    }
    Ok(rows_per_s)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let rows = rows.unwrap_or(2_000_000);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bench.pack");
    let start = Instant::now();
    write(&file, rows)?;
    println!(
        "written: {rows} rows in {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let names: Vec<_> = columns()
        .into_iter()
        .take(DENSE + KEYS)
        .map(|column| column.name)
        .collect();
    let encoder = Arc::new(encoder()?);
    for threads in [1, 2] {
        let raw = measure(file.clone(), Inputs::Raw(names.clone()), threads)?;
        let encoded = measure(file.clone(), Inputs::Encoded(encoder.clone()), threads)?;
        println!(
            "{threads} threads beside the loader: raw {:.2} M rows/s, encoded {:.2} M rows/s",
            raw / 1e6,
            encoded / 1e6
        );
    }
    Ok(())
}
