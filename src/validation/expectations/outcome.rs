//! What came of a suite, in the shape of Great Expectations's results.

use serde::Serialize;
use serde_json::{Value, json};

use super::aggregate::{self, Aggregate, CsvTypes};
use super::judge::Tally;
use super::kind::Kind;
use super::source::Table;
use super::suite::{Expectation, Severity, Suite};

/// The result of a suite on a table.
#[derive(Debug, Clone, Serialize)]
pub struct Validation {
    /// Whether every expectation is met.
    pub success: bool,
    /// The result of each, in the order of the suite.
    pub results: Vec<ExpectationResult>,
    /// The suite's name.
    pub suite_name: String,
    /// No suite has parameters.
    pub suite_parameters: Value,
    /// How many of each.
    pub statistics: Statistics,
    /// The table, its rows, and how often its columns were read.
    pub meta: Value,
    /// Great Expectations's number of it; none here.
    pub id: Option<String>,
}

/// How many expectations are met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statistics {
    /// All of them.
    pub evaluated_expectations: usize,
    /// Those that are met.
    pub successful_expectations: usize,
    /// The others.
    pub unsuccessful_expectations: usize,
    /// The share of those that are met, in percent.
    pub success_percent: Option<f64>,
}

/// The result of one expectation.
#[derive(Debug, Clone, Serialize)]
pub struct ExpectationResult {
    /// Whether it is met.
    pub success: bool,
    /// What was expected.
    pub expectation_config: Value,
    /// What was found.
    pub result: Value,
    /// Nothing.
    pub meta: Value,
    /// Why it could not be judged; then it is not met.
    pub exception_info: ExceptionInfo,
    /// How grave it is.
    #[serde(skip)]
    pub severity: Severity,
}

/// Why an expectation could not be judged.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExceptionInfo {
    /// Whether it could not.
    pub raised_exception: bool,
    /// None: this is no Python.
    pub exception_traceback: Option<String>,
    /// Why.
    pub exception_message: Option<String>,
}

impl Validation {
    pub(super) fn new(
        suite: &Suite,
        table: &Table,
        results: Vec<ExpectationResult>,
        rows: u64,
        scans: u32,
    ) -> Self {
        let met = results.iter().filter(|result| result.success).count();
        let all = results.len();
        Self {
            success: met == all,
            suite_name: suite.name.clone(),
            suite_parameters: json!({}),
            statistics: Statistics {
                evaluated_expectations: all,
                successful_expectations: met,
                unsuccessful_expectations: all - met,
                success_percent: (all > 0).then(|| met as f64 / all as f64 * 100.0),
            },
            meta: json!({"table": table.name(), "rows": rows, "scans": scans}),
            results,
            id: None,
        }
    }

    /// The gravest severity of what is not met.
    pub fn worst(&self) -> Option<Severity> {
        let unmet = self.results.iter().filter(|result| !result.success);
        unmet.map(|result| result.severity).max()
    }
}

impl ExpectationResult {
    pub(super) fn new(
        expectation: &Expectation,
        outcome: Result<(bool, Value), (String, Value)>,
    ) -> Self {
        let written = &expectation.written;
        let config = json!({
            "type": written.kind, "kwargs": written.kwargs, "meta": written.meta,
            "severity": written.severity,
        });
        let (success, result, problem) = match outcome {
            Ok((success, result)) => (success, result, None),
            Err((problem, result)) => (false, result, Some(problem)),
        };
        Self {
            success,
            expectation_config: config,
            result,
            meta: json!({}),
            exception_info: ExceptionInfo {
                raised_exception: problem.is_some(),
                exception_traceback: None,
                exception_message: problem,
            },
            severity: expectation.severity,
        }
    }
}

/// Judges an expectation of single rows.
pub(super) fn of_rows(expectation: &Expectation, tally: &Tally) -> (bool, Value) {
    let Tally {
        rows,
        counted,
        unexpected,
        ..
    } = *tally;
    let percent = |of: u64| (of > 0).then(|| unexpected as f64 / of as f64 * 100.0);
    let success =
        counted == 0 || (counted - unexpected) as f64 / counted as f64 >= expectation.mostly;
    let (places, values): (Vec<u64>, Vec<&Value>) =
        tally.shown.iter().map(|(row, value)| (*row, value)).unzip();
    let mut result = json!({
        "element_count": rows,
        "unexpected_count": unexpected,
        "unexpected_percent": percent(counted),
        "partial_unexpected_list": values,
        "partial_unexpected_index_list": places,
    });
    if !matches!(expectation.kind, Kind::NotNull(_))
        && let Some(result) = result.as_object_mut()
    {
        let missing = rows - counted;
        let missing_percent = (rows > 0).then(|| missing as f64 / rows as f64 * 100.0);
        result.insert("missing_count".into(), missing.into());
        result.insert("missing_percent".into(), missing_percent.into());
        result.insert("unexpected_percent_total".into(), percent(rows).into());
        result.insert(
            "unexpected_percent_nonmissing".into(),
            percent(counted).into(),
        );
    }
    (success, result)
}

/// Judges an expectation of the table or a whole column but quantiles.
pub(super) fn of_table(
    expectation: &Expectation,
    tally: &Tally,
    table: &Table,
    rows: u64,
) -> (bool, Value) {
    match (&expectation.kind, &tally.aggregate) {
        (Kind::RowCount(bounds), _) => {
            let rows = if expectation.condition.is_some() {
                tally.rows
            } else {
                rows
            };
            (
                bounds.holds_number(rows as f64),
                json!({"observed_value": rows}),
            )
        }
        (Kind::ColumnSet { columns, exact }, _) => of_columns(columns, *exact, table),
        (Kind::OfType { column, type_name }, Some(Aggregate::Rows { missing, dtype, .. })) => {
            of_type(column, type_name, *missing, *dtype, table)
        }
        (Kind::Mean(_, bounds), Some(Aggregate::Mean { moments })) => {
            aggregate::mean(moments, bounds)
        }
        (
            Kind::Divergence {
                partition,
                threshold,
                ..
            },
            Some(aggregate),
        ) => aggregate::kl_divergence(aggregate, partition, *threshold),
        _ => (false, json!({})),
    }
}

fn of_columns(expected: &[String], exact: bool, table: &Table) -> (bool, Value) {
    let mut there: Vec<&str> = table
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    there.sort_unstable();
    let mut missing: Vec<&str> = expected
        .iter()
        .map(String::as_str)
        .filter(|name| !there.contains(name))
        .collect();
    let unexpected: Vec<&str> = there
        .iter()
        .copied()
        .filter(|name| !expected.iter().any(|other| other == name))
        .collect();
    missing.sort_unstable();
    missing.dedup();
    let mut result = json!({"observed_value": there});
    let mut mismatched = serde_json::Map::new();
    for (name, list) in [("unexpected", &unexpected), ("missing", &missing)] {
        if !list.is_empty() {
            mismatched.insert(name.into(), json!(list));
        }
    }
    if !mismatched.is_empty() {
        result["details"] = json!({"mismatched": mismatched});
    }
    (
        missing.is_empty() && (unexpected.is_empty() || !exact),
        result,
    )
}

/// Names as pandas reads the column, integers with missing values as doubles; or Arrow's own name.
fn of_type(
    column: &str,
    expected: &str,
    missing: u64,
    csv: CsvTypes,
    table: &Table,
) -> (bool, Value) {
    use arrow::datatypes::DataType as T;
    let found = table
        .schema()
        .field_with_name(column)
        .map(|field| field.data_type().clone());
    let found = found.unwrap_or(T::Null);
    let observed = match &found {
        T::Utf8 | T::LargeUtf8 | T::Utf8View if table.is_text() => match csv {
            CsvTypes { integers: true, .. } if missing == 0 => "int64".into(),
            CsvTypes { numbers: true, .. } => "float64".into(),
            CsvTypes { booleans: true, .. } if missing == 0 => "bool".into(),
            _ => "str".to_owned(),
        },
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "str".into(),
        T::Boolean if missing == 0 => "bool".into(),
        kind if kind.is_integer() && missing > 0 => "float64".into(),
        kind if kind.is_integer() || kind.is_floating() => kind.to_string().to_lowercase(),
        T::Timestamp(_, None) => "datetime64".into(),
        T::Timestamp(_, Some(_)) => "Timestamp".into(),
        _ => "object".into(),
    };
    let wanted = match expected {
        "int" => "int64",
        "float" => "float64",
        "datetime64[ns]" | "datetime64[us]" | "datetime64[ms]" | "datetime64[s]" => "datetime64",
        other => other,
    };
    let is_arrow = !table.is_text() && found.to_string() == expected;
    (
        observed == wanted || is_arrow,
        json!({"observed_value": observed}),
    )
}
