// Attention of decoding: a query over the tokens of its sequence's image and over its own text tokens, whose keys and
// values lie in slots of a cache. A block computes a query of a head; eight lanes compute the score of a key, and the
// results of the block's 32 groups of lanes, each over its own keys, are joined at the end.
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256, LANES = 8, GROUPS = THREADS / LANES;

struct DecodingArguments {
    const void* query;                         // (rows, new tokens, heads, head_dim)
    const void *image_keys, *image_values;     // (images, image tokens, heads, head_dim)
    const void *text_keys, *text_values;       // (slots, heads, head_dim)
    void* context;                             // As the query.
    const uint32_t *images, *lengths, *slots;  // (rows), (rows), (rows, most tokens)
    uint32_t new_tokens, heads, head_dim;
    uint32_t image_tokens;  // 0: the image is not seen.
    uint32_t most_tokens;   // 0: text is not seen.
    float scale;            // 1 / sqrt(head_dim)
    uint32_t vectors;       // Whether every head begins at a multiple of 16 bytes.
};

// The part of a head's vector that lane number `part` of eight has.
template <class T, int COUNT>
__device__ __forceinline__ void load_part(
    const T* head, uint32_t part, uint32_t head_dim, bool vectors, float (&to)[COUNT]) {
    constexpr int N = 16 / sizeof(T);
    if constexpr (COUNT % N == 0) {
        if (vectors && (part + 1) * COUNT <= head_dim) {
#pragma unroll
            for (int i = 0; i < COUNT; i += N) {
                float values[N];
                load<N>(head + part * COUNT + i, values);
#pragma unroll
                for (int j = 0; j < N; ++j) to[i + j] = values[j];
            }
            return;
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const uint32_t column = part * COUNT + i;
        to[i] = column < head_dim ? to_float(head[column]) : 0.0f;
    }
}

template <class T, int D> __device__ void decoding_attention(const DecodingArguments& a) {
    constexpr int COUNT = D / LANES;
    SHARED(float, largests, GROUPS);
    SHARED(float, sums, GROUPS);
    SHARED(float, contexts, GROUPS * D);
    const uint32_t row = blockIdx.x / a.new_tokens, token = blockIdx.x % a.new_tokens, head = blockIdx.y;
    const uint32_t group = threadIdx.x / LANES, part = threadIdx.x % LANES;
    const size_t width = size_t(a.heads) * a.head_dim, first = head * a.head_dim;
    float query[COUNT];
    load_part(static_cast<const T*>(a.query) + blockIdx.x * width + first, part, a.head_dim, a.vectors, query);

    const uint32_t text = a.most_tokens ? a.lengths[row] + token + 1 - a.new_tokens : 0;
    float largest = -INFINITY, sum = 0.0f, context[COUNT] = {};
    const uint32_t keys = a.image_tokens + text;
    // All groups of a warp loop as often, as they shuffle together.
    for (uint32_t start = 0; start < keys; start += GROUPS) {
        const uint32_t key = start + group;
        const bool on_text = key >= a.image_tokens;
        size_t at = first;
        if (key < keys) {
            const uint32_t slot = on_text ? a.slots[size_t(row) * a.most_tokens + key - a.image_tokens]
                                          : a.images[row] * a.image_tokens + key;
            at += slot * width;
        }
        float of_key[COUNT] = {}, values[COUNT] = {};
        // Both at once: the values do not wait for the score.
        if (key < keys) {
            const T* from = static_cast<const T*>(on_text ? a.text_keys : a.image_keys) + at;
            load_part(from, part, a.head_dim, a.vectors, of_key);
            from = static_cast<const T*>(on_text ? a.text_values : a.image_values) + at;
            load_part(from, part, a.head_dim, a.vectors, values);
        }
        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) score += query[i] * of_key[i];
#pragma unroll
        for (int bits = LANES / 2; bits > 0; bits /= 2) score += __shfl_xor_sync(~0u, score, bits);
        if (key >= keys) continue;
        score *= a.scale;
        const float most = max(largest, score), correction = expf(largest - most), p = expf(score - most);
        largest = most;
        sum = sum * correction + p;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) context[i] = context[i] * correction + p * values[i];
    }
    if (part == 0) largests[group] = largest, sums[group] = sum;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) contexts[group * D + part * COUNT + i] = context[i];
    __syncthreads();
    if (threadIdx.x >= a.head_dim) return;
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < GROUPS; ++i) most = max(most, largests[i]);
    float total = 0.0f, joined = 0.0f;
#pragma unroll
    for (int i = 0; i < GROUPS; ++i) {
        const float weight = expf(largests[i] - most);
        total += weight * sums[i];
        joined += weight * contexts[i * D + threadIdx.x];
    }
    static_cast<T*>(a.context)[blockIdx.x * width + first + threadIdx.x] = from_float<T>(joined / total);
}

#define DECODING_KERNEL(element, T, D) \
    KERNEL(decoding_attention_##element##_##D, THREADS, DecodingArguments, decoding_attention<T, D>)
DECODING_KERNEL(f32, float, 32)
DECODING_KERNEL(f32, float, 64)
DECODING_KERNEL(bf16, bf16, 32)
DECODING_KERNEL(bf16, bf16, 64)
