// What CUDA C++ has besides C++: indices, barriers, atomics, intrinsics.
#pragma once

struct emulate_dim3 {
    unsigned x, y, z;
};

#define threadIdx (emulate::current->index)
#define blockIdx (emulate::block_index)
#define blockDim (emulate_dim3{emulate::launch.block[0], emulate::launch.block[1], emulate::launch.block[2]})
#define gridDim (emulate_dim3{emulate::launch.grid[0], emulate::launch.grid[1], emulate::launch.grid[2]})

// Blocks run one after the other, so one copy of a block's shared memory will do.
#define __shared__ static
// In place of an `extern __shared__` array, which C++ cannot say.
#define STREAMREC_DYNAMIC_SHARED(name) char* name = emulate::dynamic_shared

#define __syncthreads() emulate::block_barrier(__LINE__)
#define __threadfence() ((void)0)
#define __trap() (emulate::report("__trap in line %d", __LINE__), emulate::give_up())

template <typename T>
static T atomicAdd(T* at, T value) {
    T before = *at;
    *at = before + value;
    return before;
}

template <typename T>
static T atomicMin(T* at, T value) {
    T before = *at;
    if (value < before) *at = value;
    return before;
}

template <typename T>
static T atomicMax(T* at, T value) {
    T before = *at;
    if (value > before) *at = value;
    return before;
}

template <typename T>
static T atomicOr(T* at, T value) {
    T before = *at;
    *at = before | value;
    return before;
}

template <typename T>
static T atomicExch(T* at, T value) {
    T before = *at;
    *at = value;
    return before;
}

template <typename T>
static T atomicCAS(T* at, T expected, T value) {
    T before = *at;
    if (before == expected) *at = value;
    return before;
}

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t{a} * b >> 32); }
static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
template <typename T>
static inline T __ldg(const T* at) {
    return *at;
}
template <typename T>
static inline T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
static inline T max(T a, T b) {
    return a < b ? b : a;
}
