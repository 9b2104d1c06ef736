//! Rows of tests: written by hand, or perturbed.

use streamrec_artifact::{
    ColumnKind, InputColumn, RawBatch, RawColumn, RawColumnBuilder, RawValue,
};

use super::suite::{Perturbation, Row};

/// Rows as they are written; what they do not name is missing.
pub(super) fn written(
    inputs: &[InputColumn],
    base: &Row,
    rows: &[&Row],
) -> Result<RawBatch, String> {
    for name in rows.iter().flat_map(|row| row.keys()).chain(base.keys()) {
        known(inputs, name)?;
    }
    let column = |input: &InputColumn| {
        // What is left out in an example is no fault of it, even where callers must send it.
        let lenient = InputColumn {
            required: false,
            ..input.clone()
        };
        let mut builder = RawColumnBuilder::new(&lenient);
        for row in rows {
            push(
                &mut builder,
                row.get(&input.name).or_else(|| base.get(&input.name)),
            )?;
        }
        Ok(builder.finish())
    };
    let columns = inputs.iter().map(column).collect::<Result<_, String>>()?;
    Ok(RawBatch {
        rows: rows.len(),
        columns,
    })
}

fn known(inputs: &[InputColumn], name: &str) -> Result<usize, String> {
    inputs
        .iter()
        .position(|input| input.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            format!(
                "`{name}` is no input of the model; its inputs are {}",
                names.join(", ")
            )
        })
}

fn push(builder: &mut RawColumnBuilder<'_>, value: Option<&toml::Value>) -> Result<(), String> {
    let refuse = |error: streamrec_artifact::RawValueError| error.to_string();
    let is_list = builder.input().kind == ColumnKind::KeyList;
    match value {
        None => builder.push(RawValue::Missing).map_err(refuse),
        Some(toml::Value::Array(values)) if is_list => {
            for value in values {
                builder.push_element(raw(value)?).map_err(refuse)?;
            }
            builder.end_list();
            Ok(())
        }
        Some(toml::Value::Datetime(moment)) => builder
            .push(RawValue::Text(&moment.to_string()))
            .map_err(refuse),
        Some(value) => builder.push(raw(value)?).map_err(refuse),
    }
}

fn raw(value: &toml::Value) -> Result<RawValue<'_>, String> {
    match value {
        toml::Value::String(text) => Ok(RawValue::Text(text)),
        toml::Value::Integer(value) => Ok(RawValue::Integer(*value)),
        toml::Value::Float(value) => Ok(RawValue::Float(*value)),
        toml::Value::Boolean(value) => Ok(RawValue::Boolean(*value)),
        other => Err(format!(
            "expected text, a number or a truth value, got {other}"
        )),
    }
}

/// The sample after each change of a perturbation, with what was changed.
pub(super) fn perturbed(
    inputs: &[InputColumn],
    sample: &RawBatch,
    perturb: &Perturbation,
) -> Result<Vec<(String, RawBatch)>, String> {
    let place = known(inputs, &perturb.input)?;
    let (input, name) = (&inputs[place], &perturb.input);
    let with = |column: RawColumn| {
        let mut batch = sample.clone();
        batch.columns[place] = column;
        batch
    };
    if perturb.missing {
        let mut column = RawColumn::new(input.kind);
        (0..sample.rows).for_each(|_| column.push_missing());
        return Ok(vec![(format!("{name} left out"), with(column))]);
    }
    if !perturb.values.is_empty() {
        let one = |value: &toml::Value| {
            let row = Row::from([(name.clone(), value.clone())]);
            let column = written(
                std::slice::from_ref(input),
                &Row::new(),
                &vec![&row; sample.rows],
            )?;
            let column = column.columns.into_iter().next().ok_or("no column")?;
            Ok((format!("{name} = {value}"), with(column)))
        };
        return perturb.values.iter().map(one).collect();
    }
    let (scale, add) = (perturb.scale.unwrap_or(1.0), perturb.add.unwrap_or(0.0));
    let change = |value: f64| value * scale + add;
    let column = match &sample.columns[place] {
        RawColumn::Dense(values) => RawColumn::Dense(
            values
                .iter()
                .map(|&value| change(f64::from(value)) as f32)
                .collect(),
        ),
        RawColumn::Time(times) => {
            let moved = |&time: &i64| match time {
                streamrec_artifact::MISSING_TIME => time,
                time => change(time as f64) as i64,
            };
            RawColumn::Time(times.iter().map(moved).collect())
        }
        _ => {
            return Err(format!(
                "`{name}` holds keys, to which nothing can be added; use `values`"
            ));
        }
    };
    Ok(vec![(format!("{name} x {scale} + {add}"), with(column))])
}
