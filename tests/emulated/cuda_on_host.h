// The few words of CUDA that csrc/cuda uses, for a host compiler: a kernel's threads are fibers, run one after another
// until each waits at a barrier, in the order of their indices or in the reverse one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <unordered_map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
// one block runs at a time, so its shared memory is static; it starts as NaN
#define CVK_SHARED(type, name, count) \
  static type name[count];            \
  emulated::fresh(name, sizeof(name))

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

namespace emulated {

struct Index {
  unsigned x;
};

}  // namespace emulated

inline emulated::Index blockIdx, threadIdx, blockDim, gridDim;

namespace emulated {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kStack = 256 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  State state = State::done;
  unsigned shuffles = 0;
  char* stack = nullptr;
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
};

struct Machine {
  Fiber fibers[kMostThreads];
  Fiber scheduler;
  const std::function<void()>* body = nullptr;
  unsigned threads = 0;
  uint64_t block = 0;  // of the process: what was shared before it is stale
  char exchange[kMostThreads / kWarp][2][kWarp][8];
  const void* scheduler_stack = nullptr;
  size_t scheduler_size = 0;
};

inline Machine machine;

// NaN in whatever a block shares, the first time that one of its threads comes by.
inline void fresh(void* memory, size_t bytes) {
  static std::unordered_map<void*, uint64_t> seen;
  uint64_t& block = seen[memory];
  if (block != machine.block) std::memset(memory, 0xff, bytes);
  block = machine.block;
}

#if defined(__x86_64__)
extern "C" void cvk_switch(void** from, void* to);
asm(R"(
.text
.weak cvk_switch
.type cvk_switch,@function
cvk_switch:
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
.size cvk_switch,.-cvk_switch
)");
#endif

inline void go(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  const bool home = &to == &machine.scheduler;
  __sanitizer_start_switch_fiber(from.state == State::done ? nullptr : &fake, home ? machine.scheduler_stack : to.stack,
                                 home ? machine.scheduler_size : kStack);
#endif
#if defined(__x86_64__)
  cvk_switch(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(fake, &bottom, &size);
  if (&from != &machine.scheduler) machine.scheduler_stack = bottom, machine.scheduler_size = size;
#endif
}

inline void yield(State state) {
  Fiber& self = machine.fibers[threadIdx.x];
  self.state = state;
  go(self, machine.scheduler);
}

inline void enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_size);
#endif
  (*machine.body)();
  yield(State::done);
  std::abort();
}

inline void start(Fiber& fiber) {
  if (!fiber.stack) fiber.stack = static_cast<char*>(std::aligned_alloc(64, kStack));
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(fiber.stack, kStack);
#endif
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(fiber.stack + kStack);
  *--top = nullptr;  // a return address that is never returned to, for the alignment of a called function
  *--top = reinterpret_cast<void*>(&enter);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack = {fiber.stack, 0, kStack};
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&enter), 0);
#endif
  fiber.state = State::ready;
  fiber.shuffles = 0;
}

// Lets those go on who wait for each other: a warp whose lanes are all there, else the block.
inline bool release(State barrier, unsigned begin, unsigned end) {
  for (unsigned t = begin; t < end; ++t) {
    if (machine.fibers[t].state != barrier) return false;
  }
  for (unsigned t = begin; t < end; ++t) machine.fibers[t].state = State::ready;
  return true;
}

inline void run_block(bool reverse) {
  const unsigned n = machine.threads;
  for (unsigned t = 0; t < n; ++t) start(machine.fibers[t]);
  for (;;) {
    for (unsigned k = 0; k < n; ++k) {
      const unsigned t = reverse ? n - 1 - k : k;
      if (machine.fibers[t].state != State::ready) continue;
      threadIdx.x = t;
      go(machine.scheduler, machine.fibers[t]);
    }
    bool moved = release(State::at_block_barrier, 0, n);
    for (unsigned t = 0; t < n; t += kWarp) moved |= release(State::at_warp_barrier, t, std::min(n, t + kWarp));
    if (moved) continue;
    const auto done = [](const Fiber& f) { return f.state == State::done; };
    if (std::all_of(machine.fibers, machine.fibers + n, done)) return;
    throw std::runtime_error("emulated: block " + std::to_string(blockIdx.x) + ": threads wait at different barriers");
  }
}

// CVK_EMULATED_ORDER=reverse: the last block and the last thread first. What differs then is a race.
inline void run(unsigned blocks, unsigned threads, const std::function<void()>& body) {
  const char* order = std::getenv("CVK_EMULATED_ORDER");
  const bool reverse = order && std::strcmp(order, "reverse") == 0;
  machine.body = &body;
  machine.threads = threads;
  machine.scheduler.state = State::ready;
  blockDim.x = threads, gridDim.x = blocks;
  for (unsigned k = 0; k < blocks; ++k) {
    blockIdx.x = reverse ? blocks - 1 - k : k;
    ++machine.block;
    run_block(reverse);
  }
}

}  // namespace emulated

inline void __syncthreads() { emulated::yield(emulated::State::at_block_barrier); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  static_assert(sizeof(T) <= 8);
  const unsigned t = threadIdx.x, lane = t % emulated::kWarp;
  // a lane is at most one exchange ahead of another, so two buffers are enough
  auto& buffer = emulated::machine.exchange[t / emulated::kWarp][emulated::machine.fibers[t].shuffles++ % 2];
  std::memcpy(buffer[lane], &value, sizeof(T));
  emulated::yield(emulated::State::at_warp_barrier);
  std::memcpy(&value, buffer[lane ^ static_cast<unsigned>(lanes)], sizeof(T));
  return value;
}
