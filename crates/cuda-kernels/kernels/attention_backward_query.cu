// Attention, the gradient of the queries: with `P` the probabilities, `D` the dropout mask and `P' = D ∘ P`,
//
//     dP = D ∘ (dcontext vᵀ)    dS = P ∘ (dP - rowsum(dcontext ∘ context))    dquery = dS k / sqrt(head_dim)
//
// since `rowsum(P ∘ dP)` is `rowsum(dcontext ∘ context)`. These sums are written for the other kernel.
#include "attention.cuh"

// `rowsum(dcontext ∘ context)` of the block's queries, two threads a query.
template <class T, int D>
__device__ __forceinline__ void context_means(const Head<T>& head, float* means, const T* dcontexts, uint32_t first) {
    const int row = threadIdx.x / 2, half = threadIdx.x % 2 * (D / 2);
    const Source<T> contexts = head.contexts(first);
    float sum = 0.0f;
    if (row < contexts.rows) {
        const T *context = contexts.values + row * contexts.stride + half,
                *dcontext = dcontexts + row * PADDED<T, D> + half;
#pragma unroll
        for (int column = 0; column < D / 2; column += VECTOR<T>) {
            float x[VECTOR<T>], y[VECTOR<T>];
            load<VECTOR<T>>(dcontext + column, y);
            if (contexts.vectors && half + column + VECTOR<T> <= contexts.columns) {
                load<VECTOR<T>>(context + column, x);
            } else {
#pragma unroll
                for (int i = 0; i < VECTOR<T>; ++i)
                    x[i] = half + column + i < contexts.columns ? to_float(context[column + i]) : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < VECTOR<T>; ++i) sum += x[i] * y[i];
        }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    if (half == 0) {
        means[row] = sum;
        if (row < contexts.rows) head.a.means[head.rows() + first + row] = sum;
    }
}

template <class T, int D> __device__ void attention_backward_query(const AttentionArguments& a) {
    DYNAMIC_SHARED(memory);
    constexpr int SIZE = TILE * PADDED<T, D>;
    T *queries = reinterpret_cast<T*>(memory), *dcontexts = queries + SIZE, *keys = dcontexts + SIZE,
      *values = keys + SIZE;
    SHARED(float, means, TILE);
    const Head<T> head{a};
    const uint32_t first = blockIdx.x * TILE, warp_row = threadIdx.x / 32 * WARP_ROWS, warp_first = first + warp_row;
    T *warp_queries = queries + warp_row * PADDED<T, D>, *warp_dcontexts = dcontexts + warp_row * PADDED<T, D>;
    load_tile<TILE, D, THREADS>(queries, head.queries(first));
    load_tile<TILE, D, THREADS>(dcontexts, head.dcontexts(first));
    __syncthreads();
    context_means<T, D>(head, means, dcontexts, first);
    __syncwarp();

    uint32_t visible[2];
    uint64_t key[2];
    float log_sum[2], mean[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t query = warp_first + lane_row() + 8 * i;
        visible[i] = query < a.queries ? head.visible(query) : 0;
        key[i] = head.row_key(query);
        log_sum[i] = query < a.queries ? a.log_sums[head.rows() + query] : 0.0f;
        mean[i] = means[warp_row + lane_row() + 8 * i];
    }
    float dquery[D / 8][4] = {};
    const uint32_t end = head.visible(min(first + TILE, a.queries) - 1);
    for (uint32_t tile = 0; tile < end; tile += TILE) {
        // The tile before may still be read.
        __syncthreads();
        load_tile<TILE, D, THREADS>(keys, head.keys(tile));
        load_tile<TILE, D, THREADS>(values, head.values(tile));
        __syncthreads();
        float scores[TILE / 8][4], dscores[TILE / 8][4];
        multiply_tiles<D>(scores, warp_queries, keys);
        multiply_tiles<D>(dscores, warp_dcontexts, values);
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t column = tile + 8 * n + lane_column() + i % 2;
                const float p =
                    column < visible[i / 2] ? exp2f(scores[n][i] * (a.scale * LOG2_E) - log_sum[i / 2]) : 0.0f;
                dscores[n][i] = p * (dscores[n][i] * a.mask.factor(key[i / 2], column) - mean[i / 2]);
            }
        add_weighted<D>(dquery, dscores, keys);
    }
    if (warp_first >= a.queries) return;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) dquery[n][i] *= a.scale;
    // The warp's own queries have been read.
    __syncwarp();
    T* to = static_cast<T*>(a.dquery) + head.at(a.queries, warp_first, a.query_stride);
    store_rows(dquery, warp_queries, to, a.query_stride, a.queries - warp_first, a.head_dim, a.vectors);
}

ATTENTION_KERNELS(attention_backward_query)
