// The types of activations, f32 and bf16. Arithmetic is in f32.
#pragma once
#include "kernel.cuh"

struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

__device__ __forceinline__ float to_float(int8_t x) { return x; }

// Two values as bf16, rounded to the nearest (ties to even); the first in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    auto round = [](float x) -> uint32_t {
        const uint32_t bits = __float_as_uint(x);
        return x != x ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return round(low) | round(high) << 16;
#endif
}

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return {uint16_t(pack_bf16(x, 0.0f))}; }

// Loads `N` neighbours at once: one element, or 16 bytes.
template <int N> __device__ __forceinline__ void load(const float* from, float (&to)[N]) {
    static_assert(N == 1 || N == 4, "one element or 16 bytes");
    if constexpr (N == 1) {
        to[0] = *from;
    } else {
        CHECK_ALIGNED(from, 16);
        const float4 vector = *reinterpret_cast<const float4*>(from);
        to[0] = vector.x, to[1] = vector.y, to[2] = vector.z, to[3] = vector.w;
    }
}

template <int N> __device__ __forceinline__ void load(const bf16* from, float (&to)[N]) {
    static_assert(N == 1 || N == 8, "one element or 16 bytes");
    if constexpr (N == 1) {
        to[0] = to_float(*from);
    } else {
        CHECK_ALIGNED(from, 16);
        const uint4 vector = *reinterpret_cast<const uint4*>(from);
        const uint32_t pairs[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            to[2 * i] = __uint_as_float(pairs[i] << 16);
            to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
        }
    }
}

__device__ __forceinline__ void load(const int8_t* from, float (&to)[16]) {
    CHECK_ALIGNED(from, 16);
    const uint4 vector = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) to[i] = int8_t(words[i / 4] >> (8 * (i % 4)));
}

// Loads `N` parameters, which are f32 whatever the activations are.
template <int N> __device__ __forceinline__ void load_parameters(const float* from, float (&to)[N]) {
    constexpr int STEP = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
        float part[STEP];
        load<STEP>(from + i, part);
#pragma unroll
        for (int j = 0; j < STEP; ++j) to[i + j] = part[j];
    }
}

// Stores `N` neighbours at once.
template <int N> __device__ __forceinline__ void store(float* to, const float (&from)[N]) {
    if constexpr (N == 1) {
        *to = from[0];
    } else {
        CHECK_ALIGNED(to, 16);
        *reinterpret_cast<float4*>(to) = float4{from[0], from[1], from[2], from[3]};
    }
}

template <int N> __device__ __forceinline__ void store(bf16* to, const float (&from)[N]) {
    if constexpr (N == 1) {
        *to = from_float<bf16>(from[0]);
    } else {
        CHECK_ALIGNED(to, 16);
        *reinterpret_cast<uint4*>(to) = uint4{
            pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]),
            pack_bf16(from[6], from[7])};
    }
}
