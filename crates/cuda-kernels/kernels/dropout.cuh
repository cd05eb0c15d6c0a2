// Dropout masks as functions, bit for bit those of cpu-kernels (dropout.rs): whether an element is dropped is a hash of
// its sample, layer, row and column.
#pragma once
#include "kernel.cuh"

// SplitMix64, as `cpu_kernels::mix`.
__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

struct Mask {
    const uint64_t* keys;  // One for each sample; null where nothing is dropped.
    uint32_t rows_per_sample, threshold;
    float scale;  // 1 / (1 - p)

    // The key of a row of a sample.
    __device__ __forceinline__ uint64_t row_key(uint32_t sample, uint64_t row) const {
        return keys ? mix(keys[sample] ^ row) : 0;
    }

    // The key of a row, counted over all samples.
    __device__ __forceinline__ uint64_t row_key(uint32_t row) const {
        return keys ? row_key(row / rows_per_sample, row % rows_per_sample) : 0;
    }

    // The factor of an element: 0 or `1 / (1 - p)`, and 1 where nothing is dropped.
    __device__ __forceinline__ float factor(uint64_t row_key, uint32_t column) const {
        if (!keys) return 1.0f;
        uint32_t h = column * 0x9e3779b1u + uint32_t(row_key);
        h = ((h ^ (h >> 16)) * 0x21f0aaadu) ^ uint32_t(row_key >> 32);
        h = (h ^ (h >> 15)) * 0x735a2d97u;
        h ^= h >> 15;
        return h < threshold ? 0.0f : scale;
    }
};
