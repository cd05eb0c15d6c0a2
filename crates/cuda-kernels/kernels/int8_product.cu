// Products with a frozen weight in int8, one scale for each of its rows: `ys = xs Wᵀ + bias` and `dxs = dys W`, where
// `W[n][k] = scales[n] q[n][k]`. A block computes 64 rows of 64 columns; the weight becomes f32 or bf16 on its way to
// shared memory.
#include "warp_tile.cuh"

constexpr int THREADS = 128, TILE = 64;

struct Int8Arguments {
    const void* xs;        // (rows, in_features); in the backward pass dys.
    const int8_t* weight;  // (out_features, in_features)
    const float* scales;   // (out_features)
    const void* bias;      // (out_features) or null; not in the backward pass.
    void* ys;              // (rows, out_features); in the backward pass dxs.
    uint32_t rows, in_features, out_features;
    uint32_t in_vectors, out_vectors,
        weight_vectors;  // Whether rows of xs, of ys and of the weight begin at multiples of 16 bytes.
};

template <class T, bool BACKWARD> __device__ __forceinline__ void int8_product(const Int8Arguments& a) {
    SHARED(T, xs, TILE * PADDED<T, TILE>);
    SHARED(T, weight, TILE * PADDED<T, TILE>);
    const uint32_t first = blockIdx.x * TILE, column = blockIdx.y * TILE;
    const uint32_t terms = BACKWARD ? a.out_features : a.in_features,
                   columns = BACKWARD ? a.in_features : a.out_features;
    T* warp_xs = xs + threadIdx.x / 32 * 16 * PADDED<T, TILE>;
    float sums[TILE / 8][4] = {};
    for (uint32_t k = 0; k < terms; k += TILE) {
        // The tiles before may still be read.
        __syncthreads();
        const T* at = static_cast<const T*>(a.xs) + size_t(first) * terms + k;
        load_tile<TILE, TILE, THREADS>(
            xs, Source<T>{at, terms, int(a.rows - first), int(terms - k), a.in_vectors != 0});
        const uint32_t row = BACKWARD ? k : column, from = BACKWARD ? column : k;
        const Source<int8_t> source{
            a.weight + size_t(row) * a.in_features + from, a.in_features, int(a.out_features - row),
            int(a.in_features - from), a.weight_vectors != 0};
        convert_tile<TILE, TILE, THREADS, false>(weight, source, [&](float q, int i, int) {
            // Forward, the scale of a column of sums can wait for the sums: integers are exact in bf16.
            return BACKWARD && row + i < a.out_features ? q * a.scales[row + i] : q;
        });
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; i += 16) {
            Fragment<T> fragment;
            load_fragment(fragment, warp_xs + i, PADDED<T, TILE>);
            if constexpr (BACKWARD) {
                multiply_columns(sums, fragment, weight + i * PADDED<T, TILE>, PADDED<T, TILE>);
            } else {
                multiply_rows(sums, fragment, weight + i, PADDED<T, TILE>);
            }
        }
    }
    if constexpr (!BACKWARD) {
#pragma unroll
        for (int n = 0; n < TILE / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t feature = column + 8 * n + lane_column() + i % 2;
                if (feature >= columns) continue;
                const float bias = a.bias ? to_float(static_cast<const T*>(a.bias)[feature]) : 0.0f;
                sums[n][i] = sums[n][i] * a.scales[feature] + bias;
            }
    }
    const uint32_t warp_first = first + threadIdx.x / 32 * 16;
    if (warp_first >= a.rows) return;
    // The warp's own rows have been read.
    __syncwarp();
    T* to = static_cast<T*>(a.ys) + size_t(warp_first) * columns + column;
    store_rows(sums, warp_xs, to, columns, a.rows - warp_first, columns - column, a.out_vectors != 0);
}

template <class T> __device__ void int8_forward(const Int8Arguments& a) { int8_product<T, false>(a); }
template <class T> __device__ void int8_backward(const Int8Arguments& a) { int8_product<T, true>(a); }

KERNEL(int8_forward_f32, THREADS, Int8Arguments, int8_forward<float>)
KERNEL(int8_forward_bf16, THREADS, Int8Arguments, int8_forward<bf16>)
KERNEL(int8_backward_f32, THREADS, Int8Arguments, int8_backward<float>)
KERNEL(int8_backward_bf16, THREADS, Int8Arguments, int8_backward<bf16>)
