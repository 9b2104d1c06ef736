//! Fitting one dense feature: prior, mean, standard deviation and fill.

use super::rate_prior::RatePrior;
use crate::bounded_sample::BoundedSample;
use crate::dense_column::{CHUNK, Source, Step, mark_missing, numbers, smoothed};
use crate::feature_schema::{DenseFeature, DenseSource, DenseStep};
use crate::feature_spec::{DenseSpec, MissingSpec, RateSpec};
use crate::moments::Moments;
use crate::raw::RawBatch;

/// A standard deviation below this share of the mean is rounding: the column is constant.
const CONSTANT: f64 = 1e-6;

/// The accumulators of one dense feature.
#[derive(Debug, Clone)]
pub(crate) struct DenseFit {
    spec: DenseSpec,
    stream: Stream,
}

#[derive(Debug, Clone)]
enum Stream {
    Column {
        input: usize,
        moments: Moments,
    },
    /// The moments of a rate depend on its prior, which is known only at the end: they are those of a sample.
    Rate {
        spec: RateSpec,
        positives: usize,
        count: usize,
        prior: RatePrior,
        sample: BoundedSample<(f32, f32)>,
    },
}

impl DenseFit {
    /// A feature of a column.
    pub(crate) fn of_column(spec: DenseSpec, input: usize) -> Self {
        Self {
            spec,
            stream: Stream::Column {
                input,
                moments: Moments::default(),
            },
        }
    }

    /// A feature of a rate of two columns.
    pub(crate) fn of_rate(spec: DenseSpec, rate: RateSpec, positives: usize, count: usize) -> Self {
        let prior = RatePrior::new(rate.strength);
        let sample = BoundedSample::default();
        Self {
            spec,
            stream: Stream::Rate {
                spec: rate,
                positives,
                count,
                prior,
                sample,
            },
        }
    }

    /// Adds a batch that begins at row `first` of the split.
    pub(crate) fn observe(&mut self, raw: &RawBatch, first: u64) {
        let steps = self.steps();
        match &mut self.stream {
            Stream::Column { input, moments } => {
                let mut chunk = [0.0f32; CHUNK];
                for part in numbers(raw, *input).chunks(CHUNK) {
                    let values = &mut chunk[..part.len()];
                    values.copy_from_slice(part);
                    add_transformed(moments, values, &steps);
                }
            }
            Stream::Rate {
                positives,
                count,
                prior,
                sample,
                ..
            } => {
                let pairs = numbers(raw, *positives).iter().zip(numbers(raw, *count));
                for ((&positives, &count), row) in pairs.zip(first..) {
                    prior.add(positives, count);
                    sample.offer(row, (positives, count));
                }
            }
        }
    }

    /// The fitted feature, and its indicator where it has one. `name_of` names the inputs.
    pub(crate) fn finish(&self, name_of: impl Fn(usize) -> String) -> Vec<DenseFeature> {
        let mut steps = self.steps();
        let (source, moments, inputs) = self.source(&steps, name_of);
        // A column without values is as constant as one of equal values.
        let constant = moments.std() <= CONSTANT * moments.mean().abs().max(f64::MIN_POSITIVE);
        if self.spec.standardise {
            let std = if constant { 1.0 } else { moments.std() };
            steps.push(DenseStep::Standardise {
                mean: moments.mean(),
                std,
            });
        }
        let fill = match self.spec.missing {
            MissingSpec::Mean if self.spec.standardise => 0.0,
            MissingSpec::Mean => moments.mean(),
            MissingSpec::Value(value) => {
                let mut value = [value as f32];
                steps
                    .iter()
                    .for_each(|&step| Step::from(step).apply(&mut value));
                f64::from(value[0])
            }
        };
        let mut features = vec![DenseFeature {
            name: self.spec.name.clone(),
            source,
            steps,
            fill,
        }];
        if self.spec.indicator {
            let (name, source) = (
                format!("{}.missing", self.spec.name),
                DenseSource::Missing(inputs),
            );
            features.push(DenseFeature {
                name,
                source,
                steps: Vec::new(),
                fill: 0.0,
            });
        }
        features
    }

    fn source(
        &self,
        steps: &[DenseStep],
        name_of: impl Fn(usize) -> String,
    ) -> (DenseSource, Moments, Vec<String>) {
        match &self.stream {
            Stream::Column { input, moments } => {
                let name = name_of(*input);
                (DenseSource::Column(name.clone()), *moments, vec![name])
            }
            Stream::Rate {
                spec,
                positives,
                count,
                prior,
                sample,
            } => {
                let prior = prior.prior();
                let moments = rate_moments(
                    Source::rate(*positives, *count, spec.strength, prior),
                    sample,
                    steps,
                );
                let (positives, count) = (name_of(*positives), name_of(*count));
                let inputs = vec![positives.clone(), count.clone()];
                (
                    DenseSource::Rate {
                        positives,
                        count,
                        strength: spec.strength,
                        prior,
                    },
                    moments,
                    inputs,
                )
            }
        }
    }

    /// The steps before standardisation.
    fn steps(&self) -> Vec<DenseStep> {
        let clip = self
            .spec
            .clip
            .map(|[low, high]| DenseStep::Clip { low, high });
        let log1p = self.spec.log1p.then_some(DenseStep::Log1p);
        let logit = self.spec.logit.then_some(DenseStep::Logit);
        clip.into_iter().chain(log1p).chain(logit).collect()
    }
}

fn rate_moments(
    source: Source,
    sample: &BoundedSample<(f32, f32)>,
    steps: &[DenseStep],
) -> Moments {
    let Source::Rate {
        strength,
        head_start,
        ..
    } = source
    else {
        return Moments::default();
    };
    let mut moments = Moments::default();
    let rates = sample
        .values()
        .map(|(positives, count)| smoothed(positives, count, strength, head_start));
    let mut rates: Vec<f32> = rates.collect();
    rates
        .chunks_mut(CHUNK)
        .for_each(|values| add_transformed(&mut moments, values, steps));
    moments
}

fn add_transformed(moments: &mut Moments, values: &mut [f32], steps: &[DenseStep]) {
    mark_missing(values);
    steps
        .iter()
        .for_each(|&step| Step::from(step).apply(values));
    moments.add(values);
}
