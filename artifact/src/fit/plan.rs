//! The plan of a fit: specifications checked against the columns, every fault collected.

use std::collections::HashSet;

use jiff::tz::TimeZone;

use super::dense_fit::DenseFit;
use super::table_fit::TableFit;
use super::{ColumnInfo, SpecError};
use crate::feature_spec::{
    BucketSpec, CategoricalSpec, DenseSpec, EncodingSpec, FeatureSpec, MissingSpec,
};
use crate::graph::MAX_WIDTH;
use crate::input::{ColumnKind, InputColumn};
use crate::nearest_name::nearest;

/// The most intervals of one number.
const QUANTILES_MAX: usize = 10_000;

/// What is to be fitted.
pub(crate) struct Plan<'a> {
    columns: &'a [ColumnInfo],
    pub(crate) inputs: Vec<InputColumn>,
    pub(crate) dense: Vec<DenseFit>,
    pub(crate) categorical: Vec<CategoricalSpec>,
    pub(crate) tables: Vec<TableFit>,
    pub(crate) errors: Vec<SpecError>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(specs: &[FeatureSpec], columns: &'a [ColumnInfo]) -> Self {
        let mut plan = Self {
            columns,
            inputs: Vec::new(),
            dense: Vec::new(),
            categorical: Vec::new(),
            tables: Vec::new(),
            errors: Vec::new(),
        };
        plan.check_names(specs);
        for spec in specs {
            match spec {
                FeatureSpec::Dense(spec) => plan.add_dense(spec),
                FeatureSpec::Categorical(spec) => plan.add_categorical(spec),
            }
        }
        plan
    }

    fn check_names(&mut self, specs: &[FeatureSpec]) {
        let mut seen = HashSet::new();
        for spec in specs {
            let indicator = match spec {
                FeatureSpec::Dense(DenseSpec {
                    name,
                    indicator: true,
                    ..
                }) => Some(format!("{name}.missing")),
                _ => None,
            };
            for name in std::iter::once(spec.name().to_owned()).chain(indicator) {
                if name.is_empty() {
                    self.errors.push(SpecError::Unnamed);
                } else if !seen.insert(name.clone()) {
                    self.errors.push(SpecError::Duplicate { feature: name });
                }
            }
        }
    }

    fn add_dense(&mut self, spec: &DenseSpec) {
        self.check_dense(spec);
        match (&spec.column, &spec.rate) {
            (Some(column), None) => {
                if let Some(input) = self.input(&spec.name, column, "dense", |kind| {
                    kind == ColumnKind::Dense
                }) {
                    self.dense.push(DenseFit::of_column(spec.clone(), input));
                }
            }
            (None, Some(rate)) => {
                let positives = self.input(&spec.name, &rate.positives, "dense", |kind| {
                    kind == ColumnKind::Dense
                });
                let count = self.input(&spec.name, &rate.count, "dense", |kind| {
                    kind == ColumnKind::Dense
                });
                if let (Some(positives), Some(count)) = (positives, count) {
                    self.dense.push(DenseFit::of_rate(
                        spec.clone(),
                        rate.clone(),
                        positives,
                        count,
                    ));
                }
            }
            (column, _) => {
                self.errors.push(SpecError::Source {
                    feature: spec.name.clone(),
                    both: column.is_some(),
                });
            }
        }
    }

    fn check_dense(&mut self, spec: &DenseSpec) {
        let name = &spec.name;
        if let Some([low, high]) = spec.clip {
            let valid = low.is_finite() && high.is_finite() && low <= high;
            self.require(
                valid,
                name,
                "clip",
                "two finite ascending numbers",
                format!("[{low}, {high}]"),
            );
        }
        if let MissingSpec::Value(value) = spec.missing {
            self.require(
                value.is_finite(),
                name,
                "missing",
                "\"mean\" or a finite number",
                value.to_string(),
            );
        }
        if let Some(rate) = &spec.rate {
            let valid = rate.strength.is_finite() && rate.strength > 0.0;
            self.require(
                valid,
                name,
                "rate.strength",
                "a finite number above 0",
                rate.strength.to_string(),
            );
        }
        let both = spec.log1p && spec.logit;
        self.require(
            !both,
            name,
            "logit",
            "false where `log1p` is true",
            "true".to_owned(),
        );
    }

    fn add_categorical(&mut self, spec: &CategoricalSpec) {
        self.check_categorical(spec);
        let (expected, accepts): (_, fn(ColumnKind) -> bool) = match spec.encoding {
            EncodingSpec::Vocabulary { .. } | EncodingSpec::Hash { .. } => {
                ("key or key list", |kind| {
                    matches!(kind, ColumnKind::Key | ColumnKind::KeyList)
                })
            }
            EncodingSpec::Buckets(_) => ("dense", |kind| kind == ColumnKind::Dense),
            EncodingSpec::HourOfDay { .. } | EncodingSpec::DayOfWeek { .. } => {
                ("time", |kind| kind == ColumnKind::Time)
            }
        };
        let Some(input) = self.input(&spec.name, &spec.column, expected, accepts) else {
            return;
        };
        let list = self.inputs[input].kind == ColumnKind::KeyList;
        if let Some(length) = spec.max_length {
            self.require(
                list,
                &spec.name,
                "max_length",
                "absent, the column holds no lists",
                length.to_string(),
            );
        }
        let table = self.table(spec);
        self.tables[table]
            .readers
            .push((input, spec.max_length.unwrap_or(usize::MAX)));
        self.categorical.push(spec.clone());
    }

    fn check_categorical(&mut self, spec: &CategoricalSpec) {
        let name = &spec.name;
        if let Some(dim) = spec.dim {
            self.require(
                (1..=MAX_WIDTH).contains(&dim),
                name,
                "dim",
                "1 to 1048576",
                dim.to_string(),
            );
        }
        if let Some(length) = spec.max_length {
            self.require(
                length > 0,
                name,
                "max_length",
                "at least 1",
                length.to_string(),
            );
        }
        self.check_encoding(name, &spec.encoding);
    }

    fn check_encoding(&mut self, name: &str, encoding: &EncodingSpec) {
        match encoding {
            EncodingSpec::Vocabulary {
                min_count,
                max_size,
                unseen_rows,
            } => {
                self.require(
                    *min_count > 0,
                    name,
                    "min_count",
                    "at least 1",
                    min_count.to_string(),
                );
                self.require(
                    *max_size != Some(0),
                    name,
                    "max_size",
                    "at least 1",
                    "0".to_owned(),
                );
                let valid = (1..=1 << 32).contains(unseen_rows);
                self.require(
                    valid,
                    name,
                    "unseen_rows",
                    "1 to 4294967296",
                    unseen_rows.to_string(),
                );
            }
            EncodingSpec::Hash { rows } => {
                let valid = (2..=1 << 40).contains(rows);
                self.require(
                    valid,
                    name,
                    "rows",
                    "2 (the first is the missing value's) to 2^40",
                    rows.to_string(),
                );
            }
            EncodingSpec::Buckets(BucketSpec::Edges(edges)) => {
                let ascending = edges
                    .windows(2)
                    .all(|pair| (pair[0] as f32) < pair[1] as f32);
                let valid = !edges.is_empty()
                    && edges.iter().all(|&edge| (edge as f32).is_finite())
                    && ascending;
                let expected = "finite numbers, strictly ascending in single precision";
                self.require(valid, name, "edges", expected, format!("{edges:?}"));
            }
            EncodingSpec::Buckets(BucketSpec::Quantiles(count)) => {
                let valid = (2..=QUANTILES_MAX).contains(count);
                self.require(valid, name, "quantiles", "2 to 10000", count.to_string());
            }
            EncodingSpec::HourOfDay { time_zone } | EncodingSpec::DayOfWeek { time_zone } => {
                let valid = TimeZone::get(time_zone).is_ok();
                let expected = "an IANA time zone, such as \"Asia/Shanghai\"";
                self.require(valid, name, "time_zone", expected, format!("{time_zone:?}"));
            }
        }
    }

    fn require(
        &mut self,
        valid: bool,
        feature: &str,
        setting: &'static str,
        expected: &'static str,
        got: String,
    ) {
        if !valid {
            self.errors.push(SpecError::Setting {
                feature: feature.to_owned(),
                setting,
                expected,
                got,
            });
        }
    }

    /// The input that holds `column`, added where it is new. Faults are noted.
    fn input(
        &mut self,
        feature: &str,
        column: &str,
        expected: &'static str,
        accepts: impl Fn(ColumnKind) -> bool,
    ) -> Option<usize> {
        let (feature, name) = (feature.to_owned(), column.to_owned());
        let Some(info) = self.columns.iter().find(|info| info.name == column) else {
            // A column that could not be read anyway would be bad advice.
            let known = self
                .columns
                .iter()
                .filter(|info| info.usable.is_ok())
                .map(|info| info.name.as_str());
            let nearest = nearest(column, known).map(str::to_owned);
            self.errors.push(SpecError::UnknownColumn {
                feature,
                column: name,
                nearest,
            });
            return None;
        };
        if let Err(reason) = &info.usable {
            self.errors.push(SpecError::Unusable {
                feature,
                column: name,
                reason: reason.clone(),
            });
            return None;
        }
        if !accepts(info.kind) {
            self.errors.push(SpecError::Kind {
                feature,
                column: name,
                expected,
                got: info.kind,
            });
            return None;
        }
        let known = self.inputs.iter().position(|input| input.name == column);
        Some(known.unwrap_or_else(|| {
            self.inputs.push(InputColumn {
                name,
                kind: info.kind,
                source: info.source,
                unit: info.unit.clone(),
                range: info.range,
                required: false,
            });
            self.inputs.len() - 1
        }))
    }

    /// The table that `spec` looks up, added where it is new. A share that does not fit is noted.
    fn table(&mut self, spec: &CategoricalSpec) -> usize {
        let Some(index) = self
            .tables
            .iter()
            .position(|table| table.name == spec.table())
        else {
            self.tables.push(TableFit::new(
                spec.table().to_owned(),
                spec.encoding.clone(),
                spec.dim,
            ));
            return self.tables.len() - 1;
        };
        let table = &mut self.tables[index];
        let what = if table.spec != spec.encoding {
            Some("encoding")
        } else if table.dim.is_some() && spec.dim.is_some() && table.dim != spec.dim {
            Some("dim")
        } else {
            None
        };
        table.dim = table.dim.or(spec.dim);
        if let Some(what) = what {
            let sharer = self
                .categorical
                .iter()
                .find(|other| other.table() == spec.table());
            self.errors.push(SpecError::SharedTable {
                feature: spec.name.clone(),
                first: sharer.map(|other| other.name.clone()).unwrap_or_default(),
                table: spec.table().to_owned(),
                what,
            });
        }
        index
    }
}
