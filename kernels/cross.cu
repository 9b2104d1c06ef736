// The elementwise part of a cross layer, as src/ops/cross.rs tells it: y = x0 * projection + x. The projection is
// W x + b, or W (V x) + b in the low-rank form, from the matrix products with their bias.
#include "streamrec.cuh"

// All [rows, columns]. `lanes` threads a row.
template <typename T>
__global__ void __launch_bounds__(256)
    cross_forward(const T* __restrict__ x0, i64 x0_stride, const T* __restrict__ projection, i64 projection_stride,
                  const T* __restrict__ x, i64 x_stride, T* __restrict__ y, i64 y_stride, u32 rows, u32 columns,
                  u32 lanes) {
    constexpr int COUNT = LANES<T>;
    bool vectors = aligned16(x0, x0_stride) && aligned16(projection, projection_stride) && aligned16(x, x_stride) &&
                   aligned16(y, y_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        i64 left = i64(columns) - column;
        float a[COUNT], p[COUNT], own[COUNT];
        load_some(x0 + row * x0_stride + column, left, vectors, a);
        load_some(projection + row * projection_stride + column, left, vectors, p);
        load_some(x + row * x_stride + column, left, vectors, own);
#pragma unroll
        for (int i = 0; i < COUNT; i++) own[i] += a[i] * p[i];
        store_some(y + row * y_stride + column, left, vectors, own);
    });
}

// d_projection = dy * x0, dx0 (+)= dy * projection, dx (+)= dy, all [rows, columns]; `accumulate`: 1 for dx0, 2 for dx.
template <typename T>
__global__ void __launch_bounds__(256)
    cross_backward(const T* __restrict__ x0, i64 x0_stride, const T* __restrict__ projection, i64 projection_stride,
                   const T* __restrict__ dy, i64 dy_stride, T* __restrict__ d_projection, i64 d_projection_stride,
                   T* dx0, i64 dx0_stride, T* dx, i64 dx_stride, u32 rows, u32 columns, u32 accumulate, u32 lanes) {
    constexpr int COUNT = LANES<T>;
    bool vectors = aligned16(x0, x0_stride) && aligned16(projection, projection_stride) && aligned16(dy, dy_stride) &&
                   aligned16(d_projection, d_projection_stride) && aligned16(dx0, dx0_stride) &&
                   aligned16(dx, dx_stride);
    for_vectors_of_rows<COUNT>(rows, columns, lanes, [&](u32 row, u32 column) {
        i64 left = i64(columns) - column;
        T* to0 = dx0 + row * dx0_stride + column;
        T* to = dx + row * dx_stride + column;
        float d[COUNT], a[COUNT], p[COUNT], before0[COUNT] = {}, before[COUNT] = {};
        load_some(dy + row * dy_stride + column, left, vectors, d);
        load_some(x0 + row * x0_stride + column, left, vectors, a);
        load_some(projection + row * projection_stride + column, left, vectors, p);
        if (accumulate & 1) load_some(to0, left, vectors, before0);
        if (accumulate & 2) load_some(to, left, vectors, before);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            a[i] *= d[i];
            before0[i] += d[i] * p[i];
            before[i] += d[i];
        }
        store_some(d_projection + row * d_projection_stride + column, left, vectors, a);
        store_some(to0, left, vectors, before0);
        store_some(to, left, vectors, before);
    });
}
