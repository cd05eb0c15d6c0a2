// Cross entropy of rows of logits, of which a few are in memory at a time: their losses, and their gradients in place
// of the logits, `softmax(z) - (1 - ε) onehot(target) - ε / V`. A block reads a row twice.
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 512;

constexpr uint32_t NO_TARGET = ~0u;

struct CrossEntropyArguments {
    void* logits;             // (rows, stride); the columns from `vocabulary` on get the gradient 0.
    const float* bias;        // (vocabulary), to be added to the logits, or null.
    const uint32_t* targets;  // (rows); NO_TARGET: a row without loss.
    float* losses;            // (rows)
    uint32_t vocabulary, stride;
    float label_smoothing;
    uint32_t gradient;  // Whether the logits are replaced by their gradients.
};

// `sum` is the sum of `exp(logit - largest)`.
struct Softmax {
    float largest, sum;
};

__device__ __forceinline__ Softmax join(Softmax a, Softmax b) {
    const float largest = max(a.largest, b.largest);
    if (largest == -INFINITY) return {largest, 0.0f};
    return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

// Logits of a row with their bias; those beyond the vocabulary have none.
template <class T, int N>
__device__ __forceinline__ void load_logits(const T* logits, const CrossEntropyArguments& a, uint32_t column, float (&z)[N]) {
    load<N>(logits + column, z);
    if (!a.bias) return;
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (column + i < a.vocabulary) z[i] += a.bias[column + i];
}

template <class T, int N> __device__ void cross_entropy(const CrossEntropyArguments& a) {
    T* logits = static_cast<T*>(a.logits) + size_t(blockIdx.x) * a.stride;
    const uint32_t target = a.targets[blockIdx.x];
    if (target == NO_TARGET) {
        if (threadIdx.x == 0) a.losses[blockIdx.x] = 0.0f;
        const float zeros[N] = {};
        for (uint32_t column = threadIdx.x * N; a.gradient && column < a.stride; column += THREADS * N)
            store<N>(logits + column, zeros);
        return;
    }
    Softmax softmax{-INFINITY, 0.0f};
    float total = 0.0f;
    for (uint32_t column = threadIdx.x * N; column < a.vocabulary; column += THREADS * N) {
        float z[N];
        load_logits(logits, a, column, z);
        Softmax own{-INFINITY, 0.0f};
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (column + i < a.vocabulary) own.largest = max(own.largest, z[i]);
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (column + i < a.vocabulary) own.sum += expf(z[i] - own.largest), total += z[i];
        softmax = join(softmax, own);
    }
    softmax = block_reduce<THREADS>(softmax, join);
    const float log_sum = softmax.largest + logf(softmax.sum);
    const float on_target = 1.0f - a.label_smoothing, on_all = a.label_smoothing / a.vocabulary;
    if (a.label_smoothing > 0.0f) total = block_sum<THREADS>(total);
    const float target_logit = to_float(logits[target]) + (a.bias ? a.bias[target] : 0.0f);
    // One thread writes the target's gradient while others may still read its logit.
    __syncthreads();
    if (threadIdx.x == 0) {
        const float smoothed = a.label_smoothing > 0.0f ? on_all * total : 0.0f;
        a.losses[blockIdx.x] = log_sum - (on_target * target_logit + smoothed);
    }
    if (!a.gradient) return;
    for (uint32_t column = threadIdx.x * N; column < a.stride; column += THREADS * N) {
        float z[N];
        load_logits(logits, a, column, z);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            z[i] = column + i < a.vocabulary ? expf(z[i] - log_sum) - on_all : 0.0f;
            if (column + i == target) z[i] -= on_target;
        }
        store<N>(logits + column, z);
    }
}

ELEMENT_KERNELS(cross_entropy, THREADS, CrossEntropyArguments, cross_entropy)

struct LossSumArguments {
    const float* losses;
    float* sum;
    uint32_t count;
};

// The sum in f64 of all losses, as on the CPU. One block.
__device__ void sum_of_losses(const LossSumArguments& a) {
    double sum = 0.0;
    for (uint32_t i = threadIdx.x; i < a.count; i += THREADS) sum += a.losses[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *a.sum = float(sum);
}

KERNEL(loss_sum, THREADS, LossSumArguments, sum_of_losses)
