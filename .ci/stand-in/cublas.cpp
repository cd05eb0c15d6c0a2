// A stand-in for libcublas: the only product that candle calls, `c = alpha op(a) op(b) + beta c` of column-major matrices. Sums are
// f64 and rounded once, so they are closer to the exact product than those of cuBLAS.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

extern "C" {
void cuda_stand_in_count(const char* what, unsigned long long bytes);
int cuda_stand_in_computes();
void cuda_stand_in_check(const void* pointer, size_t bytes, const char* what);
int cuda_stand_in_record(const std::function<void()>& work);
}

namespace {
enum : int { F32 = 0, BF16 = 14, F64 = 1 };
using Result = int;
constexpr Result SUCCESS = 0, NOT_SUPPORTED = 15;
// Of all devices, which the programs set up in the same way.
bool has_workspace = false, keeps_sums = false;

float number(const void* values, long long index, int type) {
    if (type == F32) return static_cast<const float*>(values)[index];
    const uint32_t bits = uint32_t(static_cast<const uint16_t*>(values)[index]) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

void store(void* values, long long index, int type, float x) {
    if (type == F32) {
        static_cast<float*>(values)[index] = x;
        return;
    }
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    static_cast<uint16_t*>(values)[index] = x != x ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `rows` rows of `k` numbers next to each other, from a matrix whose element (row, i) is at `row * row_stride + i * stride`.
std::vector<float> rows_of(const void* values, long long first, int type, int rows, int k, long long row_stride,
                           long long stride) {
    std::vector<float> packed(size_t(rows) * k);
    for (int row = 0; row < rows; ++row)
        for (int i = 0; i < k; ++i)
            packed[size_t(row) * k + i] = number(values, first + row * row_stride + i * stride, type);
    return packed;
}

double dot(const float* a, const float* b, int k) {
    constexpr int LANES = 8;
    double sums[LANES] = {};
    int i = 0;
    for (; i + LANES <= k; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) sums[lane] += double(a[i + lane]) * b[i + lane];
    for (; i < k; ++i) sums[0] += double(a[i]) * b[i];
    double sum = 0;
    for (double lane : sums) sum += lane;
    return sum;
}
}  // namespace

extern "C" {
Result cublasCreate_v2(void** handle) { return *handle = reinterpret_cast<void*>(1), SUCCESS; }
Result cublasDestroy_v2(void*) { return SUCCESS; }
Result cublasSetStream_v2(void*, void*) { return SUCCESS; }
Result cublasSetWorkspace_v2(void*, void* memory, size_t bytes) {
    cuda_stand_in_check(memory, bytes, "cuBLAS's workspace");
    return has_workspace = true, SUCCESS;
}
Result cublasSetMathMode(void*, int mode) {
    // 16: sums are not rounded to the type of the result before they are added.
    return keeps_sums = mode == 16, SUCCESS;
}
Result cublasGemmStridedBatchedEx(void*, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha,
                                  const void* a, int a_type, int lda, long long a_stride, const void* b, int b_type,
                                  int ldb, long long b_stride, const void* beta, void* c, int c_type, int ldc,
                                  long long c_stride, int batch, int compute, int) {
    // 68: sums in f32; 77: TF32.
    std::string sums = compute == 68 ? "" : compute == 77 ? ", TF32" : ", compute " + std::to_string(compute);
    if (!keeps_sums) sums += ", rounded sums";
    if (!has_workspace) sums += ", without workspace";
    const char* type = a_type == F32 ? "f32" : a_type == BF16 ? "bf16" : "other";
    cuda_stand_in_count((std::string("product ") + type + sums).c_str(), 2ull * m * n * k * batch);
    if (!cuda_stand_in_computes()) return SUCCESS;
    for (int t : {a_type, b_type, c_type})
        if (t != F32 && t != BF16) return NOT_SUPPORTED;
    const float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    const auto multiply = [=] {
        for (int sample = 0; sample < batch; ++sample) {
            const auto left = rows_of(a, sample * a_stride, a_type, m, k, transpose_a ? lda : 1, transpose_a ? 1 : lda);
            const auto right = rows_of(b, sample * b_stride, b_type, n, k, transpose_b ? 1 : ldb, transpose_b ? ldb : 1);
            for (int column = 0; column < n; ++column)
                for (int row = 0; row < m; ++row) {
                    const double sum = dot(&left[size_t(row) * k], &right[size_t(column) * k], k);
                    const long long at = sample * c_stride + (long long)column * ldc + row;
                    const float old = keep == 0 ? 0 : keep * number(c, at, c_type);
                    store(c, at, c_type, float(scale * sum) + old);
                }
        }
    };
    if (!cuda_stand_in_record(multiply)) multiply();
    return SUCCESS;
}
}
