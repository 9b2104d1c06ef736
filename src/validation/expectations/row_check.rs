//! Expectations of single rows: which rows of a batch are not as expected.

use std::cmp::Ordering;
use std::collections::HashSet;

use arrow::array::{Array, StringArray};
use arrow::buffer::BooleanBuffer;
use streamrec_artifact::key;

use super::condition::{Comparison, RowCondition};
use super::kind::{IgnoreRow, Kind};
use super::literal::{Bounds, Literal};
use super::view::{Values, View, collect, number_of};

/// What came of a batch.
#[derive(Debug)]
pub(super) struct RowsChecked {
    /// The rows that count.
    pub(super) counted: usize,
    /// Those of them that are not as expected.
    pub(super) unexpected: BooleanBuffer,
    /// Why values could not be compared at all, as pandas would raise.
    pub(super) trouble: Option<String>,
}

/// How keys of a column of packed data came about, which decides how values of a suite are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyOf {
    /// The column holds values themselves.
    Nothing,
    /// The column holds hashes of texts.
    Text,
}

/// Checks a batch. `views` are those of the expectation's columns, in their order.
pub(super) fn check(kind: &Kind, views: &[&View], key_of: KeyOf) -> Result<RowsChecked, String> {
    match (kind, views) {
        (Kind::NotNull(_), [view]) => Ok(RowsChecked {
            counted: view.rows(),
            unexpected: !&view.valid,
            trouble: None,
        }),
        (Kind::Between(_, bounds), [view]) => between(bounds, view, key_of),
        (Kind::InSet(_, set), [view]) => {
            let inside = match set {
                None => view.valid.clone(),
                Some(set) => in_set(set, view, key_of),
            };
            Ok(of_valid(view, &inside, None))
        }
        (Kind::Matches(column, regex), [view]) => {
            let found = matches(regex, view, key_of).ok_or_else(|| {
                format!("`{column}` holds no texts: a regex needs text or integers as they are in Parquet or CSV")
            })?;
            Ok(of_valid(view, &found, None))
        }
        (
            Kind::PairGreater {
                or_equal, ignore, ..
            },
            [a, b],
        ) => {
            if !a.compares_with(b) {
                return Err(
                    "the two columns cannot be compared: they are of different types".into(),
                );
            }
            let good = BooleanBuffer::collect_bool(a.rows(), |row| match a.order_to(b, row) {
                Some(Ordering::Greater) => true,
                Some(Ordering::Equal) => *or_equal,
                Some(Ordering::Less) | None => false,
            });
            let counted = counted(&[a, b], *ignore);
            Ok(RowsChecked {
                counted: counted.count_set_bits(),
                unexpected: &counted & &!&good,
                trouble: None,
            })
        }
        // Expectations are checked with the columns that they name.
        _ => unreachable!("{} columns of {kind:?}", views.len()),
    }
}

/// The rows of several columns that count.
pub(super) fn counted(views: &[&View], ignore: IgnoreRow) -> BooleanBuffer {
    let rows = views.first().map_or(0, |view| view.rows());
    let all = views.iter().map(|view| view.valid.clone());
    match ignore {
        IgnoreRow::Never => BooleanBuffer::new_set(rows),
        IgnoreRow::AllMissing => all
            .reduce(|a, b| &a | &b)
            .unwrap_or_else(|| BooleanBuffer::new_set(rows)),
        IgnoreRow::AnyMissing => all
            .reduce(|a, b| &a & &b)
            .unwrap_or_else(|| BooleanBuffer::new_set(rows)),
    }
}

fn of_valid(view: &View, good: &BooleanBuffer, trouble: Option<String>) -> RowsChecked {
    RowsChecked {
        counted: view.valid_count,
        unexpected: &view.valid & &!good,
        trouble,
    }
}

fn between(bounds: &Bounds, view: &View, key_of: KeyOf) -> Result<RowsChecked, String> {
    if key_of == KeyOf::Text {
        return Err("packed data holds hashes of these texts, which have no order".into());
    }
    let mut trouble = None;
    let good = match &view.values {
        Values::Numbers(values) => {
            let [low, high] = closed(bounds)?;
            collect(values, |value| (value >= low) & (value <= high))
        }
        Values::Integers(values) if fits_in_double(bounds) => {
            let [low, high] = closed(bounds)?;
            collect(values, |value| {
                (value as f64 >= low) & (value as f64 <= high)
            })
        }
        Values::Times(values) => {
            let [low, high] = bounds.micros()?;
            let above = |value| value > low || (value == low && !bounds.strict_min);
            let below = |value| value < high || (value == high && !bounds.strict_max);
            collect(values, |value| above(value) && below(value))
        }
        Values::Opaque => return Err("the values have no order".into()),
        values => {
            check_types(values, bounds)?;
            let good = BooleanBuffer::collect_bool(view.rows(), |row| {
                let order = |limit: &Literal| view.order(row, limit);
                view.valid.value(row) && bounds.holds(order, order)
            });
            trouble = not_numbers(values, bounds, view);
            good
        }
    };
    Ok(of_valid(view, &good, trouble))
}

/// The least and the greatest number inside; NaN where there is none.
fn closed(bounds: &Bounds) -> Result<[f64; 2], String> {
    let [low, high] = bounds.numbers()?;
    Ok([
        match low {
            f64::INFINITY if bounds.strict_min => f64::NAN,
            low if bounds.strict_min => low.next_up(),
            low => low,
        },
        match high {
            f64::NEG_INFINITY if bounds.strict_max => f64::NAN,
            high if bounds.strict_max => high.next_down(),
            high => high,
        },
    ])
}

/// Whether all limits are so small that integers beyond them stay beyond as doubles.
fn fits_in_double(bounds: &Bounds) -> bool {
    let small = |limit: &Option<Literal>| match limit {
        Some(Literal::Integer(value)) => value.unsigned_abs() < 1 << 53,
        Some(Literal::Text(_)) => true,
        _ => true,
    };
    small(&bounds.min) && small(&bounds.max)
}

fn check_types(values: &Values, bounds: &Bounds) -> Result<(), String> {
    let limits = [&bounds.min, &bounds.max].into_iter().flatten();
    let is_text = |limit: &Literal| matches!(limit, Literal::Text(_));
    for limit in limits {
        match values {
            Values::Texts(_, false) if !is_text(limit) => {
                return Err(format!("the limit {limit} is no text, the values are"));
            }
            Values::Integers(_) | Values::Unsigneds(_) | Values::Booleans(_) if is_text(limit) => {
                return Err(format!("the limit {limit} is no number, the values are"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The first text of a CSV column that should be a number and is none.
fn not_numbers(values: &Values, bounds: &Bounds, view: &View) -> Option<String> {
    let numeric = [&bounds.min, &bounds.max]
        .into_iter()
        .flatten()
        .all(|limit| limit.number().is_some());
    let Values::Texts(texts, true) = values else {
        return None;
    };
    let mut rows = view.valid.set_indices();
    let wrong = rows.find(|&row| numeric && number_of(texts.value(row)).is_none())?;
    Some(format!(
        "{:?} is no number, the limits are",
        texts.value(wrong)
    ))
}

fn in_set(set: &[Literal], view: &View, key_of: KeyOf) -> BooleanBuffer {
    if key_of == KeyOf::Text
        && let Values::Unsigneds(values) = &view.values
    {
        let keys: HashSet<u64> = set
            .iter()
            .filter_map(|literal| match literal {
                Literal::Text(text) => Some(key::from_text(text)),
                _ => None,
            })
            .collect();
        return collect(values, |value| keys.contains(&value));
    }
    match &view.values {
        Values::Texts(texts, lenient) => in_text_set(set, texts, *lenient, view),
        Values::Integers(values) => {
            let integers: HashSet<i64> = set
                .iter()
                .filter_map(|literal| match literal {
                    Literal::Integer(value) => Some(*value),
                    Literal::Boolean(value) => Some(i64::from(*value)),
                    Literal::Number(value) if value.fract() == 0.0 => Some(*value as i64),
                    _ => None,
                })
                .collect();
            collect(values, |value| integers.contains(&value))
        }
        _ => BooleanBuffer::collect_bool(view.rows(), |row| {
            let equal = |literal: &Literal| view.order(row, literal) == Some(Ordering::Equal);
            view.valid.value(row) && set.iter().any(equal)
        }),
    }
}

fn in_text_set(set: &[Literal], texts: &StringArray, lenient: bool, view: &View) -> BooleanBuffer {
    let named: HashSet<&str> = set
        .iter()
        .filter_map(|literal| match literal {
            Literal::Text(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    let others: Vec<&Literal> = set
        .iter()
        .filter(|literal| !matches!(literal, Literal::Text(_)))
        .collect();
    BooleanBuffer::collect_bool(texts.len(), |row| {
        let equal = |literal: &&&Literal| view.order(row, literal) == Some(Ordering::Equal);
        named.contains(texts.value(row))
            || (lenient && others.iter().any(|literal| equal(&literal)))
    })
}

fn matches(regex: &regex::Regex, view: &View, key_of: KeyOf) -> Option<BooleanBuffer> {
    match &view.values {
        _ if key_of == KeyOf::Text => None,
        Values::Texts(texts, _) => Some(BooleanBuffer::collect_bool(texts.len(), |row| {
            regex.is_match(texts.value(row))
        })),
        Values::Integers(values) => {
            Some(collect(values, |value| regex.is_match(&value.to_string())))
        }
        _ => None,
    }
}

/// The rows of a batch that a condition picks.
pub(super) fn select(
    condition: &RowCondition,
    view: &View,
    key_of: KeyOf,
) -> Result<BooleanBuffer, String> {
    if key_of == KeyOf::Text {
        let set = in_set(std::slice::from_ref(&condition.value), view, key_of);
        return match condition.comparison {
            Comparison::Equal => Ok(set),
            Comparison::NotEqual => Ok(!&set),
            _ => Err("packed data holds hashes of these texts, which have no order".into()),
        };
    }
    if matches!(view.values, Values::Opaque) {
        return Err(format!(
            "the values of `{}` cannot be compared",
            condition.column
        ));
    }
    Ok(BooleanBuffer::collect_bool(view.rows(), |row| {
        let order = if view.valid.value(row) {
            view.order(row, &condition.value)
        } else {
            None
        };
        match condition.comparison {
            Comparison::Equal => order == Some(Ordering::Equal),
            Comparison::NotEqual => order != Some(Ordering::Equal),
            Comparison::Less => order == Some(Ordering::Less),
            Comparison::AtMost => order.is_some_and(Ordering::is_le),
            Comparison::Greater => order == Some(Ordering::Greater),
            Comparison::AtLeast => order.is_some_and(Ordering::is_ge),
        }
    }))
}
