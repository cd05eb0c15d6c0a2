// Sums and maxima over the threads of a warp or a block. Every thread gets the result, and its bits do not depend on
// the order in which threads run.
#pragma once
#include "kernel.cuh"

#include <cstring>
#include <type_traits>

// The value of the lane whose number differs in `bits`. Two words of a struct travel together.
template <class T> __device__ __forceinline__ T of_lane_xor(T value, int bits) {
    if constexpr (std::is_arithmetic_v<T>) {
        return __shfl_xor_sync(~0u, value, bits);
    } else {
        static_assert(sizeof(T) == 8, "two words");
        unsigned long long words;
        memcpy(&words, &value, sizeof words);
        words = __shfl_xor_sync(~0u, words, bits);
        memcpy(&value, &words, sizeof words);
        return value;
    }
}

template <class T, class F> __device__ __forceinline__ T warp_reduce(T value, F combine) {
#pragma unroll
    for (int bits = 16; bits > 0; bits /= 2) value = combine(value, of_lane_xor(value, bits));
    return value;
}

template <int THREADS, class T, class F> __device__ __forceinline__ T block_reduce(T value, F combine) {
    SHARED(T, of_warp, THREADS / 32);
    value = warp_reduce(value, combine);
    // Others may still read what the last call left.
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warp[0];
#pragma unroll
    for (int warp = 1; warp < THREADS / 32; ++warp) value = combine(value, of_warp[warp]);
    return value;
}

template <int THREADS, class T> __device__ __forceinline__ T block_sum(T value) {
    return block_reduce<THREADS>(value, [](T a, T b) { return a + b; });
}
