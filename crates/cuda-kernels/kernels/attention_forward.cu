// Attention, forward: a block has 64 queries and reads the keys and values that any of them sees, 64 at a time.
#include "attention.cuh"

template <class T, int D> __device__ void attention_forward(const AttentionArguments& a) {
    DYNAMIC_SHARED(memory);
    T *queries = reinterpret_cast<T*>(memory), *keys = queries + TILE * PADDED<T, D>,
      *values = keys + TILE * PADDED<T, D>;
    const Head<T> head{a};
    const uint32_t first = blockIdx.x * TILE, warp_first = first + threadIdx.x / 32 * WARP_ROWS;
    T* warp_queries = queries + threadIdx.x / 32 * WARP_ROWS * PADDED<T, D>;
    load_tile<TILE, D, THREADS>(queries, head.queries(first));

    // For the two rows of this lane.
    uint32_t visible[2];
    uint64_t key[2];
    float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t query = warp_first + lane_row() + 8 * i;
        visible[i] = head.visible(query);
        key[i] = head.row_key(query);
    }
    float context[D / 8][4] = {};
    const uint32_t end = head.visible(min(first + TILE, a.queries) - 1);
    for (uint32_t tile = 0; tile < end; tile += TILE) {
        // The tile before may still be read.
        __syncthreads();
        load_tile<TILE, D, THREADS>(keys, head.keys(tile));
        load_tile<TILE, D, THREADS>(values, head.values(tile));
        __syncthreads();
        float scores[TILE / 8][4];
        multiply_tiles<D>(scores, warp_queries, keys);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float most = largest[i];
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; ++j) {
                    const uint32_t column = tile + 8 * n + lane_column() + j % 2;
                    scores[n][j] = column < visible[i] ? scores[n][j] * (a.scale * LOG2_E) : -INFINITY;
                    most = max(most, scores[n][j]);
                }
            // The four lanes of a row. Every row sees the first key, so that this is not infinite.
            most = max(most, __shfl_xor_sync(~0u, most, 1));
            most = max(most, __shfl_xor_sync(~0u, most, 2));
            const float correction = exp2f(largest[i] - most);
            largest[i] = most;
            sum[i] *= correction;
#pragma unroll
            for (int n = 0; n < D / 8; ++n) context[n][2 * i] *= correction, context[n][2 * i + 1] *= correction;
#pragma unroll
            for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
                for (int j = 2 * i; j < 2 * i + 2; ++j) {
                    const float p = exp2f(scores[n][j] - most);
                    sum[i] += p;
                    scores[n][j] = p * a.mask.factor(key[i], tile + 8 * n + lane_column() + j % 2);
                }
        }
        add_weighted<D>(context, scores, values);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
        sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
        const uint32_t query = warp_first + lane_row() + 8 * i;
        if (a.log_sums && threadIdx.x % 4 == 0 && query < a.queries)
            a.log_sums[head.rows() + query] = largest[i] + log2f(sum[i]);
#pragma unroll
        for (int n = 0; n < D / 8; ++n) context[n][2 * i] /= sum[i], context[n][2 * i + 1] /= sum[i];
    }
    if (warp_first >= a.queries) return;
    // The warp's own queries have been read.
    __syncwarp();
    T* to = static_cast<T*>(a.context) + head.at(a.queries, warp_first, head.width());
    store_rows(context, warp_queries, to, head.width(), a.queries - warp_first, a.head_dim, a.vectors);
}

ATTENTION_KERNELS(attention_forward)
