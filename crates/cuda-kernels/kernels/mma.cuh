// The two tensor-core instructions that the kernels use, and the same on the CPU with the registers of all lanes laid
// out as the PTX manual says.
#pragma once
#include "element.cuh"

// Four 8x8 matrices of bf16 from shared memory: a lane gives the address of a row, lanes 0 to 7 of the first matrix and
// so on, and gets of each matrix two neighbours of row `lane / 4`, or of that column of the transposed matrix.
struct Matrices {
    uint32_t pairs[4];
};

#ifdef __CUDACC__
template <bool TRANSPOSED> __device__ __forceinline__ Matrices load_matrices(const bf16* row) {
    Matrices m;
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    if constexpr (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m.pairs[0]), "=r"(m.pairs[1]), "=r"(m.pairs[2]), "=r"(m.pairs[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m.pairs[0]), "=r"(m.pairs[1]), "=r"(m.pairs[2]), "=r"(m.pairs[3])
                     : "r"(address)
                     : "memory");
    }
    return m;
}

// `c += a b` for `a` (16, 16) and `b` (16, 8) in bf16, sums in f32.
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#else
template <bool TRANSPOSED> Matrices load_matrices(const bf16* row) {
    CHECK_ALIGNED(row, 16);
    const auto rows = cuda_on_host::exchange(row);
    const unsigned lane = cuda_on_host::self->lane, major = lane / 4, minor = lane % 4 * 2;
    Matrices m;
    for (unsigned i = 0; i < 4; ++i) {
        const bf16 low = TRANSPOSED ? rows.of(8 * i + minor)[major] : rows.of(8 * i + major)[minor];
        const bf16 high = TRANSPOSED ? rows.of(8 * i + minor + 1)[major] : rows.of(8 * i + major)[minor + 1];
        m.pairs[i] = low.bits | uint32_t(high.bits) << 16;
    }
    // Until all lanes have read, none may go on to overwrite what they read.
    __syncwarp();
    return m;
}

inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Operands {
        uint32_t a[4], b[2];
    };
    const auto of = cuda_on_host::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    auto half = [](uint32_t pair, unsigned k) { return __uint_as_float(k % 2 ? pair & 0xffff0000u : pair << 16); };
    const unsigned lane = cuda_on_host::self->lane;
    Operands rows[2][4], columns[2][4];
    for (unsigned i = 0; i < 2; ++i)
        for (unsigned j = 0; j < 4; ++j) {
            rows[i][j] = of.of(lane / 4 * 4 + j);
            columns[i][j] = of.of((lane % 4 * 2 + i) * 4 + j);
        }
    for (unsigned i = 0; i < 4; ++i)
        for (unsigned k = 0; k < 16; ++k)
            c[i] += half(rows[i / 2][k % 8 / 2].a[i / 2 + k / 8 * 2], k) * half(columns[i % 2][k % 8 / 2].b[k / 8], k);
}
#endif
