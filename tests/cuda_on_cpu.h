// CUDA's words for a C++ compiler: a kernel runs on the CPU, each of its threads as a fiber.
//
// A fiber is a stack of its own; switching between two of them is a few instructions. The fibers of
// a block take turns: one runs until it has to wait at a barrier or for its warp, then the schedule
// picks the next. Every legal order must give the same result, so a kernel is run under several:
//
//   ROUND_ROBIN   each thread in turn
//   RANDOM        any thread that can go on
//   ONE_AHEAD     one warp runs as far as it can before any other moves; warps in random order
//
// A barrier that was left out shows under one of them: data is read before it is written (the first
// two), or overwritten before all have read it (the last). Shared memory holds NaN when a block
// starts, so that nothing may rely on what it has not written. Blocks run one after another, in
// random order under the last two schedules.
//
// What it cannot show: bank conflicts, memory fences, races within one warp between barriers.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("block_shared")))
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(cuda_on_cpu::dynamic)

extern "C" char __start_block_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_block_shared[] __attribute__((weak, visibility("hidden")));

struct Index3 { int x, y, z; };
static Index3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

enum Schedule { ROUND_ROBIN, RANDOM, ONE_AHEAD };
static Schedule schedule = ROUND_ROBIN;
static uint64_t random_state = 1;
static char* dynamic = nullptr;

static unsigned draw(unsigned below) {
  random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
  return (unsigned)(random_state >> 33) % below;
}

// --- fibers ---

#if defined(__x86_64__)
using Context = void*;
extern "C" void cuda_on_cpu_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch,.-cuda_on_cpu_switch
)");
static void go(Context& from, Context& to) { cuda_on_cpu_switch(&from, to); }
static void prepare(Context& fiber, char* stack, size_t size, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + size);
  *--top = nullptr;  // where entry would return to: it never does
  *--top = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber = top;
}
#else
using Context = ucontext_t;
static void go(Context& from, Context& to) { swapcontext(&from, &to); }
static void prepare(Context& fiber, char* stack, size_t size, void (*entry)()) {
  getcontext(&fiber);
  fiber.uc_stack.ss_sp = stack;
  fiber.uc_stack.ss_size = size;
  fiber.uc_link = nullptr;
  makecontext(&fiber, entry, 0);
}
#endif

constexpr size_t STACK = 128 * 1024;
constexpr int WARP = 32;

struct Thread {
  Context context;
  char* stack;
  bool done;
  int waits_for;      // the generation of the block's barrier that it waits to pass, or -1
  int warp_waits_for; // the same of its warp's meeting
  int meetings;       // how many meetings of its warp it has been at
};
struct Warp {
  int alive, arrived, generation;
  uint32_t words[2][WARP];  // what lanes hand to one another; two, for one may be ahead
};

static std::vector<Thread> threads;
static std::vector<Warp> warps;
static std::vector<int> warp_order;
static Context host;
static std::function<void()>* kernel;
static int current, alive, arrived, generation;

static bool ready(int i) {
  const Thread& t = threads[i];
  return !t.done && t.waits_for != generation && t.warp_waits_for != warps[i / WARP].generation;
}

static int pick() {
  const int n = (int)threads.size();
  if (schedule == ONE_AHEAD) {
    for (int w : warp_order)
      for (int i = w * WARP; i < std::min(n, (w + 1) * WARP); ++i)
        if (ready(i)) return i;
  } else {
    int i = schedule == RANDOM ? (int)draw(n) : (current + 1) % n;
    for (int tried = 0; tried < n; ++tried, i = (i + 1) % n)
      if (ready(i)) return i;
  }
  std::fprintf(stderr, "a block of this kernel waits for ever: not all threads reach a barrier\n");
  std::abort();
}

static void next() {
  const int from = current;
  current = pick();
  threadIdx.x = current;
  if (current != from) go(threads[from].context, threads[current].context);
}

static void entry() {
  (*kernel)();
  threads[current].done = true;
  Warp& warp = warps[current / WARP];
  --alive;
  if (--warp.alive > 0 && warp.arrived == warp.alive) warp.arrived = 0, ++warp.generation;
  if (alive > 0 && arrived == alive) arrived = 0, ++generation;
  if (alive == 0) go(threads[current].context, host);
  next();
}

static void run_block() {
  const int n = blockDim.x;
  warps.assign((n + WARP - 1) / WARP, Warp());
  warp_order.resize(warps.size());
  std::iota(warp_order.begin(), warp_order.end(), 0);
  for (size_t i = warp_order.size(); i > 1; --i) std::swap(warp_order[i - 1], warp_order[draw(i)]);
  alive = n, arrived = 0, generation = 0;
  for (int i = 0; i < n; ++i) {
    Thread& t = threads[i];
    t.done = false, t.waits_for = t.warp_waits_for = -1, t.meetings = 0;
    ++warps[i / WARP].alive;
    prepare(t.context, t.stack, STACK, entry);
  }
  for (char* p = __start_block_shared; p < __stop_block_shared; ++p) *p = (char)0xff;
  current = n - 1;
  current = pick();
  threadIdx.x = current;
  go(host, threads[current].context);
}

static void launch(const int* grid, int block, int dynamic_bytes, std::function<void()> body) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block, 1, 1};
  threadIdx = {0, 0, 0};
  kernel = &body;
  threads.assign(block, Thread());
  for (Thread& t : threads) t.stack = static_cast<char*>(std::aligned_alloc(64, STACK));
  std::vector<char> room(dynamic_bytes + 64);
  dynamic = room.data() + (64 - reinterpret_cast<uintptr_t>(room.data()) % 64) % 64;
  std::vector<int> blocks((size_t)grid[0] * grid[1] * grid[2]);
  std::iota(blocks.begin(), blocks.end(), 0);
  if (schedule != ROUND_ROBIN)
    for (size_t i = blocks.size(); i > 1; --i) std::swap(blocks[i - 1], blocks[draw(i)]);
  for (int b : blocks) {
    blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    std::memset(dynamic, 0xff, dynamic_bytes);
    run_block();
  }
  for (Thread& t : threads) std::free(t.stack);
}

// --- meeting within a warp ---

static void meet_in_warp() {
  Warp& warp = warps[current / WARP];
  Thread& me = threads[current];
  if (++warp.arrived == warp.alive) {
    warp.arrived = 0, ++warp.generation;
  } else {
    me.warp_waits_for = warp.generation;
    next();
  }
}

template <class T> static T swap_words(T value, int from_lane) {
  static_assert(sizeof(T) == 4, "a word of 32 bits");
  Warp& warp = warps[current / WARP];
  const int lane = current % WARP, side = threads[current].meetings++ % 2;
  std::memcpy(&warp.words[side][lane], &value, 4);
  meet_in_warp();
  T got;
  std::memcpy(&got, &warps[current / WARP].words[side][from_lane], 4);
  return got;
}

static double swap_words(double value, int from_lane) {
  uint32_t halves[2];
  std::memcpy(halves, &value, 8);
  for (uint32_t& half : halves) half = swap_words(half, from_lane);
  std::memcpy(&value, halves, 8);
  return value;
}

}  // namespace cuda_on_cpu

extern "C" void set_schedule(int which, uint64_t seed) {
  cuda_on_cpu::schedule = (cuda_on_cpu::Schedule)which;
  cuda_on_cpu::random_state = seed * 2 + 1;
}

// --- what a kernel may call ---

static void __syncthreads() {
  using namespace cuda_on_cpu;
  if (++arrived == alive) {
    arrived = 0, ++generation;
  } else {
    threads[current].waits_for = generation;
    next();
  }
}
static void __syncwarp() { cuda_on_cpu::meet_in_warp(); }

static int lane_of_this() { return cuda_on_cpu::current % cuda_on_cpu::WARP; }
template <class T> static T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_on_cpu::swap_words(value, lane_of_this() ^ mask);
}
template <class T> static T __shfl_sync(unsigned, T value, int lane) {
  return cuda_on_cpu::swap_words(value, lane & 31);
}
static unsigned __ballot_sync(unsigned, int predicate) {
  using namespace cuda_on_cpu;
  const int first = current / WARP * WARP, side = threads[current].meetings % 2;
  swap_words((uint32_t)(predicate != 0), 0);
  unsigned votes = 0;
  for (int lane = 0; lane < WARP && first + lane < (int)threads.size(); ++lane)
    votes |= warps[first / WARP].words[side][lane] << lane;
  return votes;
}
static int atomicCAS(int* place, int expected, int value) {  // one fiber runs at a time
  const int old = *place;
  if (old == expected) *place = value;
  return old;
}
static int __popc(unsigned x) { return __builtin_popcount(x); }
static int __ffs(int x) { return __builtin_ffs(x); }
using std::isfinite;
using std::max;
using std::min;
