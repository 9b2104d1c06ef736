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
