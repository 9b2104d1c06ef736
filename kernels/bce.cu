// Weighted binary cross-entropy of logits with its gradient, as src/ops/bce.rs tells it:
//   loss = w (max(z, 0) - z t + ln(1 + exp(-|z|))) / W,   d_logit = w (sigmoid(z) - t) / W * loss scale
// in double precision, W the weight sum of the global batch.
#include "streamrec.cuh"

// logits, d_logits: [batch, heads] of T; labels, probabilities: [batch, heads]; weights: [batch];
// head_weights: [heads]; weight_sum: [1]; partial: [blocks], each block's share of the loss.
// One thread a sample.
template <typename T>
__global__ void __launch_bounds__(256)
    bce(const T* __restrict__ logits, i64 logit_stride, const float* __restrict__ labels, i64 label_stride,
        const float* __restrict__ weights, const float* __restrict__ head_weights,
        const double* __restrict__ weight_sum, const Step* __restrict__ step, T* __restrict__ d_logits,
        i64 d_logit_stride, float* __restrict__ probabilities, i64 probability_stride, double* __restrict__ partial,
        u32 batch, u32 heads) {
    __shared__ double sums[8];
    double scale = *weight_sum > 0.0 ? 1.0 / *weight_sum : 0.0;
    double gradient_scale = 1.0 / double(step->inverse_scale);
    double loss = 0.0;
    u32 sample = blockIdx.x * blockDim.x + threadIdx.x;
    if (sample < batch) {
        double sample_weight = double(weights[sample]) * scale;
        for (u32 head = 0; head < heads; head++) {
            double z = double(widen(logits[sample * logit_stride + head]));
            double t = double(labels[sample * label_stride + head]);
            double weight = sample_weight * double(head_weights[head]);
            // exp never overflows: its argument is not positive.
            double e = exp(-fabs(z));
            double p = (z >= 0.0 ? 1.0 : e) / (1.0 + e);
            probabilities[sample * probability_stride + head] = float(p);
            d_logits[sample * d_logit_stride + head] = narrow<T>(float(weight * (p - t) * gradient_scale));
            loss += weight * (fmax(z, 0.0) - z * t + log1p(e));
        }
    }
    loss = block_sum(loss, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = loss;
}

// sum: [1], of partial: [len], in a fixed order. One block.
__global__ void __launch_bounds__(256) sum_partial(const double* __restrict__ partial, u32 len, double* sum) {
    __shared__ double sums[8];
    double own = 0.0;
    for (u32 i = threadIdx.x; i < len; i += blockDim.x) own += partial[i];
    own = block_sum(own, sums);
    if (threadIdx.x == 0) *sum = own;
}
