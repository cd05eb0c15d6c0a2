// Copies rows from several places to memory where they lie one after the other, as f32: the features of a batch's
// pictures from a cache that has each of them apart. The places are part of the launch, so that nothing else has to be
// copied to the device first. A vector a thread.
#include "element.cuh"

constexpr int THREADS = 256, MOST_ROWS = 32;

struct RowCopyArguments {
    const void* from[MOST_ROWS];
    float* to;  // (rows, elements)
    uint64_t elements;
};

template <class T, int N> __device__ void row_copy(const RowCopyArguments& a) {
    const uint64_t first = (uint64_t(blockIdx.x) * THREADS + threadIdx.x) * N;
    if (first >= a.elements) return;
    float values[N];
    load<N>(static_cast<const T*>(a.from[blockIdx.y]) + first, values);
    float* to = a.to + blockIdx.y * a.elements + first;
    constexpr int STEP = N < 4 ? N : 4;
#pragma unroll
    for (int i = 0; i < N; i += STEP) {
        float part[STEP];
#pragma unroll
        for (int j = 0; j < STEP; ++j) part[j] = values[i + j];
        store<STEP>(to + i, part);
    }
}

ELEMENT_KERNELS(row_copy, THREADS, RowCopyArguments, row_copy)
