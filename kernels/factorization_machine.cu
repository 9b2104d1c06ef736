// The second-order term of a factorization machine, as src/ops/factorization_machine.rs tells it:
// y = 0.5 * sum_d ((sum_f v)^2 - sum_f v^2), and dx[f] (+)= dy * (sum of v - v[f]).
#include "streamrec.cuh"

// The sum over features of a vector's elements, and of their squares.
template <typename T, int COUNT>
__device__ __forceinline__ void sum_vectors(const T* x, u32 features, u32 dim, u32 column, bool vectors,
                                            float (&sums)[COUNT], float (&squares)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) sums[i] = squares[i] = 0.0f;
#pragma unroll 2
    for (u32 feature = 0; feature < features; feature++) {
        float v[COUNT];
        load_some(x + i64(feature) * dim + column, i64(dim) - column, vectors, v);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            sums[i] += v[i];
            squares[i] += v[i] * v[i];
        }
    }
}

// x: [batch, features * dim], y: [batch, 1] of Out. A group of `lanes` lanes a sample.
template <typename T, typename Out>
__global__ void __launch_bounds__(256)
    factorization_machine_forward(const T* __restrict__ x, i64 x_stride, Out* __restrict__ y, i64 y_stride, u32 batch,
                                  u32 features, u32 dim, u32 lanes) {
    constexpr int COUNT = LANES<T>;
    u32 groups = blockDim.x / lanes, mask = group_mask(lanes);
    for (u32 sample = blockIdx.x * groups + threadIdx.x / lanes; sample < batch; sample += gridDim.x * groups) {
        const T* from = x + sample * x_stride;
        bool vectors = aligned16(from, dim);
        float sum = 0.0f;
        for (u32 column = threadIdx.x % lanes * COUNT; column < dim; column += lanes * COUNT) {
            float sums[COUNT], squares[COUNT];
            sum_vectors(from, features, dim, column, vectors, sums, squares);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sum += sums[i] * sums[i] - squares[i];
        }
        sum = group_sum(sum, lanes, mask);
        if (threadIdx.x % lanes == 0) y[sample * y_stride] = narrow<Out>(0.5f * sum);
    }
}

// x, dx: [batch, features * dim], dy: [batch, 1] of Gradient. A group of `lanes` lanes a sample.
template <typename T, typename Gradient>
__global__ void __launch_bounds__(256, 4)
    factorization_machine_backward(const T* __restrict__ x, i64 x_stride, const Gradient* __restrict__ dy,
                                   i64 dy_stride, T* dx, i64 dx_stride, u32 batch, u32 features, u32 dim,
                                   u32 accumulate, u32 lanes) {
    constexpr int COUNT = LANES<T>;
    u32 groups = blockDim.x / lanes;
    for (u32 sample = blockIdx.x * groups + threadIdx.x / lanes; sample < batch; sample += gridDim.x * groups) {
        const T* from = x + sample * x_stride;
        T* to = dx + sample * dx_stride;
        float d = widen(dy[sample * dy_stride]);
        bool vectors = aligned16(from, dim) && aligned16(to, dim);
        for (u32 column = threadIdx.x % lanes * COUNT; column < dim; column += lanes * COUNT) {
            float sums[COUNT], squares[COUNT];
            sum_vectors(from, features, dim, column, vectors, sums, squares);
            i64 left = i64(dim) - column;
#pragma unroll 1
            for (u32 feature = 0; feature < features; feature++) {
                i64 place = i64(feature) * dim + column;
                float v[COUNT], before[COUNT] = {};
                load_some(from + place, left, vectors, v);
                if (accumulate) load_some(to + place, left, vectors, before);
#pragma unroll
                for (int i = 0; i < COUNT; i++) before[i] += d * (sums[i] - v[i]);
                store_some(to + place, left, vectors, before);
            }
        }
    }
}
