//! Columns of a dataset: what a value is, and what it may be used for.

use std::fmt;

use serde::{Deserialize, Serialize};
use streamrec_artifact::{ColumnKind, InputColumn, SourceType};

/// What a column may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Known when a ranker is asked: may be an input of a model.
    Feature,
    /// What a model predicts: a dense column of 0 and 1.
    Label,
    /// How much a row counts: a dense column, 0 or more.
    Weight,
    /// What belongs together in grouped metrics, such as a request: a key column.
    Group,
    /// When the row happened: a time column.
    Time,
    /// Known only after the outcome: never an input, though a label may be derived from it.
    Outcome,
    /// The true probability of a generated label: never an input, for judging models only.
    Truth,
}

impl Role {
    /// Whether a column of this role may be an input of a model. What the outcome decides may not.
    pub fn may_be_input(self) -> bool {
        matches!(self, Self::Feature | Self::Group | Self::Time)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Feature => "feature",
            Self::Label => "label",
            Self::Weight => "weight",
            Self::Group => "group",
            Self::Time => "time",
            Self::Outcome => "outcome",
            Self::Truth => "truth",
        })
    }
}

/// One column of a dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name, unique in the dataset.
    pub name: String,
    /// How its values are held.
    pub kind: ColumnKind,
    /// What its values were where they came from.
    pub source: SourceType,
    /// What it may be used for.
    pub role: Role,
    /// The unit of its values, for people: `seconds`, `EUR`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The least and the greatest valid value, both included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
}

impl Column {
    /// A column without unit and range.
    pub fn new(name: impl Into<String>, kind: ColumnKind, source: SourceType, role: Role) -> Self {
        Self {
            name: name.into(),
            kind,
            source,
            role,
            unit: None,
            range: None,
        }
    }

    /// The same column with a unit.
    pub fn with_unit(self, unit: impl Into<String>) -> Self {
        Self {
            unit: Some(unit.into()),
            ..self
        }
    }

    /// The same column with a range of valid values, both ends included.
    pub fn with_range(self, least: f64, greatest: f64) -> Self {
        Self {
            range: Some([least, greatest]),
            ..self
        }
    }

    /// What a caller of a model must send for this column.
    pub fn input(&self, required: bool) -> InputColumn {
        InputColumn {
            name: self.name.clone(),
            kind: self.kind,
            source: self.source,
            unit: self.unit.clone(),
            range: self.range,
            required,
        }
    }

    /// Whether source, kind and role go together; says what does not.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self {
            name,
            kind,
            source,
            role,
            ..
        } = self;
        if !source.fits(*kind) {
            return Err(format!(
                "column `{name}`: a {kind} column cannot hold {source} values"
            ));
        }
        let expected = match role {
            Role::Label | Role::Weight | Role::Truth => ColumnKind::Dense,
            Role::Group => ColumnKind::Key,
            Role::Time => ColumnKind::Time,
            Role::Feature | Role::Outcome => *kind,
        };
        if *kind != expected {
            return Err(format!(
                "column `{name}`: a {role} column must be {expected}, this one is {kind}"
            ));
        }
        match self.range {
            Some([least, greatest]) if least.is_nan() || greatest.is_nan() || least > greatest => {
                Err(format!(
                    "column `{name}`: the range [{least}, {greatest}] holds no value"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Checks every column and that no name occurs twice or is empty.
pub(super) fn check_all(columns: &[Column]) -> Result<(), String> {
    if columns.is_empty() {
        return Err("there is no column".into());
    }
    let mut names = std::collections::HashSet::new();
    for column in columns {
        column.check()?;
        if column.name.is_empty() {
            return Err("a column has no name".into());
        }
        if !names.insert(column.name.as_str()) {
            return Err(format!("column `{}` occurs twice", column.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_labels_and_truths_are_never_inputs() {
        for role in [Role::Outcome, Role::Label, Role::Truth, Role::Weight] {
            assert!(!role.may_be_input(), "{role}");
        }
        for role in [Role::Feature, Role::Time, Role::Group] {
            assert!(role.may_be_input(), "{role}");
        }
    }

    #[test]
    fn columns_that_contradict_themselves_are_refused() {
        let cases = [
            (
                Column::new("a", ColumnKind::Dense, SourceType::Text, Role::Feature),
                "text",
            ),
            (
                Column::new("a", ColumnKind::Key, SourceType::Integer, Role::Label),
                "must be dense",
            ),
            (
                Column::new("a", ColumnKind::Dense, SourceType::Float, Role::Time),
                "must be time",
            ),
            (
                Column::new("a", ColumnKind::Dense, SourceType::Float, Role::Feature)
                    .with_range(1.0, 0.0),
                "holds no value",
            ),
        ];
        for (column, expected) in cases {
            let message = column.check().unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        let twice = Column::new("a", ColumnKind::Dense, SourceType::Float, Role::Feature);
        assert!(
            check_all(&[twice.clone(), twice])
                .unwrap_err()
                .contains("twice")
        );
        assert!(check_all(&[]).is_err());
    }
}
