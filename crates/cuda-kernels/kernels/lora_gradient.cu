// The gradients of a low-rank adapter's matrices:
//
//     dA = dhᵀ drop(x)        dB = s dyᵀ h
//
// Both are `Σ over rows of values[row][feature] hidden[row][r]`. A launch computes the two: for each, blocks share the
// features and the rows, and a second launch adds the sums of the blocks of rows in their order, so that results are
// reproducible.
#include "dropout.cuh"
#include "warp_tile.cuh"

constexpr int THREADS = 128, FEATURES = 64, ROWS = 64;

struct LoraGradient {
    const void* values;   // (rows, features): x or dy.
    const float* hidden;  // (rows, rank): dh or h.
    float* partial;       // (parts, features, rank)
    float* gradient;      // (rank, features) for A, (features, rank) for B.
    uint32_t features;
    uint32_t transposed;  // Whether the gradient is `(rank, features)`.
    float scale;
    uint32_t vectors;
    Mask mask;
};

struct LoraGradientArguments {
    LoraGradient of[2];
    uint32_t rows, rank, parts;
    uint32_t rows_per_part;  // A multiple of ROWS.
    // Whether rows of each `hidden` begin at multiples of 16 bytes. Two words, so that the struct has no padding at its
    // end: g++ 12 clears it in the wrong place (-ftrivial-auto-var-init).
    uint32_t hidden_vectors[2];
};

template <class T, int R> __device__ void lora_gradient(const LoraGradientArguments& a) {
    SHARED(T, values, ROWS * PADDED<T, FEATURES>);
    SHARED(T, hidden, ROWS * PADDED<T, R>);
    const LoraGradient& g = a.of[blockIdx.z];
    const uint32_t first = blockIdx.x * FEATURES, part = blockIdx.y;
    if (first >= g.features) return;
    float sums[R / 8][4] = {};
    const uint32_t end = min((part + 1) * a.rows_per_part, a.rows);
    for (uint32_t row = part * a.rows_per_part; row < end; row += ROWS) {
        // The tiles before may still be read.
        __syncthreads();
        const T* at = static_cast<const T*>(g.values) + size_t(row) * g.features + first;
        const Source<T> from{at, g.features, int(end - row), int(g.features - first), g.vectors != 0};
        convert_tile<ROWS, FEATURES, THREADS, false>(values, from, [&](float x, int i, int column) {
            return x * g.mask.factor(row + i < end ? g.mask.row_key(row + i) : 0, first + column);
        });
        const Source<float> of_hidden{g.hidden + size_t(row) * a.rank, a.rank, int(end - row), int(a.rank), a.hidden_vectors[blockIdx.z] != 0};
        convert_tile<ROWS, R, THREADS, false>(hidden, of_hidden, [](float h, int, int) { return h; });
        __syncthreads();
#pragma unroll
        for (int k = 0; k < ROWS; k += 16) {
            Fragment<T> fragment;
            // A row of the product for each feature.
            load_columns(fragment, values + k * PADDED<T, FEATURES> + threadIdx.x / 32 * 16, PADDED<T, FEATURES>);
            multiply_columns(sums, fragment, hidden + k * PADDED<T, R>, PADDED<T, R>);
        }
    }
#pragma unroll
    for (int n = 0; n < R / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t feature = first + threadIdx.x / 32 * 16 + lane_row() + i / 2 * 8;
            const uint32_t column = 8 * n + lane_column() + i % 2;
            if (feature < g.features && column < a.rank)
                g.partial[(size_t(part) * g.features + feature) * a.rank + column] = sums[n][i];
        }
}

constexpr int SUM_THREADS = 256;

// A thread an element of `partial`.
__device__ void add_parts(const LoraGradientArguments& a) {
    const LoraGradient& g = a.of[blockIdx.z];
    const uint32_t index = blockIdx.x * SUM_THREADS + threadIdx.x, feature = index / a.rank, column = index % a.rank;
    if (feature >= g.features) return;
    float sum = 0.0f;
    for (uint32_t part = 0; part < a.parts; ++part) sum += g.partial[size_t(part) * g.features * a.rank + index];
    g.gradient[g.transposed ? column * g.features + feature : index] = g.scale * sum;
}

KERNEL(lora_gradient_f32_16, THREADS, LoraGradientArguments, lora_gradient<float, 16>)
KERNEL(lora_gradient_f32_64, THREADS, LoraGradientArguments, lora_gradient<float, 64>)
KERNEL(lora_gradient_bf16_16, THREADS, LoraGradientArguments, lora_gradient<bf16, 16>)
KERNEL(lora_gradient_bf16_64, THREADS, LoraGradientArguments, lora_gradient<bf16, 64>)
KERNEL(lora_gradient_sum, SUM_THREADS, LoraGradientArguments, add_parts)
