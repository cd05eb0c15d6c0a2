// The norm of all gradients, clipping, and AdamW over all parameters, in a launch each: tables hold the addresses of
// the tensors, and blocks work on chunks of them. The arithmetic is that of trainer-core's AdamW on the CPU, operation
// by operation, so that equal gradients give equal bits.
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 256;
// Elements of a chunk.
constexpr uint32_t CHUNK = 4096;

struct OptimizerTensor {
    float *parameter, *gradient, *exp_avg, *exp_avg_sq;
    uint32_t count;
    uint32_t first_chunk;  // Its chunks are numbered from here on.
    // 1 - rate * weight decay; rate / (1 - beta1^t); sqrt(1 - beta2^t).
    float decay, step_size, root_correction;
    float scale;  // Of the gradient: 1 / (targets of the step).
};

struct OptimizerResult {
    double norm;        // The norm of all scaled gradients; NaN if a loss is not finite.
    float coefficient;  // The factor of the scaled gradients that clips them, at most 1.
    uint32_t padding;
};

struct OptimizerArguments {
    const OptimizerTensor* tensors;
    const uint32_t* chunk_tensors;  // The tensor of each chunk.
    double* squares;                // Sums of squares of each chunk.
    double* norms;                  // The norm of each tensor.
    OptimizerResult* result;
    const uint64_t* losses;  // Their number, then the address of each, an f32; null without losses.
    double* loss_values;     // The losses at these addresses.
    double max_norm;  // 0: no clipping.
    uint32_t tensor_count, chunk_count;
    float beta1, beta2, rest1, rest2, epsilon;
};

// Runs `body(index, count)` for the elements of this block's chunk, four at a time where there are four.
template <class F> __device__ __forceinline__ void for_chunk(const OptimizerTensor& tensor, F body) {
    const uint32_t first = (blockIdx.x - tensor.first_chunk) * CHUNK, end = min(first + CHUNK, tensor.count);
    for (uint32_t i = first + threadIdx.x * 4; i < end; i += THREADS * 4) body(i, min(end - i, 4u));
}

__device__ void sum_squares(const OptimizerArguments& a) {
    const OptimizerTensor& tensor = a.tensors[a.chunk_tensors[blockIdx.x]];
    double sum = 0.0;
    auto add = [&](float g) {
        const double scaled = __fmul_rn(g, tensor.scale);
        sum += scaled * scaled;
    };
    for_chunk(tensor, [&](uint32_t i, uint32_t count) {
        if (count == 4) {
            float g[4];
            load<4>(tensor.gradient + i, g);
#pragma unroll
            for (int j = 0; j < 4; ++j) add(g[j]);
        } else {
            for (uint32_t j = i; j < i + count; ++j) add(tensor.gradient[j]);
        }
    });
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) a.squares[blockIdx.x] = sum;
}

// The norms, and the coefficient of clipping, as `torch.nn.utils.clip_grad_norm_`. One block. The last sum has the
// order of the host, which computes the same norm from the norms of the tensors. The losses are copied to where the
// host reads the norms, so that it waits for the device only once a step.
__device__ void norms_and_clip(const OptimizerArguments& a) {
    const uint64_t losses = a.losses ? a.losses[0] : 0;
    for (uint64_t i = threadIdx.x; i < losses; i += THREADS)
        a.loss_values[i] = *reinterpret_cast<const float*>(a.losses[1 + i]);
    for (uint32_t tensor = threadIdx.x; tensor < a.tensor_count; tensor += THREADS) {
        const uint32_t end = tensor + 1 < a.tensor_count ? a.tensors[tensor + 1].first_chunk : a.chunk_count;
        double sum = 0.0;
        for (uint32_t chunk = a.tensors[tensor].first_chunk; chunk < end; ++chunk) sum += a.squares[chunk];
        a.norms[tensor] = sqrt(sum);
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.0;
    for (uint32_t tensor = 0; tensor < a.tensor_count; ++tensor)
        total = __dadd_rn(total, __dmul_rn(a.norms[tensor], a.norms[tensor]));
    const double norm = sqrt(total), coefficient = a.max_norm / (norm + 1e-6);
    bool finite = true;
    for (uint64_t i = 0; i < losses; ++i) finite = finite && fabs(a.loss_values[i]) < INFINITY;
    *a.result = {finite ? norm : double(NAN), a.max_norm > 0.0 && coefficient < 1.0 ? float(coefficient) : 1.0f, 0};
}

// The compiler must not contract these to fused multiply-adds, which the CPU does not use.
__device__ __forceinline__ void update(
    const OptimizerArguments& a, const OptimizerTensor& t, float clip, float& p, float g, float& m, float& v) {
    g = __fmul_rn(__fmul_rn(g, t.scale), clip);
    m = __fadd_rn(__fmul_rn(a.beta1, m), __fmul_rn(a.rest1, g));
    v = __fadd_rn(__fmul_rn(a.beta2, v), __fmul_rn(__fmul_rn(a.rest2, g), g));
    const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), t.root_correction), a.epsilon);
    p = __fsub_rn(__fmul_rn(t.decay, p), __fdiv_rn(__fmul_rn(t.step_size, m), denominator));
}

__device__ void step(const OptimizerArguments& a) {
    // A step whose norm is infinite or NaN is not taken, nor is one with such a loss.
    if (!(a.result->norm < INFINITY)) return;
    const OptimizerTensor& t = a.tensors[a.chunk_tensors[blockIdx.x]];
    const float clip = a.result->coefficient;
    for_chunk(t, [&](uint32_t i, uint32_t count) {
        if (count == 4) {
            float p[4], g[4], m[4], v[4];
            load<4>(t.parameter + i, p);
            load<4>(t.gradient + i, g);
            load<4>(t.exp_avg + i, m);
            load<4>(t.exp_avg_sq + i, v);
#pragma unroll
            for (int j = 0; j < 4; ++j) update(a, t, clip, p[j], g[j], m[j], v[j]);
            store<4>(t.parameter + i, p);
            store<4>(t.exp_avg + i, m);
            store<4>(t.exp_avg_sq + i, v);
        } else {
            for (uint32_t j = i; j < i + count; ++j)
                update(a, t, clip, t.parameter[j], t.gradient[j], t.exp_avg[j], t.exp_avg_sq[j]);
        }
    });
}

// Replaces the parameters by `f(parameter, gradient, scale)`.
template <class F> __device__ __forceinline__ void combine(const OptimizerArguments& a, F f) {
    const OptimizerTensor& t = a.tensors[a.chunk_tensors[blockIdx.x]];
    for_chunk(t, [&](uint32_t i, uint32_t count) {
        if (count == 4) {
            float p[4], g[4];
            load<4>(t.parameter + i, p);
            load<4>(t.gradient + i, g);
#pragma unroll
            for (int j = 0; j < 4; ++j) p[j] = f(p[j], g[j], t.scale);
            store<4>(t.parameter + i, p);
        } else {
            for (uint32_t j = i; j < i + count; ++j) t.parameter[j] = f(t.parameter[j], t.gradient[j], t.scale);
        }
    });
}

// Gradients times `scale`, in place of the parameters.
__device__ void scale_gradients(const OptimizerArguments& a) {
    combine(a, [](float, float g, float scale) { return __fmul_rn(g, scale); });
}

// Adds the gradients to the parameters, which are sums of gradients.
__device__ void add_gradients(const OptimizerArguments& a) {
    combine(a, [](float sum, float g, float) { return __fadd_rn(sum, g); });
}

KERNEL(gradient_scale, THREADS, OptimizerArguments, scale_gradients)
KERNEL(gradient_add, THREADS, OptimizerArguments, add_gradients)
KERNEL(gradient_squares, THREADS, OptimizerArguments, sum_squares)
KERNEL(gradient_norms, THREADS, OptimizerArguments, norms_and_clip)
KERNEL(adamw, THREADS, OptimizerArguments, step)
