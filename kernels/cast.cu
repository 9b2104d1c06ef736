// Rounding and widening of flat arrays: y = x in the type of y, to nearest, ties to even; to binary16 also scaled to the
// top of its range by a power of two, as messages of src/parallel/embedding_exchange/payload.rs are.
#include "streamrec.cuh"

constexpr int CAST_ELEMENTS = 8;

// x, y: [len]. One thread moves 8 elements at a time.
template <typename From, typename To>
__global__ void __launch_bounds__(256) cast(const From* __restrict__ x, To* __restrict__ y, i64 len) {
    bool vectors = aligned16(x, 0) && aligned16(y, 0);
    i64 step = i64(gridDim.x) * blockDim.x * CAST_ELEMENTS;
    for (i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * CAST_ELEMENTS; at < len; at += step) {
        float values[CAST_ELEMENTS];
        load_some(x + at, len - at, vectors, values);
        store_some(y + at, len - at, vectors, values);
    }
}

// top: [1], zero before: the bits of the largest finite |x|; x: [len]. One thread reads 8 elements at a time.
__global__ void __launch_bounds__(256) largest(const float* __restrict__ x, i64 len, u32* top) {
    bool vectors = aligned16(x, 0);
    float most = 0.0f;
    i64 step = i64(gridDim.x) * blockDim.x * CAST_ELEMENTS;
    for (i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * CAST_ELEMENTS; at < len; at += step) {
        float values[CAST_ELEMENTS];
        load_some(x + at, len - at, vectors, values);
#pragma unroll
        for (int i = 0; i < CAST_ELEMENTS; i++) {
            float size = fabsf(values[i]);
            if (is_finite(size) && size > most) most = size;
        }
    }
    // The bits of numbers that are not negative ascend as they do.
    u32 bits = __float_as_uint(most);
    for (u32 distance = WARP_LANES / 2; distance > 0; distance /= 2) {
        u32 other = __shfl_xor_sync(0xffffffffu, bits, distance);
        bits = other > bits ? other : bits;
    }
    if (threadIdx.x % WARP_LANES == 0) atomicMax(top, bits);
}

// y = x times factor.
template <typename From, typename To>
__device__ void scale(const From* __restrict__ x, To* __restrict__ y, i64 len, float factor) {
    bool vectors = aligned16(x, 0) && aligned16(y, 0);
    i64 step = i64(gridDim.x) * blockDim.x * CAST_ELEMENTS;
    for (i64 at = (i64(blockIdx.x) * blockDim.x + threadIdx.x) * CAST_ELEMENTS; at < len; at += step) {
        float values[CAST_ELEMENTS];
        load_some(x + at, len - at, vectors, values);
#pragma unroll
        for (int i = 0; i < CAST_ELEMENTS; i++) values[i] *= factor;
        store_some(y + at, len - at, vectors, values);
    }
}

// y = x times the power of two that brings the largest of all to half of what binary16 can hold; x, y: [len]; top: as
// `largest` leaves it; inverse: [1], receives the inverse of the factor. Both are normal numbers.
__global__ void __launch_bounds__(256)
    narrow_scaled(const float* __restrict__ x, float16* __restrict__ y, i64 len, const u32* __restrict__ top,
                  float* __restrict__ inverse) {
    int exponent = *top ? int(*top >> 23) - 127 : 0;
    exponent = exponent < -112 ? -112 : exponent;
    float factor = __uint_as_float(u32(14 - exponent + 127) << 23);
    if (blockIdx.x == 0 && threadIdx.x == 0) *inverse = __uint_as_float(u32(exponent - 14 + 127) << 23);
    scale(x, y, len, factor);
}

// y = x times the factor that `inverse` holds; x, y: [len].
__global__ void __launch_bounds__(256)
    widen_scaled(const float16* __restrict__ x, float* __restrict__ y, i64 len, const float* __restrict__ inverse) {
    scale(x, y, len, *inverse);
}
