use super::{LANES, Level};

/// Transposes `x: [rows, columns]` into `out: [columns, stride]`, of which the first `rows`
/// columns, rounded up to whole vectors, are written: those past `rows` with zeros.
///
/// # Panics
/// When `out` is shorter, or `stride` is no multiple of [`LANES`] of at least `rows`.
pub(crate) fn transpose(x: &[f32], rows: usize, columns: usize, out: &mut [f32], stride: usize) {
    assert!(stride.is_multiple_of(LANES) && stride >= rows);
    assert!(x.len() == rows * columns && out.len() >= columns * stride);
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level has been detected, and the lengths are as asserted.
        Level::Avx512 => unsafe { avx512::transpose(x, rows, columns, out, stride) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { avx2::transpose(x, rows, columns, out, stride) },
        _ => {
            for (column, out) in out.chunks_exact_mut(stride).take(columns).enumerate() {
                let padded = rows.next_multiple_of(LANES);
                for (row, out) in out[..padded].iter_mut().enumerate() {
                    *out = if row < rows {
                        x[row * columns + column]
                    } else {
                        0.0
                    };
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_maskz_loadu_ps, _mm512_setzero_ps,
        _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps,
        _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    use super::LANES;

    /// # Safety
    /// `x` holds `rows * columns` floats and `out` at least `columns * stride`; `stride` is a
    /// multiple of 16 of at least `rows`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(
        x: &[f32],
        rows: usize,
        columns: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        for row in (0..rows).step_by(LANES) {
            for column in (0..columns).step_by(LANES) {
                let (height, width) = (LANES.min(rows - row), LANES.min(columns - column));
                let mask = (u32::MAX >> (32 - width)) as u16;
                let start = x.as_ptr().wrapping_add(row * columns + column);
                // Fixed bounds keep the block in registers; an empty mask reads nothing.
                let block: [__m512; LANES] = std::array::from_fn(|index| {
                    let mask = if index < height { mask } else { 0 };
                    // SAFETY: the mask covers `width` floats of row `row + index`, inside `x`.
                    unsafe { _mm512_maskz_loadu_ps(mask, start.wrapping_add(index * columns)) }
                });
                let block = transpose_block(block);
                let start = out.as_mut_ptr().wrapping_add(column * stride + row);
                for (index, vector) in block.iter().enumerate() {
                    if index < width {
                        // SAFETY: 16 floats from column `row` of row `column + index` are inside
                        // `out`, since the stride is a multiple of 16.
                        unsafe { _mm512_storeu_ps(start.wrapping_add(index * stride), *vector) };
                    }
                }
            }
        }
    }

    /// Transposes 16 x 16 floats: within pairs of rows, then groups of four rows, then across the
    /// four 128-bit parts of the registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn transpose_block(rows: [__m512; LANES]) -> [__m512; LANES] {
        let mut fours = [_mm512_setzero_ps(); LANES];
        for group in (0..LANES).step_by(4) {
            let low = |a: usize, b: usize| {
                _mm512_castps_pd(_mm512_unpacklo_ps(rows[group + a], rows[group + b]))
            };
            let high = |a: usize, b: usize| {
                _mm512_castps_pd(_mm512_unpackhi_ps(rows[group + a], rows[group + b]))
            };
            fours[group] = _mm512_castpd_ps(_mm512_unpacklo_pd(low(0, 1), low(2, 3)));
            fours[group + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low(0, 1), low(2, 3)));
            fours[group + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high(0, 1), high(2, 3)));
            fours[group + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high(0, 1), high(2, 3)));
        }
        // Part p of fours[4 * g + c] now holds column 4 * p + c of rows 4 * g..4 * g + 4.
        const EVEN: i32 = 0x88;
        const ODD: i32 = 0xdd;
        let mut columns = [_mm512_setzero_ps(); LANES];
        for c in 0..4 {
            let even_low = _mm512_shuffle_f32x4::<EVEN>(fours[c], fours[c + 4]);
            let even_high = _mm512_shuffle_f32x4::<EVEN>(fours[c + 8], fours[c + 12]);
            let odd_low = _mm512_shuffle_f32x4::<ODD>(fours[c], fours[c + 4]);
            let odd_high = _mm512_shuffle_f32x4::<ODD>(fours[c + 8], fours[c + 12]);
            columns[c] = _mm512_shuffle_f32x4::<EVEN>(even_low, even_high);
            columns[c + 4] = _mm512_shuffle_f32x4::<EVEN>(odd_low, odd_high);
            columns[c + 8] = _mm512_shuffle_f32x4::<ODD>(even_low, even_high);
            columns[c + 12] = _mm512_shuffle_f32x4::<ODD>(odd_low, odd_high);
        }
        columns
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, __m256i, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_maskload_ps,
        _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    use super::LANES;

    /// Floats of a register.
    const WIDTH: usize = 8;

    /// # Safety
    /// `x` holds `rows * columns` floats and `out` at least `columns * stride`; `stride` is a
    /// multiple of 16 of at least `rows`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose(
        x: &[f32],
        rows: usize,
        columns: usize,
        out: &mut [f32],
        stride: usize,
    ) {
        for row in (0..rows.next_multiple_of(LANES)).step_by(WIDTH) {
            for column in (0..columns).step_by(WIDTH) {
                let height = WIDTH.min(rows.saturating_sub(row));
                let width = WIDTH.min(columns - column);
                let start = x.as_ptr().wrapping_add(row * columns + column);
                let block: [__m256; WIDTH] = std::array::from_fn(|index| {
                    let start = start.wrapping_add(index * columns);
                    match (index < height, width) {
                        (false, _) => _mm256_setzero_ps(),
                        // SAFETY: 8 floats of row `row + index` are inside `x`.
                        (true, WIDTH) => unsafe { _mm256_loadu_ps(start) },
                        // SAFETY: the mask covers `width` floats of that row.
                        (true, _) => unsafe { _mm256_maskload_ps(start, first(width)) },
                    }
                });
                let block = transpose_block(block);
                let start = out.as_mut_ptr().wrapping_add(column * stride + row);
                for (index, vector) in block.iter().enumerate() {
                    if index < width {
                        // SAFETY: 8 floats from column `row` of row `column + index` are inside
                        // `out`, since the stride is a multiple of 16.
                        unsafe { _mm256_storeu_ps(start.wrapping_add(index * stride), *vector) };
                    }
                }
            }
        }
    }

    /// The mask of the first `count` lanes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn first(count: usize) -> __m256i {
        let lanes: [i32; WIDTH] = std::array::from_fn(|lane| if lane < count { -1 } else { 0 });
        // SAFETY: there are 8 numbers.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    /// Transposes 8 x 8 floats: within pairs of rows, then groups of four rows, then across the two
    /// halves of the registers.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose_block(rows: [__m256; WIDTH]) -> [__m256; WIDTH] {
        const LOW: i32 = 0x44;
        const HIGH: i32 = 0xee;
        let mut fours = [_mm256_setzero_ps(); WIDTH];
        for group in [0, 4] {
            let low = |a: usize, b: usize| _mm256_unpacklo_ps(rows[group + a], rows[group + b]);
            let high = |a: usize, b: usize| _mm256_unpackhi_ps(rows[group + a], rows[group + b]);
            fours[group] = _mm256_shuffle_ps::<LOW>(low(0, 1), low(2, 3));
            fours[group + 1] = _mm256_shuffle_ps::<HIGH>(low(0, 1), low(2, 3));
            fours[group + 2] = _mm256_shuffle_ps::<LOW>(high(0, 1), high(2, 3));
            fours[group + 3] = _mm256_shuffle_ps::<HIGH>(high(0, 1), high(2, 3));
        }
        // Half h of fours[4 * g + c] now holds column 4 * h + c of rows 4 * g..4 * g + 4.
        let mut columns = [_mm256_setzero_ps(); WIDTH];
        for c in 0..4 {
            columns[c] = _mm256_permute2f128_ps::<0x20>(fours[c], fours[c + 4]);
            columns[c + 4] = _mm256_permute2f128_ps::<0x31>(fours[c], fours[c + 4]);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_moves_every_element_and_pads_with_zeros() {
        for (rows, columns) in [(1usize, 1), (3, 17), (16, 16), (27, 64), (40, 33)] {
            let x: Vec<f32> = (0..rows * columns).map(|i| i as f32 + 1.0).collect();
            let stride = rows.next_multiple_of(LANES);
            let mut out = vec![-1.0; columns * stride];
            transpose(&x, rows, columns, &mut out, stride);
            for column in 0..columns {
                for row in 0..stride {
                    let expected = if row < rows {
                        x[row * columns + column]
                    } else {
                        0.0
                    };
                    assert_eq!(out[column * stride + row], expected);
                }
            }
        }
    }
}
