// Bias + activation, `ys = f(xs + bias)`, and `dxs = f'(xs + bias) ∘ dys`. A vector a thread.
#include "element.cuh"

constexpr int THREADS = 256;

enum Activation : uint32_t { GELU, QUICK_GELU, GELU_TANH, SILU, IDENTITY };

struct ActivationArguments {
    const void* xs;
    const float* bias;  // Null: 0.
    const void* dys;    // Of the backward pass only.
    void* ys;           // In the backward pass, dxs.
    uint32_t rows, columns;
    Activation activation;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The value and the derivative. All but GELU and the identity are `x σ(u(x))`, whose derivative is `s + x s (1 - s) u'`.
__device__ __forceinline__ float2 value_and_derivative(Activation activation, float x) {
    if (activation == GELU) {
        const float cdf = 0.5f * (1.0f + erff(0.707106781f * x));
        return {x * cdf, cdf + x * 0.398942280f * expf(-0.5f * x * x)};
    }
    if (activation == IDENTITY) return {x, 1.0f};
    float u = x, slope = 1.0f;
    if (activation == QUICK_GELU) {
        u = 1.702f * x, slope = 1.702f;
    } else if (activation == GELU_TANH) {
        constexpr float SCALE = 1.59576912f, CUBE = 0.044715f;  // SCALE is 2 sqrt(2/π), as (1 + tanh(u)) / 2 is σ(2 u).
        u = SCALE * (x + CUBE * x * x * x), slope = SCALE * (1.0f + 3.0f * CUBE * x * x);
    }
    const float s = sigmoid(u);
    // Where s is 0, x may be so large that the second product is not a number.
    return {x * s, s > 0.0f && s < 1.0f ? s + x * s * (1.0f - s) * slope : s};
}

template <class T, int N, bool GRADIENT> __device__ __forceinline__ void activate(const ActivationArguments& a) {
    const uint32_t vectors = a.columns / N;
    const uint32_t vector = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t row = vector / vectors, column = vector % vectors * N;
    if (row >= a.rows) return;
    const size_t at = size_t(row) * a.columns + column;
    float x[N], bias[N] = {}, dy[N] = {};
    load<N>(static_cast<const T*>(a.xs) + at, x);
    if (a.bias) load_parameters<N>(a.bias + column, bias);
    if constexpr (GRADIENT) load<N>(static_cast<const T*>(a.dys) + at, dy);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float2 f = value_and_derivative(a.activation, x[i] + bias[i]);
        x[i] = GRADIENT ? dy[i] * f.y : f.x;
    }
    store<N>(static_cast<T*>(a.ys) + at, x);
}

template <class T, int N> __device__ void activation_forward(const ActivationArguments& a) { activate<T, N, false>(a); }
template <class T, int N> __device__ void activation_backward(const ActivationArguments& a) { activate<T, N, true>(a); }

ELEMENT_KERNELS(activation_forward, THREADS, ActivationArguments, activation_forward)
ELEMENT_KERNELS(activation_backward, THREADS, ActivationArguments, activation_backward)
