// Kernels that are wrong on purpose, and right ones whose results are known: the emulation's own tests.
#include "streamrec.cuh"

// Writes to its neighbour without waiting for it.
__global__ void without_barrier(u32* out) {
    __shared__ u32 values[64];
    values[threadIdx.x] = 0;
    __syncthreads();
    values[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void divergent_barrier(u32* out) {
    if (threadIdx.x < 40) __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void two_barriers(u32* out) {
    if (threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = 1;
}

__global__ void missing_lane(u32* out) {
    if (threadIdx.x != 5) out[threadIdx.x] = __ballot_sync(0xffffffff, 1);
}

__global__ void wrong_mask(u32* out) { out[threadIdx.x] = __ballot_sync(0xffff, 1); }

__global__ void lane_outside_mask(u32* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffff, threadIdx.x, 20);
}

__global__ void reads_after_end(const u32* in, u32* out, u32 len) { out[threadIdx.x] = in[threadIdx.x + len]; }

__global__ void writes_before_start(u32* out) { out[-1 - i32(threadIdx.x)] = 1; }

__global__ void misaligned(const float* in, float* out) {
    float x[4];
    load_vector(in + 1, x);
    out[0] = x[0];
}

// out: [7, 32]: four shuffles in groups of 8 lanes, a ballot, the sum over 8 lanes, a match.
__global__ void warp_operations(u32* out) {
    u32 lane = threadIdx.x, mask = group_mask(8);
    out[lane] = __shfl_sync(mask, lane * 3, lane + 1, 8);
    out[32 + lane] = __shfl_up_sync(mask, lane * 3, 2, 8);
    out[64 + lane] = __shfl_down_sync(mask, lane * 3, 2, 8);
    out[96 + lane] = __shfl_xor_sync(mask, lane * 3, 5, 8);
    out[128 + lane] = __ballot_sync(0xffffffff, lane % 3 == 0);
    out[160 + lane] = group_sum(lane, 8, mask);
    out[192 + lane] = __match_any_sync(0xffffffff, lane % 5);
}

// sums: [1]; the sum of the numbers of all threads of all blocks, by atomics and by blocks.
__global__ void sums(u64* by_atomics, double* by_blocks) {
    __shared__ double partial[32];
    u32 number = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(by_atomics, u64(number));
    double sum = block_sum(double(number), partial);
    if (threadIdx.x == 0) atomicAdd(by_blocks, sum);
}

// out: [counters, 4]; counters: [counters, 6], four words of the counter and two of the key.
__global__ void philox_words(const u32* counters, u32* out) {
    const u32* c = counters + threadIdx.x * 6;
    uint4 words = philox(make_uint4(c[0], c[1], c[2], c[3]), make_uint2(c[4], c[5]));
    store_vector(reinterpret_cast<float*>(out + threadIdx.x * 4),
                 {__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z),
                  __uint_as_float(words.w)});
}

// Each number of a type widened, and each float32 narrowed. wide: [65536]; narrow: [len]
template <typename T>
__global__ void conversions(const u32* numbers, u32 len, float* wide, u16* narrowed) {
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread < 65536) wide[thread] = widen(T{u16(thread)});
    if (thread < len) narrowed[thread] = narrow<T>(__uint_as_float(numbers[thread])).bits;
}

// out: [draws], x rounded with a random word each.
template <typename T>
__global__ void rounded(const float* x, T* out, u32 len) {
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= len) return;
    uint4 words = philox(make_uint4(thread, 0, 0, 0), make_uint2(3, 4));
    out[thread] = round_stochastically<T>(x[thread], words.x);
}
