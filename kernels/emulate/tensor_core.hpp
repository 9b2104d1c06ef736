// The product of a warp's tiles, laid out over its lanes as streamrec.cuh tells of `multiply_tiles`.
#pragma once

namespace emulate {

struct Tiles {
    float* c;
    const unsigned* a;
    const unsigned* b;
};

template <typename T>
static float element(unsigned word, unsigned half) {
    return widen(T{uint16_t(word >> 16 * half)});
}

// Sums in the order of the depth. A GPU's order is its own.
template <typename T>
static void resolve_tiles(Thread* lanes, unsigned mask, int line) {
    if (mask != 0xffffffffu) {
        report("a product of tiles in line %d by the lanes %08x, expected a whole warp", line, mask);
        return;
    }
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Tiles& own = *static_cast<Tiles*>(lanes[lane].operands);
        unsigned group = lane / 4, pair = lane % 4;
        for (unsigned half = 0; half < 2; half++) {
            unsigned inner = 2 * pair + half;
            for (unsigned i = 0; i < 4; i++) a[group + 8 * (i % 2)][inner + 8 * (i / 2)] = element<T>(own.a[i], half);
            for (unsigned i = 0; i < 2; i++) b[inner + 8 * i][group] = element<T>(own.b[i], half);
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Tiles& own = *static_cast<Tiles*>(lanes[lane].operands);
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            for (unsigned inner = 0; inner < 16; inner++) own.c[i] += a[row][inner] * b[inner][column];
        }
    }
}

template <typename T>
static void multiply_tiles(float* c, const unsigned* a, const unsigned* b, int line) {
    Tiles operands = {c, a, b};
    warp_operation("a product of tiles", 0xffffffffu, resolve_tiles<T>, &operands, line);
}

}  // namespace emulate
