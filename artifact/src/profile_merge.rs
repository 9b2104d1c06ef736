//! Profiles of parts become the profile of the whole: hours a day, ranks a run.

use std::cmp::Reverse;

use crate::profile::{InputProfile, NumberProfile, Profile};
use crate::segments::{SEGMENTS_MAX, SegmentProfile};
use crate::sketch::SketchError;

impl Profile {
    /// Adds all that `other`, of the same inputs and labels, has seen. Summaries for people do not merge and go, but
    /// for the moments of scores.
    ///
    /// # Errors
    /// The two have other inputs or labels, or sketches that cannot be merged; then part of it may be added.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        let names = |profile: &Self| -> String {
            let inputs = profile.inputs.iter().map(|input| input.name.as_str());
            let labels = profile.scores.iter().map(|score| score.label.as_str());
            inputs.chain(labels).collect::<Vec<_>>().join(", ")
        };
        if names(self) != names(other) {
            return Err(SketchError::new(
                "profile",
                "inputs",
                names(self),
                names(other),
            ));
        }
        self.rows += other.rows;
        for (input, theirs) in self.inputs.iter_mut().zip(&other.inputs) {
            input.merge(theirs)?;
        }
        for (score, theirs) in self.scores.iter_mut().zip(&other.scores) {
            match (&mut score.sketch, &theirs.sketch) {
                (Some(sketch), Some(theirs)) => sketch.merge(theirs)?,
                (sketch, _) => *sketch = None,
            }
            let Some(sketch) = &score.sketch else {
                continue;
            };
            let moments = sketch.probabilities.moments;
            score.base_rate = sketch.labels.mean();
            score.probabilities = NumberProfile {
                count: moments.count(),
                mean: moments.mean(),
                std: moments.std(),
                min: sketch.probabilities.quantiles.min().unwrap_or_default(),
                max: sketch.probabilities.quantiles.max().unwrap_or_default(),
                quantiles: Vec::new(),
            };
        }
        self.merge_segments(other)
    }

    fn merge_segments(&mut self, other: &Self) -> Result<(), SketchError> {
        for theirs in &other.segments {
            let same =
                |own: &&mut SegmentProfile| (&own.input, own.key) == (&theirs.input, theirs.key);
            match self.segments.iter_mut().find(same) {
                Some(own) => own.merge(theirs)?,
                None => self.segments.push(theirs.clone()),
            }
        }
        let mut by_input: Vec<String> = Vec::new();
        for segment in &self.segments {
            if !by_input.contains(&segment.input) {
                by_input.push(segment.input.clone());
            }
        }
        let place = |input: &String| by_input.iter().position(|known| known == input);
        self.segments
            .sort_by_key(|segment| (place(&segment.input), Reverse(segment.rows), segment.key));
        let (mut input, mut kept) = (None, 0);
        self.segments.retain(|segment| {
            if input.as_ref() != Some(&segment.input) {
                (input, kept) = (Some(segment.input.clone()), 0);
            }
            kept += 1;
            kept <= SEGMENTS_MAX
        });
        Ok(())
    }
}

impl InputProfile {
    /// Adds all that `other`, of the same input, has seen. Summaries for people do not merge and go.
    ///
    /// # Errors
    /// The two have sketches that cannot be merged.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.missing += other.missing;
        self.out_of_range += other.out_of_range;
        (self.numbers, self.keys) = (None, None);
        match (&mut self.sketch, &other.sketch) {
            (Some(sketch), Some(theirs)) => sketch.merge(theirs)?,
            (sketch, _) => *sketch = None,
        }
        Ok(())
    }
}

impl SegmentProfile {
    fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        self.rows += other.rows;
        for (input, theirs) in self.inputs.iter_mut().zip(&other.inputs) {
            input.merge(theirs)?;
        }
        for (score, theirs) in self.scores.iter_mut().zip(&other.scores) {
            score.merge(theirs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        ColumnKind, InputColumn, Profile, ProfileBuilder, RawBatch, RawColumn, SourceType,
    };

    fn builder() -> ProfileBuilder {
        let input = |name: &str, kind, source| InputColumn {
            name: name.to_owned(),
            kind,
            source,
            unit: None,
            range: None,
            required: false,
        };
        let inputs = [
            input("age", ColumnKind::Dense, SourceType::Float),
            input("client", ColumnKind::Key, SourceType::Text),
        ];
        ProfileBuilder::new(&inputs, &["click".to_owned()])
            .with_segments(&["client".to_owned()])
            .expect("a key")
            .with_sketches_only()
    }

    fn of(rows: std::ops::Range<u64>) -> Profile {
        let mut builder = builder();
        let ages = rows.clone().map(|row| row as f32).collect();
        let clients = rows.clone().map(|row| row % 3).collect();
        let batch = RawBatch {
            rows: rows.clone().count(),
            columns: vec![RawColumn::Dense(ages), RawColumn::Key(clients)],
        };
        builder.observe(&batch).expect("the inputs");
        let scores: Vec<f32> = rows.clone().map(|row| row as f32 / 1000.0).collect();
        builder.observe_scores(&vec![f32::NAN; scores.len()], &scores);
        builder.finish()
    }

    #[test]
    fn hours_merge_into_the_day_as_if_it_were_profiled_at_once() {
        let mut merged = of(0..100);
        merged.merge(&of(100..200)).expect("the same inputs");
        let whole = of(0..200);
        assert_eq!(merged.rows, whole.rows);
        let quantiles = |profile: &Profile| {
            let sketch = profile.inputs[0].sketch.as_ref().expect("a sketch");
            let numbers = sketch.numbers.as_ref().expect("numbers");
            numbers.quantiles.quantiles(&[0.0, 0.3, 0.5, 1.0])
        };
        assert_eq!(quantiles(&merged), quantiles(&whole));
        let segments = |profile: &Profile| -> Vec<(u64, u64)> {
            let segments = profile.segments.iter();
            segments
                .map(|segment| (segment.key, segment.rows))
                .collect()
        };
        assert_eq!(segments(&merged), segments(&whole));
        assert_eq!(merged.scores[0].probabilities.count, 200);
        assert!(whole.inputs[1].keys.is_none());
    }

    #[test]
    fn profiles_of_other_inputs_do_not_merge() {
        let mut other = of(0..10);
        other.inputs[0].name = "income".into();
        let error = of(0..10).merge(&other).expect_err("other inputs");
        assert!(
            error.to_string().contains("expected age, client, click"),
            "{error}"
        );
    }
}
