// Products of small tiles by a warp, `C (16, 8 n) += A (16, 16) B (16, 8 n)`: on tensor cores for bf16, with fused
// multiply-adds for f32. Sums are f32.
//
// The sums have the layout of tensor cores in both types: of each 8 columns, a lane has row `lane / 4` and that row +
// 8, and there the columns `lane % 4 * 2` and the next: `c[i / 8][0..2]` and `c[i / 8][2..4]`.
#pragma once
#include "mma.cuh"

#include <cstring>
#include <type_traits>

// Elements of a 16-byte vector.
template <class T> constexpr int VECTOR = 16 / sizeof(T);
// From one row of a tile in shared memory to the next. The vector more than the columns lets eight rows lie in
// different banks.
template <class T, int COLUMNS> constexpr int PADDED = COLUMNS + VECTOR<T>;

// Rows and columns of the sums that a lane has.
__device__ __forceinline__ int lane_row() { return threadIdx.x % 32 / 4; }
__device__ __forceinline__ int lane_column() { return threadIdx.x % 4 * 2; }

// A lane's part of `A`.
template <class T> struct Fragment;
template <> struct Fragment<bf16> {
    uint32_t pairs[4];
};
template <> struct Fragment<float> {
    float rows[2][16];
};

// `A` from 16 rows in shared memory.
__device__ __forceinline__ void load_fragment(Fragment<bf16>& a, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32;
    const Matrices m = load_matrices<false>(tile + (lane % 16) * stride + lane / 16 * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) a.pairs[i] = m.pairs[i];
}

__device__ __forceinline__ void load_fragment(Fragment<float>& a, const float* tile, int stride) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 16; k += 4) {
            float values[4];
            load<4>(tile + (lane_row() + 8 * i) * stride + k, values);
#pragma unroll
            for (int j = 0; j < 4; ++j) a.rows[i][k + j] = values[j];
        }
}

// `A` from 16 columns in shared memory: row `m` of `A` is column `m` of the tile.
__device__ __forceinline__ void load_columns(Fragment<bf16>& a, const bf16* tile, int stride) {
    const int lane = threadIdx.x % 32;
    const Matrices m = load_matrices<true>(tile + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) a.pairs[i] = m.pairs[i];
}

__device__ __forceinline__ void load_columns(Fragment<float>& a, const float* tile, int stride) {
#pragma unroll
    for (int k = 0; k < 16; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i) a.rows[i][k] = tile[k * stride + lane_row() + 8 * i];
}

// `A` from 16 columns of the sums of another product.
__device__ __forceinline__ void make_fragment(Fragment<bf16>& a, const float (&left)[4], const float (&right)[4]) {
    a.pairs[0] = pack_bf16(left[0], left[1]);
    a.pairs[1] = pack_bf16(left[2], left[3]);
    a.pairs[2] = pack_bf16(right[0], right[1]);
    a.pairs[3] = pack_bf16(right[2], right[3]);
}

__device__ __forceinline__ void make_fragment(Fragment<float>& a, const float (&left)[4], const float (&right)[4]) {
    const int quad = threadIdx.x % 32 / 4 * 4;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int k = 0; k < 8; ++k) {
            a.rows[i][k] = __shfl_sync(~0u, left[2 * i + k % 2], quad + k / 2);
            a.rows[i][k + 8] = __shfl_sync(~0u, right[2 * i + k % 2], quad + k / 2);
        }
}

// `C += A B`, where row `n` of the tile `b` is column `n` of `B`.
template <int N>
__device__ __forceinline__ void multiply_rows(float (&c)[N][4], const Fragment<bf16>& a, const bf16* b, int stride) {
    static_assert(N % 2 == 0, "pairs of 8 columns");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        const Matrices m = load_matrices<false>(b + (8 * n + lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
        mma(c[n], a.pairs, m.pairs[0], m.pairs[1]);
        mma(c[n + 1], a.pairs, m.pairs[2], m.pairs[3]);
    }
}

template <int N>
__device__ __forceinline__ void multiply_rows(float (&c)[N][4], const Fragment<float>& a, const float* b, int stride) {
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int column = 0; column < 2; ++column)
#pragma unroll
            for (int k = 0; k < 16; k += 4) {
                float values[4];
                load<4>(b + (8 * n + lane_column() + column) * stride + k, values);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    c[n][column] += a.rows[0][k + j] * values[j];
                    c[n][column + 2] += a.rows[1][k + j] * values[j];
                }
            }
}

// `C += A B`, where row `k` of the tile `b` is row `k` of `B`.
template <int N>
__device__ __forceinline__ void multiply_columns(float (&c)[N][4], const Fragment<bf16>& a, const bf16* b, int stride) {
    static_assert(N % 2 == 0, "pairs of 8 columns");
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        const Matrices m = load_matrices<true>(b + (lane % 16) * stride + 8 * n + lane / 16 * 8);
        mma(c[n], a.pairs, m.pairs[0], m.pairs[1]);
        mma(c[n + 1], a.pairs, m.pairs[2], m.pairs[3]);
    }
}

template <int N>
__device__ __forceinline__ void multiply_columns(
    float (&c)[N][4], const Fragment<float>& a, const float* b, int stride) {
#pragma unroll
    for (int k = 0; k < 16; ++k)
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const float* at = b + k * stride + 8 * n + lane_column();
            CHECK_ALIGNED(at, 8);
            const float2 values = *reinterpret_cast<const float2*>(at);
            c[n][0] += a.rows[0][k] * values.x;
            c[n][1] += a.rows[0][k] * values.y;
            c[n][2] += a.rows[1][k] * values.x;
            c[n][3] += a.rows[1][k] * values.y;
        }
}

// A matrix in global memory, of which there may be less than a tile.
template <class T> struct Source {
    const T* values;
    size_t stride;  // From one row to the next.
    int rows, columns;
    bool vectors;  // Whether all rows begin at multiples of 16 bytes.
};

// Copies a tile of `ROWS` rows and `COLUMNS` columns to shared memory. What is not in the source becomes 0. The tile
// belongs to `THREADS` threads, those of a warp or of a block.
template <int ROWS, int COLUMNS, int THREADS, class T>
__device__ __forceinline__ void load_tile(T* tile, const Source<T>& from) {
    constexpr int N = VECTOR<T>, VECTORS = COLUMNS / N;
#pragma unroll 4
    for (int vector = threadIdx.x % THREADS; vector < ROWS * VECTORS; vector += THREADS) {
        const int row = vector / VECTORS, column = vector % VECTORS * N;
        const T* at = from.values + row * from.stride + column;
        uint4 values{0, 0, 0, 0};
        if (row < from.rows && column + N <= from.columns && from.vectors) {
            CHECK_ALIGNED(at, 16);
            values = *reinterpret_cast<const uint4*>(at);
        } else if (row < from.rows) {
            T single[N];
#pragma unroll
            for (int i = 0; i < N; ++i) single[i] = column + i < from.columns ? at[i] : from_float<T>(0.0f);
            memcpy(&values, single, sizeof values);
        }
        T* to = tile + row * PADDED<T, COLUMNS> + column;
        CHECK_ALIGNED(to, 16);
        *reinterpret_cast<uint4*>(to) = values;
    }
}

// As `load_tile` for a source of another type or one whose values change on the way: the tile gets
// `convert(value, row, column)`. A transposed tile has a row for each column of the source.
template <int ROWS, int COLUMNS, int THREADS, bool TRANSPOSED, class T, class S, class F>
__device__ __forceinline__ void convert_tile(T* tile, const Source<S>& from, F convert) {
    constexpr int N = VECTOR<S>, VECTORS = COLUMNS / N;
#pragma unroll 2
    for (int vector = threadIdx.x % THREADS; vector < ROWS * VECTORS; vector += THREADS) {
        const int row = vector / VECTORS, column = vector % VECTORS * N;
        const S* at = from.values + row * from.stride + column;
        float values[N] = {};
        if (row < from.rows && column + N <= from.columns && from.vectors) {
            load(at, values);
        } else if (row < from.rows) {
#pragma unroll
            for (int i = 0; i < N; ++i)
                if (column + i < from.columns) values[i] = to_float(at[i]);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) {
            values[i] = convert(values[i], row, column + i);
            if constexpr (TRANSPOSED) {
                tile[(column + i) * PADDED<T, ROWS> + row] = from_float<T>(values[i]);
            } else if constexpr (!std::is_same_v<S, T>) {
                tile[row * PADDED<T, COLUMNS> + column + i] = from_float<T>(values[i]);
            }
        }
        if constexpr (!TRANSPOSED && std::is_same_v<S, T>) store(tile + row * PADDED<T, COLUMNS> + column, values);
    }
}

// Writes a warp's sums, `16` rows of `8 N` columns, to global memory, 16 bytes at a time where that is possible. `tile`
// is shared memory of the warp for 16 rows of `8 N` columns.
template <int N, class T>
__device__ __forceinline__ void store_rows(
    const float (&c)[N][4], T* tile, T* to, size_t stride, int rows, int columns, bool vectors) {
    constexpr int STRIDE = PADDED<T, 8 * N>, SIZE = VECTOR<T>, VECTORS = 8 * N / SIZE;
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            tile[(lane_row() + i / 2 * 8) * STRIDE + 8 * n + lane_column() + i % 2] = from_float<T>(c[n][i]);
    __syncwarp();
#pragma unroll
    for (int vector = threadIdx.x % 32; vector < 16 * VECTORS; vector += 32) {
        const int row = vector / VECTORS, column = vector % VECTORS * SIZE;
        if (row >= rows) break;
        const T* from = tile + row * STRIDE + column;
        T* at = to + row * stride + column;
        if (vectors && column + SIZE <= columns) {
            CHECK_ALIGNED(at, 16);
            CHECK_ALIGNED(from, 16);
            *reinterpret_cast<uint4*>(at) = *reinterpret_cast<const uint4*>(from);
        } else {
            for (int i = 0; i < SIZE && column + i < columns; ++i) at[i] = from[i];
        }
    }
}
