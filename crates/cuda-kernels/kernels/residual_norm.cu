// Residual + dropout + layer norm, `sums = residual + mask ∘ xs` and `ys = norm(sums) ∘ weight + bias`, and the
// gradients of `xs` and `residual`. The weight and the bias are frozen. A block computes a row and keeps it in
// registers.
#include "dropout.cuh"
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256;
// Elements of a row that a thread has, at most: rows of up to 4096 features.
constexpr int MOST = 16;

struct ResidualNormArguments {
    const void *xs, *residual;  // Null residual: 0.
    const float *weight, *bias;
    void *sums, *ys;     // Null sums: not wanted.
    float2* statistics;  // Mean and `1 / sqrt(variance + eps)` of each row.
    uint32_t features;
    float eps;
    Mask mask;
};

template <class T, int N> __device__ void residual_norm_forward(const ResidualNormArguments& a) {
    const uint32_t row = blockIdx.x;
    const size_t first = size_t(row) * a.features;
    const T *xs = static_cast<const T*>(a.xs) + first, *residual = static_cast<const T*>(a.residual) + first;
    const uint64_t key = a.mask.row_key(row);
    float sums[MOST / N][N];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST / N; ++i) {
        const uint32_t column = (threadIdx.x + i * THREADS) * N;
        if (column >= a.features) break;
        float x[N], r[N] = {};
        load<N>(xs + column, x);
        if (a.residual) load<N>(residual + column, r);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            sums[i][j] = r[j] + a.mask.factor(key, column + j) * x[j];
            // The backward pass sees the sums in their type, and so does the norm.
            sums[i][j] = to_float(from_float<T>(sums[i][j]));
            sum += sums[i][j];
        }
        if (a.sums) store<N>(static_cast<T*>(a.sums) + first + column, sums[i]);
    }
    const float mean = block_sum<THREADS>(sum) / a.features;
    // A second pass over the registers: the variance of values far from 0 needs their mean first.
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST / N; ++i) {
        if ((threadIdx.x + i * THREADS) * N >= a.features) break;
#pragma unroll
        for (int j = 0; j < N; ++j) squares += (sums[i][j] - mean) * (sums[i][j] - mean);
    }
    const float rstd = rsqrtf(block_sum<THREADS>(squares) / a.features + a.eps);
#pragma unroll
    for (int i = 0; i < MOST / N; ++i) {
        const uint32_t column = (threadIdx.x + i * THREADS) * N;
        if (column >= a.features) break;
        float weight[N], bias[N];
        load_parameters<N>(a.weight + column, weight);
        load_parameters<N>(a.bias + column, bias);
#pragma unroll
        for (int j = 0; j < N; ++j) sums[i][j] = (sums[i][j] - mean) * rstd * weight[j] + bias[j];
        store<N>(static_cast<T*>(a.ys) + first + column, sums[i]);
    }
    if (threadIdx.x == 0) a.statistics[row] = float2{mean, rstd};
}

struct ResidualNormGradientArguments {
    const void* sums;
    const float2* statistics;
    const float* weight;
    const void *dys, *dsums_direct;  // The gradient of the sums that does not come through the norm; null: 0.
    void *dsums, *dxs;               // Null dxs: not wanted.
    uint32_t features;
    Mask mask;
};

// With `n = (sums - mean) rstd` and `g = dys ∘ weight`: `dsums = rstd (g - mean(g) - n mean(g n))`.
template <class T, int N> __device__ void residual_norm_backward(const ResidualNormGradientArguments& a) {
    const uint32_t row = blockIdx.x;
    const size_t first = size_t(row) * a.features;
    const auto [mean, rstd] = a.statistics[row];
    float normed[MOST / N][N], gradients[MOST / N][N];
    float sum = 0.0f, sum_normed = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST / N; ++i) {
        const uint32_t column = (threadIdx.x + i * THREADS) * N;
        if (column >= a.features) break;
        float weight[N];
        load<N>(static_cast<const T*>(a.sums) + first + column, normed[i]);
        load<N>(static_cast<const T*>(a.dys) + first + column, gradients[i]);
        load_parameters<N>(a.weight + column, weight);
#pragma unroll
        for (int j = 0; j < N; ++j) {
            normed[i][j] = (normed[i][j] - mean) * rstd;
            gradients[i][j] *= weight[j];
            sum += gradients[i][j];
            sum_normed += gradients[i][j] * normed[i][j];
        }
    }
    const float mean_g = block_sum<THREADS>(sum) / a.features;
    const float mean_gn = block_sum<THREADS>(sum_normed) / a.features;
    const uint64_t key = a.mask.row_key(row);
#pragma unroll
    for (int i = 0; i < MOST / N; ++i) {
        const uint32_t column = (threadIdx.x + i * THREADS) * N;
        if (column >= a.features) break;
        float d[N] = {};
        if (a.dsums_direct) load<N>(static_cast<const T*>(a.dsums_direct) + first + column, d);
#pragma unroll
        for (int j = 0; j < N; ++j) d[j] += (gradients[i][j] - mean_g - normed[i][j] * mean_gn) * rstd;
        store<N>(static_cast<T*>(a.dsums) + first + column, d);
        if (!a.dxs) continue;
#pragma unroll
        for (int j = 0; j < N; ++j) d[j] *= a.mask.factor(key, column + j);
        store<N>(static_cast<T*>(a.dxs) + first + column, d);
    }
}

ELEMENT_KERNELS(residual_norm_forward, THREADS, ResidualNormArguments, residual_norm_forward)
ELEMENT_KERNELS(residual_norm_backward, THREADS, ResidualNormGradientArguments, residual_norm_backward)
