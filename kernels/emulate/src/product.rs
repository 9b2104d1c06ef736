//! Products as cuBLASLt's manual tells of them.

use streamrec_kernels::DType;
use streamrec_kernels::cuda::Address;
use streamrec_kernels::cuda::product::{Epilogue, Factor, Mask, Product, Vector};

use crate::Emulator;
use crate::values::{narrow, widen};

/// `len` adjacent elements.
fn read(emulator: &Emulator, address: Address, dtype: DType, len: usize) -> Vec<f32> {
    let bytes = len * dtype.bytes();
    let place = emulator.place(address, bytes);
    // SAFETY: the bytes are inside a buffer, and nothing writes meanwhile.
    widen(unsafe { std::slice::from_raw_parts(place, bytes) }, dtype)
}

fn write(emulator: &Emulator, address: Address, dtype: DType, values: &[f32]) {
    let bytes = narrow(values, dtype);
    let place = emulator.place(address, bytes.len());
    // SAFETY: the bytes are inside a buffer.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
}

/// Where a column of a matrix begins, as it lies.
fn column_at(factor: &Factor, column: usize) -> Address {
    Address(factor.address.0 + (column * factor.stride * factor.dtype.bytes()) as u64)
}

/// The columns of a matrix, as it lies.
fn columns(emulator: &Emulator, factor: &Factor) -> Vec<Vec<f32>> {
    assert!(factor.rows <= factor.stride || factor.columns <= 1);
    (0..factor.columns)
        .map(|column| {
            read(
                emulator,
                column_at(factor, column),
                factor.dtype,
                factor.rows,
            )
        })
        .collect()
}

fn transpose(columns: &[Vec<f32>], rows: usize) -> Vec<Vec<f32>> {
    let row = |row| columns.iter().map(|column| column[row]).collect();
    (0..rows).map(row).collect()
}

/// A column's bits of a mask, and where they lie.
fn bits(emulator: &Emulator, mask: &Mask, rows: usize, column: usize) -> (Vec<u8>, Address) {
    assert!(
        rows <= mask.stride && mask.stride.is_multiple_of(128),
        "128 bits at a time"
    );
    let address = Address(mask.address.0 + (column * mask.stride / 8) as u64);
    let place = emulator.place(address, rows.div_ceil(8));
    // SAFETY: the bytes are inside a buffer, and nothing writes meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(place, rows.div_ceil(8)) };
    (bytes.to_vec(), address)
}

/// Does a product, with sums in double precision.
pub(crate) fn multiply(emulator: &Emulator, product: &Product) {
    let [rows, width, depth] = product.sizes();
    let (left, right) = (
        columns(emulator, &product.left),
        columns(emulator, &product.right),
    );
    // Rows of the left factor, columns of the right one.
    let left = if product.left.transposed {
        left
    } else {
        transpose(&left, rows)
    };
    let right = if product.right.transposed {
        transpose(&right, width)
    } else {
        right
    };
    assert!(left.len() == rows && right.len() == width);
    let out = &product.out;
    let bias = match &product.epilogue {
        Epilogue::Bias(bias) | Epilogue::BiasRelu(bias, _) => {
            assert_eq!(bias.len, rows);
            read(emulator, bias.address, bias.dtype, rows)
        }
        _ => vec![0.0; rows],
    };
    let mut row_sums = vec![0.0f64; rows];
    for (column, factors) in right.iter().enumerate() {
        let at = column_at(out, column);
        let mut sums: Vec<f64> = left
            .iter()
            .zip(&bias)
            .map(|(row, &bias)| {
                let products = row.iter().zip(factors);
                let products = products.map(|(&a, &b)| f64::from(a) * f64::from(b));
                products.sum::<f64>() + f64::from(bias)
            })
            .collect();
        if product.accumulate {
            let before = read(emulator, at, out.dtype, rows);
            sums.iter_mut()
                .zip(before)
                .for_each(|(sum, before)| *sum += f64::from(before));
        }
        mask(emulator, &product.epilogue, column, &mut sums);
        row_sums
            .iter_mut()
            .zip(&sums)
            .for_each(|(all, sum)| *all += sum);
        let sums: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
        write(emulator, at, out.dtype, &sums);
    }
    let store = |vector: &Vector, sums: &[f64]| {
        assert_eq!(vector.len, sums.len());
        let sums: Vec<f32> = sums.iter().map(|&sum| sum as f32).collect();
        write(emulator, vector.address, vector.dtype, &sums);
    };
    match &product.epilogue {
        Epilogue::ReluGradient(_, Some(vector)) => store(vector, &row_sums),
        Epilogue::RightSums(vector) => {
            let sum = |column: &Vec<f32>| column[..depth].iter().map(|&x| f64::from(x)).sum();
            store(vector, &right.iter().map(sum).collect::<Vec<f64>>());
        }
        _ => {}
    }
}

/// A ReLU with its mask, or the mask of one, over a column of the result.
fn mask(emulator: &Emulator, epilogue: &Epilogue, column: usize, sums: &mut [f64]) {
    match epilogue {
        Epilogue::BiasRelu(_, mask) => {
            let (mut bytes, at) = bits(emulator, mask, sums.len(), column);
            for (row, sum) in sums.iter_mut().enumerate() {
                let (byte, bit) = (&mut bytes[row / 8], 1 << (row % 8));
                *byte = if *sum > 0.0 {
                    *byte | bit
                } else {
                    *byte & !bit
                };
                // NaN becomes zero: the manual does not say that it passes, and nothing may stand on that.
                *sum = sum.max(0.0);
            }
            let place = emulator.place(at, bytes.len());
            // SAFETY: the bytes are inside a buffer.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
        }
        Epilogue::ReluGradient(mask, _) => {
            let (bytes, _) = bits(emulator, mask, sums.len(), column);
            for (row, sum) in sums.iter_mut().enumerate() {
                if bytes[row / 8] & 1 << (row % 8) == 0 {
                    *sum = 0.0;
                }
            }
        }
        _ => {}
    }
}
