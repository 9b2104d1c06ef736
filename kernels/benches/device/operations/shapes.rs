/// The sizes of what is measured.
#[derive(Debug, Clone, Copy)]
pub struct Shapes {
    pub batch: usize,
    pub features: usize,
    pub rows: usize,
    /// Columns of a row, which one vector a lane holds.
    pub dim: usize,
    /// Features, rows and columns of tables whose rows are longer.
    pub wide: [usize; 3],
    /// Columns of a layer.
    pub columns: usize,
    /// Samples, features and columns of a dot interaction that shared memory does not hold.
    pub large_samples: [usize; 3],
    /// Dense parameters.
    pub parameters: usize,
    /// Bytes that the operands of small operations have together at least, so that no cache holds them.
    pub cold_bytes: usize,
}

impl Shapes {
    /// A large DLRM: 26 tables of 1,000,000 rows of 128 columns, 65,536 samples.
    pub const LARGE: Self = Self {
        batch: 65_536,
        features: 26,
        rows: 1_000_000,
        dim: 128,
        wide: [4, 250_000, 512],
        columns: 1024,
        large_samples: [4096, 49, 1030],
        parameters: 8 << 20,
        cold_bytes: 128 << 20,
    };

    /// What the emulation runs in a moment.
    pub const TINY: Self = Self {
        batch: 75,
        features: 3,
        rows: 40,
        dim: 128,
        wide: [2, 30, 512],
        columns: 40,
        large_samples: [1, 49, 1030],
        parameters: 9001,
        cold_bytes: 0,
    };
}
