// Operations that the lanes of a warp do together: shuffles, votes, matches.
//
// Each lane brings its operands on its own stack; the last one to come does the work for all.
#pragma once

namespace emulate {

enum class From { Index, Up, Down, Xor };

struct Shuffle {
    uint64_t value;
    unsigned argument;
    unsigned width;
};

template <From FROM>
static void resolve_shuffle(Thread* lanes, unsigned mask, int line) {
    uint64_t results[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(mask >> lane & 1)) continue;
        const Shuffle& own = *static_cast<Shuffle*>(lanes[lane].operands);
        unsigned first = lane / own.width * own.width;
        unsigned last = first + own.width - 1;
        unsigned source = lane;
        if (FROM == From::Index) source = first + own.argument % own.width;
        if (FROM == From::Up) source = lane < first + own.argument ? lane : lane - own.argument;
        if (FROM == From::Down) source = lane + own.argument > last ? lane : lane + own.argument;
        if (FROM == From::Xor) source = (lane ^ own.argument) > last ? lane : lane ^ own.argument;
        if (!(mask >> source & 1)) {
            report("shuffle in line %d: lane %u reads lane %u, which is not in the mask %08x", line, lane, source,
                   mask);
            return;
        }
        results[lane] = static_cast<Shuffle*>(lanes[source].operands)->value;
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) static_cast<Shuffle*>(lanes[lane].operands)->value = results[lane];
    }
}

template <From FROM, typename T>
static T shuffle(const char* operation, int line, unsigned mask, T value, unsigned argument, unsigned width = WARP) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 32 or 64 bits");
    if (width == 0 || width > WARP || (width & (width - 1))) {
        report("%s in line %d: a width of %u", operation, line, width);
        give_up();
    }
    Shuffle operands = {0, argument, width};
    memcpy(&operands.value, &value, sizeof value);
    warp_operation(operation, mask, resolve_shuffle<FROM>, &operands, line);
    memcpy(&value, &operands.value, sizeof value);
    return value;
}

// Each lane's result: the lanes of the mask whose value is not zero.
static void resolve_ballot(Thread* lanes, unsigned mask, int) {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if ((mask >> lane & 1) && *static_cast<uint64_t*>(lanes[lane].operands)) votes |= 1u << lane;
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) *static_cast<uint64_t*>(lanes[lane].operands) = votes;
    }
}

static unsigned ballot(const char* operation, int line, unsigned mask, int predicate) {
    uint64_t value = predicate != 0;
    warp_operation(operation, mask, resolve_ballot, &value, line);
    return unsigned(value);
}

// Each lane's result: the lanes of the mask that brought the same value.
static void resolve_match(Thread* lanes, unsigned mask, int) {
    unsigned results[WARP] = {};
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned other = 0; other < WARP; other++) {
            if (!(mask >> lane & 1) || !(mask >> other & 1)) continue;
            bool same = *static_cast<uint64_t*>(lanes[lane].operands) == *static_cast<uint64_t*>(lanes[other].operands);
            results[lane] |= unsigned(same) << other;
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1) *static_cast<uint64_t*>(lanes[lane].operands) = results[lane];
    }
}

template <typename T>
static unsigned match_any(int line, unsigned mask, T given) {
    uint64_t value = 0;
    memcpy(&value, &given, sizeof given);
    warp_operation("__match_any_sync", mask, resolve_match, &value, line);
    return unsigned(value);
}

static void resolve_nothing(Thread*, unsigned, int) {}

}  // namespace emulate

#define __shfl_sync(...) emulate_shfl(Index, "__shfl_sync", __VA_ARGS__)
#define __shfl_up_sync(...) emulate_shfl(Up, "__shfl_up_sync", __VA_ARGS__)
#define __shfl_down_sync(...) emulate_shfl(Down, "__shfl_down_sync", __VA_ARGS__)
#define __shfl_xor_sync(...) emulate_shfl(Xor, "__shfl_xor_sync", __VA_ARGS__)
#define emulate_shfl(from, operation, ...) \
    emulate::shuffle<emulate::From::from>(operation, __LINE__, __VA_ARGS__)
#define __ballot_sync(mask, predicate) emulate::ballot("__ballot_sync", __LINE__, mask, predicate)
#define __any_sync(mask, predicate) (emulate::ballot("__any_sync", __LINE__, mask, predicate) != 0)
#define __all_sync(mask, predicate) (emulate::ballot("__all_sync", __LINE__, mask, predicate) == (mask))
#define __match_any_sync(mask, value) emulate::match_any(__LINE__, mask, value)
#define __syncwarp() emulate_syncwarp(__LINE__, 0xffffffffu)

static void emulate_syncwarp(int line, unsigned mask) {
    emulate::warp_operation("__syncwarp", mask, emulate::resolve_nothing, nullptr, line);
}
