//! Whether a schema is consistent in itself and with its vocabularies.

use std::collections::HashSet;

use super::{
    CategoricalFeature, DenseFeature, DenseSource, DenseStep, Encoding, FeatureSchema, SchemaError,
    TableSchema,
};
use crate::input::{ColumnKind, InputColumn};
use crate::vocabulary::Vocabularies;

impl FeatureSchema {
    /// Checks that the schema is consistent in itself and with its vocabularies.
    ///
    /// # Errors
    /// The first inconsistency, by name.
    pub fn validate(&self, vocabularies: &Vocabularies) -> Result<(), SchemaError> {
        self.check_names()?;
        for input in &self.inputs {
            check_input(input)?;
        }
        for feature in &self.dense {
            self.check_dense(feature)?;
        }
        for feature in &self.categorical {
            self.check_categorical(feature)?;
        }
        for table in &self.tables {
            self.check_table(table, vocabularies)?;
        }
        match vocabularies
            .iter()
            .find(|(table, _)| self.table(table).is_none())
        {
            Some((table, _)) => Err(SchemaError::Vocabulary {
                table: table.to_owned(),
                needed: false,
            }),
            None => Ok(()),
        }
    }

    fn check_names(&self) -> Result<(), SchemaError> {
        let inputs = self.inputs.iter().map(|input| ("input", &input.name));
        let tables = self.tables.iter().map(|table| ("table", &table.name));
        let labels = self.labels.iter().map(|label| ("label", label));
        let dense = self.dense.iter().map(|feature| ("feature", &feature.name));
        let categorical = self
            .categorical
            .iter()
            .map(|feature| ("feature", &feature.name));
        let mut seen = HashSet::new();
        for (what, name) in inputs
            .chain(tables)
            .chain(labels)
            .chain(dense)
            .chain(categorical)
        {
            if name.is_empty() {
                return Err(SchemaError::Unnamed { what });
            }
            if !seen.insert((what, name)) {
                return Err(SchemaError::Duplicate {
                    what,
                    name: name.clone(),
                });
            }
        }
        Ok(())
    }

    fn kind_of(&self, feature: &str, input: &str) -> Result<ColumnKind, SchemaError> {
        let found = self.inputs.iter().find(|column| column.name == input);
        found
            .map(|column| column.kind)
            .ok_or_else(|| SchemaError::UnknownInput {
                feature: feature.to_owned(),
                input: input.to_owned(),
            })
    }

    fn check_dense(&self, feature: &DenseFeature) -> Result<(), SchemaError> {
        let number = |what: &'static str, value: f64, valid: bool| match valid && value.is_finite()
        {
            true => Ok(()),
            false => Err(SchemaError::Number {
                feature: feature.name.clone(),
                what,
                value,
            }),
        };
        let dense = |input: &str| match self.kind_of(&feature.name, input)? {
            ColumnKind::Dense => Ok(()),
            kind => Err(SchemaError::Kind {
                feature: feature.name.clone(),
                input: input.to_owned(),
                kind,
            }),
        };
        match &feature.source {
            DenseSource::Column(input) => dense(input)?,
            DenseSource::Rate {
                positives,
                count,
                strength,
                prior,
            } => {
                dense(positives)?;
                dense(count)?;
                number("strength", *strength, *strength > 0.0)?;
                number("prior", *prior, true)?;
            }
            DenseSource::Missing(inputs) => inputs.iter().try_for_each(|input| dense(input))?,
        }
        number("fill", feature.fill, true)?;
        for step in &feature.steps {
            match *step {
                DenseStep::Clip { low, high } => {
                    number("clip's lower bound", low, true)?;
                    number("clip's upper bound", high, low <= high)?;
                }
                DenseStep::Standardise { mean, std } => {
                    number("mean", mean, true)?;
                    number("standard deviation", std, std > 0.0)?;
                }
                DenseStep::Log1p | DenseStep::Logit => {}
            }
        }
        Ok(())
    }

    fn check_categorical(&self, feature: &CategoricalFeature) -> Result<(), SchemaError> {
        let name = || feature.name.clone();
        let kind = self.kind_of(&feature.name, &feature.input)?;
        if !feature.encoding.accepts(kind) {
            return Err(SchemaError::Kind {
                feature: name(),
                input: feature.input.clone(),
                kind,
            });
        }
        if self.table(&feature.table).is_none() {
            return Err(SchemaError::UnknownTable {
                feature: name(),
                table: feature.table.clone(),
            });
        }
        if self.encoding_of(&feature.table) != Some(&feature.encoding) {
            return Err(SchemaError::EncodingsDiffer {
                feature: name(),
                table: feature.table.clone(),
            });
        }
        match &feature.encoding {
            Encoding::Vocabulary { unseen_rows: 0 } => {
                Err(SchemaError::NoUnseenRow { feature: name() })
            }
            Encoding::Hash { rows: 0 | 1 } => Err(SchemaError::HashRows { feature: name() }),
            // What counts is that they ascend in f32, the precision of the values they are compared with.
            Encoding::Buckets { edges }
                if !edges.iter().all(|&edge| (edge as f32).is_finite())
                    || !edges
                        .windows(2)
                        .all(|pair| (pair[0] as f32) < pair[1] as f32) =>
            {
                Err(SchemaError::Edges { feature: name() })
            }
            _ => Ok(()),
        }
    }

    fn check_table(
        &self,
        table: &TableSchema,
        vocabularies: &Vocabularies,
    ) -> Result<(), SchemaError> {
        let name = || table.name.clone();
        let encoding = self
            .encoding_of(&table.name)
            .ok_or_else(|| SchemaError::UnusedTable { table: name() })?;
        let vocabulary = vocabularies.get(&table.name);
        let needed = matches!(encoding, Encoding::Vocabulary { .. });
        if needed != vocabulary.is_some() {
            return Err(SchemaError::Vocabulary {
                table: name(),
                needed,
            });
        }
        let expected = encoding.rows(vocabulary.map_or(0, |keys| keys.len()));
        if expected != table.rows {
            return Err(SchemaError::Rows {
                table: name(),
                expected,
                got: table.rows,
            });
        }
        Ok(())
    }
}

fn check_input(input: &InputColumn) -> Result<(), SchemaError> {
    if !input.source.fits(input.kind) {
        let (name, kind, type_) = (input.name.clone(), input.kind, input.source);
        return Err(SchemaError::Source { name, kind, type_ });
    }
    match input.range {
        Some([low, high]) if low.is_nan() || high.is_nan() || low > high => {
            Err(SchemaError::Range {
                name: input.name.clone(),
                low,
                high,
            })
        }
        _ => Ok(()),
    }
}
