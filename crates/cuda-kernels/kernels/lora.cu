// The products of a low-rank adapter beside those with the frozen weight, forward and backward:
//
//     forward     h = drop(x) Aᵀ        ys += bias + s h Bᵀ
//     backward    dh = s dy B           dxs += mask ∘ (dh A)
//
// Both are a product down to the rank and one up from it: a block computes them for 16 rows, with the narrow matrix
// between them in registers. In the product down the block's warps share the columns, in the product up the results.
// Where there are few rows, as in decoding, several blocks (the grid's y) share the results of a row; each computes the
// product down again.
// `A` and `B` are f32 and are rounded to the type of the activations where they meet them.
#include "dropout.cuh"
#include "warp_tile.cuh"

constexpr int ROWS = 16, COLUMNS = 64;
// Warps of a block. With 8, f32 and large ranks would have too few registers and too little shared memory for two
// blocks at a time.
template <class T, int R> constexpr int WARPS = sizeof(T) == 2 && R == 16 ? 8 : 4;

struct LoraArguments {
    const void* xs;  // (rows, in_features), in the backward pass dys.
    void* ys;        // (rows, out_features), in the backward pass dxs: added to; null: not wanted.
    const float *a, *b;
    float* hidden;      // (rows, rank): h, in the backward pass dh.
    const float* bias;  // (out_features), only read in the forward pass; null: none.
    uint32_t rows, in_features, out_features, rank;
    float scale;
    Mask mask;
    uint32_t vectors, a_vectors, b_vectors;  // Whether rows of xs and ys, of A and of B begin at multiples of 16 bytes.
};

// A warp's scratch memory.
template <class T, int R> struct Scratch {
    union {
        // For the product down.
        alignas(16) T xs[ROWS * PADDED<T, COLUMNS>];
        // For the product up.
        alignas(16) float ys[ROWS * PADDED<float, COLUMNS>];
    };
    union {
        // `A` or `Bᵀ`, (rank, columns).
        alignas(16) T factor[R * PADDED<T, COLUMNS>];
        // The warp's part of the product down, (rows, rank).
        float sums[ROWS * R];
    };
};

__device__ __forceinline__ float unchanged(float value, int, int) { return value; }

// The columns from `column` on of `A`, or the rows of `B` as columns.
template <int R, bool OF_A, class T>
__device__ __forceinline__ void load_factor(const LoraArguments& a, uint32_t features, uint32_t column, T* tile) {
    const int rank = a.rank, columns = features - column;
    if constexpr (OF_A) {
        const Source<float> from{a.a + column, features, rank, columns, a.a_vectors != 0};
        convert_tile<R, COLUMNS, 32, false>(tile, from, unchanged);
    } else {
        const Source<float> from{a.b + size_t(column) * a.rank, a.rank, columns, rank, a.b_vectors != 0};
        convert_tile<COLUMNS, R, 32, true>(tile, from, unchanged);
    }
}

// Adds a warp's 16 rows of 64 columns to `ys`, times the mask in the backward pass.
template <bool BACKWARD, class T>
__device__ __forceinline__ void add_rows(
    const LoraArguments& a, const float (&c)[COLUMNS / 8][4], float* tile, uint32_t first, uint32_t features,
    uint32_t column) {
    constexpr int N = VECTOR<T>, VECTORS = COLUMNS / N;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            tile[(lane_row() + i / 2 * 8) * PADDED<float, COLUMNS> + 8 * n + lane_column() + i % 2] = c[n][i];
    __syncwarp();
#pragma unroll
    for (int vector = threadIdx.x % 32; vector < ROWS * VECTORS; vector += 32) {
        const uint32_t row = first + vector / VECTORS;
        const uint32_t at_column = column + vector % VECTORS * N;
        if (row >= a.rows) break;
        const float* from = tile + vector / VECTORS * PADDED<float, COLUMNS> + vector % VECTORS * N;
        T* to = static_cast<T*>(a.ys) + size_t(row) * features + at_column;
        const uint64_t key = BACKWARD ? a.mask.row_key(row) : 0;
        auto added = [&](float y, int i) {
            if (BACKWARD) return y + a.mask.factor(key, at_column + i) * from[i];
            return (a.bias ? y + a.bias[at_column + i] : y) + from[i];
        };
        if (a.vectors && at_column + N <= features) {
            float y[N];
            load<N>(to, y);
#pragma unroll
            for (int i = 0; i < N; ++i) y[i] = added(y[i], i);
            store<N>(to, y);
        } else {
            for (int i = 0; i < N && at_column + i < features; ++i) to[i] = from_float<T>(added(to_float(to[i]), i));
        }
    }
}

template <class T, int R, bool BACKWARD> __device__ __forceinline__ void low_rank(const LoraArguments& a) {
    constexpr int STEP = WARPS<T, R> * COLUMNS;
    DYNAMIC_SHARED(memory);
    const int warp = threadIdx.x / 32;
    auto* all = reinterpret_cast<Scratch<T, R>*>(memory);
    Scratch<T, R>& scratch = all[warp];
    const uint32_t first = blockIdx.x * ROWS;
    const uint32_t in_features = BACKWARD ? a.out_features : a.in_features;
    const uint32_t out_features = BACKWARD ? a.in_features : a.out_features;

    float sums[R / 8][4] = {};
    for (uint32_t column = warp * COLUMNS; column < in_features; column += STEP) {
        // The tiles before may still be read.
        __syncwarp();
        const T* xs = static_cast<const T*>(a.xs) + size_t(first) * in_features + column;
        const Source<T> from{xs, in_features, int(a.rows - first), int(in_features - column), a.vectors != 0};
        convert_tile<ROWS, COLUMNS, 32, false>(scratch.xs, from, [&](float x, int row, int i) {
            return BACKWARD ? x : x * a.mask.factor(first + row < a.rows ? a.mask.row_key(first + row) : 0, column + i);
        });
        load_factor<R, !BACKWARD>(a, in_features, column, scratch.factor);
        __syncwarp();
#pragma unroll
        for (int k = 0; k < COLUMNS; k += 16) {
            Fragment<T> x;
            load_fragment(x, scratch.xs + k, PADDED<T, COLUMNS>);
            multiply_rows(sums, x, scratch.factor + k, PADDED<T, COLUMNS>);
        }
    }
    // The sums over all columns, for every warp. Lanes may still read the factor whose place the warp's own sums take.
    __syncwarp();
    auto at = [](int n, int i) { return (lane_row() + i / 2 * 8) * R + 8 * n + lane_column() + i % 2; };
#pragma unroll
    for (int n = 0; n < R / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) scratch.sums[at(n, i)] = sums[n][i];
    __syncthreads();
#pragma unroll
    for (int n = 0; n < R / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums[n][i] = 0.0f;
#pragma unroll
            for (int part = 0; part < WARPS<T, R>; ++part) sums[n][i] += all[part].sums[at(n, i)];
            if (BACKWARD) sums[n][i] *= a.scale;
            const uint32_t row = first + lane_row() + i / 2 * 8, column = 8 * n + lane_column() + i % 2;
            if (warp == 0 && blockIdx.y == 0 && row < a.rows && column < a.rank) a.hidden[size_t(row) * a.rank + column] = sums[n][i];
            if (!BACKWARD) sums[n][i] *= a.scale;
        }

    if (!a.ys) return;
    // Other warps may still read this one's sums.
    __syncthreads();
    for (uint32_t column = blockIdx.y * STEP + warp * COLUMNS; column < out_features; column += gridDim.y * STEP) {
        // The tiles before may still be read.
        __syncwarp();
        load_factor<R, BACKWARD>(a, out_features, column, scratch.factor);
        __syncwarp();
        float c[COLUMNS / 8][4] = {};
#pragma unroll
        for (int k = 0; k < R; k += 16) {
            Fragment<T> hidden;
            make_fragment(hidden, sums[k / 8], sums[k / 8 + 1]);
            multiply_columns(c, hidden, scratch.factor + k * PADDED<T, COLUMNS>, PADDED<T, COLUMNS>);
        }
        add_rows<BACKWARD, T>(a, c, scratch.ys, first, out_features, column);
    }
}

template <class T, int R> __device__ void lora_forward(const LoraArguments& a) { low_rank<T, R, false>(a); }
template <class T, int R> __device__ void lora_backward(const LoraArguments& a) { low_rank<T, R, true>(a); }

#define LORA_KERNEL(name, element, T, R) KERNEL(name##_##element##_##R, (32 * WARPS<T, R>), LoraArguments, name<T, R>)
#define LORA_KERNELS(name)            \
    LORA_KERNEL(name, f32, float, 16) \
    LORA_KERNEL(name, f32, float, 64) \
    LORA_KERNEL(name, bf16, bf16, 16) \
    LORA_KERNEL(name, bf16, bf16, 64)
LORA_KERNELS(lora_forward)
LORA_KERNELS(lora_backward)
