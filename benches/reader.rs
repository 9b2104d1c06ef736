//! How many rows a second one rank reads of packed data, raw and encoded, with one and with two threads beside the one that
//! loads: `cargo bench --bench reader [-- rows]`. The last line is JSON, of the encoded rows with one thread, in windows of
//! an epoch; `scripts/bench` holds it against what a step of the model takes.
//!
//! `STREAMREC_MODEL` says whose columns: of `dlrm` 13 dense ones, which are logarithms and standardised, and 26 keys, the shape
//! of Criteo's data; of `streamrec` 8 keys. All keys go through vocabularies.

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

const DISTINCT_KEYS: u64 = 10_000;
const GLOBAL_BATCH: usize = 8192;
const WINDOWS: usize = 5;

/// How many columns there are of each kind.
#[derive(Clone, Copy)]
struct Shape {
    dense: usize,
    keys: usize,
}

impl Shape {
    fn of(model: &str) -> Result<Self, String> {
        match model {
            "dlrm" => Ok(Self {
                dense: 13,
                keys: 26,
            }),
            "streamrec" => Ok(Self { dense: 0, keys: 8 }),
            _ => Err(format!(
                "STREAMREC_MODEL: expected dlrm or streamrec, got `{model}`"
            )),
        }
    }
}

fn columns(shape: Shape) -> Vec<Column> {
    let dense = (0..shape.dense).map(|i| {
        Column::new(
            format!("dense_{i}"),
            ColumnKind::Dense,
            SourceType::Float,
            Role::Feature,
        )
    });
    let keys = (0..shape.keys).map(|i| {
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

fn write(path: &Path, shape: Shape, rows: usize) -> streamrec::data::Result<()> {
    let mut writer = PackWriter::create(path, &columns(shape), DEFAULT_BLOCK_ROWS)?;
    let mut block = Block::new(&columns(shape));
    let mut stream = Stream::new(&[7]);
    for first in (0..rows).step_by(DEFAULT_BLOCK_ROWS) {
        block.clear();
        block.rows = DEFAULT_BLOCK_ROWS.min(rows - first);
        for (place, column) in block.columns.iter_mut().enumerate() {
            match column {
                RawColumn::Dense(values) if place < shape.dense => {
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
fn encoder(shape: Shape) -> Result<Encoder, Box<dyn std::error::Error>> {
    let columns = columns(shape);
    let inputs: Vec<_> = columns[..shape.dense + shape.keys]
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

/// Rows a second of so many epochs, after a first one that is not told of.
fn measure(
    file: PathBuf,
    inputs: Inputs,
    threads: usize,
    epochs: usize,
) -> streamrec::data::Result<Vec<f64>> {
    let mut reader = BatchReader::new(ReaderSettings {
        threads,
        ..ReaderSettings::new(vec![file], inputs, vec!["click".into()], GLOBAL_BATCH)
    })?;
    let mut rates = Vec::with_capacity(epochs + 1);
    for epoch in 0..=epochs {
        let start = Instant::now();
        let mut rows = 0;
        reader.start(epoch as u64, 0)?;
        while let Some(batch) = reader.next()? {
            rows += batch.filled;
            reader.recycle(batch);
        }
        rates.push((rows as f64 / start.elapsed().as_secs_f64()).round());
    }
    rates.remove(0);
    Ok(rates)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let model = std::env::var("STREAMREC_MODEL").unwrap_or_else(|_| "dlrm".into());
    let shape = Shape::of(&model)?;
    let rows = std::env::args()
        .skip(1)
        .find_map(|argument| argument.parse().ok());
    let rows = rows.unwrap_or(2_000_000);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bench.pack");
    let start = Instant::now();
    write(&file, shape, rows)?;
    println!(
        "written: {rows} rows in {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let names: Vec<_> = columns(shape)
        .into_iter()
        .take(shape.dense + shape.keys)
        .map(|column| column.name)
        .collect();
    let encoder = Arc::new(encoder(shape)?);
    for threads in [1, 2] {
        let raw = measure(file.clone(), Inputs::Raw(names.clone()), threads, 1)?;
        let encoded = measure(file.clone(), Inputs::Encoded(encoder.clone()), threads, 1)?;
        println!(
            "{threads} threads beside the loader: raw {:.2} M rows/s, encoded {:.2} M rows/s",
            raw[0] / 1e6,
            encoded[0] / 1e6
        );
    }
    let rates = measure(file, Inputs::Encoded(encoder), 1, WINDOWS)?;
    let line = serde_json::json!({
        "what": "packed rows, encoded, one thread beside the loader", "model": model, "rows": rows,
        "windows_samples_per_s": rates,
    });
    println!("{line}");
    Ok(())
}
