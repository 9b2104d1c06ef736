//! Suites of expectations, as Great Expectations 1.x writes them, in JSON or the same in TOML.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ExpectationError;
use super::condition::RowCondition;
use super::kind::Kind;
use super::kwargs::Kwargs;

/// The longest file of a suite.
const BYTES_MAX: u64 = 16 << 20;

/// A named list of expectations.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Its name.
    pub name: String,
    /// What is expected.
    pub expectations: Vec<Expectation>,
    /// What its author noted.
    pub meta: Value,
}

/// One expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// What is expected of what.
    pub kind: Kind,
    /// The share of values that must be as expected, 0 to 1.
    pub mostly: f64,
    /// How grave it is where it is not met.
    pub severity: Severity,
    /// The rows that it is of; all where there is none.
    pub condition: Option<RowCondition>,
    /// As it was written.
    pub written: WrittenExpectation,
}

/// How grave an expectation is that is not met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth a note.
    Info,
    /// Worth a look.
    Warning,
    /// Stops what needs the data.
    #[default]
    Critical,
}

/// An expectation as a suite's file holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenExpectation {
    /// Great Expectations's name of it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its arguments.
    #[serde(default)]
    pub kwargs: Map<String, Value>,
    /// What its author noted.
    #[serde(default)]
    pub meta: Value,
    /// How grave it is.
    #[serde(default)]
    pub severity: Severity,
    /// Great Expectations's number of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// Why it stands there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Value>,
    /// How people read it; not interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Value>,
    /// Great Expectations's own rendering; not interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_content: Option<Value>,
}

/// A suite's file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenSuite {
    /// Its name.
    pub name: String,
    /// What is expected.
    pub expectations: Vec<WrittenExpectation>,
    /// What its author noted.
    #[serde(default)]
    pub meta: Value,
    /// Great Expectations's number of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// Why it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<Value>,
    /// Its parameters' values, which are not supported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite_parameters: Option<Value>,
}

impl Suite {
    /// Reads a suite from a file, TOML if its name ends so, else JSON.
    ///
    /// # Errors
    /// All that is wrong or not supported, each by name, at once.
    pub fn load(path: &Path) -> Result<Self, ExpectationError> {
        let io = |source| ExpectationError::File {
            path: path.to_owned(),
            source,
        };
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > BYTES_MAX {
            let problem = format!("it has {length} bytes, the most is {BYTES_MAX}");
            return Err(wrong(path, vec![problem]));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        let is_toml = path
            .extension()
            .is_some_and(|extension| extension == "toml");
        let written: Result<WrittenSuite, String> = if is_toml {
            toml::from_str(&text).map_err(|error| error.to_string())
        } else {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let written = written.map_err(|problem| wrong(path, vec![problem]))?;
        Self::of(written).map_err(|problems| wrong(path, problems))
    }

    /// Checks what was written.
    ///
    /// # Errors
    /// All that is wrong or not supported.
    pub fn of(written: WrittenSuite) -> Result<Self, Vec<String>> {
        let (mut expectations, mut problems) = (Vec::new(), Vec::new());
        if written.expectations.is_empty() {
            problems.push("it expects nothing".to_owned());
        }
        let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
        if written
            .suite_parameters
            .as_ref()
            .is_some_and(|value| !empty(value))
        {
            problems.push("suite_parameters are not supported; write the values themselves".into());
        }
        for (index, written) in written.expectations.into_iter().enumerate() {
            let name = written.kind.clone();
            match Expectation::of(written) {
                Ok(expectation) => expectations.push(expectation),
                Err(problem) => problems.push(format!("expectation {index} ({name}): {problem}")),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            name: written.name,
            expectations,
            meta: written.meta,
        })
    }
}

impl Expectation {
    /// Checks what was written.
    pub(super) fn of(written: WrittenExpectation) -> Result<Self, String> {
        let mut kwargs = Kwargs::new(&written.kwargs)?;
        let kind = Kind::parse(&written.kind, &mut kwargs)?;
        let mostly = match kwargs.number("mostly")? {
            Some(_) if !kind.is_row_wise() => {
                return Err(
                    "`mostly` means nothing here: this is no expectation of single values".into(),
                );
            }
            Some(share) if (0.0..=1.0).contains(&share) => share,
            Some(share) => return Err(format!("mostly: expected 0 to 1, got {share}")),
            None => 1.0,
        };
        let parser = kwargs.text("condition_parser")?;
        if let Some(parser) = parser
            && ![
                "pandas",
                "great_expectations",
                "great_expectations__experimental__",
            ]
            .contains(&parser.as_str())
        {
            return Err(format!("condition_parser {parser:?} is not supported"));
        }
        let condition = kwargs.text("row_condition")?;
        let condition = condition
            .map(|text| RowCondition::parse(&text))
            .transpose()?;
        if condition.is_some() && matches!(kind, Kind::ColumnSet { .. } | Kind::OfType { .. }) {
            return Err("`row_condition` means nothing here".into());
        }
        kwargs.finish()?;
        Ok(Self {
            kind,
            mostly,
            severity: written.severity,
            condition,
            written,
        })
    }
}

fn wrong(path: &Path, problems: Vec<String>) -> ExpectationError {
    ExpectationError::Suite {
        path: PathBuf::from(path),
        problems,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(expectations: &str) -> Vec<String> {
        let json = format!(r#"{{"name":"s","expectations":[{expectations}]}}"#);
        Suite::of(serde_json::from_str(&json).unwrap()).map_or_else(|problems| problems, |_| vec![])
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name_all_at_once() {
        let found = problems(
            r#"{"type":"expect_column_values_to_be_dateutil_parseable","kwargs":{"column":"a"}},
               {"type":"expect_column_values_to_not_be_null","kwargs":{"column":"a","mostly":2}},
               {"type":"expect_column_values_to_not_be_null","kwargs":{"columm":"a"}},
               {"type":"expect_column_values_to_not_be_null","kwargs":{"column":"a","magic":true}},
               {"type":"expect_column_values_to_be_between","kwargs":{"column":"a"}},
               {"type":"expect_column_values_to_be_between","kwargs":{"column":"a","min_value":{"$PARAMETER":"x"}}},
               {"type":"expect_column_values_to_match_regex","kwargs":{"column":"a","regex":"(?=x)"}},
               {"type":"expect_table_row_count_to_be_between","kwargs":{"min_value":1,"mostly":0.5}},
               {"type":"expect_column_values_to_be_unique","kwargs":{"column":"a","row_condition":"f(a) == 1"}}"#,
        );
        let expected = [
            "expect_column_values_to_be_dateutil_parseable): is not supported",
            "mostly: expected 0 to 1, got 2",
            "`column` is missing",
            "`magic` is not supported",
            "min_value and max_value are both missing",
            "$PARAMETER",
            "regex",
            "`mostly` means nothing here",
            "row_condition \"f(a) == 1\" is not supported",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (problem, part) in found.iter().zip(expected) {
            assert!(problem.contains(part), "{problem} has no {part}");
        }
        assert_eq!(problems(""), ["it expects nothing"]);
    }

    #[test]
    fn toml_says_the_same_as_json() {
        let toml = r#"
            name = "events"
            [[expectations]]
            type = "expect_column_values_to_be_between"
            kwargs = { column = "x", min_value = 0, max_value = 1.5, mostly = 0.9, row_condition = 'client == "ios"' }
            severity = "warning"
        "#;
        let json = r#"{"name":"events","expectations":[{"type":"expect_column_values_to_be_between",
            "kwargs":{"column":"x","min_value":0,"max_value":1.5,"mostly":0.9,
            "row_condition":"client == \"ios\""},"severity":"warning"}]}"#;
        let toml = Suite::of(toml::from_str(toml).unwrap()).unwrap();
        assert_eq!(
            toml,
            Suite::of(serde_json::from_str(json).unwrap()).unwrap()
        );
        assert_eq!(toml.expectations[0].severity, Severity::Warning);
    }
}
