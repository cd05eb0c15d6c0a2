// Attention, the gradients of the keys and values (for the formulas see attention_backward_query.cu, which runs first):
//
//     dvalue = P'ᵀ dcontext    dkey = dSᵀ q / sqrt(head_dim)
//
// A block has 64 keys and reads the queries that see any of them. Its scores are transposed, with a row for each key,
// so that they are the left factor of both products. No two blocks add to the same gradient, so that results are
// reproducible.
#include "attention.cuh"

template <class T, int D> __device__ void attention_backward_key(const AttentionArguments& a) {
    DYNAMIC_SHARED(memory);
    constexpr int SIZE = TILE * PADDED<T, D>;
    T *keys = reinterpret_cast<T*>(memory), *values = keys + SIZE, *queries = values + SIZE,
      *dcontexts = queries + SIZE;
    SHARED(float, log_sums, TILE);
    SHARED(float, means, TILE);
    SHARED(uint64_t, row_keys, TILE);
    const Head<T> head{a};
    const uint32_t first = blockIdx.x * TILE, warp_row = threadIdx.x / 32 * WARP_ROWS, warp_first = first + warp_row;
    T *warp_keys = keys + warp_row * PADDED<T, D>, *warp_values = values + warp_row * PADDED<T, D>;
    load_tile<TILE, D, THREADS>(keys, head.keys(first));
    load_tile<TILE, D, THREADS>(values, head.values(first));

    float dkey[D / 8][4] = {}, dvalue[D / 8][4] = {};
    for (uint32_t tile = 0; tile < a.queries; tile += TILE) {
        // Later queries see no fewer keys.
        if (head.visible(min(tile + TILE, a.queries) - 1) <= first) continue;
        // The tile before may still be read.
        __syncthreads();
        load_tile<TILE, D, THREADS>(queries, head.queries(tile));
        load_tile<TILE, D, THREADS>(dcontexts, head.dcontexts(tile));
        for (int row = threadIdx.x; row < TILE; row += THREADS) {
            const uint32_t query = tile + row;
            log_sums[row] = query < a.queries ? a.log_sums[head.rows() + query] : 0.0f;
            means[row] = query < a.queries ? a.means[head.rows() + query] : 0.0f;
            row_keys[row] = head.row_key(query);
        }
        __syncthreads();
        float scores[TILE / 8][4], dscores[TILE / 8][4];
        multiply_tiles<D>(scores, warp_keys, queries);
        multiply_tiles<D>(dscores, warp_values, dcontexts);
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int row = 8 * n + lane_column() + i % 2;
                const uint32_t query = tile + row, key = warp_first + lane_row() + i / 2 * 8;
                const bool seen = query < a.queries && key < head.visible(query);
                const float p = seen ? exp2f(scores[n][i] * (a.scale * LOG2_E) - log_sums[row]) : 0.0f;
                const float factor = a.mask.factor(row_keys[row], key);
                scores[n][i] = p * factor;
                dscores[n][i] = p * (dscores[n][i] * factor - means[row]);
            }
        add_weighted<D>(dvalue, scores, dcontexts);
        add_weighted<D>(dkey, dscores, queries);
    }
    // The results take the place of the warp's keys and values. These have been read, and where no query sees a key of
    // the block, so that there was no barrier above, all warps have written them.
    __syncthreads();
    if (warp_first >= a.keys) return;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) dkey[n][i] *= a.scale;
    T* to_key = static_cast<T*>(a.dkey) + head.at(a.keys, warp_first, a.key_stride);
    T* to_value = static_cast<T*>(a.dvalue) + head.at(a.keys, warp_first, a.value_stride);
    store_rows(dkey, warp_keys, to_key, a.key_stride, a.keys - warp_first, a.head_dim, a.vectors);
    store_rows(dvalue, warp_values, to_value, a.value_stride, a.keys - warp_first, a.head_dim, a.vectors);
}

ATTENTION_KERNELS(attention_backward_key)
