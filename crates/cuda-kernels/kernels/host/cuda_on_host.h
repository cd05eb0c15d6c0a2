// Runs CUDA C++ kernels on the CPU, so that a test needs no GPU.
//
// Each thread of a block is a fiber. It runs until it waits for others (`__syncthreads`, `__syncwarp`, a warp's
// shuffles) or returns. Then another continues, which the seed decides:
//
// - 0 and 1: the first thread that can run, in the order of the threads or the opposite one. A warp goes on until it
//   needs others, so that it is as far ahead of them as the barriers let it be. Blocks have the same order.
// - 2 and more: a random lane of a random warp, which mostly stays the same for some turns. Warps therefore pass each
//   other at any wait, also between two barriers of the block. Blocks have a random order.
//
// Results that differ between seeds show a race. Equal results do not prove that there is none:
//
// - A few seeds are a few of all orders.
// - Threads take turns only where they wait. What a thread does from one wait to the next is never interrupted: where
//   two threads add to the same number without waiting, no addition is lost here, though it can be on a GPU.
// - Blocks run one after another. A race between blocks shows only if the result depends on which of them is first.
//
// Shared memory is filled with NaN when a block begins. These are faults, which end the launch with a message: a wait
// that cannot end, a thread that returns while others wait at a barrier, a vector access that is not aligned, too much
// shared memory.
//
// Not here: inline PTX (element.cuh and mma.cuh keep it apart), votes and shuffles of a part of a warp, asynchronous
// copies, clusters, and the weak order in which a GPU's memory becomes visible.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

// The headers of the C++ library use some of these names.
#undef __noinline__

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

namespace cuda_on_host {
constexpr unsigned WARP = 32;
constexpr size_t STACK_BYTES = 128 * 1024;
// A random order leaves a warp after so many turns on average. All its lanes come to a wait in 32 turns.
constexpr unsigned TURNS = 64;
// Of a block on compute capability 8.6 and 8.9, the least of all that have tensor cores for bf16.
constexpr size_t MOST_SHARED_BYTES = 99 * 1024;
constexpr uint4 UNWRITTEN{~0u, ~0u, ~0u, ~0u};

struct Barrier {
    unsigned arrived = 0, generation = 0;
    void release() {
        arrived = 0;
        ++generation;
    }
};

struct Warp {
    struct Slot {
        uint64_t registers[4];
    };
    Barrier barrier;
    Slot slots[2][WARP];
    unsigned first = 0;  // Place of its first thread among those of the block.
    unsigned lanes = 0, live = 0;
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started = false;
    std::unique_ptr<char[]> stack;
};

struct Thread {
    uint3 index;
    unsigned lane, exchanges;
    Warp* warp;
    Fiber* fiber;
    const Barrier* waits;
    unsigned generation;
    bool done;
    bool can_run() const { return !done && (!waits || waits->generation != generation); }
};

// Random numbers, which follow from the seed of the launch and a number for what they decide.
struct Random {
    uint64_t state;
    unsigned below(unsigned count) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return unsigned(state >> 33) % count;
    }
};

inline uint64_t seed;
inline Random random_of(uint64_t stream) { return {seed * 0x9e3779b97f4a7c15ull + stream}; }
inline dim3 grid, block;
inline uint3 block_index;
inline std::vector<uint4> dynamic_shared;
inline size_t shared_vectors;  // Those of the launch; the others must not be written.
inline std::vector<std::pair<char*, size_t>> static_shared;
inline std::function<void()> kernel;
inline std::vector<Thread> threads;  // By warp; those that run first come first.
inline size_t first_live;
inline Random turns;   // For seeds from 2 on.
inline unsigned turn;  // The warp that has the turn then.
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline unsigned live;
inline Thread* self;
inline jmp_buf scheduler;
inline std::vector<std::unique_ptr<Fiber>> fibers;
inline std::vector<Fiber*> idle;
inline std::string fault;

// Ends the launch. The stacks of all threads are abandoned.
[[noreturn]] inline void fail(const std::string& message) {
    if (fault.empty())
        fault = message + " (block " + std::to_string(block_index.x) + ", " + std::to_string(block_index.y) + ", " +
                std::to_string(block_index.z) + ")";
    _longjmp(scheduler, 1);
}

inline void check_aligned(const void* pointer, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(pointer) % bytes)
        fail("an access of " + std::to_string(bytes) + " bytes is not aligned");
}

// A lane of the warp that has the turn. If none can run, or after some turns, another warp gets it.
inline Thread* random_next() {
    const unsigned count = warps.size();
    if (turns.below(TURNS) == 0) turn = turns.below(count);
    for (unsigned i = 0; i <= count; ++i) {
        if (i > 0) turn = i == 1 ? turns.below(count) : (turn + 1) % count;
        const Warp& warp = warps[turn];
        const unsigned start = turns.below(warp.lanes);
        for (unsigned lane = 0; lane < warp.lanes; ++lane) {
            Thread& thread = threads[warp.first + (start + lane) % warp.lanes];
            if (thread.can_run()) return &thread;
        }
    }
    return nullptr;
}

inline Thread* next() {
    if (seed >= 2) return random_next();
    while (first_live < threads.size() && threads[first_live].done) ++first_live;
    for (size_t i = first_live; i < threads.size(); ++i)
        if (threads[i].can_run()) return &threads[i];
    return nullptr;
}

// Saves where this thread is and continues the scheduler.
__attribute__((noinline)) inline void suspend() {
    if (!_setjmp(self->fiber->at)) _longjmp(scheduler, 1);
}

// Waits until `expected` threads are here.
inline void wait(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived >= expected) return barrier.release();
    self->waits = &barrier;
    self->generation = barrier.generation;
    suspend();
    self->waits = nullptr;
}

// Waits for the other lanes of this warp, all of which must still run.
inline void wait_for_warp() {
    Warp& warp = *self->warp;
    if (warp.live != warp.lanes) fail("lanes of a warp work together after one of them returned");
    wait(warp.barrier, warp.live);
}

inline void finish(Thread& thread) {
    thread.done = true;
    --live;
    --thread.warp->live;
    if (block_barrier.arrived > 0) fail("a thread returned while others wait at a barrier");
    if (thread.warp->barrier.arrived > 0) fail("a lane returned while others of its warp wait for it");
}

// A fiber runs one thread after another, as long as none has to wait.
inline void run_threads() {
    for (;;) {
        kernel();
        Fiber* fiber = self->fiber;
        finish(*self);
        Thread* thread = next();
        if (thread && !thread->fiber) {
            (self = thread)->fiber = fiber;
        } else {
            idle.push_back(fiber);
            suspend();
        }
    }
}

__attribute__((noinline)) inline void prepare(Fiber& fiber) {
    fiber.stack.reset(new char[STACK_BYTES]);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&fiber.start, run_threads, 0);
}

inline Fiber* idle_fiber() {
    if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>());
        prepare(*fibers.back());
        return fibers.back().get();
    }
    Fiber* last = idle.back();
    idle.pop_back();
    return last;
}

// Runs `self` until it waits or returns. `setjmp` saves no signal mask, which saves a system call for each switch.
__attribute__((noinline)) inline void resume() {
    if (_setjmp(scheduler)) return;
    Fiber* fiber = self->fiber;
    if (fiber->started) _longjmp(fiber->at, 1);
    fiber->started = true;
    setcontext(&fiber->start);
}

// An order of `count` things: their own with seed 0, the opposite with seed 1, else a random one.
inline std::vector<unsigned> order(unsigned count, uint64_t stream) {
    std::vector<unsigned> order(count);
    for (unsigned i = 0; i < count; ++i) order[i] = seed == 1 ? count - 1 - i : i;
    if (seed < 2) return order;
    Random random = random_of(stream);
    for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    return order;
}

inline void run_block(unsigned number) {
    for (auto [memory, bytes] : static_shared) std::memset(memory, 0xff, bytes);
    std::memset(dynamic_shared.data(), 0xff, dynamic_shared.size() * sizeof(uint4));
    const unsigned count = block.x * block.y * block.z, warp_count = (count + WARP - 1) / WARP;
    warps.assign(warp_count, Warp{});
    threads.clear();
    for (unsigned warp : order(warp_count, number)) {
        warps[warp].first = threads.size();
        for (unsigned lane : order(WARP, uint64_t(number) << 32 | warp)) {
            const unsigned i = warp * WARP + lane;
            if (i >= count) continue;
            ++warps[warp].lanes, ++warps[warp].live;
            const uint3 index{i % block.x, i / block.x % block.y, i / (block.x * block.y)};
            threads.push_back({index, lane, 0, &warps[warp], nullptr, nullptr, 0, false});
        }
    }
    turns = random_of(~uint64_t(number));
    turn = turns.below(warp_count);
    first_live = 0;
    block_barrier = Barrier{};
    live = count;
    while (live > 0 && fault.empty()) {
        self = next();
        if (!self) {
            fault = "threads wait for others that never come";
        } else {
            if (!self->fiber) self->fiber = idle_fiber();
            resume();
        }
    }
    for (size_t i = shared_vectors; i < dynamic_shared.size() && fault.empty(); ++i)
        if (std::memcmp(&dynamic_shared[i], &UNWRITTEN, sizeof UNWRITTEN))
            fault = "a write beyond the shared memory of the launch";
}

// Where a launch is put in place of being run, if not null: it has copies of its arguments.
inline std::function<bool()>* recorded;

inline bool launch(dim3 grid_size, dim3 block_size, size_t shared_bytes, std::function<void()> f) {
    if (recorded) {
        *recorded = [=] { return launch(grid_size, block_size, shared_bytes, f); };
        return true;
    }
    fault.clear();
    if (shared_bytes > MOST_SHARED_BYTES) fault = std::to_string(shared_bytes) + " bytes of shared memory";
    if (block_size.x * block_size.y * block_size.z > 1024 || grid_size.y > 65535 || grid_size.z > 65535)
        fault = "the grid or a block is too large";
    grid = grid_size;
    block = block_size;
    kernel = std::move(f);
    shared_vectors = (shared_bytes + sizeof(uint4) - 1) / sizeof(uint4);
    dynamic_shared.assign(shared_vectors + 256, uint4{});
    for (unsigned number : order(grid.x * grid.y * grid.z, 1)) {
        if (!fault.empty()) break;
        block_index = {number % grid.x, number / grid.x % grid.y, number / (grid.x * grid.y)};
        run_block(number);
    }
    if (!fault.empty()) {
        // Threads that did not finish hold their fibers for ever.
        idle.clear();
        fibers.clear();
    }
    return fault.empty();
}

// A block's shared array, `T` a struct of it. It is filled with NaN like all shared memory, also when its first thread
// comes to it. Its address has the alignment of the declaration and no larger one, so that an access that needs more is
// found.
template <class T> struct SharedArray {
    alignas(2 * alignof(T)) char bytes[alignof(T) + sizeof(T)];
    SharedArray() {
        std::memset(bytes, 0xff, sizeof bytes);
        static_shared.push_back({bytes, sizeof bytes});
    }
    T& array() { return *reinterpret_cast<T*>(bytes + alignof(T)); }
};

// What the lanes of a warp give each other; all of them take part.
template <class T> struct Exchange {
    const Warp::Slot* slots;
    T of(unsigned lane) const {
        T value;
        std::memcpy(&value, &slots[lane % WARP], sizeof value);
        return value;
    }
};
template <class T> Exchange<T> exchange(const T& value) {
    static_assert(sizeof(T) <= sizeof(Warp::Slot), "a few registers");
    Warp::Slot* slots = self->warp->slots[self->exchanges++ % 2];
    std::memcpy(&slots[self->lane], &value, sizeof value);
    wait_for_warp();
    return {slots};
}

// Kernels by name, called as `cuLaunchKernel` calls them: with a pointer to each argument.
using Call = bool (*)(dim3, dim3, size_t, void**);
inline std::map<std::string, Call>& kernels() {
    static std::map<std::string, Call> map;
    return map;
}
struct Register {
    Register(const char* name, Call call) { kernels()[name] = call; }
};
template <class A> bool call(void (*f)(A), dim3 g, dim3 b, size_t bytes, void** arguments) {
    const A argument = *static_cast<A*>(arguments[0]);
    return launch(g, b, bytes, [=] { f(argument); });
}
}  // namespace cuda_on_host

#define HOST_KERNEL(name)                          \
    static cuda_on_host::Register register_##name( \
        #name, [](dim3 g, dim3 b, size_t n, void** p) { return cuda_on_host::call(name, g, b, n, p); });

// Runs a kernel. 0: it ran. 1: there is no such kernel. 2: a fault, which `cuda_on_host_fault` describes.
extern "C" inline __attribute__((used, visibility("default"))) int cuda_on_host_launch(
    const char* name, const unsigned* g, const unsigned* b, unsigned shared_bytes, unsigned seed, void** arguments) {
    auto found = cuda_on_host::kernels().find(name);
    if (found == cuda_on_host::kernels().end()) return 1;
    cuda_on_host::seed = seed;
    return found->second({g[0], g[1], g[2]}, {b[0], b[1], b[2]}, shared_bytes, arguments) ? 0 : 2;
}
// The launch of a kernel, to be run later, as often as wanted. The results are those of `cuda_on_host_launch`.
extern "C" inline __attribute__((used, visibility("default"))) int cuda_on_host_record(
    const char* name, const unsigned* g, const unsigned* b, unsigned shared_bytes, void** arguments,
    std::function<bool()>* launch) {
    cuda_on_host::recorded = launch;
    const int code = cuda_on_host_launch(name, g, b, shared_bytes, 0, arguments);
    cuda_on_host::recorded = nullptr;
    return code;
}
extern "C" inline __attribute__((used, visibility("default"))) const char* cuda_on_host_fault() {
    return cuda_on_host::fault.c_str();
}

#define threadIdx (cuda_on_host::self->index)
#define blockIdx (cuda_on_host::block_index)
#define blockDim (cuda_on_host::block)
#define gridDim (cuda_on_host::grid)

inline void __syncthreads() {
    using namespace cuda_on_host;
    if (live != block.x * block.y * block.z) fail("a thread waits at a barrier after another returned");
    wait(block_barrier, live);
}
inline void __syncwarp() { cuda_on_host::wait_for_warp(); }
template <class T> T __shfl_sync(unsigned, T value, unsigned lane) {
    static_assert(std::is_arithmetic_v<T>, "a number, as in CUDA");
    return cuda_on_host::exchange(value).of(lane);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, unsigned bits) {
    return __shfl_sync(mask, value, cuda_on_host::self->lane ^ bits);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
using std::max;
using std::min;
