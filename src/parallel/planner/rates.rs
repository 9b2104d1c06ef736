/// How fast one rank works while all do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Float operations a second of the dense layers, with all that belongs to them.
    pub flops_per_s: f64,
    /// Bytes a second of rows read at random and pooled.
    pub lookup_bytes_per_s: f64,
    /// Bytes a second of gradients summed by row, and of rows updated in place.
    pub update_bytes_per_s: f64,
    /// Bytes a second read and written from one end to the other.
    pub copy_bytes_per_s: f64,
    /// Seconds of an operation that does nothing.
    pub operation_s: f64,
}
