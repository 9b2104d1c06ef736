// Rounding and widening of flat arrays: y = x in the type of y, to nearest, ties to even.
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
