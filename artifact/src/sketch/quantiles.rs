//! Quantiles of a stream: the KLL sketch.
//!
//! Level `h` holds values that stand for `2^h` each. A full level is sorted and every other value, from the
//! first or the second by a coin, goes up a level. Lower levels are smaller by a third each, so the
//! sketch holds about `3 k` values.
//! Karnin, Lang, Liberty, "Optimal Quantile Approximation in Streams", FOCS 2016,
//! <https://arxiv.org/abs/1603.05346>.

use serde::{Deserialize, Serialize};

use super::{Number, SketchError, sum};

/// The accuracy of profiles: a rank errs by 1.6 % at most, 99 times in 100.
pub const DEFAULT_ACCURACY: u16 = 256;

const ACCURACY_MIN: u16 = 8;
/// The least capacity of a level: smaller ones would be compacted all the time.
const LEVEL_MIN: usize = 8;
/// More levels than any count of values needs.
const LEVELS_MAX: usize = 60;
const SHRINK: f64 = 2.0 / 3.0;
/// Values that are sorted together when many are added at once: they stay in a core's own cache.
const SORTED_AT_ONCE: usize = 1 << 14;

/// A mergeable sketch of the quantiles of finite numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub struct QuantileSketch {
    accuracy: u16,
    count: u64,
    min: f64,
    max: f64,
    /// Values of weight `2^h`; unsorted.
    levels: Vec<Vec<f64>>,
    /// How many values the levels may hold before one is compacted.
    capacity: usize,
    /// How many the levels hold.
    held: usize,
    /// How many levels were compacted: the coin of the next.
    compactions: u64,
}

/// What is written of it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    accuracy: u16,
    count: u64,
    min: f64,
    max: f64,
    compactions: u64,
    levels: Vec<Vec<f64>>,
}

impl Default for QuantileSketch {
    fn default() -> Self {
        Self::new(DEFAULT_ACCURACY)
    }
}

impl QuantileSketch {
    /// An empty sketch; `accuracy` is KLL's `k`, raised to 8 where it is less.
    pub fn new(accuracy: u16) -> Self {
        let mut sketch = Self {
            accuracy: accuracy.max(ACCURACY_MIN),
            count: 0,
            min: 0.0,
            max: 0.0,
            levels: vec![Vec::new()],
            capacity: 0,
            held: 0,
            compactions: 0,
        };
        sketch.capacity = sketch.total_capacity();
        sketch
    }

    /// Adds a value. What is not finite is left out.
    #[inline]
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        // Zeros of both signs are one value.
        let value = value + 0.0;
        if self.count == 0 {
            (self.min, self.max) = (value, value);
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += 1;
        self.levels[0].push(value);
        self.held += 1;
        if self.held > self.capacity {
            self.compact();
        }
    }

    /// Adds values, many of them much quicker than one by one. What is not finite is left out.
    ///
    /// Thousands of values are sorted once and thinned at once: one of `2^h`, from a place by coin, enters level `h`. That is
    /// what `h` compactions of one large buffer come to, and errs less than those of small ones.
    pub fn add_all<T: Number>(&mut self, values: &[T]) {
        for some in values.chunks(SORTED_AT_ONCE) {
            if some.len() <= 2 * usize::from(self.accuracy) {
                some.iter().for_each(|&value| self.add(value.into()));
            } else {
                self.add_ascending(&T::ascending(some));
            }
        }
    }

    fn add_ascending<T: Number>(&mut self, values: &[T]) {
        let (Some(&least), Some(&greatest)) = (values.first(), values.last()) else {
            return;
        };
        let mut level = 0;
        while values.len() >> level > usize::from(self.accuracy) {
            level += 1;
        }
        let step = 1 << level;
        // What fills no step is added by itself, so that weights sum to the count.
        let (thinned, rest) = values.split_at(values.len() / step * step);
        if self.count == 0 {
            (self.min, self.max) = (least.into(), greatest.into());
        }
        self.min = self.min.min(least.into());
        self.max = self.max.max(greatest.into());
        self.count += thinned.len() as u64;
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
            self.capacity = self.total_capacity();
        }
        let first = random(self.compactions) as usize % step;
        self.compactions = self.compactions.wrapping_add(1);
        let every = thinned.iter().skip(first).step_by(step);
        self.levels[level].extend(every.map(|&value| value.into()));
        self.held += thinned.len() / step;
        while self.held > self.capacity {
            self.compact();
        }
        rest.iter().for_each(|&value| self.add(value.into()));
    }

    /// Adds all that `other` has seen.
    ///
    /// # Errors
    /// The two have different accuracies.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        if self.accuracy != other.accuracy {
            return Err(SketchError::new(
                "quantile",
                "accuracy",
                self.accuracy.to_string(),
                other.accuracy,
            ));
        }
        if other.count == 0 {
            return Ok(());
        }
        let count = sum("quantile", self.count, other.count)?;
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.count = count;
        self.compactions = self.compactions.wrapping_add(other.compactions);
        if self.levels.len() < other.levels.len() {
            self.levels.resize_with(other.levels.len(), Vec::new);
        }
        for (level, values) in self.levels.iter_mut().zip(&other.levels) {
            level.extend_from_slice(values);
        }
        self.held += other.held;
        self.capacity = self.total_capacity();
        while self.held > self.capacity {
            self.compact();
        }
        Ok(())
    }

    /// How many values it has seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least value; none of none.
    pub fn min(&self) -> Option<f64> {
        (self.count > 0).then_some(self.min)
    }

    /// The greatest value; none of none.
    pub fn max(&self) -> Option<f64> {
        (self.count > 0).then_some(self.max)
    }

    /// How far a rank may be off, as a share of all values, 99 times in 100: the fit of
    /// Apache DataSketches to its simulations, `2.296 / k^0.9021`.
    pub fn rank_error(&self) -> f64 {
        2.296 / f64::from(self.accuracy).powf(0.9021)
    }

    /// The least share of values that it can tell from none: 0 while it holds every value, then what a rank may be
    /// off.
    pub fn resolution(&self) -> f64 {
        if self.held as u64 == self.count {
            0.0
        } else {
            self.rank_error()
        }
    }

    /// The values that it holds with their weights, ascending. The weights sum to the count.
    pub fn weighted(&self) -> Vec<(f64, u64)> {
        let mut found: Vec<(f64, u64)> = Vec::with_capacity(self.held);
        for (level, values) in self.levels.iter().enumerate() {
            found.extend(values.iter().map(|&value| (value, 1 << level)));
        }
        found.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        found
    }

    /// The share of values at most each of `ascending`; NaN of none.
    pub fn shares_at_most(&self, ascending: &[f64]) -> Vec<f64> {
        self.shares(ascending, |value, bound| value <= bound)
    }

    /// The share of values less than each of `ascending`; NaN of none.
    pub fn shares_below(&self, ascending: &[f64]) -> Vec<f64> {
        self.shares(ascending, |value, bound| value < bound)
    }

    fn shares(&self, ascending: &[f64], within: impl Fn(f64, f64) -> bool) -> Vec<f64> {
        let weighted = self.weighted();
        let (mut place, mut weight) = (0, 0);
        let mut share = |bound: f64| {
            while place < weighted.len() && within(weighted[place].0, bound) {
                weight += weighted[place].1;
                place += 1;
            }
            match bound {
                _ if self.count == 0 => f64::NAN,
                // The ends are exact, whatever the levels still hold.
                bound if within(self.max, bound) => 1.0,
                bound if !within(self.min, bound) => 0.0,
                _ => weight as f64 / self.count as f64,
            }
        };
        ascending.iter().map(|&bound| share(bound)).collect()
    }

    /// The values below which each of `shares` of the values lie; empty of none. 0 is the least, 1 the
    /// greatest.
    pub fn quantiles(&self, shares: &[f64]) -> Vec<f64> {
        if self.count == 0 {
            return Vec::new();
        }
        let weighted = self.weighted();
        let mut below = Vec::with_capacity(weighted.len());
        let mut sum = 0;
        for &(_, weight) in &weighted {
            sum += weight;
            below.push(sum);
        }
        let quantile = |&share: &f64| match share {
            share if share <= 0.0 => self.min,
            share if share >= 1.0 => self.max,
            share => {
                let rank = (share * self.count as f64).ceil() as u64;
                let place = below.partition_point(|&sum| sum < rank);
                weighted[place.min(weighted.len() - 1)].0
            }
        };
        shares.iter().map(quantile).collect()
    }

    fn level_capacity(&self, level: usize) -> usize {
        let depth = self.levels.len() - 1 - level;
        let capacity = f64::from(self.accuracy) * SHRINK.powi(depth as i32);
        (capacity.ceil() as usize).max(LEVEL_MIN)
    }

    fn total_capacity(&self) -> usize {
        (0..self.levels.len())
            .map(|level| self.level_capacity(level))
            .sum()
    }

    /// Halves the lowest full level.
    fn compact(&mut self) {
        let full = |level: &usize| self.levels[*level].len() >= self.level_capacity(*level);
        let Some(level) = (0..self.levels.len()).find(full) else {
            return;
        };
        if level + 1 == self.levels.len() {
            self.levels.push(Vec::new());
            self.capacity = self.total_capacity();
        }
        let (lower, upper) = self.levels.split_at_mut(level + 1);
        let (values, above) = (&mut lower[level], &mut upper[0]);
        values.sort_unstable_by(f64::total_cmp);
        // Of an odd number, the last waits for the next time.
        let pairs = values.len() / 2;
        let coin = coin(self.compactions);
        above.extend((0..pairs).map(|pair| values[2 * pair + coin]));
        values.drain(..2 * pairs);
        self.held -= pairs;
        self.compactions = self.compactions.wrapping_add(1);
    }
}

/// 0 or 1, as fair as SplitMix64's output.
fn coin(number: u64) -> usize {
    (random(number) >> 63) as usize
}

/// SplitMix64's output.
fn random(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl From<QuantileSketch> for State {
    fn from(sketch: QuantileSketch) -> Self {
        Self {
            accuracy: sketch.accuracy,
            count: sketch.count,
            min: sketch.min,
            max: sketch.max,
            compactions: sketch.compactions,
            levels: sketch.levels,
        }
    }
}

impl TryFrom<State> for QuantileSketch {
    type Error = SketchError;

    fn try_from(state: State) -> Result<Self, SketchError> {
        let refuse = |field, expected: String, got: String| {
            Err(SketchError::new("quantile", field, expected, got))
        };
        if state.accuracy < ACCURACY_MIN {
            let expected = format!("at least {ACCURACY_MIN}");
            return refuse("accuracy", expected, state.accuracy.to_string());
        }
        if !(1..=LEVELS_MAX).contains(&state.levels.len()) {
            let expected = format!("1 to {LEVELS_MAX}");
            return refuse("levels", expected, state.levels.len().to_string());
        }
        let weights = state.levels.iter().enumerate();
        let weight = weights.fold(0u128, |sum, (level, values)| {
            sum + ((values.len() as u128) << level)
        });
        if weight != u128::from(state.count) {
            return refuse("count", weight.to_string(), state.count.to_string());
        }
        for &value in state.levels.iter().flatten() {
            if !(state.min..=state.max).contains(&value) || !value.is_finite() {
                let expected = format!("{} to {}", state.min, state.max);
                return refuse("value", expected, value.to_string());
            }
        }
        let mut sketch = Self {
            held: state.levels.iter().map(Vec::len).sum(),
            capacity: 0,
            accuracy: state.accuracy,
            count: state.count,
            min: state.min,
            max: state.max,
            levels: state.levels,
            compactions: state.compactions,
        };
        sketch.capacity = sketch.total_capacity();
        if sketch.held > sketch.capacity {
            let expected = format!("at most {}", sketch.capacity);
            return refuse("values", expected, sketch.held.to_string());
        }
        Ok(sketch)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The greatest distance of a sketch's ranks from the true ones, as a share.
    fn worst_error(sketch: &QuantileSketch, ascending: &[f64]) -> f64 {
        let bounds: Vec<f64> = (1..100)
            .map(|step| ascending[step * ascending.len() / 100])
            .collect();
        let shares = sketch.shares_at_most(&bounds);
        let errors = bounds.iter().zip(shares).map(|(bound, share)| {
            let rank = ascending.partition_point(|value| value <= bound);
            (share - rank as f64 / ascending.len() as f64).abs()
        });
        errors.fold(0.0, f64::max)
    }

    fn scattered(count: usize, seed: u64) -> Vec<f64> {
        let bits = |index| crate::key::hash(index as u64 ^ (seed << 40));
        (0..count)
            .map(|index| ((bits(index) >> 11) as f64 / (1u64 << 53) as f64).powi(3))
            .collect()
    }

    #[test]
    fn ranks_err_within_the_bound_99_times_in_100() {
        let mut beyond = 0;
        for seed in 0..100 {
            let mut values = scattered(20_000, seed);
            let mut sketch = QuantileSketch::new(64);
            values.iter().for_each(|&value| sketch.add(value));
            values.sort_unstable_by(f64::total_cmp);
            // The bound is of one rank, this is the worst of 99.
            beyond += usize::from(worst_error(&sketch, &values) > 1.5 * sketch.rank_error());
        }
        assert!(beyond <= 3, "{beyond} of 100");
    }

    #[test]
    fn order_does_not_harm_the_bound() {
        let ascending: Vec<f64> = (0..100_000).map(f64::from).collect();
        let mut sketch = QuantileSketch::default();
        ascending.iter().for_each(|&value| sketch.add(value));
        assert!(worst_error(&sketch, &ascending) < sketch.rank_error());
        assert_eq!((sketch.min(), sketch.max()), (Some(0.0), Some(99_999.0)));
        assert!(sketch.held < 4 * 256, "{} values", sketch.held);
    }

    #[test]
    fn merged_parts_keep_the_bound_of_the_whole() {
        let mut values = scattered(60_000, 7);
        let mut whole = QuantileSketch::default();
        for part in values.chunks(1_700) {
            let mut sketch = QuantileSketch::default();
            part.iter().for_each(|&value| sketch.add(value));
            whole.merge(&sketch).unwrap();
        }
        values.sort_unstable_by(f64::total_cmp);
        assert_eq!(whole.count(), 60_000);
        assert!(worst_error(&whole, &values) < whole.rank_error());
    }

    #[test]
    fn many_at_once_err_no_more_than_one_by_one() {
        let mut beyond = 0;
        for seed in 0..100 {
            let values: Vec<f32> = scattered(40_007, seed).iter().map(|&x| x as f32).collect();
            let mut sketch = QuantileSketch::new(64);
            values.chunks(9_000).for_each(|some| sketch.add_all(some));
            assert_eq!(sketch.count(), 40_007);
            let weights: u64 = sketch.weighted().iter().map(|(_, weight)| weight).sum();
            assert_eq!(weights, 40_007);
            let mut ascending: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
            ascending.sort_unstable_by(f64::total_cmp);
            assert_eq!(sketch.max(), ascending.last().copied());
            beyond += usize::from(worst_error(&sketch, &ascending) > 1.5 * sketch.rank_error());
        }
        assert!(beyond <= 3, "{beyond} of 100");
    }

    #[test]
    fn few_values_are_exact() {
        let mut sketch = QuantileSketch::default();
        (1..=100).for_each(|value| sketch.add(f64::from(value)));
        sketch.add(f64::NAN);
        assert_eq!(
            sketch.quantiles(&[0.0, 0.25, 0.5, 1.0]),
            [1.0, 25.0, 50.0, 100.0]
        );
        assert_eq!(
            sketch.shares_at_most(&[0.0, 50.0, 100.0, 200.0]),
            [0.0, 0.5, 1.0, 1.0]
        );
        assert!(QuantileSketch::default().quantiles(&[0.5]).is_empty());
    }

    proptest! {
        #[test]
        fn json_brings_back_an_equal_sketch(count in 0usize..3000, accuracy in 8u16..64) {
            let mut sketch = QuantileSketch::new(accuracy);
            scattered(count, 3).into_iter().for_each(|value| sketch.add(value));
            let json = serde_json::to_string(&sketch).unwrap();
            prop_assert_eq!(serde_json::from_str::<QuantileSketch>(&json).unwrap(), sketch);
        }
    }

    #[test]
    fn a_sketch_that_contradicts_itself_is_refused() {
        let json =
            r#"{"accuracy":8,"count":COUNT,"min":0.0,"max":2.0,"compactions":0,"levels":LEVELS}"#;
        let read = |count: &str, levels: &str| {
            let json = json.replace("COUNT", count).replace("LEVELS", levels);
            serde_json::from_str::<QuantileSketch>(&json)
        };
        assert!(read("2", "[[1.0, 2.0]]").is_ok());
        assert!(read("3", "[[1.0], [2.0]]").is_ok());
        let refusal = |count: &str, levels: &str| read(count, levels).unwrap_err().to_string();
        assert!(refusal("9", "[[1.0, 2.0]]").contains("count: expected 2, got 9"));
        assert!(refusal("1", "[[3.0]]").contains("value: expected 0 to 2, got 3"));
        assert!(refusal("0", "[]").contains("levels"));
        let long = format!("[{:?}]", vec![1.0; 100]);
        assert!(refusal("100", &long).contains("at most 8"));
        let mut other = QuantileSketch::new(16);
        other.add(1.0);
        assert!(QuantileSketch::new(8).merge(&other).is_err());
    }
}
