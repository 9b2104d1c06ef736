use super::block::{Block, LeftBlock, SIDE, TILE, TILE_LEN};

/// A matrix unit in plain Rust, by the definition of `TDPBF16PS` (Intel, "64 and IA-32
/// Architectures Software Developer's Manual", volume 2): even and odd products are summed apart, by
/// fused multiply-adds from zero, then added to one another and to the sum. Numbers below the normal
/// ones count as zero, in and out.
pub(super) struct Emulated;

impl Emulated {
    /// See [`Unit::block`](super::Unit).
    pub(super) fn block(left: LeftBlock<'_>, right: &[u32], sums: &mut Block) {
        let sums = sums.floats_mut();
        sums.fill(0.0);
        for tile in 0..left.tiles() {
            for side in 0..2 {
                let right = &right[(2 * tile + side) * TILE_LEN..][..TILE_LEN];
                for row in 0..SIDE {
                    let sums = &mut sums[row * SIDE + side * TILE..][..TILE];
                    dot_pairs(|pair| left.pair(row, tile * TILE + pair), right, sums);
                }
            }
        }
    }
}

/// One row of one tile.
fn dot_pairs(left: impl Fn(usize) -> u32, right: &[u32], sums: &mut [f32]) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let (mut even, mut odd) = (0.0f32, 0.0f32);
        for pair in 0..TILE {
            let (a, b) = (left(pair), right[pair * TILE + column]);
            even = normal(low(a).mul_add(low(b), even));
            odd = normal(high(a).mul_add(high(b), odd));
        }
        *sum = normal(*sum + normal(even + odd));
    }
}

fn low(pair: u32) -> f32 {
    normal(f32::from_bits(pair << 16))
}

fn high(pair: u32) -> f32 {
    normal(f32::from_bits(pair & 0xffff_0000))
}

/// Zero, of the same sign, in place of a subnormal number.
fn normal(x: f32) -> f32 {
    if x.is_subnormal() {
        0f32.copysign(x)
    } else {
        x
    }
}
