// The numbers of a step and the dynamic scaling of the loss, kept on the device so that no step waits for the host:
// begin_step before it, judge when the gradients of all ranks are there. src/optim/loss_scaler.rs tells the rule.
#include "streamrec.cuh"

// What the host gives each step. src/cuda/step.rs has the same of these structures.
struct StepInput {
    float learning_rate;
    float sparse_learning_rate;
    u64 number;  // counts from 1, skipped steps too
    u64 seed;
};

// What lasts from step to step.
struct Scaler {
    double scale;
    double scale_max;
    u64 growth_steps;  // 0: the scale stays
    u64 clean_steps;   // since the scale changed
    u64 skipped_steps; // of the whole run
};

// What the host may read of a step, at its leisure.
struct Verdict {
    double norm;  // of the dense gradients, unscaled, before clipping
    u64 number;
    u32 skipped;
    u32 reserved;
};
static_assert(sizeof(StepInput) == 24 && sizeof(Scaler) == 40 && sizeof(Verdict) == 24, "the ABI of the host");

// One thread.
__global__ void begin_step(const StepInput* __restrict__ input, const Scaler* __restrict__ scaler, float beta1,
                           float beta2, float sparse_beta1, float sparse_beta2, Step* step) {
    // Rules that count steps do not count those that updated nothing.
    double updates = double(input->number - scaler->skipped_steps);
    step->learning_rate = input->learning_rate;
    step->sparse_learning_rate = input->sparse_learning_rate;
    step->inverse_scale = float(1.0 / scaler->scale);
    step->clip = 1.0f;
    step->number = input->number;
    step->seed = input->seed;
    step->skip = 0;
    step->overflow = 0;
    step->first_correction = float(1.0 / (1.0 - pow(double(beta1), updates)));
    step->second_correction = float(1.0 / (1.0 - pow(double(beta2), updates)));
    step->sparse_first_correction = float(1.0 / (1.0 - pow(double(sparse_beta1), updates)));
    step->sparse_second_correction = float(1.0 / (1.0 - pow(double(sparse_beta2), updates)));
}

// squares: [2] of gradients still scaled, loss: [1], both of all ranks; step->overflow: of all ranks. Decides whether the step is
// skipped, how gradients are clipped (to clip_norm, none where that is negative), and the next scale. One thread.
__global__ void judge(const double* __restrict__ squares, const double* __restrict__ loss, double clip_norm,
                      Scaler* scaler, Step* step, Verdict* verdict) {
    double norm = sqrt(squares[0] + squares[1]) / scaler->scale;
    double infinity = double(__uint_as_float(0x7f800000));
    bool finite = norm < infinity && fabs(*loss) < infinity && !step->overflow;
    step->skip = finite ? 0 : 1;
    step->clip = finite && clip_norm >= 0.0 ? float(fmin(clip_norm / (norm + 1e-6), 1.0)) : 1.0f;
    verdict->norm = norm;
    verdict->number = step->number;
    verdict->skipped = finite ? 0 : 1;
    if (!finite) scaler->skipped_steps += 1;
    if (scaler->growth_steps == 0) return;
    scaler->clean_steps = finite ? scaler->clean_steps + 1 : 0;
    if (!finite) {
        scaler->scale *= 0.5;
    } else if (scaler->clean_steps == scaler->growth_steps) {
        scaler->scale = fmin(scaler->scale * 2.0, scaler->scale_max);
        scaler->clean_steps = 0;
    }
}

// Writes a number where the host looks, in its own memory: how far this stream has come. One thread.
__global__ void note(u32* at, u32 number) { *at = number; }
