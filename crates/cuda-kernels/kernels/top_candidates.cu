// The largest logits of each row in descending order, equal ones in the order of their ids, and the logarithm of the
// sum of all exponentials: what a caption search needs, so that whole rows of logits stay on the device. A block has a
// row. Each thread knows the best of its own columns, and only the thread whose candidate is taken looks for its next
// one.
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 512;

struct CandidatesArguments {
    const void* logits;  // (rows, stride)
    float* values;       // (rows, count)
    uint32_t* ids;       // (rows, count)
    float* log_sums;     // (rows)
    uint32_t vocabulary, stride, count;
};

struct Candidate {
    float value;
    uint32_t id;
};

constexpr uint32_t NO_ID = ~0u;

// Whether `a` comes before `b`. Everything comes before a missing one.
__device__ __forceinline__ bool before(Candidate a, Candidate b) {
    return a.id != NO_ID && (b.id == NO_ID || a.value > b.value || (a.value == b.value && a.id < b.id));
}

// The first candidate of this thread's columns after `last`.
template <class T>
__device__ __forceinline__ Candidate next_candidate(const T* logits, uint32_t vocabulary, Candidate last) {
    Candidate best{0.0f, NO_ID};
    for (uint32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        const Candidate candidate{to_float(logits[id]), id};
        if (before(candidate, best) && (last.id == NO_ID || before(last, candidate))) best = candidate;
    }
    return best;
}

template <class T> __device__ void top_candidates(const CandidatesArguments& a) {
    const T* logits = static_cast<const T*>(a.logits) + size_t(blockIdx.x) * a.stride;
    Candidate own = next_candidate(logits, a.vocabulary, {0.0f, NO_ID});
    float largest = 0.0f;
    for (uint32_t i = 0; i < a.count; ++i) {
        const Candidate best =
            block_reduce<THREADS>(own, [](Candidate x, Candidate y) { return before(x, y) ? x : y; });
        if (i == 0) largest = best.value;
        if (threadIdx.x == 0) {
            a.values[size_t(blockIdx.x) * a.count + i] = best.value;
            a.ids[size_t(blockIdx.x) * a.count + i] = best.id;
        }
        if (own.id == best.id) own = next_candidate(logits, a.vocabulary, best);
    }
    float sum = 0.0f;
    for (uint32_t id = threadIdx.x; id < a.vocabulary; id += THREADS) sum += expf(to_float(logits[id]) - largest);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) a.log_sums[blockIdx.x] = largest + logf(sum);
}

KERNEL(top_candidates_f32, THREADS, CandidatesArguments, top_candidates<float>)
KERNEL(top_candidates_bf16, THREADS, CandidatesArguments, top_candidates<bf16>)
