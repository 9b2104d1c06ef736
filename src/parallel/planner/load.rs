use crate::config::Payload;

/// What a step asks of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableLoad {
    /// The table's name.
    pub name: String,
    /// Rows of the table.
    pub rows: usize,
    /// Columns of the table.
    pub dim: usize,
    /// Lookups in it: pooled vectors a sample.
    pub lookups: usize,
    /// Ids a sample, over all lookups: the hotness.
    pub ids_per_sample: f64,
    /// Distinct rows of some samples.
    pub distinct: Distinct,
    /// Bytes of optimiser state a row.
    pub state_bytes: usize,
    /// How its vectors travel, and their gradients, where it is sharded.
    pub payloads: [Payload; 2],
}

/// How many distinct rows some samples touch: `rows (n / samples)^exponent`, which two measured sizes
/// give (Heaps' law: what is frequent repeats).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distinct {
    samples: f64,
    rows: f64,
    exponent: f64,
}

impl Distinct {
    /// From the distinct rows of a part and of the whole of some samples, `(samples, rows)` each.
    pub fn new(part: (usize, usize), whole: (usize, usize)) -> Self {
        let ratio = |of: fn((usize, usize)) -> usize| of(whole) as f64 / of(part).max(1) as f64;
        let (samples, rows) = (ratio(|(samples, _)| samples), ratio(|(_, rows)| rows));
        let exponent = if samples > 1.0 && rows >= 1.0 {
            rows.ln() / samples.ln()
        } else {
            1.0
        };
        Self {
            samples: whole.0.max(1) as f64,
            rows: whole.1 as f64,
            exponent: exponent.clamp(0.0, 1.0),
        }
    }

    /// Distinct rows of `samples` samples.
    pub fn of(&self, samples: f64) -> f64 {
        self.rows * (samples / self.samples).powf(self.exponent)
    }
}

impl TableLoad {
    /// Distinct rows of `samples` samples, no more than there are.
    pub fn distinct_rows(&self, samples: f64) -> f64 {
        let at_most = (self.ids_per_sample * samples).min(self.rows as f64);
        self.distinct.of(samples).min(at_most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_rows_follow_the_measured_sizes() {
        let distinct = Distinct::new((100, 50), (10_000, 500));
        assert!((distinct.of(100.0) - 50.0).abs() < 1e-9);
        assert!((distinct.of(10_000.0) - 500.0).abs() < 1e-9);
        assert!((distinct.of(1_000_000.0) - 5_000.0).abs() < 1e-6);
    }

    #[test]
    fn there_are_no_more_distinct_rows_than_ids_or_rows() {
        let load = TableLoad {
            name: "t".into(),
            rows: 600,
            dim: 4,
            lookups: 1,
            ids_per_sample: 0.1,
            distinct: Distinct::new((100, 50), (10_000, 500)),
            state_bytes: 4,
            payloads: [Payload::Fp32; 2],
        };
        assert_eq!(load.distinct_rows(1e9), 600.0);
        assert_eq!(load.distinct_rows(10.0), 1.0);
    }
}
