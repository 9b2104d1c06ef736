//! Whether data has the columns that a model reads, as it reads them.

use streamrec_artifact::FeatureSchema;

use crate::data::Dataset;

/// What of a dataset is not as a model's inputs are; nothing if all is.
pub fn schema_problems(schema: &FeatureSchema, dataset: &Dataset) -> Vec<String> {
    let mut problems = Vec::new();
    for input in &schema.inputs {
        let Ok((_, column)) = dataset.column(&input.name) else {
            problems.push(format!(
                "there is no column `{}`, which the model reads",
                input.name
            ));
            continue;
        };
        if (column.kind, column.source) != (input.kind, input.source) {
            problems.push(format!(
                "column `{}` is a {} of {}, the model reads a {} of {}",
                input.name, column.kind, column.source, input.kind, input.source
            ));
        }
        if column.unit != input.unit {
            let unit = |unit: &Option<String>| unit.clone().unwrap_or_else(|| "none".into());
            problems.push(format!(
                "the unit of column `{}` is {}, the model reads {}",
                input.name,
                unit(&column.unit),
                unit(&input.unit)
            ));
        }
    }
    problems
}
