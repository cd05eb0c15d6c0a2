// Common to the three kernels of attention: their argument, the mask, and where a head lies.
//
// `context = dropout(softmax(q kᵀ / sqrt(head_dim) + mask)) v` for each head, in the flash manner (Dao, 2023,
// <https://arxiv.org/abs/2307.08691>): scores are computed a tile at a time and never stored; the backward pass
// computes them again from the logarithm of their sums. A block has 64 queries (or keys) of a head, a warp 16 of them.
#pragma once
#include "dropout.cuh"
#include "warp_tile.cuh"

constexpr int TILE = 64, THREADS = 128, WARP_ROWS = 16;

struct AttentionArguments {
    const void *query, *key, *value;  // (batch, tokens, heads, head_dim), each with its own distance of tokens.
    void* context;                    // Dense, as dcontext.
    float* log_sums;                  // Base 2, `(batch, heads, queries)`; null: not wanted.
    // For the backward pass. `dquery`, `dkey` and `dvalue` lie as `query`, `key` and `value`.
    const void* dcontext;
    float* means;  // `rowsum(dcontext ∘ context)`, `(batch, heads, queries)`: the first kernel's result, read by the
                   // second.
    void *dquery, *dkey, *dvalue;
    const uint32_t* key_lengths;  // Real keys of each sequence, at least 1, which padding follows; null: all are real.
    uint32_t queries, keys, heads, head_dim;
    uint32_t query_stride, key_stride, value_stride;  // From one token to the next.
    // A query at position `p = first_query + its number` sees the keys before `max(p + 1, prefix)`. Full attention: a
    // prefix of all keys.
    uint32_t prefix, first_query;
    float scale;  // 1 / sqrt(head_dim)
    uint32_t vectors;
    uint32_t batch_per_sample;
    Mask mask;
};

// Dropout rows are numbered `head << 20 | query`, so that the number does not depend on the sequence's length.
constexpr int HEAD_BITS = 20;
constexpr float LOG2_E = 1.4426950408889634f;

// One head of one sequence.
template <class T> struct Head {
    const AttentionArguments& a;
    const uint32_t head = blockIdx.y, batch = blockIdx.z;
    const uint32_t real_keys = a.key_lengths ? a.key_lengths[batch] : a.keys;

    __device__ __forceinline__ uint32_t visible(uint32_t query) const {
        return min(max(a.first_query + query + 1, a.prefix), real_keys);
    }
    __device__ __forceinline__ uint64_t row_key(uint32_t query) const {
        const uint64_t row = uint64_t(batch % a.batch_per_sample * a.heads + head) << HEAD_BITS;
        return a.mask.row_key(batch / a.batch_per_sample, row + query);
    }
    // Where the tokens from `first` on lie.
    __device__ __forceinline__ size_t at(uint32_t tokens, uint32_t first, uint32_t stride) const {
        return (size_t(batch) * tokens + first) * stride + head * a.head_dim;
    }
    __device__ __forceinline__ Source<T> source(
        const void* values, uint32_t tokens, uint32_t first, uint32_t stride) const {
        return {
            static_cast<const T*>(values) + at(tokens, first, stride), stride, int(tokens - first), int(a.head_dim),
            a.vectors != 0};
    }
    __device__ __forceinline__ uint32_t width() const { return a.heads * a.head_dim; }
    __device__ __forceinline__ Source<T> queries(uint32_t first) const {
        return source(a.query, a.queries, first, a.query_stride);
    }
    __device__ __forceinline__ Source<T> keys(uint32_t first) const {
        return source(a.key, a.keys, first, a.key_stride);
    }
    __device__ __forceinline__ Source<T> values(uint32_t first) const {
        return source(a.value, a.keys, first, a.value_stride);
    }
    __device__ __forceinline__ Source<T> contexts(uint32_t first) const {
        return source(a.context, a.queries, first, width());
    }
    __device__ __forceinline__ Source<T> dcontexts(uint32_t first) const {
        return source(a.dcontext, a.queries, first, width());
    }
    // Number of the first of the head's rows in `log_sums` and `means`.
    __device__ __forceinline__ size_t rows() const { return (size_t(batch) * a.heads + head) * a.queries; }
};

// `c = a bᵀ` for a warp's 16 rows and 64 rows of another tile, both of `D` columns.
template <int D, class T>
__device__ __forceinline__ void multiply_tiles(float (&c)[TILE / 8][4], const T* a, const T* b) {
#pragma unroll
    for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) c[n][i] = 0.0f;
    // Loads of f32 ahead would take registers that are not there.
#pragma unroll(sizeof(T) == 2 ? D / 16 : 1)
    for (int k = 0; k < D; k += 16) {
        Fragment<T> fragment;
        load_fragment(fragment, a + k, PADDED<T, D>);
        multiply_rows(c, fragment, b + k, PADDED<T, D>);
    }
}

// `sums += weights tile` for a warp's 16 rows of 64 weights and a tile of 64 rows of `D` columns.
template <int D, class T>
__device__ __forceinline__ void add_weighted(
    float (&sums)[D / 8][4], const float (&weights)[TILE / 8][4], const T* tile) {
#pragma unroll
    for (int k = 0; k < TILE; k += 16) {
        Fragment<T> fragment;
        make_fragment(fragment, weights[k / 8], weights[k / 8 + 1]);
        multiply_columns(sums, fragment, tile + k * PADDED<T, D>, PADDED<T, D>);
    }
}

#define ATTENTION_KERNELS(name)                                         \
    KERNEL(name##_f32_32, THREADS, AttentionArguments, name<float, 32>) \
    KERNEL(name##_f32_64, THREADS, AttentionArguments, name<float, 64>) \
    KERNEL(name##_bf16_32, THREADS, AttentionArguments, name<bf16, 32>) \
    KERNEL(name##_bf16_64, THREADS, AttentionArguments, name<bf16, 64>)
