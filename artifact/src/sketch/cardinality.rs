//! How many different keys there are: HyperLogLog, exact while there are few.
//!
//! `2^p` registers keep the longest run of zeros of the hashes that fall to them. The estimate is Ertl's
//! improved raw estimator, which needs no table of corrections: "New cardinality estimation algorithms for
//! HyperLogLog sketches", <https://arxiv.org/abs/1702.01284>, algorithm 6.

use serde::{Deserialize, Serialize};

use super::SketchError;
use crate::key;

/// The precision of profiles: 4096 registers, a standard error of 1.6 %.
pub const DEFAULT_PRECISION: u8 = 12;

const PRECISIONS: std::ops::RangeInclusive<u8> = 4..=16;
/// The digits of a register, 6 bits each, as in base64.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A mergeable sketch of the number of different keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "State", into = "State")]
pub struct CardinalitySketch {
    precision: u8,
    seen: Seen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Different hashes, ascending: exact.
    Few(Vec<u64>),
    /// A register for each leading `precision` bits of a hash.
    Many(Vec<u8>),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    precision: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hashes: Option<Vec<u64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registers: Option<String>,
}

impl Default for CardinalitySketch {
    fn default() -> Self {
        Self::new(DEFAULT_PRECISION)
    }
}

impl CardinalitySketch {
    /// An empty sketch of `2^precision` registers; `precision` is moved into 4 to 16.
    pub fn new(precision: u8) -> Self {
        Self {
            precision: precision.clamp(*PRECISIONS.start(), *PRECISIONS.end()),
            seen: Seen::Few(Vec::new()),
        }
    }

    /// Adds a key.
    #[inline]
    pub fn add(&mut self, key: u64) {
        self.add_hash(key::hash(key));
    }

    /// Adds what hashes evenly to `hash`.
    #[inline]
    pub fn add_hash(&mut self, hash: u64) {
        match &mut self.seen {
            Seen::Many(registers) => set(registers, self.precision, hash),
            Seen::Few(hashes) => {
                if let Err(place) = hashes.binary_search(&hash) {
                    hashes.insert(place, hash);
                    if hashes.len() > few_max(self.precision) {
                        self.spread();
                    }
                }
            }
        }
    }

    /// Adds all that `other` has seen.
    ///
    /// # Errors
    /// The two have different precisions.
    pub fn merge(&mut self, other: &Self) -> Result<(), SketchError> {
        if self.precision != other.precision {
            return Err(SketchError::new(
                "cardinality",
                "precision",
                self.precision.to_string(),
                other.precision,
            ));
        }
        match &other.seen {
            Seen::Few(hashes) => hashes.iter().for_each(|&hash| self.add_hash(hash)),
            Seen::Many(theirs) => {
                self.spread();
                if let Seen::Many(registers) = &mut self.seen {
                    for (register, &value) in registers.iter_mut().zip(theirs) {
                        *register = (*register).max(value);
                    }
                }
            }
        }
        Ok(())
    }

    /// About how many different keys it has seen; exact while they are few.
    pub fn estimate(&self) -> f64 {
        match &self.seen {
            Seen::Few(hashes) => hashes.len() as f64,
            Seen::Many(registers) => estimate(registers, self.precision),
        }
    }

    /// The standard error of the estimate, as a share of it.
    pub fn standard_error(&self) -> f64 {
        match &self.seen {
            Seen::Few(_) => 0.0,
            Seen::Many(registers) => 1.04 / (registers.len() as f64).sqrt(),
        }
    }

    /// From hashes to registers.
    fn spread(&mut self) {
        if let Seen::Few(hashes) = &self.seen {
            let mut registers = vec![0; 1 << self.precision];
            for &hash in hashes {
                set(&mut registers, self.precision, hash);
            }
            self.seen = Seen::Many(registers);
        }
    }
}

/// Hashes take eight times the place of registers.
fn few_max(precision: u8) -> usize {
    (1 << precision) / 8
}

#[inline]
fn set(registers: &mut [u8], precision: u8, hash: u64) {
    let place = (hash >> (64 - precision)) as usize;
    // The bit below the hash's last keeps the run within 64 - p + 1.
    let rest = (hash << precision) | (1 << (precision - 1));
    let run = rest.leading_zeros() as u8 + 1;
    registers[place] = registers[place].max(run);
}

fn estimate(registers: &[u8], precision: u8) -> f64 {
    let q = 64 - usize::from(precision);
    let mut counts = vec![0.0; q + 2];
    for &register in registers {
        counts[usize::from(register)] += 1.0;
    }
    let m = registers.len() as f64;
    let mut z = m * tau(1.0 - counts[q + 1] / m);
    for &count in counts[1..=q].iter().rev() {
        z = 0.5 * (z + count);
    }
    z += m * sigma(counts[0] / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

impl From<CardinalitySketch> for State {
    fn from(sketch: CardinalitySketch) -> Self {
        let (hashes, registers) = match sketch.seen {
            Seen::Few(hashes) => (Some(hashes), None),
            Seen::Many(registers) => {
                let digit = |&register: &u8| char::from(DIGITS[usize::from(register & 63)]);
                (None, Some(registers.iter().map(digit).collect()))
            }
        };
        Self {
            precision: sketch.precision,
            hashes,
            registers,
        }
    }
}

impl TryFrom<State> for CardinalitySketch {
    type Error = SketchError;

    fn try_from(state: State) -> Result<Self, SketchError> {
        let error = |field, expected: String, got: String| {
            SketchError::new("cardinality", field, expected, got)
        };
        let precision = state.precision;
        if !PRECISIONS.contains(&precision) {
            return Err(error("precision", "4 to 16".into(), precision.to_string()));
        }
        let seen = match (state.hashes, state.registers) {
            (Some(hashes), None) => {
                if hashes.len() > few_max(precision) || !hashes.is_sorted_by(|a, b| a < b) {
                    let expected = format!("at most {}, ascending", few_max(precision));
                    return Err(error(
                        "hashes",
                        expected,
                        format!("{} of them", hashes.len()),
                    ));
                }
                Seen::Few(hashes)
            }
            (None, Some(text)) => Seen::Many(registers(&text, precision).map_err(|got| {
                let expected = format!("{} runs of 0 to {}", 1 << precision, 65 - precision);
                error("registers", expected, got)
            })?),
            _ => {
                let got = "both or none".to_owned();
                return Err(error("content", "hashes or registers".into(), got));
            }
        };
        Ok(Self { precision, seen })
    }
}

fn registers(text: &str, precision: u8) -> Result<Vec<u8>, String> {
    if text.len() != 1 << precision {
        return Err(format!("{} of them", text.len()));
    }
    let register = |digit: u8| {
        let place = DIGITS.iter().position(|&known| known == digit);
        let run = place.filter(|&run| run <= usize::from(65 - precision));
        run.map(|run| run as u8)
            .ok_or_else(|| format!("the digit {:?}", char::from(digit)))
    };
    text.bytes().map(register).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(keys: std::ops::Range<u64>) -> CardinalitySketch {
        let mut sketch = CardinalitySketch::default();
        keys.for_each(|key| sketch.add(key));
        sketch
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut sketch = of(0..512);
        sketch.merge(&of(100..300)).unwrap();
        assert_eq!((sketch.estimate(), sketch.standard_error()), (512.0, 0.0));
    }

    #[test]
    fn estimates_err_as_the_standard_error_says() {
        for size in [600u64, 5_000, 40_000, 300_000] {
            let trials = 40;
            let squares: f64 = (0..trials)
                .map(|trial| {
                    let start = trial * 1_000_003;
                    let estimate = of(start..start + size).estimate();
                    (estimate / size as f64 - 1.0).powi(2)
                })
                .sum();
            let error = (squares / trials as f64).sqrt();
            let promised = of(0..size).standard_error();
            assert!(error < 1.4 * promised, "{size}: {error} against {promised}");
        }
    }

    #[test]
    fn merging_is_the_union_exactly() {
        for (a, b) in [
            (0..300, 200..450),
            (0..9_000, 4_000..50_000),
            (0..9_000, 10..20),
        ] {
            let mut merged = of(a.clone());
            merged.merge(&of(b.clone())).unwrap();
            let mut union = of(a.clone());
            b.for_each(|key| union.add(key));
            assert_eq!(merged, union);
        }
    }

    #[test]
    fn json_brings_back_an_equal_sketch_and_refuses_others() {
        for sketch in [of(0..0), of(0..100), of(0..10_000)] {
            let json = serde_json::to_string(&sketch).unwrap();
            assert_eq!(
                serde_json::from_str::<CardinalitySketch>(&json).unwrap(),
                sketch
            );
        }
        for wrong in [
            r#"{"precision":3,"hashes":[]}"#,
            r#"{"precision":4,"hashes":[1,2,3]}"#,
            r#"{"precision":5,"hashes":[2,1]}"#,
            r#"{"precision":4,"registers":"AAAA"}"#,
            r#"{"precision":4,"registers":"AAAAAAAAAAAAAAA+"}"#,
            r#"{"precision":4,"registers":"AAAAAAAAAAAAAAA!"}"#,
            r#"{"precision":4}"#,
        ] {
            assert!(
                serde_json::from_str::<CardinalitySketch>(wrong).is_err(),
                "{wrong}"
            );
        }
        let mut sketch = CardinalitySketch::new(5);
        assert!(sketch.merge(&of(0..1)).is_err());
    }
}
