// A CUDA device in one process: every thread of a block is a fiber, blocks run one after another.
//
// Fibers switch only where CUDA threads meet (shuffles, matrix products, barriers), in an order drawn from a seed, so a
// missing barrier shows as a result that depends on the seed. Built with -fsanitize=thread, every fiber is a thread of
// its own to the sanitizer and only barriers order them, so that a race on shared memory is reported whatever the
// order. Built with -fsanitize=address, accesses outside the exactly sized buffers are.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <ucontext.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
constexpr unsigned NO_ORDER = 1; // __tsan_switch_to_fiber_no_sync
#define UNSEEN __attribute__((no_sanitize_thread, noinline))
#define RELEASE(address) __tsan_release(address)
#define ACQUIRE(address) __tsan_acquire(address)
#else
#define UNSEEN
#define RELEASE(address) static_cast<void>(address)
#define ACQUIRE(address) static_cast<void>(address)
#endif

#define __device__
#define __global__
#define __forceinline__ inline
#define SHARED_BYTES(name) unsigned char* name = emulation::shared_bytes

namespace emulation {

struct Dim {
    unsigned x = 0, y = 0, z = 0;
};

enum class Wait { nothing, warp, block, over };

constexpr size_t STACK_BYTES = 1 << 16;

struct Fiber {
    ucontext_t context;
    unsigned char* stack = nullptr;
    Wait wait = Wait::nothing;
    void* fake_stack = nullptr;
    void* tsan = nullptr;
    // What a lane brings to a warp-wide operation, and what it takes away.
    const char* operation = nullptr;
    uint32_t sent[10] = {}, received[4] = {};
    int argument = 0;
};

inline Fiber* fibers = nullptr;
inline unsigned current = 0;
inline ucontext_t scheduler;
inline void *scheduler_fake = nullptr, *scheduler_tsan = nullptr;
inline const void* scheduler_bottom = nullptr;
inline size_t scheduler_size = 0;
inline unsigned char* shared_bytes = nullptr;
inline std::function<void()> body;
// Addresses that stand for the order between threads: of each warp, of the block, and of its begin and end.
inline char warp_order[32], block_order, begin_order, end_order;

[[noreturn]] inline void fail(const char* reason) {
    std::fprintf(stderr, "emulation: %s\n", reason);
    std::exit(3);
}

UNSEEN inline void to_scheduler() {
    Fiber& self = fibers[current];
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(
        self.wait == Wait::over ? nullptr : &self.fake_stack, scheduler_bottom, scheduler_size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(scheduler_tsan, NO_ORDER);
#endif
    swapcontext(&self.context, &scheduler);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self.fake_stack, &scheduler_bottom, &scheduler_size);
#endif
}

// Arrive at a meeting of the warp or block and leave when all are there.
UNSEEN inline void meet(Wait wait) {
    const unsigned self = current;
    char* order = wait == Wait::block ? &block_order : warp_order + self / 32;
    RELEASE(order);
    fibers[self].wait = wait;
    to_scheduler();
    ACQUIRE(order);
}

UNSEEN inline void start() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
    ACQUIRE(&begin_order);
    body();
    RELEASE(&end_order);
    fibers[current].wait = Wait::over;
    to_scheduler();
}

UNSEEN inline void run(unsigned index) {
    current = index;
    Fiber& fiber = fibers[index];
    fiber.wait = Wait::nothing;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&scheduler_fake, fiber.stack, STACK_BYTES);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(fiber.tsan, NO_ORDER);
#endif
    swapcontext(&scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

// Rows of A and columns of B of mma.m16n8k32 with signed bytes, as the PTX manual lays them out over the lanes.
UNSEEN inline void multiply_warp(Fiber* lanes) {
    int a[16][32], b[32][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, quad = lane % 4;
        for (int i = 0; i < 16; ++i) {
            const int row = group + 8 * ((i / 4) % 2), column = quad * 4 + i % 4 + 16 * (i / 8);
            a[row][column] = static_cast<int8_t>(lanes[lane].sent[i / 4] >> (8 * (i % 4)));
        }
        for (int i = 0; i < 8; ++i) {
            b[quad * 4 + i % 4 + 16 * (i / 4)][group] = static_cast<int8_t>(lanes[lane].sent[4 + i / 4] >> (8 * (i % 4)));
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + 8 * (i / 2), column = (lane % 4) * 2 + i % 2;
            uint32_t sum = lanes[lane].sent[6 + i];
            for (int k = 0; k < 32; ++k) sum += static_cast<uint32_t>(a[row][k] * b[k][column]);
            lanes[lane].received[i] = sum;
        }
    }
}

UNSEEN inline void exchange_warp(Fiber* lanes) {
    for (int lane = 1; lane < 32; ++lane) {
        if (lanes[lane].operation != lanes[0].operation || lanes[lane].argument != lanes[0].argument) {
            fail("the lanes of a warp met at different operations");
        }
    }
    if (lanes[0].operation[0] == 'm') {
        multiply_warp(lanes);
    } else {
        for (int lane = 0; lane < 32; ++lane) lanes[lane].received[0] = lanes[lane ^ lanes[0].argument].sent[0];
    }
}

UNSEEN inline void prepare(unsigned threads) {
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        fiber.wait = Wait::nothing;
        fiber.fake_stack = nullptr;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK_BYTES;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, start, 0);
#if defined(__SANITIZE_THREAD__)
        fiber.tsan = __tsan_create_fiber(0);
#endif
    }
}

// Let every thread that can run go to its next meeting, and open the meetings that are complete.
UNSEEN inline bool round_is_last(const unsigned* order, unsigned threads) {
    bool ran = false;
    for (unsigned i = 0; i < threads; ++i) {
        if (fibers[order[i]].wait == Wait::nothing) {
            run(order[i]);
            ran = true;
        }
    }
    unsigned over = 0, blocked = 0;
    for (unsigned first = 0; first < threads; first += 32) {
        unsigned waiting = 0;
        for (unsigned i = first; i < first + 32; ++i) {
            waiting += fibers[i].wait == Wait::warp;
            blocked += fibers[i].wait == Wait::block;
            over += fibers[i].wait == Wait::over;
        }
        if (waiting == 32) {
            exchange_warp(fibers + first);
            for (unsigned i = first; i < first + 32; ++i) fibers[i].wait = Wait::nothing;
            ran = true;
        }
    }
    if (blocked == threads) {
        for (unsigned i = 0; i < threads; ++i) fibers[i].wait = Wait::nothing;
    } else if (!ran && over != threads) {
        fail("some threads wait at a barrier that the others never reach");
    }
    return over == threads;
}

// Run one block of `threads` with `bytes` of shared memory, the fibers in an order drawn from `random`.
inline void run_block(unsigned threads, size_t bytes, std::mt19937& random) {
    // Not zero: a block must not rely on what it finds.
    shared_bytes = static_cast<unsigned char*>(std::malloc(bytes));
    std::memset(shared_bytes, 0xcd, bytes);
    prepare(threads);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; ++i) order[i] = i;
#if defined(__SANITIZE_THREAD__)
    scheduler_tsan = __tsan_get_current_fiber();
#endif
    RELEASE(&begin_order);
    do {
        for (unsigned i = threads - 1; i > 0; --i) std::swap(order[i], order[random() % (i + 1)]);
    } while (!round_is_last(order.data(), threads));
    ACQUIRE(&end_order);
#if defined(__SANITIZE_THREAD__)
    for (unsigned i = 0; i < threads; ++i) __tsan_destroy_fiber(fibers[i].tsan);
#endif
    std::free(shared_bytes);
}

} // namespace emulation

// Only x is used, and set before the fibers of a block start, but for threadIdx.
inline emulation::Dim blockIdx, blockDim;
struct ThreadIndex {
    struct {
        operator unsigned() const { return emulation::current; }
    } x;
};
inline ThreadIndex threadIdx;

inline void __syncthreads() { emulation::meet(emulation::Wait::block); }

inline uint32_t __shfl_xor_sync(uint32_t mask, uint32_t value, int lanes) {
    if (mask != 0xffffffffu) emulation::fail("a shuffle of part of a warp");
    emulation::Fiber& self = emulation::fibers[emulation::current];
    self.operation = "shuffle";
    self.argument = lanes;
    self.sent[0] = value;
    emulation::meet(emulation::Wait::warp);
    return self.received[0];
}

template <typename T>
inline T bits_as(const void* bits) {
    T value;
    std::memcpy(&value, bits, sizeof(value));
    return value;
}

inline float __uint_as_float(uint32_t bits) { return bits_as<float>(&bits); }
inline uint32_t __float_as_uint(float value) { return bits_as<uint32_t>(&value); }
inline int __float2int_rn(float value) {
    // As the device: out of range saturates, NaN is 0.
    if (std::isnan(value)) return 0;
    if (value >= 2147483648.0f) return INT32_MAX;
    if (value <= -2147483648.0f) return INT32_MIN;
    return static_cast<int>(std::nearbyint(value));
}

// Fibers switch only at meetings, so these are atomic; to the thread sanitizer they must look so too.
template <typename T>
inline T atomicAdd(T* address, T value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicMax(T* address, T value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(address, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

inline float half_to_float(unsigned short bits) { return static_cast<float>(bits_as<_Float16>(&bits)); }
inline unsigned short float_to_half(float value) {
    const _Float16 rounded = static_cast<_Float16>(value);
    return bits_as<unsigned short>(&rounded);
}
inline unsigned short float_to_bfloat(float value) {
    const uint32_t bits = __float_as_uint(value);
    if (std::isnan(value)) return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
