// Updates of dense parameters, as src/ops/dense_optimizer.rs tells the rules, all in one launch, and the norm of their
// gradients with the test whether all are finite.
//
// Parameters that are updated alike are spans of arenas: master weights, state and, in half precision, the copy that
// layers compute with share offsets; gradients have their own. A block works on one chunk of one span.
#include "streamrec.cuh"

constexpr u32 CHUNK = 4096;

// src/cuda/dense_optimizer.rs has the same.
struct Span {
    u64 start;     // in the arenas of weights, state and copy
    u64 gradient;  // in that of gradients
    u64 len;
    float learning_rate_scale;
    float weight_decay;
    u32 shared;  // not 0: other ranks hold other parts, and their norms are added
    u32 reserved;
};
struct Chunk {
    u32 span;
    u32 index;  // of the span's chunks
};
struct DenseRule {
    u32 kind;  // 0 Sgd, 1 Sgd with momentum, 2 Adagrad, 3 Adam, 4 AdamW
    u32 nesterov;
    float momentum;
    float eps;
    float beta1;
    float beta2;
};
static_assert(sizeof(Span) == 40 && sizeof(Chunk) == 8 && sizeof(DenseRule) == 24, "the ABI of the host");

// One weight's new value. `g` is its gradient, unscaled and clipped; `m`, `s` are its state.
__device__ __forceinline__ float updated(const DenseRule& rule, float rate, float weight_decay, float first_correction,
                                         float second_correction, float w, float g, float& m, float& s) {
    if (rule.kind < 4) g += weight_decay * w;
    if (rule.kind == 0) return w - rate * g;
    if (rule.kind == 1) {
        m = rule.momentum * m + g;
        return w - rate * (rule.nesterov ? g + rule.momentum * m : m);
    }
    if (rule.kind == 2) {
        m += g * g;
        return w - rate * g / (sqrtf(m) + rule.eps);
    }
    m = rule.beta1 * m + (1.0f - rule.beta1) * g;
    s = rule.beta2 * s + (1.0f - rule.beta2) * g * g;
    float root = sqrtf(s * second_correction) + rule.eps;
    float shrunk = rule.kind == 4 ? w * (1.0f - rate * weight_decay) : w;
    return shrunk - rate * (m * first_correction) / root;
}

// weights, first, second: arenas of float32 (state that a rule does not have is null); copy: the arena that layers
// compute with, or null. Nothing is done when step->skip is set. A block a chunk.
template <typename Copy>
__global__ void __launch_bounds__(256)
    update_dense(const Span* __restrict__ spans, const Chunk* __restrict__ chunks, float* __restrict__ weights,
                 const float* __restrict__ gradients, float* __restrict__ first, float* __restrict__ second,
                 Copy* __restrict__ copy, DenseRule rule, const Step* __restrict__ step) {
    constexpr int COUNT = 4;
    if (step->skip) return;
    const Chunk chunk = chunks[blockIdx.x];
    const Span span = spans[chunk.span];
    u64 begin = u64(chunk.index) * CHUNK, end = min(begin + CHUNK, span.len);
    float factor = step->inverse_scale * step->clip, rate = step->learning_rate * span.learning_rate_scale;
    float* w = weights + span.start;
    const float* g = gradients + span.gradient;
    float* m = first + span.start;
    float* s = second + span.start;
    Copy* rounded = copy + span.start;
    bool vectors = aligned16(w, 0) && aligned16(g, 0) && aligned16(m, 0) && aligned16(s, 0);
    bool copy_vectors = aligned_for<Copy, COUNT>(rounded, 0);
    for (u64 at = begin + threadIdx.x * COUNT; at < end; at += blockDim.x * COUNT) {
        i64 left = i64(end - at);
        float weight[COUNT], gradient[COUNT], own[COUNT] = {}, other[COUNT] = {};
        load_some(w + at, left, vectors, weight);
        load_some(g + at, left, vectors, gradient);
        if (first) load_some(m + at, left, vectors, own);
        if (second) load_some(s + at, left, vectors, other);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            // Elements behind the end have no state: eps may be 0.
            if (i < left) {
                weight[i] = updated(rule, rate, span.weight_decay, step->first_correction, step->second_correction,
                                    weight[i], gradient[i] * factor, own[i], other[i]);
            }
        }
        store_some(w + at, left, vectors, weight);
        if (first) store_some(m + at, left, vectors, own);
        if (second) store_some(s + at, left, vectors, other);
        if (copy) store_some(rounded + at, left, copy_vectors, weight);
    }
}

// partial: [chunks, 2], each chunk's sum of squares in double precision, where no finite number overflows: of spans that
// this rank has to itself, and of shared ones. A block a chunk.
__global__ void __launch_bounds__(256)
    sum_squares(const Span* __restrict__ spans, const Chunk* __restrict__ chunks, const float* __restrict__ gradients,
                double* __restrict__ partial) {
    constexpr int COUNT = 4;
    __shared__ double sums[8];
    const Chunk chunk = chunks[blockIdx.x];
    const Span span = spans[chunk.span];
    u64 begin = u64(chunk.index) * CHUNK, end = min(begin + CHUNK, span.len);
    const float* g = gradients + span.gradient;
    bool vectors = aligned16(g, 0);
    double sum = 0.0;
    for (u64 at = begin + threadIdx.x * COUNT; at < end; at += blockDim.x * COUNT) {
        float x[COUNT];
        load_some(g + at, i64(end - at), vectors, x);
#pragma unroll
        for (int i = 0; i < COUNT; i++) sum += double(x[i]) * double(x[i]);
    }
    sum = block_sum(sum, sums);
    if (threadIdx.x > 0) return;
    partial[2 * u64(blockIdx.x)] = span.shared ? 0.0 : sum;
    partial[2 * u64(blockIdx.x) + 1] = span.shared ? sum : 0.0;
}

// squares: [2], the sums of partial [len, 2], in a fixed order. One block.
__global__ void __launch_bounds__(256)
    finish_squares(const double* __restrict__ partial, u32 len, double* __restrict__ squares) {
    __shared__ double sums[8];
    double own = 0.0, shared = 0.0;
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) own += partial[2 * u64(i)], shared += partial[2 * u64(i) + 1];
    own = block_sum(own, sums);
    shared = block_sum(shared, sums);
    if (threadIdx.x == 0) squares[0] = own, squares[1] = shared;
}
