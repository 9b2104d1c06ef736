//! Profiles of data, in one pass: parts of the rows by several threads, merged in their order.
//!
//! Parts are the same whatever the threads, so that figures are, too; memory grows with the threads and not with the rows.

use std::ops::Range;

use rayon::prelude::*;
use streamrec_artifact::{Profile, ProfileBuilder, RawBatch};

use super::DriftError;
use crate::data::import::{InputPiece, InputRows};
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

/// The profile of files, in pieces of [`PART_ROWS`] rows; `builder` is of their inputs and has seen nothing yet.
///
/// # Errors
/// The files cannot be read, or hold values that their inputs do not take.
pub fn of_files(mut rows: InputRows, builder: &ProfileBuilder) -> Result<Profile, DriftError> {
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

    use streamrec_artifact::{ColumnKind, InputColumn, SourceType};

    use super::*;
    use crate::data::import::{InputSettings, SourceSchema};

    #[test]
    fn a_file_has_one_profile_whatever_the_threads() {
        let input = |name: &str, kind, source| InputColumn {
            name: name.to_owned(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        };
        let inputs = vec![
            input("age", ColumnKind::Dense, SourceType::Float),
            input("kind", ColumnKind::Key, SourceType::Text),
        ];
        let rows = 3 * PART_ROWS as u64 + 7;
        let mut text = "kind,age\n".to_owned();
        for row in 0..rows {
            // Every fifth age is missing, the others are 0 to 999, evenly.
            let age = if row % 5 == 0 {
                String::new()
            } else {
                (row * 7919 % 1000).to_string()
            };
            writeln!(text, "k{},{age}", row % 3).expect("memory");
        }
        let file = tempfile::NamedTempFile::with_suffix(".csv").expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let builder = ProfileBuilder::new(&inputs, &[]).with_sketches_only();
        let profiled = |threads| {
            let settings = InputSettings {
                files: vec![file.path().to_owned()],
                source: SourceSchema::default(),
                list_separator: ",".into(),
                inputs: inputs.clone(),
                keys: Vec::new(),
                piece_rows: PART_ROWS,
            };
            let rows = InputRows::open(settings).expect("the columns");
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.expect("threads").install(|| of_files(rows, &builder));
            found.expect("a profile")
        };
        let one = profiled(1);
        assert_eq!(one, profiled(3));
        assert_eq!((one.rows, one.inputs[0].missing), (rows, rows.div_ceil(5)));
        let numbers = one.inputs[0]
            .sketch
            .as_ref()
            .and_then(|sketch| sketch.numbers.as_ref());
        let median = numbers.expect("numbers").quantiles.quantiles(&[0.5])[0];
        assert!((median - 500.0).abs() < 30.0, "{median}");
        let keys = one.inputs[1]
            .sketch
            .as_ref()
            .and_then(|sketch| sketch.keys.as_ref());
        assert_eq!(keys.expect("keys").cardinality.estimate(), 3.0);
    }
}
