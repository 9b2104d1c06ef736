// Pairwise dot products of a sample's feature vectors, as src/ops/dot_interaction.rs tells it: y = [x[0], z], where z
// holds x[i] . x[j] for i > j at i (i - 1) / 2 + j. Backward: dx = S x, S the symmetric matrix of dz with zeros on its
// diagonal, and the gradient of the copy is added to dx[0].
//
//   dot_forward_tiles, dot_backward_tiles  half precision, on tensor cores: a warp keeps a sample in shared memory
//   dot_forward, dot_backward              every type and size: the sample is read through the first cache
#include "streamrec.cuh"

constexpr u32 TILE = 16;
// Elements between rows in shared memory, so that the eight rows of a fragment lie in different banks.
constexpr u32 SKEW = 8;

__device__ __forceinline__ u32 whole_tiles(u32 len) { return (len + TILE - 1) / TILE * TILE; }

__device__ __forceinline__ u32 pair_index(u32 i, u32 j) { return i * (i - 1) / 2 + j; }

// Two neighbours in shared memory.
template <typename T>
__device__ __forceinline__ u32 two(const T* at) {
    expect_aligned(at, 4);
    return *reinterpret_cast<const u32*>(at);
}

// The left factor of `multiply_tiles`, from (row, column) of a matrix on.
template <typename T>
__device__ __forceinline__ void load_left(const T* matrix, u32 stride, u32 row, u32 column, u32 (&a)[4]) {
    u32 lane = threadIdx.x % WARP_LANES;
    const T* at = matrix + (row + lane / 4) * stride + column + 2 * (lane % 4);
    a[0] = two(at), a[1] = two(at + 8 * stride), a[2] = two(at + 8), a[3] = two(at + 8 * stride + 8);
}

// The right factor that is the transpose of the matrix, from its (row, column) on.
template <typename T>
__device__ __forceinline__ void load_transposed(const T* matrix, u32 stride, u32 row, u32 column, u32 (&b)[2]) {
    u32 lane = threadIdx.x % WARP_LANES;
    const T* at = matrix + (row + lane / 4) * stride + column + 2 * (lane % 4);
    b[0] = two(at), b[1] = two(at + 8);
}

// The right factor from (row, column) of the matrix on.
template <typename T>
__device__ __forceinline__ void load_right(const T* matrix, u32 stride, u32 row, u32 column, u32 (&b)[2]) {
    u32 lane = threadIdx.x % WARP_LANES;
    const T* at = matrix + (row + 2 * (lane % 4)) * stride + column + lane / 4;
    b[0] = u32{at[0].bits} | u32{at[stride].bits} << 16;
    b[1] = u32{at[8 * stride].bits} | u32{at[9 * stride].bits} << 16;
}

// Copies a sample to shared memory [whole_tiles(features), stride], padded with zeros; by one warp.
template <typename T>
__device__ __forceinline__ void load_sample(const T* x, u32 features, u32 dim, T* to, u32 stride) {
    u32 rows = whole_tiles(features), columns = stride - SKEW;
    bool vectors = aligned16(x, dim);
    u32 lanes = group_lanes(columns / 8), lane = threadIdx.x % WARP_LANES;
    for (u32 row = lane / lanes; row < rows; row += WARP_LANES / lanes) {
        for (u32 column = lane % lanes * 8; column < columns; column += lanes * 8) {
            i64 left = row < features ? i64(dim) - column : 0;
            uint4 bits = load_bits(x + i64(row) * dim + column, left, vectors);
            *reinterpret_cast<uint4*>(to + row * stride + column) = bits;
        }
    }
}

// Copies `len` elements from 16-byte aligned shared memory; by one warp.
template <typename T>
__device__ __forceinline__ void store_row(const T* from, u32 len, T* to) {
    bool vectors = aligned16(to, 0);
    for (u32 at = threadIdx.x % WARP_LANES * 8; at < len; at += WARP_LANES * 8) {
        float values[8];
        load_vector(from + at, values);
        store_some(to + at, i64(len) - at, vectors, values);
    }
}

// x: [batch, features * dim], y: [batch, dim + features * (features - 1) / 2]. A warp a sample, with `warp_bytes` bytes
// of shared memory: [whole_tiles(features), whole_tiles(dim) + SKEW], then the triangle.
template <typename T>
__global__ void __launch_bounds__(256)
    dot_forward_tiles(const T* __restrict__ x, i64 x_stride, T* __restrict__ y, i64 y_stride, u32 batch, u32 features,
                      u32 dim, u32 warp_bytes) {
    STREAMREC_DYNAMIC_SHARED(shared);
    u32 warps = blockDim.x / WARP_LANES, warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    u32 rows = whole_tiles(features), columns = whole_tiles(dim), stride = columns + SKEW;
    T* own = reinterpret_cast<T*>(shared + warp * warp_bytes);
    T* triangle = own + rows * stride;
    for (u32 sample = blockIdx.x * warps + warp; sample < batch; sample += gridDim.x * warps) {
        load_sample(x + sample * x_stride, features, dim, own, stride);
        __syncwarp();
        for (u32 top = 0; top < rows; top += TILE) {
            for (u32 left = 0; left <= top; left += TILE) {
                float c[2][4] = {};
                for (u32 inner = 0; inner < columns; inner += TILE) {
                    u32 a[4], b[2][2];
                    load_left(own, stride, top, inner, a);
                    load_transposed(own, stride, left, inner, b[0]);
                    load_transposed(own, stride, left + 8, inner, b[1]);
                    multiply_tiles<T>(c[0], a, b[0]);
                    multiply_tiles<T>(c[1], a, b[1]);
                }
#pragma unroll
                for (u32 at = 0; at < 8; at++) {
                    u32 i = top + lane / 4 + at % 4 / 2 * 8, j = left + at / 4 * 8 + lane % 4 * 2 + at % 2;
                    if (i > j && i < features) triangle[pair_index(i, j)] = narrow<T>(c[at / 4][at % 4]);
                }
            }
        }
        __syncwarp();
        T* to = y + sample * y_stride;
        store_row(own, dim, to);
        store_row(triangle, pair_index(features, 0), to + dim);
        __syncwarp();
    }
}

// Fills S [rows, stride] from the triangle dz; by one warp.
template <typename T>
__device__ __forceinline__ void load_symmetric(const T* dz, u32 features, T* to, u32 rows, u32 stride) {
    u32 lane = threadIdx.x % WARP_LANES;
    for (u32 at = lane * 8; at < rows * stride; at += WARP_LANES * 8) {
        *reinterpret_cast<uint4*>(to + at) = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    u32 pairs = pair_index(features, 0), i = 1, j = lane;
    for (u32 at = lane; at < pairs; at += WARP_LANES) {
        while (j >= i) j -= i, i++;
        T value = dz[at];
        to[i * stride + j] = value;
        to[j * stride + i] = value;
        j += WARP_LANES;
    }
}

// Adds to 16 rows of sums what belongs to them, and stores them; by one warp. sums: [16, stride]
template <typename T>
__device__ __forceinline__ void store_gradients(const float* sums, u32 stride, u32 first, u32 features, u32 dim,
                                                const T* d_copy, T* dx, u32 accumulate) {
    bool vectors = aligned16(dx, dim), copy_vectors = aligned16(d_copy, 0);
    u32 lanes = group_lanes((dim + 7) / 8), lane = threadIdx.x % WARP_LANES;
#pragma unroll 1
    for (u32 row = lane / lanes; row < TILE && first + row < features; row += WARP_LANES / lanes) {
#pragma unroll 1
        for (u32 column = lane % lanes * 8; column < dim; column += lanes * 8) {
            i64 left = i64(dim) - column;
            T* to = dx + i64(first + row) * dim + column;
            float sum[8], more[8];
            load_vector(sums + row * stride + column, sum);
            if (accumulate) {
                load_some(to, left, vectors, more);
#pragma unroll
                for (int i = 0; i < 8; i++) sum[i] += more[i];
            }
            if (first + row == 0) {
                load_some(d_copy + column, left, copy_vectors, more);
#pragma unroll
                for (int i = 0; i < 8; i++) sum[i] += more[i];
            }
            store_some(to, left, vectors, sum);
        }
    }
}

// x, dx: [batch, features * dim], dy: [batch, dim + features * (features - 1) / 2]. A warp a sample, with `warp_bytes`
// bytes of shared memory: the sample, S [whole_tiles(features), whole_tiles(features) + SKEW], and 16 rows of float32
// sums, whole_tiles(dim) + SKEW elements each.
template <typename T>
__global__ void __launch_bounds__(256, 2)
    dot_backward_tiles(const T* __restrict__ x, i64 x_stride, const T* __restrict__ dy, i64 dy_stride, T* dx,
                       i64 dx_stride, u32 batch, u32 features, u32 dim, u32 accumulate, u32 warp_bytes) {
    STREAMREC_DYNAMIC_SHARED(shared);
    u32 warps = blockDim.x / WARP_LANES, warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    u32 rows = whole_tiles(features), columns = whole_tiles(dim), stride = columns + SKEW;
    T* own = reinterpret_cast<T*>(shared + warp * warp_bytes);
    T* symmetric = own + rows * stride;
    float* sums = reinterpret_cast<float*>(symmetric + rows * (rows + SKEW));
    for (u32 sample = blockIdx.x * warps + warp; sample < batch; sample += gridDim.x * warps) {
        const T* d = dy + sample * dy_stride;
        load_sample(x + sample * x_stride, features, dim, own, stride);
        load_symmetric(d + dim, features, symmetric, rows, rows + SKEW);
        __syncwarp();
        for (u32 top = 0; top < rows; top += TILE) {
            for (u32 left = 0; left < columns; left += TILE) {
                float c[2][4] = {};
                for (u32 inner = 0; inner < rows; inner += TILE) {
                    u32 a[4], b[2][2];
                    load_left(symmetric, rows + SKEW, top, inner, a);
                    load_right(own, stride, inner, left, b[0]);
                    load_right(own, stride, inner, left + 8, b[1]);
                    multiply_tiles<T>(c[0], a, b[0]);
                    multiply_tiles<T>(c[1], a, b[1]);
                }
#pragma unroll
                for (u32 at = 0; at < 8; at += 2) {
                    u32 row = lane / 4 + at % 4 / 2 * 8, column = left + at / 4 * 8 + lane % 4 * 2;
                    float2 both = make_float2(c[at / 4][at % 4], c[at / 4][at % 4 + 1]);
                    *reinterpret_cast<float2*>(sums + row * stride + column) = both;
                }
            }
            __syncwarp();
            store_gradients(sums, stride, top, features, dim, d, dx + sample * dx_stride, accumulate);
            __syncwarp();
        }
    }
}

// As dot_forward_tiles. A warp a sample; a lane takes 4 x 4 pairs at a time.
template <typename T>
__global__ void __launch_bounds__(256, 2)
    dot_forward(const T* __restrict__ x, i64 x_stride, T* __restrict__ y, i64 y_stride, u32 batch, u32 features,
                u32 dim) {
    constexpr int SIDE = 4, COUNT = 4;
    u32 warps = blockDim.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    u32 blocks = (features + SIDE - 1) / SIDE, count = blocks * (blocks + 1) / 2;
    for (u32 sample = blockIdx.x * warps + threadIdx.x / WARP_LANES; sample < batch; sample += gridDim.x * warps) {
        const T* from = x + sample * x_stride;
        T* to = y + sample * y_stride;
        bool vectors = aligned_for<T, COUNT>(from, dim);
        for (u32 column = lane; column < dim; column += WARP_LANES) to[column] = from[column];
        u32 i = 0, j = lane;
        for (u32 at = lane; at < count; at += WARP_LANES) {
            while (j > i) j -= i + 1, i++;
            float sums[SIDE][SIDE] = {};
#pragma unroll 1
            for (u32 column = 0; column < dim; column += COUNT) {
                float a[SIDE][COUNT], b[SIDE][COUNT];
#pragma unroll
                for (u32 r = 0; r < SIDE; r++) {
                    u32 own = i * SIDE + r, other = j * SIDE + r;
                    i64 left = i64(dim) - column;
                    load_some(from + i64(own) * dim + column, own < features ? left : 0, vectors, a[r]);
                    load_some(from + i64(other) * dim + column, other < features ? left : 0, vectors, b[r]);
                }
#pragma unroll
                for (int pair = 0; pair < SIDE * SIDE; pair++) {
#pragma unroll
                    for (int k = 0; k < COUNT; k++) {
                        float& sum = sums[pair / SIDE][pair % SIDE];
                        sum = fmaf(a[pair / SIDE][k], b[pair % SIDE][k], sum);
                    }
                }
            }
#pragma unroll
            for (int pair = 0; pair < SIDE * SIDE; pair++) {
                u32 own = i * SIDE + pair / SIDE, other = j * SIDE + pair % SIDE;
                if (own > other && own < features) {
                    to[dim + pair_index(own, other)] = narrow<T>(sums[pair / SIDE][pair % SIDE]);
                }
            }
            j += WARP_LANES;
        }
    }
}

// As dot_backward_tiles. A group of `lanes` lanes computes 4 rows of a sample's gradient.
template <typename T>
__global__ void __launch_bounds__(256, 2)
    dot_backward(const T* __restrict__ x, i64 x_stride, const T* __restrict__ dy, i64 dy_stride, T* dx, i64 dx_stride,
                 u32 batch, u32 features, u32 dim, u32 accumulate, u32 lanes) {
    constexpr u32 SIDE = 4, COUNT = LANES<T>;
    u32 groups = blockDim.x / lanes, blocks = (features + SIDE - 1) / SIDE;
    i64 units = i64(batch) * blocks;
    for (i64 unit = i64(blockIdx.x) * groups + threadIdx.x / lanes; unit < units; unit += i64(gridDim.x) * groups) {
        i64 sample = unit / blocks;
        u32 first = u32(unit % blocks) * SIDE;
        const T* from = x + sample * x_stride;
        const T* d = dy + sample * dy_stride;
        T* to = dx + sample * dx_stride;
        bool vectors = aligned16(from, dim), to_vectors = aligned16(to, dim), copy_vectors = aligned16(d, 0);
        for (u32 column = threadIdx.x % lanes * COUNT; column < dim; column += lanes * COUNT) {
            i64 left = i64(dim) - column;
            float sums[SIDE][COUNT] = {}, more[COUNT];
            for (u32 other = 0; other < features; other++) {
                load_some(from + i64(other) * dim + column, left, vectors, more);
#pragma unroll
                for (u32 r = 0; r < SIDE; r++) {
                    u32 row = first + r;
                    if (row >= features || row == other) continue;
                    float weight = widen(d[dim + pair_index(max(row, other), min(row, other))]);
#pragma unroll
                    for (int i = 0; i < int(COUNT); i++) sums[r][i] = fmaf(weight, more[i], sums[r][i]);
                }
            }
#pragma unroll
            for (u32 r = 0; r < SIDE; r++) {
                u32 row = first + r;
                if (row >= features) break;
                T* place = to + i64(row) * dim + column;
                if (accumulate) {
                    load_some(place, left, to_vectors, more);
#pragma unroll
                    for (int i = 0; i < int(COUNT); i++) sums[r][i] += more[i];
                }
                if (row == 0) {
                    load_some(d + column, left, copy_vectors, more);
#pragma unroll
                    for (int i = 0; i < int(COUNT); i++) sums[r][i] += more[i];
                }
                store_some(place, left, to_vectors, sums[r]);
            }
        }
    }
}
