// The gradient of selecting rows: adds each row to the one that it was selected from, in the order of the selection, so
// that sums have the same bits each time. A block has a row of sums, and reads all ids, of which there are few.
#include "element.cuh"

constexpr int THREADS = 128;

struct RowAddArguments {
    const void* rows;     // (count, columns)
    const uint32_t* ids;  // (count), the row of `sums` that each is added to.
    void* sums;           // (number of blocks, columns), written whole.
    uint32_t count, columns;
};

template <class T, int N> __device__ void row_add(const RowAddArguments& a) {
    const T* rows = static_cast<const T*>(a.rows);
    T* sums = static_cast<T*>(a.sums) + size_t(blockIdx.x) * a.columns;
    for (uint32_t column = threadIdx.x * N; column < a.columns; column += THREADS * N) {
        float sum[N] = {};
#pragma unroll 4
        for (uint32_t i = 0; i < a.count; ++i) {
            if (a.ids[i] != blockIdx.x) continue;
            float row[N];
            load<N>(rows + size_t(i) * a.columns + column, row);
#pragma unroll
            for (int j = 0; j < N; ++j) sum[j] += row[j];
        }
        store<N>(sums + column, sum);
    }
}

ELEMENT_KERNELS(row_add, THREADS, RowAddArguments, row_add)
