/// How fast one rank works while all do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Float operations a second of the dense layers, with all that belongs to them.
    pub flops_per_s: f64,
    /// Of rows read at random and pooled.
    pub lookup: RowRate,
    /// Seconds of grouping an id with the others of its row.
    pub grouped_id_s: f64,
    /// Of gradients summed by row, and of rows updated in place.
    pub update: RowRate,
    /// Of ids and numbers packed for an exchange of pooled vectors, and read out of it.
    pub pooled: RowRate,
    /// Of ids and numbers packed for an exchange of rows, and read out of it, with the pooling of rows and the sums of
    /// gradients on the way.
    pub unique: RowRate,
    /// Bytes a second read and written from one end to the other.
    pub copy_bytes_per_s: f64,
    /// Seconds of an operation that does nothing.
    pub operation_s: f64,
}

/// Seconds of work on rows: so much for each, however short it is, and so much for each byte. A row that lies anywhere
/// costs a miss of the caches and of the translation of addresses before its first byte comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowRate {
    /// Seconds of a row without its bytes.
    pub row_s: f64,
    /// Bytes a second besides.
    pub bytes_per_s: f64,
}

/// Rows, and the bytes that are moved for them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RowWork {
    /// Rows.
    pub rows: f64,
    /// Bytes read and written.
    pub bytes: f64,
}

impl RowWork {
    pub(super) fn new(rows: f64, bytes: f64) -> Self {
        Self { rows, bytes }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self::new(self.rows + other.rows, self.bytes + other.bytes)
    }
}

impl RowRate {
    /// Through the seconds of as many rows of two widths, the narrower first.
    pub(super) fn through(narrow: (RowWork, f64), wide: (RowWork, f64)) -> Self {
        let ((less, short), (more, long)) = (narrow, wide);
        // Where noise hides what the bytes cost, rows cost all of it.
        let byte_s = ((long - short) / (more.bytes - less.bytes)).max(1e-15);
        Self {
            row_s: ((short - byte_s * less.bytes) / less.rows).max(0.0),
            bytes_per_s: 1.0 / byte_s,
        }
    }

    /// Seconds of this work.
    pub fn seconds(&self, work: RowWork) -> f64 {
        work.rows * self.row_s + work.bytes / self.bytes_per_s
    }

    /// Of a rank that is so many times as slow.
    pub(super) fn slower(&self, times: f64) -> Self {
        Self {
            row_s: self.row_s * times,
            bytes_per_s: self.bytes_per_s / times,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_widths_tell_what_a_row_and_what_a_byte_costs() {
        let rate = RowRate {
            row_s: 50e-9,
            bytes_per_s: 4e9,
        };
        let [narrow, wide] = [64.0, 512.0].map(|bytes| RowWork::new(1e3, bytes * 1e3));
        let found = RowRate::through((narrow, rate.seconds(narrow)), (wide, rate.seconds(wide)));
        let tells = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
        tells(found.row_s, rate.row_s);
        tells(found.bytes_per_s, rate.bytes_per_s);
        tells(rate.slower(2.0).seconds(wide), 2.0 * rate.seconds(wide));
        // Half as wide, a row costs more than half.
        let half = RowWork::new(wide.rows, wide.bytes / 2.0);
        assert!(rate.seconds(half) > 0.6 * rate.seconds(wide));
    }
}
