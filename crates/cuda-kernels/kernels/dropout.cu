// `ys = mask ∘ xs`: dropout forward and backward, a vector a thread.
#include "dropout.cuh"
#include "element.cuh"

constexpr int THREADS = 256;

struct DropoutArguments {
    const void* xs;
    void* ys;
    uint32_t rows, columns;
    Mask mask;
};

template <class T, int N> __device__ void dropout(const DropoutArguments& a) {
    const uint32_t vectors = a.columns / N;
    const uint32_t vector = blockIdx.x * THREADS + threadIdx.x;
    const uint32_t row = vector / vectors, column = vector % vectors * N;
    if (row >= a.rows) return;
    const size_t at = size_t(row) * a.columns + column;
    const uint64_t key = a.mask.row_key(row);
    float values[N];
    load<N>(static_cast<const T*>(a.xs) + at, values);
#pragma unroll
    for (int i = 0; i < N; ++i) values[i] *= a.mask.factor(key, column + i);
    store<N>(static_cast<T*>(a.ys) + at, values);
}

ELEMENT_KERNELS(dropout, THREADS, DropoutArguments, dropout)
