//! Dense columns: the arithmetic of one dense feature, in f32 and in a fixed order.

use crate::feature_schema::{DenseFeature, DenseSource, DenseStep, FeatureSchema, LOGIT_EPSILON};
use crate::logarithm::{logit, signed_ln_1p};
use crate::raw::{RawBatch, RawColumn};
use crate::vector_unit::{self, ColumnLoop};

/// How many rows are computed at a time: they stay in the first-level cache.
pub(crate) const CHUNK: usize = 256;

/// A [`DenseSource`] with its inputs resolved.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Column(usize),
    Rate {
        positives: usize,
        count: usize,
        strength: f32,
        head_start: f32,
    },
    Missing(Vec<usize>),
}

/// A [`DenseStep`] in single precision.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Clip { low: f32, high: f32 },
    Log1p,
    Logit,
    Standardise { mean: f32, scale: f32 },
}

/// A [`DenseFeature`] that is ready to compute.
///
/// A value that is not finite, before or after the steps, is missing.
#[derive(Debug, Clone)]
pub(crate) struct DenseColumn {
    source: Source,
    steps: Vec<Step>,
    fill: f32,
}

impl Source {
    /// A smoothed rate; `head_start` is what the prior adds to the positives.
    pub(crate) fn rate(positives: usize, count: usize, strength: f64, prior: f64) -> Self {
        let (head_start, strength) = ((strength * prior) as f32, strength as f32);
        Self::Rate {
            positives,
            count,
            strength,
            head_start,
        }
    }

    /// The values of rows `start..start + to.len()`, NaN where missing.
    #[inline(always)]
    fn read(&self, raw: &RawBatch, start: usize, to: &mut [f32]) {
        let rows = start..start + to.len();
        match self {
            Self::Column(input) => to.copy_from_slice(&numbers(raw, *input)[rows]),
            Self::Rate {
                positives,
                count,
                strength,
                head_start,
            } => {
                let counts = &numbers(raw, *count)[rows.clone()];
                let positives = &numbers(raw, *positives)[rows];
                for ((value, &positives), &count) in to.iter_mut().zip(positives).zip(counts) {
                    *value = smoothed(positives, count, *strength, *head_start);
                }
            }
            Self::Missing(inputs) => {
                to.fill(0.0);
                for &input in inputs {
                    for (value, number) in to.iter_mut().zip(&numbers(raw, input)[rows.clone()]) {
                        *value = if number.is_finite() { *value } else { 1.0 };
                    }
                }
            }
        }
    }
}

/// `(positives + head_start) / (count + strength)`.
#[inline(always)]
pub(crate) fn smoothed(positives: f32, count: f32, strength: f32, head_start: f32) -> f32 {
    (positives + head_start) / (count + strength)
}

impl From<DenseStep> for Step {
    fn from(step: DenseStep) -> Self {
        match step {
            DenseStep::Clip { low, high } => Self::Clip {
                low: low as f32,
                high: high as f32,
            },
            DenseStep::Log1p => Self::Log1p,
            DenseStep::Logit => Self::Logit,
            DenseStep::Standardise { mean, std } => Self::Standardise {
                mean: mean as f32,
                scale: (1.0 / std) as f32,
            },
        }
    }
}

impl Step {
    /// Applies the step to each value; NaN stays NaN.
    #[inline(always)]
    pub(crate) fn apply(self, values: &mut [f32]) {
        match self {
            Self::Clip { low, high } => values.iter_mut().for_each(|x| *x = x.clamp(low, high)),
            Self::Log1p => values.iter_mut().for_each(|x| *x = signed_ln_1p(*x)),
            Self::Logit => values
                .iter_mut()
                .for_each(|x| *x = logit(*x, LOGIT_EPSILON)),
            Self::Standardise { mean, scale } => {
                values.iter_mut().for_each(|x| *x = (*x - mean) * scale)
            }
        }
    }
}

/// Makes every value that is not finite NaN, so that the steps see one kind of missing.
#[inline(always)]
pub(crate) fn mark_missing(values: &mut [f32]) {
    values
        .iter_mut()
        .for_each(|x| *x = if x.is_finite() { *x } else { f32::NAN });
}

impl DenseColumn {
    /// Resolves the inputs of a feature of a validated schema.
    pub(crate) fn new(feature: &DenseFeature, schema: &FeatureSchema) -> Option<Self> {
        let source = match &feature.source {
            DenseSource::Column(input) => Source::Column(schema.input(input)?),
            DenseSource::Rate {
                positives,
                count,
                strength,
                prior,
            } => Source::rate(
                schema.input(positives)?,
                schema.input(count)?,
                *strength,
                *prior,
            ),
            DenseSource::Missing(inputs) => Source::Missing(
                inputs
                    .iter()
                    .map(|input| schema.input(input))
                    .collect::<Option<_>>()?,
            ),
        };
        let steps = feature.steps.iter().copied().map(Step::from).collect();
        Some(Self {
            source,
            steps,
            fill: feature.fill as f32,
        })
    }

    /// Writes the feature of every row into column `column` of `to`, `[rows, width]`.
    pub(crate) fn encode(&self, raw: &RawBatch, to: &mut [f32], width: usize, column: usize) {
        let feature = self;
        vector_unit::run(Encode {
            feature,
            raw,
            to,
            width,
            column,
        });
    }
}

struct Encode<'a> {
    feature: &'a DenseColumn,
    raw: &'a RawBatch,
    to: &'a mut [f32],
    width: usize,
    column: usize,
}

impl ColumnLoop for Encode<'_> {
    #[inline(always)]
    fn run(self, _: bool) {
        let (feature, width) = (self.feature, self.width);
        let mut chunk = [0.0f32; CHUNK];
        for start in (0..self.raw.rows).step_by(CHUNK) {
            let values = &mut chunk[..CHUNK.min(self.raw.rows - start)];
            feature.source.read(self.raw, start, values);
            mark_missing(values);
            for step in &feature.steps {
                step.apply(values);
            }
            let rows = self.to[start * width..].chunks_exact_mut(width);
            for (row, &value) in rows.zip(values.iter()) {
                row[self.column] = if value.is_finite() {
                    value
                } else {
                    feature.fill
                };
            }
        }
    }
}

/// The values of a dense input of a batch that was checked against the schema.
pub(crate) fn numbers(raw: &RawBatch, input: usize) -> &[f32] {
    match &raw.columns[input] {
        RawColumn::Dense(values) => values,
        // The schema was validated and the batch checked: dense features read dense inputs.
        _ => unreachable!("input {input} is dense"),
    }
}
