// Copies, additions, broadcasts and sums of matrices whose rows may be strided, as src/ops/add.rs and
// src/ops/sum_features.rs tell them. Sums are float32, rounded once.
#include "streamrec.cuh"

// y (+)= sum over terms of x, x: [rows, terms * columns] of From, y: [rows, columns] of To. `lanes` threads a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    add(const From* __restrict__ x, i64 x_stride, To* y, i64 y_stride, u32 rows, u32 columns, u32 terms, u32 accumulate,
        u32 lanes) {
    constexpr int COUNT = LANES<From> < LANES<To> ? LANES<To> : LANES<From>;
    bool vectors = aligned16(x, x_stride) && aligned16(x, columns), y_vectors = aligned16(y, y_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        const From* from = x + row * x_stride + column;
        To* to = y + row * y_stride + column;
        i64 left = i64(columns) - column;
        float sums[COUNT] = {};
        if (accumulate) load_some(to, left, y_vectors, sums);
#pragma unroll 1
        for (u32 term = 0; term < terms; term++) {
            float values[COUNT];
            load_some(from + i64(term) * columns, left, terms == 1 ? aligned16(x, x_stride) : vectors, values);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sums[i] += values[i];
        }
        store_some(to, left, y_vectors, sums);
    });
}

// y = the sum of x's rows by halves, ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), x: [ROWS, len], y: [len], which may be
// one of the rows. 4 elements a thread.
template <int ROWS>
__global__ void __launch_bounds__(256) sum_halves(const float* x, i64 len, float* y) {
    constexpr int COUNT = 4;
    bool vectors = aligned16(x, len) && aligned16(y, 0);
    i64 step = i64(gridDim.x) * blockDim.x * COUNT;
    for (i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT; at < len; at += step) {
        float sums[ROWS][COUNT];
#pragma unroll
        for (int row = 0; row < ROWS; row++) load_some(x + row * len + at, len - at, vectors, sums[row]);
#pragma unroll
        for (int half = 1; half < ROWS; half *= 2) {
#pragma unroll
            for (int row = 0; row < ROWS; row += 2 * half) {
#pragma unroll
                for (int i = 0; i < COUNT; i++) sums[row][i] += sums[row + half][i];
            }
        }
        store_some(y + at, len - at, vectors, sums[0]);
    }
}

// y (+)= x / the length of each sample's bag, x: [rows, columns] of From, y: likewise of To; the bag of sample s is from offsets[s] to
// offsets[s + 1], and an empty one counts as one of length 1. `lanes` threads a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    add_mean(const From* __restrict__ x, i64 x_stride, To* y, i64 y_stride, const i64* __restrict__ offsets, u32 rows,
             u32 columns, u32 accumulate, u32 lanes) {
    constexpr int COUNT = LANES<From> < LANES<To> ? LANES<To> : LANES<From>;
    bool vectors = aligned16(x, x_stride), y_vectors = aligned16(y, y_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        To* to = y + row * y_stride + column;
        i64 left = i64(columns) - column, length = offsets[row + 1] - offsets[row];
        float scale = 1.0f / float(length > 1 ? length : 1), sums[COUNT] = {}, values[COUNT];
        if (accumulate) load_some(to, left, y_vectors, sums);
        load_some(x + row * x_stride + column, left, vectors, values);
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] += scale * values[i];
        store_some(to, left, y_vectors, sums);
    });
}

// y (+)= x repeated `copies` times, x: [rows, columns] of From, y: [rows, copies * columns] of To. `lanes` threads a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    repeat(const From* __restrict__ x, i64 x_stride, To* y, i64 y_stride, u32 rows, u32 columns, u32 copies,
           u32 accumulate, u32 lanes) {
    constexpr int COUNT = LANES<From> < LANES<To> ? LANES<To> : LANES<From>;
    bool vectors = aligned16(x, x_stride), y_vectors = aligned16(y, y_stride) && aligned16(y, columns);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        To* to = y + row * y_stride + column;
        i64 left = i64(columns) - column;
        float values[COUNT];
        load_some(x + row * x_stride + column, left, vectors, values);
#pragma unroll 1
        for (u32 copy = 0; copy < copies; copy++) {
            float sums[COUNT] = {};
            if (accumulate) load_some(to + i64(copy) * columns, left, y_vectors, sums);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sums[i] += values[i];
            store_some(to + i64(copy) * columns, left, y_vectors, sums);
        }
    });
}

// y (+)= x's one column in every column, x: [rows, 1] of From, y: [rows, columns] of To. `lanes` threads a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    broadcast(const From* __restrict__ x, i64 x_stride, To* y, i64 y_stride, u32 rows, u32 columns, u32 accumulate,
              u32 lanes) {
    constexpr int COUNT = LANES<To>;
    bool vectors = aligned16(y, y_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        To* to = y + row * y_stride + column;
        i64 left = i64(columns) - column;
        float value = widen(x[row * x_stride]), sums[COUNT] = {};
        if (accumulate) load_some(to, left, vectors, sums);
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] += value;
        store_some(to, left, vectors, sums);
    });
}

// y (+)= the sum of x's columns, x: [rows, columns] of From, y: [rows, 1] of To. A group of `lanes` lanes a row.
template <typename From, typename To>
__global__ void __launch_bounds__(256)
    sum_columns(const From* __restrict__ x, i64 x_stride, To* y, i64 y_stride, u32 rows, u32 columns, u32 accumulate,
                u32 lanes) {
    constexpr int COUNT = LANES<From>;
    u32 groups = blockDim.x / lanes, mask = group_mask(lanes);
    bool vectors = aligned16(x, x_stride);
    for (u32 row = blockIdx.x * groups + threadIdx.x / lanes; row < rows; row += gridDim.x * groups) {
        float sum = 0.0f;
        for (u32 column = threadIdx.x % lanes * COUNT; column < columns; column += lanes * COUNT) {
            float values[COUNT];
            load_some(x + row * x_stride + column, i64(columns) - column, vectors, values);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sum += values[i];
        }
        sum = group_sum(sum, lanes, mask);
        if (threadIdx.x % lanes == 0) {
            To& to = y[row * y_stride];
            to = narrow<To>(accumulate ? widen(to) + sum : sum);
        }
    }
}
