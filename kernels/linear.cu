// What a linear layer does around its products, as src/ops/linear tells it, where the matrix library does not fuse it:
// bias and ReLU of sums, the gradient of ReLU, the gradient of the bias.
#include "streamrec.cuh"

// y = activation(sums + bias): sums [rows, columns] of float32, bias [columns] of Bias or null, y [rows, columns].
// ReLU lets NaN pass: a model that diverged must not look like one that did not. `lanes` threads a row.
template <typename Bias, typename T>
__global__ void __launch_bounds__(256)
    bias_activation(const float* __restrict__ sums, i64 sums_stride, const Bias* __restrict__ bias,
                    T* __restrict__ y, i64 y_stride, u32 rows, u32 columns, u32 relu, u32 lanes) {
    constexpr int COUNT = LANES<T> < LANES<Bias> ? LANES<Bias> : LANES<T>;
    bool vectors = aligned16(sums, sums_stride), bias_vectors = aligned16(bias, 0), y_vectors = aligned16(y, y_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        i64 left = i64(columns) - column;
        float values[COUNT], more[COUNT] = {};
        load_some(sums + row * sums_stride + column, left, vectors, values);
        if (bias) load_some(bias + column, left, bias_vectors, more);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            values[i] += more[i];
            if (relu && values[i] < 0.0f) values[i] = 0.0f;
        }
        store_some(y + row * y_stride + column, left, y_vectors, values);
    });
}

// dy is set to zero where y is not positive (where y is not null; NaN lets the gradient pass), and its columns are
// summed over panels of `panel` rows into partial [panels, columns] (where that is not null). y, dy: [rows, columns].
// A block a panel (y of the grid) and `lanes` vectors of columns (x of the grid).
template <typename T>
__global__ void __launch_bounds__(256)
    mask_and_sum(const T* __restrict__ y, i64 y_stride, T* dy, i64 dy_stride, float* __restrict__ partial, u32 rows,
                 u32 columns, u32 panel, u32 lanes) {
    constexpr int COUNT = LANES<T>;
    __shared__ float shared[256 * COUNT];
    u32 groups = blockDim.x / lanes, group = threadIdx.x / lanes, lane = threadIdx.x % lanes;
    u32 column = (blockIdx.x * lanes + lane) * COUNT, width = lanes * COUNT;
    i64 left = i64(columns) - column;
    bool vectors = aligned16(dy, dy_stride), y_vectors = aligned16(y, y_stride);
    u32 begin = blockIdx.y * panel, end = min(begin + panel, rows);
    float sums[COUNT] = {};
#pragma unroll 2
    for (u32 row = begin + group; row < end; row += groups) {
        if (left <= 0) break;
        T* at = dy + row * dy_stride + column;
        float d[COUNT], value[COUNT];
        load_some(at, left, vectors, d);
        if (y) {
            load_some(y + row * y_stride + column, left, y_vectors, value);
#pragma unroll
            for (int i = 0; i < COUNT; i++) d[i] = value[i] <= 0.0f ? 0.0f : d[i];
            store_some(at, left, vectors, d);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] += d[i];
    }
    if (!partial) return;
#pragma unroll
    for (int i = 0; i < COUNT; i++) shared[group * width + lane * COUNT + i] = sums[i];
    __syncthreads();
    for (u32 own = threadIdx.x; own < width; own += blockDim.x) {
        u32 to = blockIdx.x * width + own;
        float sum = 0.0f;
        for (u32 other = 0; other < groups; other++) sum += shared[other * width + own];
        if (to < columns) partial[i64(blockIdx.y) * columns + to] = sum;
    }
}

// out (+)= the sums of partial's columns, in a fixed order: partial [panels, columns], out [columns]. A block 32 columns.
__global__ void __launch_bounds__(256)
    sum_panels(const float* __restrict__ partial, u32 panels, u32 columns, u32 accumulate, float* __restrict__ out) {
    constexpr u32 PARTS = 8;
    __shared__ float shared[PARTS * WARP_LANES];
    u32 part = threadIdx.x / WARP_LANES, column = blockIdx.x * WARP_LANES + threadIdx.x % WARP_LANES;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (u32 panel = panels * part / PARTS; panel < panels * (part + 1) / PARTS; panel++) {
            sum += partial[i64(panel) * columns + column];
        }
    }
    shared[threadIdx.x] = sum;
    __syncthreads();
    if (part > 0 || column >= columns) return;
    sum = accumulate ? out[column] : 0.0f;
    for (u32 other = 0; other < PARTS; other++) sum += shared[other * WARP_LANES + threadIdx.x];
    out[column] = sum;
}

// out (+)= left . right, column-major, where the matrix library has no such product: left(row, k) lies at
// left[row * left_row + k * left_depth], right(k, column) at right[k * right_depth + column * right_column], out(row,
// column) at out[row + column * out_stride]. Sums are float32, in the order of the depth. A block 64 x 64 elements of out:
// tiles of columns (x of the grid) and rows (y).
template <typename T, typename Out>
__global__ void __launch_bounds__(256)
    multiply(const T* __restrict__ left, i64 left_row, i64 left_depth, const T* __restrict__ right, i64 right_depth,
             i64 right_column, Out* out, i64 out_stride, u32 rows, u32 columns, u32 depth, u32 accumulate) {
    constexpr u32 TILE = 64, SLICE = 16, PARTS = 4, PITCH = TILE + 1;
    __shared__ float lefts[SLICE * PITCH], rights[SLICE * PITCH];
    u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    u32 own_row = threadIdx.x % SLICE, own_column = threadIdx.x / SLICE;
    float sums[PARTS][PARTS] = {};
    for (u32 start = 0; start < depth; start += SLICE) {
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
            // Neighbours in a warp read neighbours in memory, whichever way a factor lies.
            u32 at = part * blockDim.x + threadIdx.x;
            u32 row = left_row == 1 ? at % TILE : at / SLICE, k = left_row == 1 ? at / TILE : at % SLICE;
            bool inside = first_row + row < rows && start + k < depth;
            i64 from = i64(first_row + row) * left_row + i64(start + k) * left_depth;
            lefts[k * PITCH + row] = inside ? widen(left[from]) : 0.0f;
            u32 column = right_column == 1 ? at % TILE : at / SLICE;
            k = right_column == 1 ? at / TILE : at % SLICE;
            inside = first_column + column < columns && start + k < depth;
            from = i64(start + k) * right_depth + i64(first_column + column) * right_column;
            rights[k * PITCH + column] = inside ? widen(right[from]) : 0.0f;
        }
        __syncthreads();
#pragma unroll 4
        for (u32 k = 0; k < SLICE; k++) {
            float a[PARTS], b[PARTS];
#pragma unroll
            for (u32 i = 0; i < PARTS; i++) {
                a[i] = lefts[k * PITCH + own_row + i * SLICE];
                b[i] = rights[k * PITCH + own_column + i * SLICE];
            }
#pragma unroll
            for (u32 i = 0; i < PARTS; i++) {
#pragma unroll
                for (u32 j = 0; j < PARTS; j++) sums[i][j] += a[i] * b[j];
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 j = 0; j < PARTS; j++) {
        u32 column = first_column + own_column + j * SLICE;
        if (column >= columns) break;
#pragma unroll
        for (u32 i = 0; i < PARTS; i++) {
            u32 row = first_row + own_row + i * SLICE;
            if (row >= rows) break;
            Out* to = out + row + i64(column) * out_stride;
            *to = narrow<Out>(accumulate ? widen(*to) + sums[i][j] : sums[i][j]);
        }
    }
}
