// Pooled lookups in embedding tables: for each lookup and sample, the (weighted) sum or mean of the
// rows of its bag, all tables in one launch. Sums are float32, rounded once. An empty bag gives zeros.
#include "streamrec.cuh"

// One feature's lookups. src/cuda/embedding_bag.rs has the same.
struct Lookup {
    const void* table;  // [rows, dim]
    i64 rows;
    i64 row_stride;  // elements
    u32 dim;
    u32 feature;  // of the batch
    u32 column;   // the first of the output
    u32 mean;     // 0: sum
};
static_assert(sizeof(Lookup) == 40, "the ABI of the host");

// Sums one bag's elements from `column` on, a vector of a row at a time, four rows in flight.
template <typename Table, int COUNT>
__device__ __forceinline__ void pool(const Lookup& lookup, const i64* __restrict__ ids,
                                     const float* __restrict__ weights, i64 begin, i64 end, u32 column, bool vectors,
                                     u64* first_bad, float (&sums)[COUNT]) {
    const Table* table = static_cast<const Table*>(lookup.table) + column;
    i64 left = i64(lookup.dim) - column;
#pragma unroll 4
    for (i64 position = begin; position < end; position++) {
        i64 id = ids[position];
        // Negative ids are huge ones.
        if (u64(id) >= u64(lookup.rows)) {
            atomicMin(first_bad, u64(position));
            continue;
        }
        float weight = weights ? weights[position] : 1.0f;
        float row[COUNT];
        load_some(table + id * lookup.row_stride, left, vectors, row);
#pragma unroll
        for (int i = 0; i < COUNT; i++) sums[i] = fmaf(weight, row[i], sums[i]);
    }
}

// lookups: [lookup_count]; ids, weights (or null): [ids]; offsets: [features * batch + 1];
// out: [batch, columns] of Out, `out_stride` elements a row.
// first_bad: the first position of an id outside its table, whose row counts as zeros; not written otherwise.
// A group of `lanes` lanes (a power of two) a bag; bags are numbered lookup by lookup.
template <typename Table, typename Out>
__global__ void __launch_bounds__(256, 4)
    embedding_bag(const Lookup* __restrict__ lookups, u32 lookup_count, const i64* __restrict__ ids,
                  const i64* __restrict__ offsets, const float* __restrict__ weights, u32 batch,
                  Out* __restrict__ out, i64 out_stride, u64* first_bad, u32 lanes) {
    constexpr int COUNT = LANES<Table>;
    u32 groups = blockDim.x / lanes, lane = threadIdx.x % lanes;
    i64 bags = i64(lookup_count) * batch;
    for (i64 bag = i64(blockIdx.x) * groups + threadIdx.x / lanes; bag < bags; bag += i64(gridDim.x) * groups) {
        const Lookup lookup = lookups[bag / batch];
        u32 sample = u32(bag % batch);
        i64 place = i64(lookup.feature) * batch + sample;
        i64 begin = offsets[place], end = offsets[place + 1];
        float scale = lookup.mean && end > begin ? 1.0f / float(end - begin) : 1.0f;
        Out* to = out + sample * out_stride + lookup.column;
        bool vectors = aligned16(static_cast<const Table*>(lookup.table), lookup.row_stride);
        bool out_vectors = aligned_for<Out, COUNT>(to, 0);
        for (u32 column = lane * COUNT; column < lookup.dim; column += lanes * COUNT) {
            float sums[COUNT] = {};
            pool<Table>(lookup, ids, weights, begin, end, column, vectors, first_bad, sums);
#pragma unroll
            for (int i = 0; i < COUNT; i++) sums[i] *= scale;
            store_some(to + column, i64(lookup.dim) - column, out_vectors, sums);
        }
    }
}
