// Rows of embedding tables as a group of lanes holds them: what sums and updates of rows share.
#pragma once
#include "streamrec.cuh"

constexpr u32 UPDATE_THREADS = 256;

// Where one feature's ids point. src/cuda/groups.rs has the same.
struct Source {
    i64 rows;    // of the table
    u32 table;
    u32 column;  // the first of its pooled vectors
    u32 mean;    // 0: bags are summed
    u32 reserved;
};

// One table. src/cuda/sparse_optimizer.rs has the same.
struct Table {
    void* weights;   // [rows, dim]
    float* first;    // state [rows, 1] or [rows, dim], or null
    float* second;   // state [rows, dim], or null
    i64 row_stride;  // of the weights, elements
    u64 first_row;   // number of the first row that is here among all rows of the model, for random numbers
    u32 dim;
    float learning_rate_scale;
    float weight_decay;
    u32 columns;       // of whole rows, of which ranks may have some each
    u32 first_column;  // the first of them that is here, for random numbers
    u32 reserved;
};
static_assert(sizeof(Source) == 24 && sizeof(Table) == 64, "the ABI of the host");

// The rules of src/ops/sparse_optimizer/rule.rs.
struct Rule {
    u32 kind;  // 0 Sgd, 1 RowWiseAdagrad, 2 Adagrad, 3 LazyAdam
    float eps;
    float beta1;
    float beta2;
    float max_row_norm;  // negative: none
    u32 reserved;
};
static_assert(sizeof(Rule) == 24, "the ABI of the host");

// A group's part of a row: `VECTORS` vectors a lane, `lanes` vectors apart.
template <int COUNT, int VECTORS>
struct Row {
    float x[VECTORS][COUNT];
};

template <int COUNT, int VECTORS>
__device__ __forceinline__ void clear(Row<COUNT, VECTORS>& row) {
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) row.x[v][i] = 0.0f;
    }
}

// Calls `work(vector, column)` for this lane's vectors of a row.
template <int COUNT, int VECTORS, typename Work>
__device__ __forceinline__ void for_vectors(u32 dim, u32 lanes, Work work) {
    u32 lane = threadIdx.x % lanes;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        u32 column = (v * lanes + lane) * COUNT;
        if (column < dim) work(v, column);
    }
}

template <int COUNT, int VECTORS>
__device__ __forceinline__ void add_floats(const float* from, u32 dim, u32 lanes, Row<COUNT, VECTORS>& row) {
    bool vectors = aligned_for<float, COUNT>(from, 0);
    for_vectors<COUNT, VECTORS>(dim, lanes, [&](int v, u32 column) {
        float x[COUNT];
        load_some(from + column, i64(dim) - column, vectors, x);
#pragma unroll
        for (int i = 0; i < COUNT; i++) row.x[v][i] += x[i];
    });
}

template <int COUNT, int VECTORS>
__device__ __forceinline__ void store_floats(float* to, u32 dim, u32 lanes, const Row<COUNT, VECTORS>& row) {
    bool vectors = aligned_for<float, COUNT>(to, 0);
    for_vectors<COUNT, VECTORS>(dim, lanes, [&](int v, u32 column) {
        store_some(to + column, i64(dim) - column, vectors, row.x[v]);
    });
}

// ---- what an update asks of a whole row ----

// Stands as a row's third product, a squared norm else, where the second is the mean square itself (whole_rows.cu).
constexpr double IS_MEAN_SQUARE = -1.0;

// The squared norm of a row, in double precision, where no finite row overflows.
template <int COUNT, int VECTORS>
__device__ __forceinline__ double squared_norm(const Row<COUNT, VECTORS>& g, u32 lanes, u32 mask) {
    double squares = 0.0;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) squares += double(g.x[v][i]) * double(g.x[v][i]);
    }
    return group_sum(squares, lanes, mask);
}

// Scales `g` down to the largest norm; returns the factor. `whole`: [1], the squared norm of the whole row, or null where
// `g` is whole.
template <int COUNT, int VECTORS>
__device__ __forceinline__ double clip_row(const Rule& rule, const double* whole, u32 lanes, u32 mask,
                                           Row<COUNT, VECTORS>& g) {
    if (rule.max_row_norm < 0.0f) return 1.0;
    double norm = sqrt(whole ? whole[0] : squared_norm(g, lanes, mask)), clip = 1.0;
    if (norm > double(rule.max_row_norm)) clip = double(rule.max_row_norm) / norm;
    float factor = float(clip);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) g.x[v][i] *= factor;
    }
    return clip;
}

// Adds the decay of one vector of weights. With `fmaf` no compiler chooses whether the product is rounded.
template <int COUNT>
__device__ __forceinline__ void add_decay(float weight_decay, const float (&w)[COUNT], float (&g)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) g[i] = fmaf(weight_decay, w[i], g[i]);
}

// The mean square of a row's gradient.
template <int COUNT, int VECTORS>
__device__ __forceinline__ float mean_square(const Row<COUNT, VECTORS>& g, u32 dim, u32 lanes, u32 mask) {
    float squares = 0.0f;
    for_vectors<COUNT, VECTORS>(dim, lanes, [&](int v, u32) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) squares = fmaf(g.x[v][i], g.x[v][i], squares);
    });
    return group_sum(squares, lanes, mask) / float(dim);
}

// The row of a key.
__device__ __forceinline__ u64 row_of_key(u64 key, u32 row_bits) { return key & ((u64(1) << row_bits) - 1); }
