// Switching between the stacks of emulated threads: by hand on x86-64, by ucontext elsewhere.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

// Saves the callee-saved registers and the stack pointer, and continues on another stack.
extern "C" __attribute__((visibility("hidden"))) void emulate_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulate_switch
    .globl emulate_switch
    .type emulate_switch, @function
emulate_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulate_switch, .-emulate_switch
)");

namespace emulate {

struct Stack {
    void* pointer;
};

inline void prepare(Stack& stack, char* base, size_t bytes, void (*entry)()) {
    uintptr_t top = (reinterpret_cast<uintptr_t>(base) + bytes) & ~uintptr_t{15};
    // The return address lies at a multiple of 16, so that `entry` starts as the ABI demands.
    void** slot = reinterpret_cast<void**>(top - 32);
    slot[0] = reinterpret_cast<void*>(entry);
    slot[1] = nullptr;
    for (int saved = 1; saved <= 6; saved++) slot[-saved] = nullptr;
    stack.pointer = slot - 6;
}

inline void switch_stacks(Stack& from, Stack& to) { emulate_switch(&from.pointer, to.pointer); }

}  // namespace emulate

#else

#include <ucontext.h>

namespace emulate {

struct Stack {
    ucontext_t context;
};

inline void prepare(Stack& stack, char* base, size_t bytes, void (*entry)()) {
    getcontext(&stack.context);
    stack.context.uc_stack.ss_sp = base;
    stack.context.uc_stack.ss_size = bytes;
    stack.context.uc_link = nullptr;
    makecontext(&stack.context, entry, 0);
}

inline void switch_stacks(Stack& from, Stack& to) { swapcontext(&from.context, &to.context); }

}  // namespace emulate

#endif
