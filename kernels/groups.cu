// The lookups of a batch, grouped by row: numbered, sorted (radix_sort.cu), and each touched row listed once.
//
// A lookup's key is its table and row, `table << row_bits | row`; tables are numbered from 0. Lookups that
// count for nothing (ids outside their table, places behind the last lookup) have the key
// `tables << row_bits`, above all others.
#include "table_rows.cuh"

constexpr u32 GROUP_THREADS = 256, GROUP_ITEMS = 8, GROUP_TILE = GROUP_THREADS * GROUP_ITEMS;

// ids: [capacity], of which offsets [features * batch + 1] tell the bags; sources: [features];
// keys, positions, bags: [capacity], of each lookup the key, its place in `ids`, its bag;
// list_lengths: [2], set to zero for sparse_optimizer.cu; first_bad: [1], as embedding_bag.cu has it.
// 4 lanes a bag.
__global__ void __launch_bounds__(GROUP_THREADS)
    number_lookups(const i64* __restrict__ ids, const i64* __restrict__ offsets, const Source* __restrict__ sources,
                   u32 features, u32 batch, u32 row_bits, u64 nothing, u32 capacity, u64* __restrict__ keys,
                   u32* __restrict__ positions, u32* __restrict__ bags, u32* __restrict__ list_lengths,
                   u64* first_bad) {
    constexpr u32 BAG_LANES = 4;
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    if (thread < 2) list_lengths[thread] = 0;
    u32 bag_count = features * batch;
    for (u32 bag = thread / BAG_LANES; bag < bag_count; bag += threads / BAG_LANES) {
        const Source source = sources[bag / batch];
        i64 end = offsets[bag + 1];
        for (i64 at = offsets[bag] + thread % BAG_LANES; at < end; at += BAG_LANES) {
            i64 id = ids[at];
            bool good = u64(id) < u64(source.rows);
            if (!good) atomicMin(first_bad, u64(at));
            keys[at] = good ? u64(source.table) << row_bits | u64(id) : nothing;
            positions[at] = u32(at);
            bags[at] = bag;
        }
    }
    i64 begin = offsets[0], end = offsets[bag_count];
    for (i64 at = thread; at < capacity; at += threads) {
        if (at >= begin && at < end) continue;
        keys[at] = nothing;
        positions[at] = u32(at);
        bags[at] = 0;
    }
}

// Whether a touched row's lookups begin at `at` in sorted keys.
__device__ __forceinline__ bool begins(const u64* keys, u32 at, u32 len, u64 nothing) {
    return at < len && keys[at] != nothing && (at == 0 || keys[at] != keys[at - 1]);
}

// keys: [len], sorted; counts: [tiles], rows that begin in each tile of 2,048.
__global__ void __launch_bounds__(GROUP_THREADS)
    count_rows(const u64* __restrict__ keys, u32 len, u64 nothing, u32* __restrict__ counts) {
    __shared__ u32 partial[GROUP_THREADS / WARP_LANES];
    u32 count = 0;
    for (u32 item = 0; item < GROUP_ITEMS; item++) {
        count += begins(keys, blockIdx.x * GROUP_TILE + item * GROUP_THREADS + threadIdx.x, len, nothing);
    }
    count = block_sum(count, partial);
    if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// counts: [tiles], summed by `scan_rows` of radix_sort.cu; row_keys: [rows], the touched rows in ascending order;
// row_of: [len], each lookup's index in `row_keys`, not written for those that count for nothing.
__global__ void __launch_bounds__(GROUP_THREADS)
    list_rows(const u64* __restrict__ keys, u32 len, u64 nothing, const u32* __restrict__ counts,
              u64* __restrict__ row_keys, u32* __restrict__ row_of) {
    __shared__ u32 partial[GROUP_THREADS / WARP_LANES];
    u32 before = counts[blockIdx.x];
    for (u32 item = 0; item < GROUP_ITEMS; item++) {
        u32 at = blockIdx.x * GROUP_TILE + item * GROUP_THREADS + threadIdx.x, total;
        u32 begin = begins(keys, at, len, nothing);
        // The row that `at` belongs to began at `at` or before it.
        u32 row = before + block_exclusive_sum(begin, partial, total) + begin;
        if (at < len && keys[at] != nothing) {
            row_of[at] = row - 1;
            if (begin) row_keys[row - 1] = keys[at];
        }
        before += total;
    }
}

// Lets the list of touched rows, keys [capacity] of which `count` are in use, end in keys that count for nothing, so that
// lists of several ranks can lie behind each other.
__global__ void __launch_bounds__(GROUP_THREADS)
    end_rows(u64* __restrict__ keys, const u32* __restrict__ count, u32 capacity, u64 nothing) {
    u32 threads = gridDim.x * blockDim.x;
    for (u32 at = *count + blockIdx.x * blockDim.x + threadIdx.x; at < capacity; at += threads) keys[at] = nothing;
}

// Numbers the rows of all ranks' lists, which then are sorted and summed as lookups are, each a bag of its own:
// positions, bags [len]; list_lengths: as number_lookups has it.
__global__ void __launch_bounds__(GROUP_THREADS)
    number_rows(u32 len, u32* __restrict__ positions, u32* __restrict__ bags, u32* __restrict__ list_lengths) {
    u32 thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
    if (thread < 2) list_lengths[thread] = 0;
    for (u32 at = thread; at < len; at += threads) positions[at] = at, bags[at] = at;
}

// Puts listed rows to the places that their keys tell: row_keys [row_count], gradients [row_count, stride],
// first_rows [tables]; out [.., stride], of which row first_rows[table] + row is written. 4 numbers a thread.
__global__ void __launch_bounds__(GROUP_THREADS)
    place_rows(const u64* __restrict__ row_keys, const u32* __restrict__ row_count, const float* __restrict__ gradients,
               u32 stride, u32 row_bits, const u32* __restrict__ first_rows, float* __restrict__ out) {
    u32 vectors = stride / 4, threads = gridDim.x * blockDim.x;
    u64 work = u64(*row_count) * vectors;
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < work; at += threads) {
        u64 key = row_keys[at / vectors];
        u64 row = first_rows[key >> row_bits] + (key & ((u64(1) << row_bits) - 1));
        float values[4];
        load_vector(gradients + at * 4, values);
        store_vector(out + row * stride + at % vectors * 4, values);
    }
}

// Lists the rows that ranks ask for as bags of at most one id, those of each rank by themselves: ids, offsets [features *
// ranks * rows + 1], sources [features], tables; dout [ranks * rows, columns], still scaled. Each rank has `lists` lists
// [features * rows], one behind the other, of which number `list` is written: keys, which count for nothing where a bag is
// empty, and gradients [.., stride], unscaled; step->overflow is set where one is not finite. `lanes` lanes a bag.
__global__ void __launch_bounds__(GROUP_THREADS)
    list_asked(const i64* __restrict__ ids, const i64* __restrict__ offsets, const Source* __restrict__ sources,
               const Table* __restrict__ tables, u32 features, u32 ranks, u32 rows, u32 row_bits, u64 nothing,
               const float* __restrict__ dout, i64 dout_stride, u32 lists, u32 list, u64* __restrict__ keys,
               float* __restrict__ gradients, u64 stride, u32 lanes, Step* step) {
    u32 groups = blockDim.x / lanes, lane = threadIdx.x % lanes, bags = features * ranks * rows;
    float factor = step->inverse_scale;
    for (u32 bag = blockIdx.x * groups + threadIdx.x / lanes; bag < bags; bag += gridDim.x * groups) {
        u32 feature = bag / (ranks * rows), sample = bag % (ranks * rows);
        u64 to = (u64(sample / rows) * lists + list) * features * rows + feature * rows + sample % rows;
        const Source source = sources[feature];
        i64 at = offsets[bag];
        bool asked = at < offsets[bag + 1] && u64(ids[at]) < u64(source.rows);
        if (lane == 0) keys[to] = asked ? u64(source.table) << row_bits | u64(ids[at]) : nothing;
        if (!asked) continue;
        const float* from = dout + i64(sample) * dout_stride + source.column;
        for (u32 column = lane; column < tables[source.table].dim; column += lanes) {
            float g = from[column] * factor;
            if (!is_finite(g)) step->overflow = 1;
            gradients[to * stride + column] = g;
        }
    }
}
