//! The supported expectations, by the names and arguments of Great Expectations 1.x.

use super::kwargs::Kwargs;
use super::literal::{Bounds, Literal};
use super::partition::Partition;

/// What is expected.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Values are there.
    NotNull(String),
    /// Values lie in a range.
    Between(String, Bounds),
    /// Values are of a set; any where there is none.
    InSet(String, Option<Vec<Literal>>),
    /// No value occurs twice.
    Unique(String),
    /// A regular expression is found in values.
    Matches(String, regex::Regex),
    /// The column is of a type.
    OfType {
        /// The column.
        column: String,
        /// The type's name in pandas or Arrow.
        type_name: String,
    },
    /// No values of some columns occur together twice.
    CompoundUnique(Vec<String>, IgnoreRow),
    /// The value of one column is greater than that of another.
    PairGreater {
        /// What is greater.
        a: String,
        /// What is less.
        b: String,
        /// Whether equal values will do.
        or_equal: bool,
        /// Which rows do not count.
        ignore: IgnoreRow,
    },
    /// The number of rows lies in a range.
    RowCount(Bounds),
    /// The columns are those of a set.
    ColumnSet {
        /// The set.
        columns: Vec<String>,
        /// Whether others are forbidden.
        exact: bool,
    },
    /// The mean lies in a range.
    Mean(String, Bounds),
    /// Quantiles lie in ranges.
    Quantiles {
        /// The column.
        column: String,
        /// Shares, 0 to 1.
        quantiles: Vec<f64>,
        /// A range for each.
        ranges: Vec<[f64; 2]>,
        /// Which value is taken between two.
        interpolation: Interpolation,
    },
    /// The Kullback-Leibler divergence from a partition is at most a threshold.
    Divergence {
        /// The column.
        column: String,
        /// What is expected.
        partition: Partition,
        /// The most, in nats; none passes always.
        threshold: Option<f64>,
    },
}

/// Which rows of several columns do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IgnoreRow {
    /// Those without any value.
    AllMissing,
    /// Those that lack a value.
    AnyMissing,
    /// None.
    Never,
}

/// Which value is a quantile that lies between two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpolation {
    /// On the line between them.
    Linear,
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
    /// Their mean.
    Midpoint,
    /// The nearer one; of equally near ones that of the even place.
    Nearest,
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        // Regular expressions are equal if they are written equally.
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Kind {
    /// What the expectation `name` with these arguments is.
    pub(super) fn parse(name: &str, kwargs: &mut Kwargs) -> Result<Self, String> {
        let column = |kwargs: &mut Kwargs| kwargs.needed_text("column");
        Ok(match name {
            "expect_column_values_to_not_be_null" => Self::NotNull(column(kwargs)?),
            "expect_column_values_to_be_between" => {
                Self::Between(column(kwargs)?, kwargs.bounds()?)
            }
            "expect_column_values_to_be_in_set" => {
                Self::InSet(column(kwargs)?, kwargs.literals("value_set")?)
            }
            "expect_column_values_to_be_unique" => Self::Unique(column(kwargs)?),
            "expect_column_values_to_match_regex" => {
                let text = kwargs.needed_text("regex")?;
                let regex = regex::Regex::new(&text).map_err(|error| {
                    format!("regex {text:?} is not supported (no look-around, no back-references): {error}")
                })?;
                Self::Matches(column(kwargs)?, regex)
            }
            "expect_column_values_to_be_of_type" => Self::OfType {
                column: column(kwargs)?,
                type_name: kwargs.needed_text("type_")?,
            },
            "expect_compound_columns_to_be_unique" => compound_unique(kwargs)?,
            "expect_column_pair_values_a_to_be_greater_than_b" => pair_greater(kwargs)?,
            "expect_table_row_count_to_be_between" => Self::RowCount(kwargs.bounds()?),
            "expect_table_columns_to_match_set" => Self::ColumnSet {
                columns: kwargs
                    .texts("column_set")?
                    .ok_or("`column_set` is missing")?,
                exact: kwargs.flag("exact_match")?.unwrap_or(true),
            },
            "expect_column_mean_to_be_between" => Self::Mean(column(kwargs)?, kwargs.bounds()?),
            "expect_column_quantile_values_to_be_between" => quantiles(column(kwargs)?, kwargs)?,
            "expect_column_kl_divergence_to_be_less_than" => Self::Divergence {
                column: column(kwargs)?,
                partition: Partition::parse(kwargs)?,
                threshold: threshold(kwargs)?,
            },
            _ => {
                return Err(
                    "is not supported; docs/formats/expectations.md lists what is, and nothing else passes silently"
                        .into(),
                );
            }
        })
    }

    /// Whether it is about single rows, of which some may fail.
    pub fn is_row_wise(&self) -> bool {
        matches!(
            self,
            Self::NotNull(_)
                | Self::Between(..)
                | Self::InSet(..)
                | Self::Unique(_)
                | Self::Matches(..)
                | Self::CompoundUnique(..)
                | Self::PairGreater { .. }
        )
    }

    /// The columns whose values it needs.
    pub(super) fn columns(&self) -> Vec<&str> {
        match self {
            Self::NotNull(column)
            | Self::Between(column, _)
            | Self::InSet(column, _)
            | Self::Unique(column)
            | Self::Matches(column, _)
            | Self::OfType { column, .. }
            | Self::Mean(column, _)
            | Self::Quantiles { column, .. }
            | Self::Divergence { column, .. } => vec![column],
            Self::CompoundUnique(columns, _) => columns.iter().map(String::as_str).collect(),
            Self::PairGreater { a, b, .. } => vec![a, b],
            Self::RowCount(_) | Self::ColumnSet { .. } => Vec::new(),
        }
    }
}

fn threshold(kwargs: &mut Kwargs) -> Result<Option<f64>, String> {
    match kwargs.number("threshold")? {
        Some(threshold) if threshold < 0.0 => {
            Err(format!("threshold: expected at least 0, got {threshold}"))
        }
        threshold => Ok(threshold),
    }
}

fn compound_unique(kwargs: &mut Kwargs) -> Result<Kind, String> {
    let columns = kwargs.texts("column_list")?.unwrap_or_default();
    if columns.len() < 2 {
        return Err(format!(
            "column_list: expected at least 2 columns, got {}",
            columns.len()
        ));
    }
    let ignore = match kwargs.text("ignore_row_if")?.as_deref() {
        None | Some("all_values_are_missing") => IgnoreRow::AllMissing,
        Some("any_value_is_missing") => IgnoreRow::AnyMissing,
        Some("never") => IgnoreRow::Never,
        Some(other) => return Err(format!("ignore_row_if: {other:?} is not known")),
    };
    Ok(Kind::CompoundUnique(columns, ignore))
}

fn pair_greater(kwargs: &mut Kwargs) -> Result<Kind, String> {
    let (a, b) = (
        kwargs.needed_text("column_A")?,
        kwargs.needed_text("column_B")?,
    );
    let ignore = match kwargs.text("ignore_row_if")?.as_deref() {
        None | Some("both_values_are_missing") => IgnoreRow::AllMissing,
        Some("either_value_is_missing") => IgnoreRow::AnyMissing,
        Some("neither") => IgnoreRow::Never,
        Some(other) => return Err(format!("ignore_row_if: {other:?} is not known")),
    };
    Ok(Kind::PairGreater {
        a,
        b,
        or_equal: kwargs.flag("or_equal")?.unwrap_or(false),
        ignore,
    })
}

fn quantiles(column: String, kwargs: &mut Kwargs) -> Result<Kind, String> {
    let written = kwargs
        .take("quantile_ranges")
        .ok_or("`quantile_ranges` is missing")?;
    let list = |name: &str| {
        let list = written.get(name).and_then(|value| value.as_array());
        list.ok_or_else(|| format!("quantile_ranges: expected a list `{name}`"))
    };
    let share = |value: &serde_json::Value| {
        let share = value.as_f64().filter(|share| (0.0..=1.0).contains(share));
        share.ok_or_else(|| format!("quantiles: expected 0 to 1, got {value}"))
    };
    let range = |value: &serde_json::Value| {
        let wrong = || format!("value_ranges: expected [least, greatest], got {value}");
        let ends = value
            .as_array()
            .filter(|ends| ends.len() == 2)
            .ok_or_else(wrong)?;
        let end = |place: usize, none: f64| match &ends[place] {
            serde_json::Value::Null => Ok(none),
            end => end.as_f64().ok_or_else(wrong),
        };
        Ok::<_, String>([end(0, f64::NEG_INFINITY)?, end(1, f64::INFINITY)?])
    };
    let shares: Vec<f64> = list("quantiles")?
        .iter()
        .map(share)
        .collect::<Result<_, _>>()?;
    let ranges: Vec<[f64; 2]> = list("value_ranges")?
        .iter()
        .map(range)
        .collect::<Result<_, _>>()?;
    if shares.len() != ranges.len() || shares.is_empty() {
        let problem = format!(
            "{} quantiles and {} value_ranges",
            shares.len(),
            ranges.len()
        );
        return Err(format!(
            "quantile_ranges: expected as many of both, got {problem}"
        ));
    }
    let interpolation = match kwargs.take("allow_relative_error") {
        None | Some(serde_json::Value::Bool(false)) => Interpolation::Nearest,
        Some(value) => match value.as_str() {
            Some("linear") => Interpolation::Linear,
            Some("lower") => Interpolation::Lower,
            Some("higher") => Interpolation::Higher,
            Some("midpoint") => Interpolation::Midpoint,
            Some("nearest") => Interpolation::Nearest,
            _ => return Err(format!("allow_relative_error: {value} is not supported")),
        },
    };
    Ok(Kind::Quantiles {
        column,
        quantiles: shares,
        ranges,
        interpolation,
    })
}
