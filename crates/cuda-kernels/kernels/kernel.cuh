// The beginning of every kernel: how a kernel is declared, and shared memory, for nvcc and for the emulation on the
// CPU.
//
// A kernel has one argument, a struct that Rust fills in (src/): no order of arguments can be mistaken.
#pragma once

// How a shared array is declared. Kernels access it 16 bytes at a time and with ldmatrix, for which the alignment of
// its elements is too small.
#define ALIGNED_ARRAY(type, name, ...) __align__(16) type name[__VA_ARGS__]

#ifdef __CUDACC__
#include <cstdint>
#define HOST_KERNEL(name)
// A shared array of a block.
#define SHARED(type, name, ...) __shared__ ALIGNED_ARRAY(type, name, __VA_ARGS__)
// Shared memory whose size the launch gives.
#define DYNAMIC_SHARED(name)                 \
    extern __shared__ uint4 launch_shared[]; \
    char* name = reinterpret_cast<char*>(launch_shared)
#define CHECK_ALIGNED(pointer, bytes)
#else
#include "host/cuda_on_host.h"
#define SHARED(type, name, ...)                                   \
    struct name##_array {                                         \
        ALIGNED_ARRAY(type, values, __VA_ARGS__);                 \
    };                                                            \
    static cuda_on_host::SharedArray<name##_array> name##_memory; \
    auto& name = name##_memory.array().values
#define DYNAMIC_SHARED(name) char* name = reinterpret_cast<char*>(cuda_on_host::dynamic_shared.data())
#define CHECK_ALIGNED(pointer, bytes) cuda_on_host::check_aligned(pointer, bytes)
#endif

// The kernel `name`, of blocks of `threads` threads, that calls the device function `...` with its arguments.
#define KERNEL(name, threads, Arguments, ...)                                                                    \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(const __grid_constant__ Arguments arguments) { \
        __VA_ARGS__(arguments);                                                                                  \
    }                                                                                                            \
    HOST_KERNEL(name)

// `function<T, N>` for f32 and bf16, with 16 bytes at a time and, where rows are not aligned for that, with one
// element.
#define ELEMENT_KERNELS(name, threads, Arguments, function)           \
    KERNEL(name##_f32, threads, Arguments, function<float, 4>)        \
    KERNEL(name##_f32_scalar, threads, Arguments, function<float, 1>) \
    KERNEL(name##_bf16, threads, Arguments, function<bf16, 8>)        \
    KERNEL(name##_bf16_scalar, threads, Arguments, function<bf16, 1>)
