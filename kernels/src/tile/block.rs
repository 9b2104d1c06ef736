use std::marker::PhantomData;

use half::bf16;

/// Rows, and columns, of a block of sums.
pub(crate) const SIDE: usize = 32;
/// Rows of a tile, pairs of depth of a tile, and columns of a tile of sums.
pub(super) const TILE: usize = 16;
/// Depth of a tile.
pub(super) const DEPTH: usize = 2 * TILE;
/// Numbers of a tile, where a pair counts as one.
pub(super) const TILE_LEN: usize = TILE * TILE;

/// A block of sums, `[SIDE, SIDE]`.
#[repr(C, align(64))]
pub(super) struct Block([f32; SIDE * SIDE]);

impl Default for Block {
    fn default() -> Self {
        Self([0.0; SIDE * SIDE])
    }
}

impl Block {
    pub(super) fn floats(&self) -> &[f32; SIDE * SIDE] {
        &self.0
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32; SIDE * SIDE] {
        &mut self.0
    }
}

/// 32 rows of the left factor, whole tiles deep.
#[derive(Clone, Copy)]
pub(super) struct LeftBlock<'a> {
    start: *const bf16,
    /// Bytes from one row to the next.
    row_bytes: usize,
    /// Tiles of depth.
    tiles: usize,
    borrow: PhantomData<&'a [bf16]>,
}

impl<'a> LeftBlock<'a> {
    /// Rows side by side, `[SIDE, tiles * DEPTH]`.
    pub(super) fn new(rows: &'a [bf16], tiles: usize) -> Self {
        assert_eq!(rows.len(), SIDE * tiles * DEPTH);
        let row_bytes = tiles * DEPTH * size_of::<bf16>();
        // SAFETY: the rows fill the slice, as asserted.
        unsafe { Self::from_raw(rows.as_ptr(), row_bytes, tiles) }
    }

    /// Rows `row_bytes` apart.
    ///
    /// # Safety
    /// For `'a`, each of the 32 rows from `start` on holds `tiles * DEPTH` numbers that nobody writes.
    pub(super) unsafe fn from_raw(start: *const bf16, row_bytes: usize, tiles: usize) -> Self {
        Self {
            start,
            row_bytes,
            tiles,
            borrow: PhantomData,
        }
    }

    pub(super) fn start(&self) -> *const bf16 {
        self.start
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(super) fn tiles(&self) -> usize {
        self.tiles
    }

    /// Checks that a panel of the right factor is as deep.
    pub(super) fn check(&self, right: &[u32]) {
        assert_eq!(
            right.len(),
            2 * self.tiles * TILE_LEN,
            "tiles of the right factor"
        );
    }

    /// The pair `2 * pair`, `2 * pair + 1` of a row.
    pub(super) fn pair(&self, row: usize, pair: usize) -> u32 {
        assert!(row < SIDE && pair < self.tiles * TILE);
        let row = self.start.cast::<u8>().wrapping_add(row * self.row_bytes);
        let pair = row.cast::<u32>().wrapping_add(pair);
        // SAFETY: the row holds the pair, as promised at the making.
        unsafe { pair.read_unaligned() }
    }
}

/// Operands of a block that is `tiles` deep, from tiny to large.
pub(super) fn example(tiles: usize) -> (Vec<bf16>, Vec<u32>) {
    let mut state = 1u64;
    let mut number = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let unit = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
        bf16::from_f32(unit * 2f32.powi((state >> 35 & 7) as i32 - 5))
    };
    let left = (0..SIDE * tiles * DEPTH).map(|_| number()).collect();
    let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let right = (0..2 * tiles * TILE_LEN)
        .map(|_| pair(number(), number()))
        .collect();
    (left, right)
}
