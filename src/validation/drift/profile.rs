//! Profiles of data, in one pass: parts of the rows by several threads, merged in their order.
//!
//! Parts are the same whatever the threads, so that figures are, too; memory grows with the threads and not with the rows.

use std::ops::Range;

use rayon::prelude::*;
use streamrec_artifact::{Profile, ProfileBuilder, RawBatch};

use super::DriftError;
use crate::data::import::{
    FileFormat, InputPart, InputParts, InputPiece, InputRows, InputSettings,
};
use crate::data::in_order::in_order;
use crate::data::{Block, Dataset, PackReader, Split};

/// Blocks of a part of a dataset.
const PART_BLOCKS: usize = 32;
/// Rows of a part of files.
pub const PART_ROWS: usize = 1 << 14;

/// The profile of some splits of a dataset; `builder` has seen nothing yet.
///
/// # Errors
/// The data cannot be read, or lacks inputs.
pub fn of_dataset(
    dataset: &Dataset,
    splits: &[Split],
    builder: &ProfileBuilder,
) -> Result<Profile, DriftError> {
    let packs = splits.iter().map(|&split| dataset.pack(split));
    let packs = packs.collect::<Result<Vec<_>, _>>()?;
    let parts: Vec<(&PackReader, Range<usize>)> = packs
        .iter()
        .flat_map(|pack| {
            let starts = (0..pack.blocks()).step_by(PART_BLOCKS);
            starts.map(move |start| (pack, start..(start + PART_BLOCKS).min(pack.blocks())))
        })
        .collect();
    let mut whole = builder.finish();
    for some in parts.chunks(3 * rayon::current_num_threads()) {
        let of_blocks = |(pack, blocks): &(&PackReader, Range<usize>)| {
            of_blocks(pack, blocks.clone(), builder.clone())
        };
        let found: Vec<Result<Profile, DriftError>> = some.par_iter().map(of_blocks).collect();
        for part in found {
            whole.merge(&part?)?;
        }
    }
    Ok(whole)
}

fn of_blocks(
    pack: &PackReader,
    blocks: Range<usize>,
    mut builder: ProfileBuilder,
) -> Result<Profile, DriftError> {
    let mut raw = RawBatch::new(builder.inputs());
    let inputs = builder.inputs().iter();
    let places = inputs.map(|input| pack.column(&input.name));
    let places = places.collect::<Result<Vec<_>, _>>()?;
    let kinds = places.iter().map(|&place| pack.columns()[place].kind);
    let mut block = Block::of_kinds(kinds);
    for number in blocks {
        block.clear();
        pack.append_block(number, &places, &mut block)?;
        raw.rows = block.rows;
        std::mem::swap(&mut raw.columns, &mut block.columns);
        builder.observe(&raw)?;
        std::mem::swap(&mut raw.columns, &mut block.columns);
    }
    Ok(builder.finish())
}

/// The profile of files; `builder` is of their inputs and has seen nothing yet.
///
/// Parquet is read by all threads, each some columns of a row group; text by one, and profiled by all.
///
/// # Errors
/// The files cannot be read, or hold values that their inputs do not take.
pub fn of_files(settings: InputSettings, builder: &ProfileBuilder) -> Result<Profile, DriftError> {
    match settings.source.format {
        FileFormat::Parquet => of_parts(&InputParts::open(settings)?, builder),
        FileFormat::Csv => of_rows(InputRows::open(settings)?, builder),
    }
}

fn of_parts(parts: &InputParts, builder: &ProfileBuilder) -> Result<Profile, DriftError> {
    let mut whole = builder.finish();
    // A row's segment is told by one of its inputs: all of them are read together.
    let together = builder.has_segments();
    let at_once = if together { builder.inputs().len() } else { 1 };
    let mut left = parts.parts(at_once).into_iter();
    let worker = || {
        |part: InputPart| {
            let mut own = if together {
                builder.clone()
            } else {
                builder.of_inputs(part.inputs.clone())
            };
            parts.read(&part, |raw| Ok::<_, DriftError>(own.observe(raw)?))?;
            Ok::<_, DriftError>((part, own.finish()))
        }
    };
    let threads = rayon::current_num_threads();
    in_order(
        threads,
        || Ok(left.next()),
        worker,
        |(part, profile): (InputPart, Profile)| {
            if together {
                return Ok(whole.merge(&profile)?);
            }
            let own = whole.inputs[part.inputs].iter_mut();
            own.zip(&profile.inputs)
                .try_for_each(|(own, theirs)| own.merge(theirs))?;
            Ok(())
        },
    )?;
    whole.rows = parts.rows();
    Ok(whole)
}

fn of_rows(mut rows: InputRows, builder: &ProfileBuilder) -> Result<Profile, DriftError> {
    let mut whole = builder.finish();
    let worker = || {
        let mut raw = RawBatch::new(builder.inputs());
        move |mut piece: InputPiece| {
            piece.read(&mut raw)?;
            let mut part = builder.clone();
            part.observe(&raw)?;
            Ok::<_, DriftError>(part.finish())
        }
    };
    let threads = rayon::current_num_threads();
    in_order(
        threads,
        || Ok(rows.next()?),
        worker,
        |part| Ok(whole.merge(&part)?),
    )?;
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::fs::File;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::file::properties::WriterProperties;
    use streamrec_artifact::{ColumnKind, InputColumn, InputSketch, SourceType};

    use super::*;
    use crate::data::import::SourceSchema;

    const ROWS: u64 = 3 * PART_ROWS as u64 + 7;

    fn inputs() -> Vec<InputColumn> {
        let input = |name: &str, kind, source| InputColumn {
            name: name.to_owned(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        };
        vec![
            input("age", ColumnKind::Dense, SourceType::Float),
            input("kind", ColumnKind::Key, SourceType::Text),
        ]
    }

    /// Every fifth age is missing, the others are 0 to 999, evenly.
    fn age(row: u64) -> Option<u64> {
        (!row.is_multiple_of(5)).then_some(row * 7919 % 1000)
    }

    fn csv() -> tempfile::NamedTempFile {
        let mut text = "kind,age\n".to_owned();
        for row in 0..ROWS {
            let age = age(row).map(|age| age.to_string()).unwrap_or_default();
            writeln!(text, "k{},{age}", row % 3).expect("memory");
        }
        let file = tempfile::NamedTempFile::with_suffix(".csv").expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    /// The same rows in groups of 20,000; `change` changes an age.
    fn parquet(change: impl Fn(u64, f64) -> f64) -> tempfile::NamedTempFile {
        let ages = (0..ROWS).map(|row| age(row).map(|age| change(row, age as f64)));
        let kinds = (0..ROWS).map(|row| Some(format!("k{}", row % 3)));
        let columns: [(&str, ArrayRef); 2] = [
            ("kind", Arc::new(kinds.collect::<StringArray>())),
            ("age", Arc::new(ages.collect::<Float64Array>())),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let file = tempfile::NamedTempFile::with_suffix(".parquet").expect("a file");
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(Some(20_000))
            .build();
        let to = File::create(file.path()).expect("created");
        let mut writer = ArrowWriter::try_new(to, batch.schema(), Some(properties)).expect("Arrow");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        file
    }

    fn profiled(
        file: &tempfile::NamedTempFile,
        threads: usize,
        segments: &[String],
    ) -> Result<Profile, DriftError> {
        let is_parquet = file.path().extension().is_some_and(|end| end == "parquet");
        let settings = InputSettings {
            files: vec![file.path().to_owned()],
            source: SourceSchema {
                format: if is_parquet {
                    FileFormat::Parquet
                } else {
                    FileFormat::Csv
                },
                ..SourceSchema::default()
            },
            list_separator: ",".into(),
            inputs: inputs(),
            keys: Vec::new(),
            piece_rows: PART_ROWS,
        };
        let builder = ProfileBuilder::new(&inputs(), &[]).with_sketches_only();
        let builder = builder.with_segments(segments).expect("a key");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads")
            .install(|| of_files(settings, &builder))
    }

    fn sketch(profile: &Profile, place: usize) -> &InputSketch {
        profile.inputs[place].sketch.as_ref().expect("a sketch")
    }

    #[test]
    fn a_file_has_one_profile_whatever_the_threads() {
        for file in [csv(), parquet(|_, age| age)] {
            let one = profiled(&file, 1, &[]).expect("a profile");
            assert_eq!(one, profiled(&file, 3, &[]).expect("a profile"));
            assert_eq!((one.rows, one.inputs[0].missing), (ROWS, ROWS.div_ceil(5)));
            let numbers = sketch(&one, 0).numbers.as_ref().expect("numbers");
            let median = numbers.quantiles.quantiles(&[0.5])[0];
            assert!((median - 500.0).abs() < 30.0, "{median}");
            let keys = sketch(&one, 1).keys.as_ref().expect("keys");
            assert_eq!(keys.cardinality.estimate(), 3.0);
        }
    }

    #[test]
    fn parquet_and_text_of_the_same_rows_have_the_same_counts_by_segments_too() {
        let by = ["kind".to_owned()];
        let [text, typed] = [csv(), parquet(|_, age| age)];
        let [text, typed] = [text, typed].map(|file| profiled(&file, 2, &by).expect("a profile"));
        assert_eq!(sketch(&text, 1), sketch(&typed, 1));
        let moments = |profile| {
            sketch(profile, 0)
                .numbers
                .as_ref()
                .expect("numbers")
                .moments
        };
        let (a, b) = (moments(&text), moments(&typed));
        assert!((a.mean() - b.mean()).abs() < 1e-9 && (a.std() - b.std()).abs() < 1e-9);
        let counts = |profile: &Profile| -> Vec<(u64, u64, u64)> {
            let segments = profile.segments.iter();
            let counts = segments.map(|one| (one.key, one.rows, one.inputs[0].missing));
            counts.collect()
        };
        assert_eq!(counts(&text), counts(&typed));
        assert_eq!(counts(&text).len(), 3);
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_with_its_row() {
        let file = parquet(|row, age| if row == 41_234 { 1e300 } else { age });
        let problem = profiled(&file, 2, &[]).expect_err("too great").to_string();
        // Rows of a file count from 1.
        assert!(problem.contains("41235"), "{problem}");
    }
}
