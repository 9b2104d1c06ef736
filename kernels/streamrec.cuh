// What every kernel stands on: integers, the three types that matrices hold, 16-byte accesses,
// groups of lanes, counter-based random numbers, and the product of the tensor cores.
//
// Includes nothing: NVRTC finds no CUDA headers on a user's machine. Where a GPU needs PTX, the
// emulation (emulate/emulate.hpp) has plain C++ between the same braces.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef int i32;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(u64) == 8, "the ABI of the host");

constexpr int WARP_LANES = 32;

#ifndef STREAMREC_DYNAMIC_SHARED
// The shared memory whose size the launch gives; 16-byte aligned.
#define STREAMREC_DYNAMIC_SHARED(name)               \
    extern __shared__ uint4 streamrec_dynamic_shared[]; \
    char* name = reinterpret_cast<char*>(streamrec_dynamic_shared)
#endif

// ---- the types of elements ----

struct bfloat16 {
    u16 bits;
};

struct float16 {
    u16 bits;
};

__device__ __forceinline__ float widen(float x) { return x; }

__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float(u32{x.bits} << 16); }

__device__ __forceinline__ float widen(float16 x) {
#ifdef STREAMREC_EMULATE
    u32 sign = u32(x.bits & 0x8000) << 16, exponent = x.bits >> 10 & 31, fraction = x.bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(float(fraction) * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#endif
}

// To nearest, ties to even.
template <typename T>
__device__ T narrow(float x);

template <>
__device__ __forceinline__ float narrow<float>(float x) {
    return x;
}

template <>
__device__ __forceinline__ bfloat16 narrow<bfloat16>(float x) {
#ifdef STREAMREC_EMULATE
    u32 bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#else
    bfloat16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

template <>
__device__ __forceinline__ float16 narrow<float16>(float x) {
#ifdef STREAMREC_EMULATE
    u32 bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
    u16 sign = u16(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return {0x7fff};
    // From here on a number rounds to infinity.
    if (magnitude >= 0x477ff000) return {u16(sign | 0x7c00)};
    if (magnitude < 0x38800000) {
        // Numbers from 0.5 on are 2^-24 apart, as the smallest of binary16 are: the sum rounds as they do.
        float shifted = __uint_as_float(magnitude) + 0.5f;
        return {u16(sign | (__float_as_uint(shifted) - 0x3f000000))};
    }
    u32 rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return {u16(sign | (rounded - 0x38000000) >> 13)};
#else
    float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

// ---- vectors of 16 bytes ----

// Elements of 16 bytes.
template <typename T>
constexpr int LANES = 16 / int(sizeof(T));

// Whether rows that start at `start`, `stride` elements apart, can be read 16 bytes at a time.
template <typename T>
__device__ __forceinline__ bool aligned16(const T* start, i64 stride) {
    return ((reinterpret_cast<u64>(start) | u64(stride) * sizeof(T)) & 15) == 0;
}

// As `aligned16`, for accesses of `COUNT` elements where these are fewer than 16 bytes.
template <typename T, int COUNT>
__device__ __forceinline__ bool aligned_for(const T* start, i64 stride) {
    constexpr u64 BYTES = COUNT * sizeof(T) < 16 ? COUNT * sizeof(T) : 16;
    return ((reinterpret_cast<u64>(start) | u64(stride) * sizeof(T)) & (BYTES - 1)) == 0;
}

template <typename T>
__device__ __forceinline__ void expect_aligned(const T* at, u64 bytes) {
#ifdef STREAMREC_EMULATE
    if (reinterpret_cast<u64>(at) % bytes) {
        emulate::report("a vector of %d bytes at an address that is no multiple of it", int(bytes));
        emulate::give_up();
    }
#endif
}

__device__ __forceinline__ void unpack(u32 word, float* x, float) { x[0] = __uint_as_float(word); }

__device__ __forceinline__ void unpack(u32 word, float* x, bfloat16) {
    x[0] = __uint_as_float(word << 16);
    x[1] = __uint_as_float(word & 0xffff0000);
}

__device__ __forceinline__ void unpack(u32 word, float* x, float16) {
    x[0] = widen(float16{u16(word)});
    x[1] = widen(float16{u16(word >> 16)});
}

__device__ __forceinline__ u32 pack(const float* x, float) { return __float_as_uint(x[0]); }

template <typename T>
__device__ __forceinline__ u32 pack(const float* x, T) {
    return u32{narrow<T>(x[0]).bits} | u32{narrow<T>(x[1]).bits} << 16;
}

// Reads `COUNT` elements in as few vectors as there can be. `at` is aligned for them.
template <int COUNT, typename T>
__device__ __forceinline__ void load_vector(const T* at, float (&x)[COUNT]) {
    constexpr int WORDS = COUNT * int(sizeof(T)) / 4, PER_WORD = 4 / int(sizeof(T));
    static_assert(WORDS % 4 == 0 || WORDS == 2, "vectors of 8 or 16 bytes");
    u32 words[WORDS];
    if constexpr (WORDS == 2) {
        expect_aligned(at, 8);
        uint2 vector = *reinterpret_cast<const uint2*>(at);
        words[0] = vector.x, words[1] = vector.y;
    } else {
        expect_aligned(at, 16);
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            uint4 vector = reinterpret_cast<const uint4*>(at)[i / 4];
            words[i] = vector.x, words[i + 1] = vector.y, words[i + 2] = vector.z, words[i + 3] = vector.w;
        }
    }
#pragma unroll
    for (int i = 0; i < WORDS; i++) unpack(words[i], x + i * PER_WORD, T{});
}

// Writes `COUNT` elements, rounded to nearest.
template <int COUNT, typename T>
__device__ __forceinline__ void store_vector(T* at, const float (&x)[COUNT]) {
    constexpr int WORDS = COUNT * int(sizeof(T)) / 4, PER_WORD = 4 / int(sizeof(T));
    static_assert(WORDS % 4 == 0 || WORDS == 2, "vectors of 8 or 16 bytes");
    u32 words[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; i++) words[i] = pack(x + i * PER_WORD, T{});
    if constexpr (WORDS == 2) {
        expect_aligned(at, 8);
        *reinterpret_cast<uint2*>(at) = make_uint2(words[0], words[1]);
    } else {
        expect_aligned(at, 16);
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            reinterpret_cast<uint4*>(at)[i / 4] = make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]);
        }
    }
}

// As `load_vector`, of the first `left` elements where fewer than `COUNT` are left or `vectors` says that
// rows are not aligned; the others are zero.
template <int COUNT, typename T>
__device__ __forceinline__ void load_some(const T* at, i64 left, bool vectors, float (&x)[COUNT]) {
    if (vectors && left >= COUNT) {
        load_vector(at, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) x[i] = i < left ? widen(at[i]) : 0.0f;
}

template <int COUNT, typename T>
__device__ __forceinline__ void store_some(T* at, i64 left, bool vectors, const float (&x)[COUNT]) {
    if (vectors && left >= COUNT) {
        store_vector(at, x);
        return;
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if (i < left) at[i] = narrow<T>(x[i]);
    }
}

// The bits of a vector of 16 bytes of half precision, of the first `left` elements; the others are zero.
template <typename T>
__device__ __forceinline__ uint4 load_bits(const T* at, i64 left, bool vectors) {
    static_assert(sizeof(T) == 2, "half precision");
    if (vectors && left >= 8) {
        expect_aligned(at, 16);
        return *reinterpret_cast<const uint4*>(at);
    }
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        u32 low = 2 * i < left ? at[2 * i].bits : 0, high = 2 * i + 1 < left ? at[2 * i + 1].bits : 0;
        words[i] = low | high << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// ---- matrices ----

// Calls `work(row, column)` for vectors of `COUNT` elements of a matrix, `lanes` threads of a block (a power of two)
// a row.
template <int COUNT, typename Work>
__device__ __forceinline__ void for_vectors_of_rows(u32 rows, u32 columns, u32 lanes, Work work) {
    u32 rows_at_once = blockDim.x / lanes;
    u32 first = threadIdx.x % lanes * COUNT;
    for (u32 row = blockIdx.x * rows_at_once + threadIdx.x / lanes; row < rows; row += gridDim.x * rows_at_once) {
        for (u32 column = first; column < columns; column += lanes * COUNT) work(row, column);
    }
}

// ---- tensor cores ----

// c += a . b, by one warp: a [16, 16], b [16, 8], c [16, 8]. With `group` = lane / 4 and `pair` = lane % 4 a lane holds
//   a[i]: row group + 8 (i % 2), columns 2 pair + 8 (i / 2) and the next, the first in the low half
//   b[i]: rows 2 pair + 8 i and the next, column group
//   c[i]: row group + 8 (i / 2), column 2 pair + i % 2
// as PTX has it for mma.m16n8k16.
template <typename T>
__device__ void multiply_tiles(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);

#ifdef STREAMREC_EMULATE
template <typename T>
__device__ void multiply_tiles(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    emulate::multiply_tiles<T>(c, a, b, __LINE__);
}
#else
#define STREAMREC_MULTIPLY_TILES(type, name)                                                              \
    template <>                                                                                           \
    __device__ __forceinline__ void multiply_tiles<type>(float (&c)[4], const u32 (&a)[4],                \
                                                         const u32 (&b)[2]) {                             \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name ".f32 "                       \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                    \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                     \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                 \
    }
STREAMREC_MULTIPLY_TILES(bfloat16, "bf16")
STREAMREC_MULTIPLY_TILES(float16, "f16")
#endif

// ---- groups of lanes ----

// The smallest power of two of lanes, up to a warp, that holds a row of `vectors` vectors.
__device__ __forceinline__ u32 group_lanes(u32 vectors) {
    u32 lanes = 1;
    while (lanes < vectors && lanes < WARP_LANES) lanes *= 2;
    return lanes;
}

// The lanes of a warp that make one group: `lanes` adjacent ones, this thread among them.
__device__ __forceinline__ u32 group_mask(u32 lanes) {
    u32 lane = threadIdx.x % WARP_LANES;
    u32 ones = lanes == WARP_LANES ? 0xffffffffu : (1u << lanes) - 1;
    return ones << (lane / lanes * lanes);
}

// The sum over a group, the same in each of its lanes.
template <typename F>
__device__ __forceinline__ F group_sum(F x, u32 lanes, u32 mask) {
    for (u32 distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(mask, x, distance, lanes);
    return x;
}

// The sum over a block in a fixed order; each thread gets it. `partial` holds one element a warp.
template <typename F>
__device__ __forceinline__ F block_sum(F x, F* partial) {
    x = group_sum(x, WARP_LANES, 0xffffffffu);
    __syncthreads();
    if (threadIdx.x % WARP_LANES == 0) partial[threadIdx.x / WARP_LANES] = x;
    __syncthreads();
    F sum = partial[0];
    for (u32 warp = 1; warp < blockDim.x / WARP_LANES; warp++) sum += partial[warp];
    return sum;
}

// The sum of what threads before this one bring; `total` of all. `partial` holds one element a warp.
__device__ __forceinline__ u32 block_exclusive_sum(u32 x, u32* partial, u32& total) {
    u32 lane = threadIdx.x % WARP_LANES, warp = threadIdx.x / WARP_LANES, inclusive = x;
    for (u32 distance = 1; distance < WARP_LANES; distance *= 2) {
        u32 below = __shfl_up_sync(0xffffffffu, inclusive, distance);
        if (lane >= distance) inclusive += below;
    }
    __syncthreads();
    if (lane == WARP_LANES - 1) partial[warp] = inclusive;
    __syncthreads();
    u32 before = 0;
    total = 0;
    for (u32 other = 0; other < blockDim.x / WARP_LANES; other++) {
        if (other < warp) before += partial[other];
        total += partial[other];
    }
    return before + inclusive - x;
}

__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000) != 0x7f800000; }

// ---- numbers of one step, in device memory ----

// Written once a step, so that a captured graph needs no new arguments. src/cuda/step.rs has the same.
struct Step {
    float learning_rate;         // of dense parameters
    float sparse_learning_rate;  // of tables
    float inverse_scale;         // 1 / loss scale
    float clip;                  // factor of the gradients of dense parameters, from their norm; 1 for none
    u64 number;                  // counts from 1
    u64 seed;                    // of stochastic rounding
    u32 skip;                    // not 0: gradients overflowed on some rank; nothing is updated
    u32 overflow;                // set to 1 by kernels that see a gradient that is not finite
    float first_correction;      // 1 / (1 - beta1^number) of dense parameters
    float second_correction;     // 1 / (1 - beta2^number)
    float sparse_first_correction;
    float sparse_second_correction;
};
static_assert(sizeof(Step) == 56, "the ABI of the host");

// ---- random numbers ----

// Philox 4x32-10: four words for each counter and key (Salmon et al.,
// https://doi.org/10.1145/2063384.2063405).
__device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        u32 high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

// One of the two neighbours of `x`, each with the probability that makes the mean `x`.
template <typename T>
__device__ T round_stochastically(float x, u32 random);

template <>
__device__ __forceinline__ float round_stochastically<float>(float x, u32) {
    return x;
}

template <>
__device__ __forceinline__ bfloat16 round_stochastically<bfloat16>(float x, u32 random) {
    if (!is_finite(x)) return narrow<bfloat16>(x);
    return {u16((__float_as_uint(x) + (random >> 16)) >> 16)};
}

template <>
__device__ __forceinline__ float16 round_stochastically<float16>(float x, u32 random) {
    u32 bits = __float_as_uint(x), magnitude = bits & 0x7fffffff;
    if (magnitude < 0x38800000) {
        // Below 2^-14 neighbours are 2^-24 apart.
        float steps = floorf(__uint_as_float(magnitude) * 0x1p24f + float(random >> 8) * 0x1p-24f);
        return narrow<float16>(__uint_as_float((bits & 0x80000000) | __float_as_uint(steps * 0x1p-24f)));
    }
    // Where there is no larger neighbour, the nearest number.
    if (magnitude >= 0x477fe000) return narrow<float16>(x);
    return narrow<float16>(__uint_as_float((bits + (random >> 19)) & ~0x1fffu));
}
