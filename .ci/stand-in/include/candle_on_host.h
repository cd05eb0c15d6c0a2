// Compiles candle's CUDA kernels for the CPU: the header for the kernels of cuda-kernels, and the other functions that candle's use.
#pragma once
#include "narrow.h"
#include "../../../crates/cuda-kernels/kernels/host/cuda_on_host.h"

#include <cassert>
#include <limits>
#include <tuple>

// CUDA 13, compute capability 8.0.
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ 800
// Blocks run one after another. Shared memory is not poisoned, so reads of memory that a kernel did not write are not found here.
#define __shared__ static
#define __device__
#define __constant__ static const

using std::isinf;
using std::isnan;
using std::signbit;

template <class A, class B> auto max(A a, B b) { return a > b ? a : b; }
template <class A, class B> auto min(A a, B b) { return a < b ? a : b; }

inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int i) { return __uint_as_float(unsigned(i)); }
inline long long __double_as_longlong(double x) {
    long long bits;
    std::memcpy(&bits, &x, 8);
    return bits;
}
inline double __longlong_as_double(long long bits) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
}
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.7071067811865476); }
template <class T> T __shfl_xor_sync(unsigned, T value, int bits, int) {
    return cuda_on_host::exchange(value).of(cuda_on_host::self->lane ^ unsigned(bits));
}

// One thread runs at a time.
template <class T, class U> T atomicAdd(T* to, U value) {
    const T old = *to;
    *to = T(old + T(value));
    return old;
}
template <class T, class U> T atomicMin(T* to, U value) {
    const T old = *to;
    if (T(value) < old) *to = T(value);
    return old;
}
template <class T, class U> T atomicMax(T* to, U value) {
    const T old = *to;
    if (T(value) > old) *to = T(value);
    return old;
}
template <class T, class U, class V> T atomicCAS(T* to, U expected, V value) {
    const T old = *to;
    if (old == T(expected)) *to = T(value);
    return old;
}

namespace cuda_on_host {
// A kernel with any number of arguments.
template <class... A> bool call_with_all(void (*f)(A...), dim3 grid, dim3 block, size_t bytes, void** arguments) {
    std::tuple<std::remove_const_t<A>...> values;
    size_t next = 0;
    std::apply([&](auto&... value) { (std::memcpy(static_cast<void*>(&value), arguments[next++], sizeof value), ...); },
               values);
    return launch(grid, block, bytes, [=] { std::apply(f, values); });
}
}  // namespace cuda_on_host

#define CANDLE_KERNEL(name)                        \
    static cuda_on_host::Register register_##name( \
        #name, [](dim3 g, dim3 b, size_t n, void** p) { return cuda_on_host::call_with_all(name, g, b, n, p); });
