//! Data expectations: suites of Great Expectations on Parquet, CSV and packed data.
//!
//! ```text
//! suite ─► plan: columns read together ─► scan 1: every expectation on every batch ─┐
//!                                                                                   ├─► results, as GX writes them
//!          failing rows, exact quantiles, values of duplicates ◄─ scan 2 (if any) ──┘   failing rows, as Parquet
//! ```
//!
//! However many expectations there are, a column is read twice at most, in parallel, and memory does not grow
//! with the table but for one bit a row and expectation of uniqueness, and one bit a row for all failing rows.
//! What is not supported is refused by name when a suite is read.

mod aggregate;
mod condition;
mod duplicates;
mod exact_quantiles;
mod failing_rows;
mod history;
mod judge;
mod kind;
mod kwargs;
mod literal;
mod outcome;
mod partition;
mod plan;
mod row_check;
mod row_set;
mod source;
mod suggest;
mod suite;
mod view;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use condition::{Comparison, RowCondition};
pub use failing_rows::{EXPECTATIONS_COLUMN, ROW_COLUMN};
pub use kind::{IgnoreRow, Interpolation, Kind};
pub use literal::{Bounds, Literal};
pub use outcome::{ExceptionInfo, ExpectationResult, Statistics, Validation};
pub use partition::Partition;
pub use source::Table;
pub use suggest::{SuggestSettings, suggest};
pub use suite::{Expectation, Severity, Suite, WrittenExpectation, WrittenSuite};

use aggregate::Aggregate;
use duplicates::Duplicates;
use exact_quantiles::{ExactQuantiles, quantiles_held};
use failing_rows::{FailingRowsWriter, Member, SecondScan};
use judge::{Judge, PartTally, SHOWN, Tally};
use plan::Plan;
use row_set::RowSet;

use crate::data::Error as DataError;

/// A suite or a table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExpectationError {
    /// A suite's file that cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A suite that is wrong or asks for what is not supported.
    #[error("the suite {} cannot be used:\n  {}", path.display(), problems.join("\n  "))]
    Suite {
        /// The suite's file.
        path: PathBuf,
        /// All that is wrong.
        problems: Vec<String>,
    },
    /// A table that cannot be read, or failing rows that cannot be written.
    #[error("{}: {problem}", path.display())]
    Table {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Packed data that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Values that Arrow could not handle.
    #[error("values could not be read: {0}")]
    Arrow(String),
    /// Rows that could not be kept on the disk.
    #[error("rows cannot be kept in the temporary folder; set TMPDIR to one with room")]
    Spill(#[source] io::Error),
}

/// Judges a suite on a table. Rows that fail some expectation are written to `failing_rows`, where it is given.
///
/// # Errors
/// The table cannot be read, or failing rows cannot be written. An expectation that cannot be judged is no
/// error: it is not met, and says why.
pub fn validate(
    suite: &Suite,
    table: &Table,
    failing_rows: Option<&Path>,
) -> Result<Validation, ExpectationError> {
    let plan = Plan::new(suite, table);
    let mut tallies: Vec<Tally> = suite
        .expectations
        .iter()
        .map(|expectation| Tally::new(&expectation.kind))
        .collect();
    for (tally, trouble) in tallies.iter_mut().zip(&plan.trouble) {
        tally.trouble.clone_from(trouble);
    }
    let mut failing = RowSet::default();
    let judge = Judge::new(suite, table, &plan);
    let rows = table.scan(&plan.bundles, None, true, &judge, |_, part: PartTally| {
        for (index, tally) in part.tallies {
            tallies[index].merge(tally);
        }
        part.failing
            .iter()
            .for_each(|(rows, mask)| failing.insert_batch(rows, mask));
        Ok(())
    })?;
    let duplicates = judge
        .into_duplicates()
        .into_iter()
        .map(|search| search.map(Duplicates::finish).transpose());
    let duplicates: Vec<Option<RowSet>> = duplicates
        .collect::<Result<_, _>>()
        .map_err(ExpectationError::Spill)?;
    for (tally, found) in tallies.iter_mut().zip(&duplicates) {
        if let Some(found) = found {
            tally.unexpected = found.len();
            failing.union(found);
        }
    }
    let (quantiles, scanned_twice) = second_scan(
        suite,
        table,
        &plan,
        &mut tallies,
        duplicates,
        &failing,
        failing_rows,
    )?;
    let results = quantiles.into_iter().enumerate().map(|(index, quantiles)| {
        let expectation = &suite.expectations[index];
        ExpectationResult::new(
            expectation,
            judged(expectation, &tallies[index], quantiles, table, rows),
        )
    });
    let scans = 1 + u32::from(scanned_twice);
    Ok(Validation::new(
        suite,
        table,
        results.collect(),
        rows,
        scans,
    ))
}

fn judged(
    expectation: &Expectation,
    tally: &Tally,
    quantiles: Option<ExactQuantiles>,
    table: &Table,
    rows: u64,
) -> Result<(bool, serde_json::Value), (String, serde_json::Value)> {
    let nothing = || serde_json::json!({});
    if let Some(problem) = &tally.trouble {
        return Err((problem.clone(), nothing()));
    }
    match &expectation.kind {
        Kind::Quantiles {
            quantiles: shares,
            ranges,
            interpolation,
            ..
        } => {
            let found = match quantiles {
                Some(quantiles) => quantiles
                    .finish(shares, *interpolation)
                    .map_err(|problem| (problem, nothing()))?,
                None => None,
            };
            Ok(quantiles_held(found, shares, ranges))
        }
        kind if kind.is_row_wise() => Ok(outcome::of_rows(expectation, tally)),
        _ => Ok(outcome::of_table(expectation, tally, table, rows)),
    }
}

/// Where exact quantiles are looked for.
fn quantiles_sought(suite: &Suite, tallies: &[Tally]) -> Vec<Option<ExactQuantiles>> {
    let one = |(expectation, tally): (&Expectation, &Tally)| match (
        &expectation.kind,
        &tally.aggregate,
    ) {
        (Kind::Quantiles { quantiles, .. }, Some(Aggregate::Quantiles { sketch }))
            if tally.trouble.is_none() =>
        {
            Some(ExactQuantiles::new(sketch, quantiles))
        }
        _ => None,
    };
    suite.expectations.iter().zip(tallies).map(one).collect()
}

/// Scans again for what the first scan could not know. Gives exact quantiles, and whether there was anything to
/// find.
fn second_scan(
    suite: &Suite,
    table: &Table,
    plan: &Plan,
    tallies: &mut [Tally],
    duplicates: Vec<Option<RowSet>>,
    failing: &RowSet,
    failing_rows: Option<&Path>,
) -> Result<(Vec<Option<ExactQuantiles>>, bool), ExpectationError> {
    let sought = quantiles_sought(suite, tallies);
    let has_quantiles = sought.iter().any(Option::is_some);
    let mut wanted = RowSet::default();
    for found in duplicates.iter().flatten() {
        found.iter().take(SHOWN).for_each(|row| wanted.insert(row));
    }
    let mut writer = None;
    if let Some(path) = failing_rows {
        let created = FailingRowsWriter::create(path, table.schema())?;
        if failing.is_empty() {
            created.finish()?;
        } else {
            writer = Some(Mutex::new(created));
            wanted.union(failing);
        }
    }
    if !has_quantiles && wanted.is_empty() {
        return Ok((sought, false));
    }
    let all: Vec<usize> = (0..table.schema().fields().len()).collect();
    let writes = writer.is_some();
    let scan = SecondScan {
        suite,
        table,
        bundles: if writes {
            vec![all]
        } else {
            plan.bundles_of(|index| {
                let repeated = duplicates[index].as_ref();
                sought[index].is_some() || repeated.is_some_and(|rows| !rows.is_empty())
            })
        },
        quantiles: sought,
        duplicates,
        failing,
        writer,
        members: Member::all(plan, tallies),
    };
    let mut quantiles = scan.quantiles.clone();
    let selection = (!has_quantiles).then_some(&wanted);
    table.scan(&scan.bundles, selection, !writes, &scan, |_, found| {
        for (quantiles, more) in quantiles.iter_mut().zip(found.quantiles) {
            if let (Some(quantiles), Some(more)) = (quantiles, more) {
                quantiles.merge(more);
            }
        }
        for (tally, shown) in tallies.iter_mut().zip(found.shown) {
            tally.shown.extend(shown);
            tally.shown.truncate(SHOWN);
        }
        Ok(())
    })?;
    if let Some(writer) = scan.writer {
        writer
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .finish()?;
    }
    Ok((quantiles, true))
}
