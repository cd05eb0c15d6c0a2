// Copies tensors of any types and sizes to other places, several in a launch: the results of a graph, out of the memory
// that the graph allocates. The places are part of the launch, so that nothing else has to be copied to the device first.
#include "kernel.cuh"

constexpr int THREADS = 256, MOST_TENSORS = 16, VECTOR = 16;
// Bytes that a block copies.
constexpr uint64_t PIECE = 4 * THREADS * VECTOR;

struct TensorCopyArguments {
    const char* from[MOST_TENSORS];
    char* to[MOST_TENSORS];
    uint64_t bytes[MOST_TENSORS];
};

// Block (x, y) copies piece x of tensor y.
__device__ void copy_piece(const TensorCopyArguments& a) {
    const char* from = a.from[blockIdx.y];
    char* to = a.to[blockIdx.y];
    const uint64_t bytes = a.bytes[blockIdx.y], first = blockIdx.x * PIECE, end = min(bytes, first + PIECE);
    for (uint64_t at = first + threadIdx.x * VECTOR; at < end; at += THREADS * VECTOR) {
        if (at + VECTOR <= end) {
            CHECK_ALIGNED(from + at, VECTOR);
            CHECK_ALIGNED(to + at, VECTOR);
            *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
        } else {
            for (uint64_t byte = at; byte < end; ++byte) to[byte] = from[byte];
        }
    }
}

KERNEL(tensor_copy, THREADS, TensorCopyArguments, copy_piece)
