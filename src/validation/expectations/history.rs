//! What days of data looked like: the evidence that a suite is calibrated from.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::buffer::BooleanBuffer;
use arrow::compute::filter_record_batch;
use streamrec_artifact::Moments;
use streamrec_artifact::sketch::QuantileSketch;

use super::ExpectationError;
use super::row_set::Rows;
use super::source::{Scan, Table};
use super::view::{Values, View};

/// A text column with more different values is not of a set.
pub(super) const SET_MAX: usize = 50;
const DAY_MICROS: i64 = 86_400_000_000;

/// What one column looked like on one day.
#[derive(Debug, Clone, Default)]
pub(super) struct DayColumn {
    pub(super) missing: u64,
    pub(super) moments: Moments,
    pub(super) quantiles: QuantileSketch,
    pub(super) texts: BTreeSet<String>,
    pub(super) times: Option<[i64; 2]>,
    /// By the value of the segment column: rows, and those without a value.
    pub(super) by_segment: BTreeMap<String, [u64; 2]>,
}

/// What one day looked like.
#[derive(Debug, Clone, Default)]
pub(super) struct Day {
    pub(super) rows: u64,
    pub(super) columns: Vec<DayColumn>,
    /// For each pair of time columns, whether the first was ever later than the second.
    pub(super) later: BTreeSet<(usize, usize)>,
}

/// Days by their number, or by the place of their table where no column tells.
pub(super) type Days = BTreeMap<i64, Day>;

/// Gathers days of one table.
pub(super) struct Gather<'a> {
    pub(super) table: &'a Table,
    pub(super) columns: Vec<usize>,
    /// The column whose day a row belongs to.
    pub(super) time: Option<usize>,
    /// The column whose values make segments.
    pub(super) segment: Option<usize>,
    /// The day of rows where no column tells.
    pub(super) place: i64,
}

impl Gather<'_> {
    fn add(&self, day: &mut Day, batch: &RecordBatch) -> Result<(), ExpectationError> {
        let view = |column: usize| {
            View::new(batch.column(column), self.table.is_text()).map_err(ExpectationError::Arrow)
        };
        let views: Vec<View> = (0..batch.num_columns())
            .map(view)
            .collect::<Result<_, _>>()?;
        day.rows += batch.num_rows() as u64;
        day.columns.resize_with(views.len(), DayColumn::default);
        let segment = self.segment.map(|column| &views[column]);
        for (column, view) in day.columns.iter_mut().zip(&views) {
            column.add(view, segment);
        }
        let times = || {
            views
                .iter()
                .enumerate()
                .filter(|(_, view)| matches!(view.values, Values::Times(_)))
        };
        for (a, first) in times() {
            for (b, second) in times().filter(|(b, _)| *b != a) {
                let is_later =
                    |row| first.order_to(second, row) == Some(std::cmp::Ordering::Greater);
                if (0..batch.num_rows()).any(is_later) {
                    day.later.insert((a, b));
                }
            }
        }
        Ok(())
    }

    /// The day of each row.
    fn days(&self, batch: &RecordBatch) -> Result<Vec<i64>, ExpectationError> {
        let Some(time) = self.time else {
            return Ok(vec![self.place; batch.num_rows()]);
        };
        let view =
            View::new(batch.column(time), self.table.is_text()).map_err(ExpectationError::Arrow)?;
        match &view.values {
            Values::Times(times) => Ok((0..batch.num_rows())
                .map(|row| {
                    if view.valid.value(row) {
                        times[row].div_euclid(DAY_MICROS)
                    } else {
                        i64::MIN
                    }
                })
                .collect()),
            _ => Err(ExpectationError::Arrow(
                "the column of --time holds no times".into(),
            )),
        }
    }
}

impl Scan for Gather<'_> {
    type State = Days;

    fn start(&self, _: usize) -> Days {
        Days::new()
    }

    fn batch(
        &self,
        _: usize,
        state: &mut Days,
        _: &Rows,
        batch: &RecordBatch,
    ) -> Result<(), ExpectationError> {
        let days = self.days(batch)?;
        let different: BTreeSet<i64> = days
            .iter()
            .copied()
            .filter(|day| *day != i64::MIN)
            .collect();
        for day in different {
            let mask = BooleanBuffer::collect_bool(days.len(), |row| days[row] == day);
            let part = filter_record_batch(batch, &BooleanArray::new(mask, None));
            let part = part.map_err(|error| ExpectationError::Arrow(error.to_string()))?;
            self.add(state.entry(day).or_default(), &part)?;
        }
        Ok(())
    }
}

impl DayColumn {
    fn add(&mut self, view: &View, segment: Option<&View>) {
        self.missing += (view.rows() - view.valid_count) as u64;
        if let Some(segment) = segment
            && let Values::Texts(texts, _) = &segment.values
        {
            for row in segment.valid.set_indices() {
                if let Some(counts) = segment_counts(&mut self.by_segment, texts.value(row)) {
                    counts[0] += 1;
                    counts[1] += u64::from(!view.valid.value(row));
                }
            }
        }
        match &view.values {
            Values::Texts(texts, _) => {
                for row in view.valid.set_indices() {
                    if self.texts.len() <= SET_MAX && !self.texts.contains(texts.value(row)) {
                        self.texts.insert(texts.value(row).to_owned());
                    }
                }
            }
            Values::Times(times) => {
                for row in view.valid.set_indices() {
                    let [first, last] = self.times.unwrap_or([times[row]; 2]);
                    self.times = Some([first.min(times[row]), last.max(times[row])]);
                }
            }
            Values::Integers(_) | Values::Unsigneds(_) | Values::Numbers(_) => {
                let numbers: Vec<f64> = view
                    .valid
                    .set_indices()
                    .filter_map(|row| view.number(row))
                    .collect();
                self.moments.add(&numbers);
                self.quantiles.add_all(&numbers);
            }
            _ => {}
        }
    }

    fn merge(&mut self, other: Self) -> Result<(), ExpectationError> {
        self.missing += other.missing;
        self.moments.merge(other.moments);
        self.quantiles
            .merge(&other.quantiles)
            .map_err(|error| ExpectationError::Arrow(error.to_string()))?;
        self.texts.extend(other.texts);
        if let Some([first, last]) = other.times {
            let [a, b] = self.times.unwrap_or([first, last]);
            self.times = Some([a.min(first), b.max(last)]);
        }
        for (name, [rows, missing]) in other.by_segment {
            let counts = self.by_segment.entry(name).or_default();
            counts[0] += rows;
            counts[1] += missing;
        }
        Ok(())
    }
}

/// The counts of a segment; none beyond as many as a set may have.
fn segment_counts<'a>(
    counts: &'a mut BTreeMap<String, [u64; 2]>,
    name: &str,
) -> Option<&'a mut [u64; 2]> {
    if !counts.contains_key(name) {
        if counts.len() >= SET_MAX {
            return None;
        }
        counts.insert(name.to_owned(), [0, 0]);
    }
    counts.get_mut(name)
}

/// Adds days of one part of the rows to those of others.
pub(super) fn merge(days: &mut Days, other: Days) -> Result<(), ExpectationError> {
    for (number, more) in other {
        let day = days.entry(number).or_default();
        day.rows += more.rows;
        day.later.extend(more.later);
        day.columns.resize_with(
            more.columns.len().max(day.columns.len()),
            DayColumn::default,
        );
        for (column, more) in day.columns.iter_mut().zip(more.columns) {
            column.merge(more)?;
        }
    }
    Ok(())
}
