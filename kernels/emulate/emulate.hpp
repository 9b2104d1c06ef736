// Runs CUDA C++ kernels on a CPU, for tests: blocks one after the other, the threads of a block as
// fibers that take turns at barriers and at operations of warps.
//
//   launch: for each block, in an order that `seed` chooses
//             every thread runs until it waits or ends, in an order that `seed` chooses
//             threads that wait for each other, and have all come, go on
//
// Nothing runs at the same time, so a run repeats to the bit; another seed is another order, and a
// kernel that lacks a barrier gives another result. What a GPU leaves undefined is an error here:
// barriers that some threads never reach, lanes missing from a mask, misaligned vectors, accesses
// outside of buffers (which end at guard pages), static shared memory that another block left
// behind is not cleared but dynamic shared memory is filled with NaN.
//
// A translation unit includes this file, then one .cu file, then lists its kernels in
// EMULATE_KERNELS.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "fiber.hpp"

#define STREAMREC_EMULATE 1
#define __global__ static
#define __device__ inline
#define __forceinline__
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulate {

constexpr unsigned WARP = 32;
constexpr unsigned THREADS_MAX = 1024;
constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t SHARED_BYTES_MAX = 227 << 10;

enum class Wait : uint8_t { Nothing, Block, Warp, Ended };

struct Thread;
// Does an operation of a warp for all lanes of `mask`, once all have come.
using Resolve = void (*)(Thread* lanes, unsigned mask, int line);

struct Thread {
    Stack stack;
    uint3 index;
    unsigned number;
    Wait wait;
    // What it waits for.
    const char* operation;
    int line;
    unsigned mask;
    Resolve resolve;
    void* operands;
};

struct Buffer {
    const char* name;
    uintptr_t start;
    uint64_t bytes;
};

struct Launch {
    const char* kernel;
    void (*call)(void**);
    void** arguments;
    unsigned grid[3];
    unsigned block[3];
    uint64_t seed;
    const Buffer* buffers;
    unsigned buffer_count;
    char* error;
    size_t error_bytes;
};

static Launch launch;
static Thread threads[THREADS_MAX];
static unsigned thread_count;
static Thread* current;
static uint3 block_index;
static Stack scheduler;
static bool failed;
static char* stacks;
static sigjmp_buf escape;
static unsigned dynamic_shared_bytes;
alignas(128) static char dynamic_shared[SHARED_BYTES_MAX];

// Tells what went wrong, and where. The first error stays.
static void report(const char* format, ...) {
    if (failed) return;
    failed = true;
    int written = 0;
    if (current) {
        const uint3 &b = block_index, &t = current->index;
        written = snprintf(launch.error, launch.error_bytes, "%s, block (%u, %u, %u), thread (%u, %u, %u): ",
                           launch.kernel, b.x, b.y, b.z, t.x, t.y, t.z);
    } else {
        written = snprintf(launch.error, launch.error_bytes, "%s: ", launch.kernel);
    }
    va_list list;
    va_start(list, format);
    if (written >= 0 && size_t(written) < launch.error_bytes) {
        vsnprintf(launch.error + written, launch.error_bytes - written, format, list);
    }
    va_end(list);
}

static void yield() {
    Thread* self = current;
    switch_stacks(self->stack, scheduler);
    current = self;
}

// Ends the launch from inside a kernel.
[[noreturn]] static void give_up() {
    for (;;) yield();
}

static uint64_t random_state;
static unsigned random_below(unsigned bound) {
    // SplitMix64 (https://prng.di.unimi.it/splitmix64.c).
    uint64_t z = (random_state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return unsigned((z ^ (z >> 31)) % bound);
}

// Seed 0 runs in ascending order, seed 1 in descending order, others shuffle.
static void order(unsigned* numbers, unsigned count) {
    for (unsigned i = 0; i < count; i++) numbers[i] = launch.seed == 1 ? count - 1 - i : i;
    if (launch.seed < 2) return;
    for (unsigned i = count; i > 1; i--) std::swap(numbers[i - 1], numbers[random_below(i)]);
}

static void block_barrier(int line) {
    current->wait = Wait::Block;
    current->operation = "__syncthreads";
    current->line = line;
    yield();
}

static void warp_operation(const char* operation, unsigned mask, Resolve resolve, void* operands, int line) {
    Thread* self = current;
    unsigned lane = self->number % WARP;
    Thread* lanes = &threads[self->number - lane];
    if (!(mask >> lane & 1)) {
        report("%s in line %d: lane %u is not in its own mask %08x", operation, line, lane, mask);
        give_up();
    }
    self->wait = Wait::Warp;
    self->operation = operation;
    self->line = line;
    self->mask = mask;
    self->resolve = resolve;
    self->operands = operands;
    for (unsigned other = 0; other < WARP; other++) {
        if (!(mask >> other & 1)) continue;
        if (lanes[other].number >= thread_count) {
            report("%s in line %d: mask %08x names lane %u, which the block does not have", operation, line,
                   mask, other);
            give_up();
        }
        const Thread& they = lanes[other];
        bool here = they.wait == Wait::Warp && they.line == line && they.mask == mask && they.resolve == resolve;
        if (!here) {
            yield();
            return;
        }
    }
    resolve(lanes, mask, line);
    if (failed) give_up();
    for (unsigned other = 0; other < WARP; other++) {
        if (mask >> other & 1) lanes[other].wait = Wait::Nothing;
    }
}

static void describe_waits() {
    char text[600];
    int length = 0;
    unsigned told = 0;
    const char* before = nullptr;
    int line_before = -1;
    for (unsigned i = 0; i < thread_count && told < 6; i++) {
        const Thread& thread = threads[i];
        const char* what = thread.wait == Wait::Ended ? "has ended" : thread.operation;
        int line = thread.wait == Wait::Ended ? 0 : thread.line;
        if (what == before && line == line_before) continue;
        before = what;
        line_before = line;
        told++;
        if (length >= int(sizeof text)) break;
        if (thread.wait == Wait::Ended) {
            length += snprintf(text + length, sizeof text - length, "; thread %u on has ended", i);
        } else {
            length += snprintf(text + length, sizeof text - length, "; thread %u on waits at %s in line %d", i,
                               what, line);
        }
    }
    current = nullptr;
    report("block (%u, %u, %u): threads wait for others that do not come%s", block_index.x, block_index.y,
           block_index.z, length ? text : "");
}

// Lets threads go on whose barrier all have reached; whether the block has work left.
static bool release() {
    unsigned ended = 0, at_barrier = 0;
    bool one_line = true;
    for (unsigned i = 0; i < thread_count; i++) {
        if (threads[i].wait == Wait::Nothing) return true;
        ended += threads[i].wait == Wait::Ended;
        at_barrier += threads[i].wait == Wait::Block;
        one_line &= threads[i].line == threads[0].line;
    }
    if (ended == thread_count) return false;
    if (at_barrier == thread_count && one_line) {
        for (unsigned i = 0; i < thread_count; i++) threads[i].wait = Wait::Nothing;
        return true;
    }
    describe_waits();
    return false;
}

static void thread_main() {
    launch.call(launch.arguments);
    current->wait = Wait::Ended;
    for (;;) yield();
}

static void run_block() {
    static unsigned turns[THREADS_MAX];
    memset(dynamic_shared, 0xff, dynamic_shared_bytes);
    for (unsigned i = 0; i < thread_count; i++) {
        Thread& thread = threads[i];
        thread.number = i;
        thread.index = {i % launch.block[0], i / launch.block[0] % launch.block[1],
                        i / launch.block[0] / launch.block[1]};
        thread.wait = Wait::Nothing;
        thread.line = 0;
        // A page between the stacks is never mapped. They end at different places of their pages: else all of them would
        // share a few lines of the caches.
        size_t shift = i * 9 % 64 * 64;
        prepare(thread.stack, stacks + i * STACK_BYTES + 4096, STACK_BYTES - 4096 - shift, thread_main);
    }
    for (unsigned i = thread_count; i < THREADS_MAX; i++) threads[i].number = ~0u;
    do {
        order(turns, thread_count);
        for (unsigned turn = 0; turn < thread_count && !failed; turn++) {
            Thread& thread = threads[turns[turn]];
            if (thread.wait != Wait::Nothing) continue;
            current = &thread;
            switch_stacks(scheduler, thread.stack);
            current = nullptr;
        }
    } while (!failed && release());
}

static void run_grid() {
    uint64_t blocks = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
    unsigned* turns = static_cast<unsigned*>(malloc(blocks * sizeof(unsigned)));
    order(turns, unsigned(blocks));
    for (uint64_t turn = 0; turn < blocks && !failed; turn++) {
        unsigned block = turns[turn];
        block_index = {block % launch.grid[0], block / launch.grid[0] % launch.grid[1],
                       block / launch.grid[0] / launch.grid[1]};
        run_block();
    }
    free(turns);
}

static void on_fault(int signal, siginfo_t* info, void* context) {
    uintptr_t at = reinterpret_cast<uintptr_t>(info->si_addr);
    const char* access = "accesses";
#if defined(__x86_64__) && defined(REG_ERR)
    access = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "writes" : "reads";
#else
    (void)context;
#endif
    const Buffer* nearest = nullptr;
    uintptr_t distance = ~uintptr_t{0};
    for (unsigned i = 0; i < launch.buffer_count; i++) {
        const Buffer& buffer = launch.buffers[i];
        uintptr_t end = buffer.start + buffer.bytes;
        uintptr_t away = at < buffer.start ? buffer.start - at : at >= end ? at - end : 0;
        if (away < distance) nearest = &buffer, distance = away;
    }
    if (signal == SIGFPE) {
        report("divides an integer by zero");
    } else if (nearest) {
        report("%s memory outside of its buffers, %llu bytes %s `%s` of %llu bytes", access,
               static_cast<unsigned long long>(distance), at < nearest->start ? "before" : "after the end of",
               nearest->name, static_cast<unsigned long long>(nearest->bytes));
    } else {
        report("%s memory outside of its buffers", access);
    }
    siglongjmp(escape, 1);
}

static void run_guarded() {
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
    static char handler_stack[64 << 10];
    stack_t own = {}, before = {};
    own.ss_sp = handler_stack;
    own.ss_size = sizeof handler_stack;
    sigaltstack(&own, &before);
    struct sigaction action = {}, previous[3];
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &previous[i]);
    if (!sigsetjmp(escape, 1)) run_grid();
    current = nullptr;
    for (int i = 0; i < 3; i++) sigaction(signals[i], &previous[i], nullptr);
    sigaltstack(&before, nullptr);
}

static bool acceptable() {
    uint64_t block = uint64_t{launch.block[0]} * launch.block[1] * launch.block[2];
    uint64_t grid = uint64_t{launch.grid[0]} * launch.grid[1] * launch.grid[2];
    if (block == 0 || block > THREADS_MAX) report("a block of %llu threads", static_cast<unsigned long long>(block));
    if (grid == 0 || grid >= 1ull << 31 || launch.grid[1] > 65535 || launch.grid[2] > 65535) {
        report("a grid of %u x %u x %u blocks", launch.grid[0], launch.grid[1], launch.grid[2]);
    }
    if (dynamic_shared_bytes > SHARED_BYTES_MAX) report("%u bytes of shared memory", dynamic_shared_bytes);
    thread_count = unsigned(block);
    return !failed;
}

static bool map_stacks() {
    if (stacks) return true;
    size_t bytes = THREADS_MAX * STACK_BYTES;
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    stacks = static_cast<char*>(memory);
    for (unsigned i = 0; i < THREADS_MAX; i++) mprotect(stacks + i * STACK_BYTES, 4096, PROT_NONE);
    return true;
}

template <typename... A, size_t... I>
static void call_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <typename... A>
static void call(void (*kernel)(A...), void** arguments) {
    call_with(kernel, arguments, std::index_sequence_for<A...>{});
}

struct Kernel {
    const char* name;
    void (*call)(void**);
};

}  // namespace emulate

#include "warp.hpp"
#include "tensor_core.hpp"
#include "language.hpp"

// The interface for tests. One launch at a time.
#define EMULATE_KERNELS(...)                                                                              \
    extern "C" int emulate_launch(const char* name, const unsigned* grid, const unsigned* block,          \
                                  unsigned shared_bytes, void** arguments, uint64_t seed,                 \
                                  const emulate::Buffer* buffers, unsigned buffer_count, char* error,     \
                                  size_t error_bytes) {                                                   \
        static const emulate::Kernel kernels[] = {__VA_ARGS__};                                           \
        using namespace emulate;                                                                          \
        failed = false;                                                                                   \
        current = nullptr;                                                                                \
        random_state = seed;                                                                              \
        dynamic_shared_bytes = shared_bytes;                                                              \
        launch = {name, nullptr, arguments, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},  \
                  seed, buffers, buffer_count, error, error_bytes};                                       \
        for (const Kernel& kernel : kernels) {                                                            \
            if (!strcmp(kernel.name, name)) launch.call = kernel.call;                                    \
        }                                                                                                 \
        if (!launch.call) report("no such kernel in this file");                                          \
        if (!failed && !map_stacks()) report("no memory for stacks");                                     \
        if (!failed && acceptable()) run_guarded();                                                       \
        return failed ? 1 : 0;                                                                            \
    }
