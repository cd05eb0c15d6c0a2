// The largest logits of each row in descending order, equal ones in the order of their ids, and the logarithm of the
// sum of all exponentials: what a caption search needs, so that whole rows of logits stay on the device. A block has a
// row.
//
// A NaN is a candidate like -infinity, so that it hides no number and every candidate has an id. It makes the logarithm
// of its row's sum NaN, by which the search knows of it.
//
// Few candidates are taken one by one: each thread knows the best of its own columns, and only the thread whose
// candidate is taken looks for its next one. For many, the block finds the key of the last candidate bit by bit, and
// sorts those that are not below.
#include "element.cuh"
#include "reduce.cuh"

constexpr int THREADS = 512;
// Columns of a thread that are loaded together: a row has only one block, whose loads wait for memory.
constexpr int COLUMNS_AHEAD = 8;
// The fewest candidates that are sorted, about as many as the search of a key has rounds; and the most.
constexpr uint32_t MANY = 32, MOST = 1024;

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

// A logit in the order of candidates, which has no place for NaN.
template <class T> __device__ __forceinline__ float ordered(T logit) {
    const float value = to_float(logit);
    return value == value ? value : -INFINITY;
}

// Whether `a` comes before `b`. Everything comes before a missing one.
__device__ __forceinline__ bool before(Candidate a, Candidate b) {
    return a.id != NO_ID && (b.id == NO_ID || a.value > b.value || (a.value == b.value && a.id < b.id));
}

// The first candidate of this thread's columns after `last`.
template <class T>
__device__ __forceinline__ Candidate next_candidate(const T* logits, uint32_t vocabulary, Candidate last) {
    Candidate best{0.0f, NO_ID};
#pragma unroll COLUMNS_AHEAD
    for (uint32_t id = threadIdx.x; id < vocabulary; id += THREADS) {
        const Candidate candidate{ordered(logits[id]), id};
        if (before(candidate, best) && (last.id == NO_ID || before(last, candidate))) best = candidate;
    }
    return best;
}

// Writes candidate `i` of the block's row.
__device__ __forceinline__ void write(const CandidatesArguments& a, uint32_t i, Candidate candidate) {
    a.values[size_t(blockIdx.x) * a.count + i] = candidate.value;
    a.ids[size_t(blockIdx.x) * a.count + i] = candidate.id;
}

// Writes all candidates, and returns the largest logit.
template <class T> __device__ __forceinline__ float take_one_by_one(const CandidatesArguments& a, const T* logits) {
    Candidate own = next_candidate(logits, a.vocabulary, {0.0f, NO_ID});
    float largest = 0.0f;
    for (uint32_t i = 0; i < a.count; ++i) {
        const Candidate best =
            block_reduce<THREADS>(own, [](Candidate x, Candidate y) { return before(x, y) ? x : y; });
        if (i == 0) largest = best.value;
        if (threadIdx.x == 0) write(a, i, best);
        if (own.id == best.id) own = next_candidate(logits, a.vocabulary, best);
    }
    return largest;
}

// A number for each candidate; that of a candidate before another is larger.
__device__ __forceinline__ uint64_t key_of(float value, uint32_t id) {
    const uint32_t bits = value == 0.0f ? 0 : __float_as_uint(value);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 1u << 31;
    return uint64_t(ordered) << 32 | ~id;
}

template <class T>
__device__ __forceinline__ uint32_t own_keys(const CandidatesArguments& a, const T* logits, uint64_t least) {
    uint32_t count = 0;
#pragma unroll COLUMNS_AHEAD
    for (uint32_t id = threadIdx.x; id < a.vocabulary; id += THREADS) count += key_of(ordered(logits[id]), id) >= least;
    return count;
}

// A key that exactly `count` keys are not below.
template <class T> __device__ __forceinline__ uint64_t least_key(const CandidatesArguments& a, const T* logits) {
    uint64_t least = 0;
    for (int bit = 63; bit >= 0; --bit) {
        const uint64_t larger = least | 1ull << bit;
        const uint32_t count = block_sum<THREADS>(own_keys(a, logits, larger));
        if (count >= a.count) least = larger;
        if (count == a.count) break;
    }
    return least;
}

// The sum of `count` over the threads before this one.
__device__ __forceinline__ uint32_t sum_before(uint32_t count) {
    SHARED(uint32_t, sums, THREADS);
    sums[threadIdx.x] = count;
    for (uint32_t distance = 1; distance < THREADS; distance *= 2) {
        __syncthreads();
        const uint32_t other = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
        __syncthreads();
        sums[threadIdx.x] += other;
    }
    return sums[threadIdx.x] - count;
}

// Sorts `size` keys, a power of two, in descending order (bitonic).
__device__ __forceinline__ void sort_keys(uint64_t* keys, uint32_t size) {
    for (uint32_t sorted = 2; sorted <= size; sorted *= 2) {
        for (uint32_t distance = sorted / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (uint32_t i = threadIdx.x; i < size / 2; i += THREADS) {
                const uint32_t first = i / distance * distance * 2 + i % distance, second = first + distance;
                const bool descends = (first & sorted) == 0;
                const uint64_t x = keys[first], y = keys[second];
                if (descends ? x < y : x > y) keys[first] = y, keys[second] = x;
            }
        }
    }
    __syncthreads();
}

// As `take_one_by_one`, for MANY to MOST candidates.
template <class T> __device__ __forceinline__ float take_sorted(const CandidatesArguments& a, const T* logits) {
    SHARED(uint64_t, keys, MOST);
    const uint64_t least = least_key(a, logits);
    uint32_t place = sum_before(own_keys(a, logits, least));
    for (uint32_t id = threadIdx.x; id < a.vocabulary; id += THREADS) {
        const uint64_t key = key_of(ordered(logits[id]), id);
        if (key >= least && place < MOST) keys[place++] = key;
    }
    uint32_t size = MANY;
    while (size < a.count) size *= 2;
    // Keys after all others.
    for (uint32_t i = a.count + threadIdx.x; i < size; i += THREADS) keys[i] = 0;
    sort_keys(keys, size);
    for (uint32_t i = threadIdx.x; i < a.count; i += THREADS) {
        const uint32_t id = ~uint32_t(keys[i]);
        write(a, i, {ordered(logits[id]), id});
    }
    return ordered(logits[~uint32_t(keys[0])]);
}

template <class T> __device__ void top_candidates(const CandidatesArguments& a) {
    const T* logits = static_cast<const T*>(a.logits) + size_t(blockIdx.x) * a.stride;
    const bool sorted = a.count >= MANY && a.count <= MOST;
    const float largest = sorted ? take_sorted(a, logits) : take_one_by_one(a, logits);
    float sum = 0.0f;
#pragma unroll COLUMNS_AHEAD
    for (uint32_t id = threadIdx.x; id < a.vocabulary; id += THREADS) sum += expf(to_float(logits[id]) - largest);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) a.log_sums[blockIdx.x] = largest + logf(sum);
}

KERNEL(top_candidates_f32, THREADS, CandidatesArguments, top_candidates<float>)
KERNEL(top_candidates_bf16, THREADS, CandidatesArguments, top_candidates<bf16>)
