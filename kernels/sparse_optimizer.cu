// The gradients of touched rows and the updates of tables. Lookups are sorted by row (groups.cu); a row's
// lookups are summed in their order, cut into pieces of 32 from the first on, so that a row which every sample looks
// up is summed by many groups of lanes, and a row's sum has the same bits wherever it lies among others.
//
//   update_tiles / sum_tiles     a group of lanes takes the pieces that begin in a tile of 32 lookups: rows of one
//                                piece are finished, of others the sums of pieces are kept
//   finish_updates / finish_sums adds the pieces of each such row, in order, and finishes it
//   update_rows                  updates rows from their gradients, unless the step is to be skipped
//
// The fused kernels update a table at once (float32, bf16; rows of at most 512 bytes of gradient). With loss scaling
// and for longer rows, sums are kept and tested first, and `update_rows` runs when all ranks know the verdict.
#include "table_rows.cuh"

constexpr u32 TILE = 32;
// Rows of more pieces than this are summed by a whole block.
constexpr u32 LONG_PIECES = 16;

// The sorted lookups of a batch, and where their gradients lie.
struct Lookups {
    const u64* keys;       // [len]
    const u32* positions;  // [len]
    const u32* bags;       // by position
    const i64* offsets;    // [bags + 1]
    const float* weights;  // by position, or null
    const Source* sources; // [features]
    const Table* tables;
    u64 nothing;           // the key of lookups that do not count
    u32 len;
    u32 batch;
    u32 row_bits;
    u32 lanes;             // of a group
    u32 scaled;            // 1: by the loss scale, 0: sums of ranks that have unscaled theirs
    u32 reserved;
};

// Sums of pieces, by the tile in which they begin, of rows that have several.
struct Partial {
    float* heads;       // [tiles, stride], of a row that began in a tile before
    float* tails;       // [tiles, stride], of the row that begins here and goes on
    u32* lengths;       // [2], of the lists
    u32* short_list;    // [tiles], first lookups of such rows
    u32* long_list;     // [tiles], of those that need a block
    u64 stride;
};
static_assert(sizeof(Lookups) == 88 && sizeof(Partial) == 48, "the ABI of the host");

// row = scale * the gradient of a lookup's pooled vector.
template <typename Gradient, int VECTORS>
__device__ __forceinline__ void load_lookup(const Lookups& lookups, const Gradient* dout, i64 stride, u32 at, u32 dim,
                                            Row<LANES<Gradient>, VECTORS>& row) {
    constexpr int COUNT = LANES<Gradient>;
    u32 position = lookups.positions[at], bag = lookups.bags[position];
    const Source source = lookups.sources[bag / lookups.batch];
    float scale = lookups.weights ? lookups.weights[position] : 1.0f;
    if (source.mean) scale *= 1.0f / float(lookups.offsets[bag + 1] - lookups.offsets[bag]);
    const Gradient* from = dout + i64(bag % lookups.batch) * stride + source.column;
    bool vectors = aligned16(from, 0);
    clear(row);
    for_vectors<COUNT, VECTORS>(dim, lookups.lanes, [&](int v, u32 column) {
        load_some(from + column, i64(dim) - column, vectors, row.x[v]);
#pragma unroll
        for (int i = 0; i < COUNT; i++) row.x[v][i] = __fmul_rn(row.x[v][i], scale);
    });
}

// The factor that takes the loss scale from a gradient.
__device__ __forceinline__ float unscale(const Lookups& lookups, const Step* step) {
    return lookups.scaled ? step->inverse_scale : 1.0f;
}

// The first of a row's lookups among sorted keys, from one of them on.
__device__ __forceinline__ u32 start_of_row(const u64* keys, u32 at, u64 key) {
    u32 reach = TILE, high = at;
    while (reach <= at && keys[at - reach] == key) high = at - reach, reach *= 2;
    u32 low = reach > at ? 0 : at - reach;
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        if (keys[middle] == key) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// Behind the last of a row's lookups among sorted keys, from one of them on.
__device__ __forceinline__ u32 end_of_row(const u64* keys, u32 at, u32 len, u64 key) {
    u32 low = at, high = len;
    while (low < high) {
        u32 middle = low + (high - low) / 2;
        if (keys[middle] == key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Sums the pieces that begin in one tile; `finish(key, at, row)` takes rows of one piece, of which `at` is a lookup.
template <typename Gradient, int VECTORS, typename Finish>
__device__ __forceinline__ void sum_tile(const Lookups& lookups, const Gradient* dout, i64 stride,
                                         const Partial& partial, u32 tile, Finish finish) {
    constexpr int COUNT = LANES<Gradient>, AHEAD = VECTORS == 1 ? 4 : 1;
    using Sum = Row<COUNT, VECTORS>;
    const u64* keys = lookups.keys;
    u32 begin = tile * TILE, end = min(begin + TILE, lookups.len);
    u64 key = keys[begin];
    // Keys ascend to this one: no lookup from here on counts.
    if (key == lookups.nothing) return;
    u32 piece = begin;
    bool from_before = begin > 0 && keys[begin - 1] == key;
    if (from_before) {
        // A row's pieces begin 32 lookups apart: one in each tile, if the row comes so far.
        piece = begin + start_of_row(keys, begin, key) % TILE;
        if (piece >= lookups.len || keys[piece] != key) {
            piece = end_of_row(keys, begin, min(piece, lookups.len), key);
            from_before = false;
        }
        if (piece >= end || keys[piece] == lookups.nothing) return;
        key = keys[piece];
    }
    // The last piece may reach into the next tile.
    u32 limit = min(end + TILE - 1, lookups.len);
    Sum sum;
    clear(sum);
    // The piece that ends before lookup `at`.
    auto flush = [&](u32 at) {
        u32 dim = lookups.tables[key >> lookups.row_bits].dim;
        bool goes_on = at < lookups.len && keys[at] == key;
        if (from_before) {
            store_floats(partial.heads + tile * partial.stride, dim, lookups.lanes, sum);
        } else if (goes_on) {
            store_floats(partial.tails + tile * partial.stride, dim, lookups.lanes, sum);
            if (threadIdx.x % lookups.lanes == 0) {
                u64 far = u64(piece) + LONG_PIECES * TILE;
                bool is_long = far < lookups.len && keys[far] == key;
                u32 place = atomicAdd(&partial.lengths[is_long], 1u);
                (is_long ? partial.long_list : partial.short_list)[place] = piece;
            }
        } else {
            finish(key, piece, sum);
        }
    };
    for (u32 first = piece; first < limit; first += AHEAD) {
        // Several lookups are read before the first is added: the memory's latency is paid once for them.
        Sum rows[AHEAD];
        u64 row_keys[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            row_keys[i] = first + i < limit ? keys[first + i] : lookups.nothing;
            if (row_keys[i] != lookups.nothing) {
                u32 own_dim = lookups.tables[row_keys[i] >> lookups.row_bits].dim;
                load_lookup(lookups, dout, stride, first + i, own_dim, rows[i]);
            } else {
                clear(rows[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            u32 at = first + i;
            if (at >= limit) break;
            if (row_keys[i] != key || at - piece == TILE) {
                flush(at);
                // What begins behind the tile is another group's.
                if (at >= end || row_keys[i] == lookups.nothing) return;
                clear(sum);
                from_before = row_keys[i] == key, key = row_keys[i], piece = at;
            }
#pragma unroll
            for (int v = 0; v < VECTORS; v++) {
#pragma unroll
                for (int j = 0; j < COUNT; j++) sum.x[v][j] += rows[i].x[v][j];
            }
        }
    }
    flush(limit);
}

// Finishes the rows of several pieces: short ones by a group each, long ones by a block, in slices that depend on the row's
// own lookups and columns, not on `lanes`, which the longest row of all tables decides. `shared`: a row for each slice.
template <int COUNT, int VECTORS, typename Finish>
__device__ __forceinline__ void finish_pieces(const Lookups& lookups, const Partial& partial, float* shared,
                                              Finish finish) {
    using Sum = Row<COUNT, VECTORS>;
    u32 lanes = lookups.lanes, groups = blockDim.x / lanes, group = threadIdx.x / lanes;
    auto sum_pieces = [&](u32 at, u32 dim, u32 first, u32 end, Sum& sum) {
        clear(sum);
#pragma unroll 4
        for (u32 piece = first; piece < end; piece++) {
            const float* from = piece == 0 ? partial.tails : partial.heads;
            add_floats(from + (at / TILE + piece) * partial.stride, dim, lanes, sum);
        }
    };
    auto pieces_of = [&](u32 at, u64 key) {
        return (end_of_row(lookups.keys, at, lookups.len, key) - at + TILE - 1) / TILE;
    };
    Sum sum;
    for (u32 index = blockIdx.x; index < partial.lengths[1]; index += gridDim.x) {
        u32 at = partial.long_list[index];
        u64 key = lookups.keys[at];
        u32 dim = lookups.tables[key >> lookups.row_bits].dim, pieces = pieces_of(at, key);
        u32 width = (dim + 3) / 4 * 4, slices = blockDim.x / group_lanes(width / 4);
        for (u32 slice = group; slice < slices; slice += groups) {
            u32 first = u64(pieces) * slice / slices, end = u64(pieces) * (slice + 1) / slices;
            sum_pieces(at, dim, first, end, sum);
            store_floats(shared + slice * width, dim, lanes, sum);
        }
        __syncthreads();
        if (group == 0) {
            clear(sum);
            for (u32 slice = 0; slice < slices; slice++) add_floats(shared + slice * width, dim, lanes, sum);
            finish(key, at, sum);
        }
        __syncthreads();
    }
    for (u32 index = blockIdx.x * groups + group; index < partial.lengths[0]; index += gridDim.x * groups) {
        u32 at = partial.short_list[index];
        u64 key = lookups.keys[at];
        u32 dim = lookups.tables[key >> lookups.row_bits].dim;
        sum_pieces(at, dim, 0, pieces_of(at, key), sum);
        finish(key, at, sum);
    }
}

// ---- updates ----

// Multiplies a gradient by `factor`; whether all of the group's numbers are finite then.
template <int COUNT, int VECTORS>
__device__ __forceinline__ bool scale_row(Row<COUNT, VECTORS>& g, float factor, u32 mask) {
    bool finite = true;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            g.x[v][i] *= factor;
            finite = finite && is_finite(g.x[v][i]);
        }
    }
    return __all_sync(mask, finite);
}

// The random words of the counter that a column of a row is of.
__device__ __forceinline__ uint4 words_of(const Step* step, u64 row, u32 column) {
    uint4 counter = make_uint4(u32(row), u32(row >> 32), column / 4, u32(step->number));
    return philox(counter, make_uint2(u32(step->seed), u32(step->seed >> 32)));
}

// Rounds a vector of new weights: stochastically where the table is in half precision, with random words that
// depend on seed, step, row and column of the whole model only (src/ops/sparse_optimizer/rounding.rs).
template <typename Weight, int COUNT>
__device__ __forceinline__ void store_weights(Weight* to, i64 left, bool vectors, float (&w)[COUNT], u64 row, u32 column,
                                              const Step* step) {
    if constexpr (sizeof(Weight) == 2) {
        // Not 0 where ranks have cut columns inside a counter: then its last words come first.
        u32 shift = column % 4;
#pragma unroll
        for (int i = 0; i < COUNT; i += 4) {
            uint4 own = words_of(step, row, column + i), next = own;
            if (shift) next = words_of(step, row, column + i + 4);
            u32 random[8] = {own.x, own.y, own.z, own.w, next.x, next.y, next.z, next.w};
#pragma unroll
            for (int j = 0; j < 7; j++) random[j] = shift & 1 ? random[j + 1] : random[j];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                u32 word = shift & 2 ? random[j + 2] : random[j];
                w[i + j] = widen(round_stochastically<Weight>(w[i + j], word));
            }
        }
    }
    store_some(to, left, vectors, w);
}

// Applies the rule to one row, by one group, with the same bits in every kernel: `fmaf` stands wherever a compiler might
// round a product in one kernel and not in another. `g` is the row's gradient, finite; `whole`: the row's products
// (whole_rows.cu), or null where `g` is whole.
template <typename Weight, int COUNT, int VECTORS>
__device__ __forceinline__ void update_row(const Rule& rule, const Table& table, u64 id, const Step* step, u32 lanes,
                                           u32 mask, const double* whole, Row<COUNT, VECTORS>& g) {
    u32 dim = table.dim;
    Weight* weights = static_cast<Weight*>(table.weights) + i64(id) * table.row_stride;
    bool vectors = aligned_for<Weight, COUNT>(weights, 0);
    double clip = clip_row(rule, whole, lanes, mask, g);
    if (table.weight_decay != 0.0f) {
        for_vectors<COUNT, VECTORS>(dim, lanes, [&](int v, u32 column) {
            float w[COUNT];
            load_some(weights + column, i64(dim) - column, vectors, w);
            add_decay(table.weight_decay, w, g.x[v]);
        });
    }
    float learning_rate = step->sparse_learning_rate * table.learning_rate_scale, row_rate = learning_rate;
    if (rule.kind == 1) {
        // All lanes have read the state before one writes it.
        float state = table.first[id], squares = mean_square(g, dim, lanes, mask);
        if (whole && whole[2] == IS_MEAN_SQUARE) {
            squares = float(whole[1]);
        } else if (whole) {
            // |clip g + decay w|^2
            double decay = table.weight_decay;
            double sum = clip * clip * whole[0] + 2.0 * clip * decay * whole[1] + decay * decay * whole[2];
            squares = float(sum / double(table.columns));
        }
        state += squares;
        if (threadIdx.x % lanes == 0) table.first[id] = state;
        row_rate = learning_rate / (sqrtf(state) + rule.eps);
    }
    float* first = table.first + i64(id) * dim;
    float* second = table.second + i64(id) * dim;
    bool state_vectors = aligned_for<float, COUNT>(table.first, dim) && aligned_for<float, COUNT>(table.second, dim);
    for_vectors<COUNT, VECTORS>(dim, lanes, [&](int v, u32 column) {
        i64 left = i64(dim) - column;
        float w[COUNT], m[COUNT], s[COUNT];
        load_some(weights + column, left, vectors, w);
        if (rule.kind >= 2) load_some(first + column, left, state_vectors, m);
        if (rule.kind == 3) load_some(second + column, left, state_vectors, s);
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float x = g.x[v][i];
            if (rule.kind < 2) {
                w[i] = fmaf(-row_rate, x, w[i]);
            } else if (rule.kind == 2) {
                m[i] = fmaf(x, x, m[i]);
                // Elements behind the row's end have no state: eps may be 0.
                w[i] -= i < left ? learning_rate * x / (sqrtf(m[i]) + rule.eps) : 0.0f;
            } else {
                m[i] = fmaf(rule.beta1, m[i], (1.0f - rule.beta1) * x);
                s[i] = fmaf(rule.beta2, s[i], (1.0f - rule.beta2) * x * x);
                float root = sqrtf(s[i] * step->sparse_second_correction) + rule.eps;
                w[i] -= i < left ? learning_rate * (m[i] * step->sparse_first_correction) / root : 0.0f;
            }
        }
        if (rule.kind >= 2) store_some(first + column, left, state_vectors, m);
        if (rule.kind == 3) store_some(second + column, left, state_vectors, s);
        store_weights(weights + column, left, vectors, w, table.first_row + id, table.first_column + column, step);
    });
}

// dout: [batch, columns] of Gradient; not_finite: [1], the smallest key of a row whose gradient is not finite,
// which stays as it was. Nothing is done when step->skip is set. A group a tile.
template <typename Gradient, typename Weight>
__global__ void __launch_bounds__(UPDATE_THREADS)
    update_tiles(Lookups lookups, const Gradient* __restrict__ dout, i64 stride, Partial partial, Rule rule,
                 const Step* __restrict__ step, u64* not_finite) {
    if (step->skip) return;
    u32 lanes = lookups.lanes, groups = blockDim.x / lanes, mask = group_mask(lanes);
    u32 tiles = (lookups.len + TILE - 1) / TILE;
    for (u32 tile = blockIdx.x * groups + threadIdx.x / lanes; tile < tiles; tile += gridDim.x * groups) {
        auto finish = [&](u64 key, u32, Row<LANES<Gradient>, 1>& row) {
            if (!scale_row(row, unscale(lookups, step), mask)) {
                if (threadIdx.x % lanes == 0) atomicMin(not_finite, key);
                return;
            }
            const Table table = lookups.tables[key >> lookups.row_bits];
            update_row<Weight>(rule, table, row_of_key(key, lookups.row_bits), step, lanes, mask, nullptr, row);
        };
        sum_tile<Gradient, 1>(lookups, dout, stride, partial, tile, finish);
    }
}

template <typename Weight, int COUNT>
__global__ void __launch_bounds__(UPDATE_THREADS)
    finish_updates(Lookups lookups, Partial partial, Rule rule, const Step* __restrict__ step, u64* not_finite) {
    if (step->skip) return;
    STREAMREC_DYNAMIC_SHARED(shared);
    u32 lanes = lookups.lanes, mask = group_mask(lanes);
    auto finish = [&](u64 key, u32, Row<COUNT, 1>& row) {
        if (!scale_row(row, unscale(lookups, step), mask)) {
            if (threadIdx.x % lanes == 0) atomicMin(not_finite, key);
            return;
        }
        const Table table = lookups.tables[key >> lookups.row_bits];
        update_row<Weight>(rule, table, row_of_key(key, lookups.row_bits), step, lanes, mask, nullptr, row);
    };
    finish_pieces<COUNT, 1>(lookups, partial, reinterpret_cast<float*>(shared), finish);
}

// Keeps an unscaled gradient, and tells the step when it is not finite.
template <int COUNT, int VECTORS>
__device__ __forceinline__ void keep_row(const Lookups& lookups, const u32* row_of, float* gradients, u64 stride,
                                         Step* step, u64 key, u32 at, Row<COUNT, VECTORS>& row) {
    u32 lanes = lookups.lanes;
    if (!scale_row(row, unscale(lookups, step), group_mask(lanes)) && threadIdx.x % lanes == 0) step->overflow = 1;
    store_floats(gradients + row_of[at] * stride, lookups.tables[key >> lookups.row_bits].dim, lanes, row);
}

// row_of: [len], the index of each lookup's row; gradients: [rows, gradient_stride]; step->overflow is set where
// one is not finite. A group a tile.
template <typename Gradient, int VECTORS>
__global__ void __launch_bounds__(UPDATE_THREADS, VECTORS == 1 ? 2 : 1)
    sum_tiles(Lookups lookups, const Gradient* __restrict__ dout, i64 stride, Partial partial,
              const u32* __restrict__ row_of, float* __restrict__ gradients, u64 gradient_stride, Step* step) {
    u32 groups = blockDim.x / lookups.lanes, tiles = (lookups.len + TILE - 1) / TILE;
    for (u32 tile = blockIdx.x * groups + threadIdx.x / lookups.lanes; tile < tiles; tile += gridDim.x * groups) {
        auto finish = [&](u64 key, u32 at, Row<LANES<Gradient>, VECTORS>& row) {
            keep_row(lookups, row_of, gradients, gradient_stride, step, key, at, row);
        };
        sum_tile<Gradient, VECTORS>(lookups, dout, stride, partial, tile, finish);
    }
}

template <int COUNT, int VECTORS>
__global__ void __launch_bounds__(UPDATE_THREADS)
    finish_sums(Lookups lookups, Partial partial, const u32* __restrict__ row_of, float* __restrict__ gradients,
                u64 gradient_stride, Step* step) {
    STREAMREC_DYNAMIC_SHARED(shared);
    auto finish = [&](u64 key, u32 at, Row<COUNT, VECTORS>& row) {
        keep_row(lookups, row_of, gradients, gradient_stride, step, key, at, row);
    };
    finish_pieces<COUNT, VECTORS>(lookups, partial, reinterpret_cast<float*>(shared), finish);
}

// row_keys: [row_count], each once; gradients: [row_count, gradient_stride], unscaled; products: those of
// whole_rows.cu, or null where rows are whole. Nothing is done when step->skip is set. A group a row.
template <typename Weight, int VECTORS>
__global__ void __launch_bounds__(UPDATE_THREADS)
    update_rows(const Table* __restrict__ tables, const u64* __restrict__ row_keys, const u32* __restrict__ row_count,
                const float* __restrict__ gradients, u64 gradient_stride, const double* __restrict__ products,
                u32 row_bits, u32 lanes, Rule rule, const Step* __restrict__ step, u64* not_finite) {
    constexpr int COUNT = LANES<float>;
    if (step->skip) return;
    u32 groups = blockDim.x / lanes, mask = group_mask(lanes), rows = *row_count;
    for (u32 row = blockIdx.x * groups + threadIdx.x / lanes; row < rows; row += gridDim.x * groups) {
        u64 key = row_keys[row];
        const Table table = tables[key >> row_bits];
        Row<COUNT, VECTORS> g;
        clear(g);
        add_floats(gradients + row * gradient_stride, table.dim, lanes, g);
        if (!scale_row(g, 1.0f, mask)) {
            if (threadIdx.x % lanes == 0) atomicMin(not_finite, key);
            continue;
        }
        const double* whole = products ? products + u64(row) * 3 : nullptr;
        update_row<Weight>(rule, table, row_of_key(key, row_bits), step, lanes, mask, whole, g);
    }
}
