// A stable radix sort of (key, value) pairs, 8 bits a pass, for the lookups of a batch. Deterministic:
// pairs with equal keys keep their order. One pass over `len` pairs, in tiles of 2,048:
//   radix_count    how often each digit comes in each tile     counts [256, tiles]
//   scan_rows      exclusive sums along each row of counts     totals [256]
//   radix_scatter  each pair to its place
#include "streamrec.cuh"

constexpr u32 SORT_THREADS = 256, SORT_WARPS = SORT_THREADS / WARP_LANES, SORT_ITEMS = 8;
constexpr u32 SORT_TILE = SORT_THREADS * SORT_ITEMS, DIGITS = 256;

// The digit of a pass, or DIGITS behind the end.
__device__ __forceinline__ u32 digit_of(u64 key, u32 shift, bool inside) {
    return inside ? u32(key >> shift) & (DIGITS - 1) : DIGITS;
}

// keys: [len]; counts: [256, tiles]. A block a tile.
__global__ void __launch_bounds__(SORT_THREADS)
    radix_count(const u64* __restrict__ keys, u32 len, u32 shift, u32* __restrict__ counts, u32 tiles) {
    __shared__ u32 histogram[DIGITS];
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (u32 item = 0; item < SORT_ITEMS; item++) {
        u32 at = blockIdx.x * SORT_TILE + item * SORT_THREADS + threadIdx.x;
        if (at < len) atomicAdd(&histogram[digit_of(keys[at], shift, true)], 1u);
    }
    __syncthreads();
    counts[u64(threadIdx.x) * tiles + blockIdx.x] = histogram[threadIdx.x];
}

// rows: [blocks, columns], each row replaced by the sums of what stands before; totals: [blocks]. A block a row, of as many
// threads as it has columns, up to 256.
__global__ void __launch_bounds__(SORT_THREADS) scan_rows(u32* __restrict__ rows, u32 columns, u32* __restrict__ totals) {
    __shared__ u32 partial[SORT_WARPS];
    u32* row = rows + u64(blockIdx.x) * columns;
    u32 before = 0;
    for (u32 first = 0; first < columns; first += blockDim.x) {
        u32 at = first + threadIdx.x, total;
        u32 own = at < columns ? row[at] : 0;
        u32 sum = block_exclusive_sum(own, partial, total);
        if (at < columns) row[at] = before + sum;
        before += total;
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = before;
}

// keys, values: [len]; offsets: [256, tiles] and totals: [256] as `scan_rows` leaves them; keys_out,
// values_out: [len]. A block a tile; a warp takes 256 pairs in a row, 32 at a time.
__global__ void __launch_bounds__(SORT_THREADS)
    radix_scatter(const u64* __restrict__ keys, const u32* __restrict__ values, u32 len, u32 shift,
                  const u32* __restrict__ offsets, const u32* __restrict__ totals, u32 tiles,
                  u64* __restrict__ keys_out, u32* __restrict__ values_out) {
    // First how often a digit came in a warp so far, then where its pairs go. One more for the pairs behind the end.
    __shared__ u32 places[SORT_WARPS][DIGITS + 1];
    __shared__ u32 partial[SORT_WARPS];
    u32 warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
    for (u32 digit = lane; digit <= DIGITS; digit += WARP_LANES) places[warp][digit] = 0;
    __syncwarp();
    u32 first = blockIdx.x * SORT_TILE + warp * WARP_LANES * SORT_ITEMS + lane;
    u64 own_keys[SORT_ITEMS];
    u32 ranks[SORT_ITEMS];
#pragma unroll
    for (u32 item = 0; item < SORT_ITEMS; item++) {
        u32 at = first + item * WARP_LANES;
        own_keys[item] = at < len ? keys[at] : 0;
        u32 digit = digit_of(own_keys[item], shift, at < len);
        u32 equal = __match_any_sync(0xffffffffu, digit);
        u32 before = places[warp][digit];
        ranks[item] = before + u32(__popc(equal & ((1u << lane) - 1)));
        __syncwarp();
        // The lowest lane of those with one digit counts for all.
        if ((equal & ((1u << lane) - 1)) == 0) places[warp][digit] = before + u32(__popc(equal));
        __syncwarp();
    }
    u32 total, place = block_exclusive_sum(totals[threadIdx.x], partial, total);
    place += offsets[u64(threadIdx.x) * tiles + blockIdx.x];
    for (u32 other = 0; other < SORT_WARPS; other++) {
        u32 count = places[other][threadIdx.x];
        places[other][threadIdx.x] = place;
        place += count;
    }
    __syncthreads();
#pragma unroll
    for (u32 item = 0; item < SORT_ITEMS; item++) {
        u32 at = first + item * WARP_LANES;
        if (at >= len) continue;
        u32 to = places[warp][digit_of(own_keys[item], shift, true)] + ranks[item];
        keys_out[to] = own_keys[item];
        values_out[to] = values[at];
    }
}
