// What updates need of whole rows of which ranks hold some columns each: products (sparse_optimizer.cu), three numbers a
// row.
//
//   row_products             sums over the columns that are here, for ranks to add up
//   pack_rows, whole_rows    the columns of all ranks brought together: the numbers that one rank computes, to the bit
#include "table_rows.cuh"

// row_keys: [row_count], each once; gradients: [row_count, gradient_stride], unscaled. products: [capacity, 3], over the
// columns of each row that are here: the squared norm of the gradient, its product with the weights, their squared norm;
// zeros behind the last row. A group a row.
template <typename Weight, int VECTORS>
__global__ void __launch_bounds__(UPDATE_THREADS)
    row_products(const Table* __restrict__ tables, const u64* __restrict__ row_keys, const u32* __restrict__ row_count,
                 const float* __restrict__ gradients, u64 gradient_stride, u32 row_bits, u32 lanes, u32 capacity,
                 double* __restrict__ products) {
    constexpr int COUNT = LANES<float>;
    u32 groups = blockDim.x / lanes, mask = group_mask(lanes), rows = min(*row_count, capacity);
    for (u32 row = blockIdx.x * groups + threadIdx.x / lanes; row < capacity; row += gridDim.x * groups) {
        double sums[3] = {};
        if (row < rows) {
            const Table table = tables[row_keys[row] >> row_bits];
            const Weight* weights = static_cast<const Weight*>(table.weights) +
                                    i64(row_of_key(row_keys[row], row_bits)) * table.row_stride;
            bool vectors = aligned_for<Weight, COUNT>(weights, 0);
            Row<COUNT, VECTORS> g;
            clear(g);
            add_floats(gradients + row * gradient_stride, table.dim, lanes, g);
            for_vectors<COUNT, VECTORS>(table.dim, lanes, [&](int v, u32 column) {
                float w[COUNT];
                load_some(weights + column, i64(table.dim) - column, vectors, w);
#pragma unroll
                for (int i = 0; i < COUNT; i++) {
                    double x = g.x[v][i], own = w[i];
                    sums[0] += x * x;
                    sums[1] += x * own;
                    sums[2] += own * own;
                }
            });
        }
#pragma unroll
        for (int i = 0; i < 3; i++) {
            sums[i] = group_sum(sums[i], lanes, mask);
            if (threadIdx.x % lanes == 0) products[u64(row) * 3 + i] = sums[i];
        }
    }
}

// packed: [capacity, 2, width], of each listed row the gradient's columns that are here, then the weights'. A thread a
// number.
template <typename Weight>
__global__ void __launch_bounds__(UPDATE_THREADS)
    pack_rows(const Table* __restrict__ tables, const u64* __restrict__ row_keys, const u32* __restrict__ row_count,
              const float* __restrict__ gradients, u64 gradient_stride, u32 row_bits, u32 width,
              float* __restrict__ packed) {
    u64 work = u64(*row_count) * width, threads = u64(gridDim.x) * blockDim.x;
    for (u64 at = u64(blockIdx.x) * blockDim.x + threadIdx.x; at < work; at += threads) {
        u64 row = at / width, column = at % width;
        const Table table = tables[row_keys[row] >> row_bits];
        if (column >= table.dim) continue;
        const Weight* weights = static_cast<const Weight*>(table.weights) +
                                i64(row_of_key(row_keys[row], row_bits)) * table.row_stride;
        float* to = packed + row * 2 * width + column;
        to[0] = gradients[row * gradient_stride + column];
        to[width] = widen(weights[column]);
    }
}

// packed: [ranks, capacity, 2, width], what `pack_rows` of all ranks gave, of which rank r holds the columns from r *
// columns / ranks on; products: [capacity, 3], of each row the squared norm of the gradient, the mean square of what is
// left of it after clipping, with its decay, and IS_MEAN_SQUARE. A group a row.
template <int VECTORS>
__global__ void __launch_bounds__(UPDATE_THREADS)
    whole_rows(const Table* __restrict__ tables, const u64* __restrict__ row_keys, const u32* __restrict__ row_count,
               u32 row_bits, u32 lanes, const float* __restrict__ packed, u32 ranks, u32 capacity, u32 width, Rule rule,
               double* __restrict__ products) {
    constexpr int COUNT = LANES<float>;
    u32 groups = blockDim.x / lanes, mask = group_mask(lanes), rows = min(*row_count, capacity);
    for (u32 row = blockIdx.x * groups + threadIdx.x / lanes; row < rows; row += gridDim.x * groups) {
        const Table table = tables[row_keys[row] >> row_bits];
        u64 columns = table.columns;
        // The row's vector from a column on: gradients, or from `first` on weights.
        auto gather = [&](u32 column, u32 first, float(&x)[COUNT]) {
#pragma unroll
            for (int i = 0; i < COUNT; i++) {
                u64 own = column + i;
                // The last rank whose first column, rounded down, is not behind this one.
                u64 rank = ((own + 1) * ranks - 1) / columns, place = own - rank * columns / ranks;
                x[i] = own < columns ? packed[((rank * capacity + row) * 2) * width + first + place] : 0.0f;
            }
        };
        Row<COUNT, VECTORS> g;
        clear(g);
        for_vectors<COUNT, VECTORS>(columns, lanes, [&](int v, u32 column) { gather(column, 0, g.x[v]); });
        double squares = squared_norm(g, lanes, mask);
        clip_row(rule, &squares, lanes, mask, g);
        if (table.weight_decay != 0.0f) {
            for_vectors<COUNT, VECTORS>(columns, lanes, [&](int v, u32 column) {
                float w[COUNT];
                gather(column, width, w);
                add_decay(table.weight_decay, w, g.x[v]);
            });
        }
        float mean = mean_square(g, columns, lanes, mask);
        if (threadIdx.x % lanes == 0) {
            double* to = products + u64(row) * 3;
            to[0] = squares, to[1] = mean, to[2] = IS_MEAN_SQUARE;
        }
    }
}
