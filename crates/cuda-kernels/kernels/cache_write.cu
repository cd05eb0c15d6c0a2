// Decoding writes the keys and values of new tokens to slots of a cache, which a table on the device names: where they
// are written is not part of the launch. A block has the key or the value of a token.
#include "element.cuh"

constexpr int THREADS = 128;

struct CacheWriteArguments {
    const void *keys, *values;          // (rows, new tokens, width)
    void *cached_keys, *cached_values;  // (slots, width)
    const uint32_t *lengths, *slots;    // (rows), (rows, most tokens)
    uint32_t new_tokens, width, most_tokens;
};

template <class T, int N> __device__ void cache_write(const CacheWriteArguments& a) {
    const uint32_t row = blockIdx.x / a.new_tokens, token = blockIdx.x % a.new_tokens;
    const uint32_t slot = a.slots[size_t(row) * a.most_tokens + a.lengths[row] - a.new_tokens + token];
    const T* from = static_cast<const T*>(blockIdx.y ? a.values : a.keys) + size_t(blockIdx.x) * a.width;
    T* to = static_cast<T*>(blockIdx.y ? a.cached_values : a.cached_keys) + size_t(slot) * a.width;
    for (uint32_t column = threadIdx.x * N; column < a.width; column += THREADS * N) {
        float vector[N];
        load<N>(from + column, vector);
        store<N>(to + column, vector);
    }
}

ELEMENT_KERNELS(cache_write, THREADS, CacheWriteArguments, cache_write)
