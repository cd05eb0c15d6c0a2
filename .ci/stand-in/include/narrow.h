// The narrow types of CUDA's headers, for kernels of candle that are compiled for the CPU. As in CUDA, bf16 computes in f32 and
// rounds each result. f16 and fp8, which are not used in training here, only compile.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

struct FormatBf16 {
    using Bits = uint16_t;
    static Bits narrow(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if (x != x) return 0x7fff;
        return Bits((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    static float widen(Bits b) {
        const uint32_t bits = uint32_t(b) << 16;
        float x;
        std::memcpy(&x, &bits, 4);
        return x;
    }
};
struct FormatF16 {
    using Bits = uint16_t;
    static Bits narrow(float) { std::abort(); }
    static float widen(Bits) { std::abort(); }
};
struct FormatFp8 {
    using Bits = uint8_t;
    static Bits narrow(float) { std::abort(); }
    static float widen(Bits) { std::abort(); }
};

template <class Format> struct Narrow {
    typename Format::Bits __x;
    Narrow() = default;
    template <class Number, class = decltype(float(Number()))> Narrow(Number x) : __x(Format::narrow(float(x))) {}
    operator float() const { return Format::widen(__x); }
    Narrow& operator+=(Narrow other) { return *this = Narrow(float(*this) + float(other)); }
    Narrow& operator*=(Narrow other) { return *this = Narrow(float(*this) * float(other)); }
    friend Narrow operator-(Narrow a) { return Narrow(-float(a)); }
#define NARROW_OPERATOR(op) \
    friend Narrow operator op(Narrow a, Narrow b) { return Narrow(float(a) op float(b)); }
    NARROW_OPERATOR(+)
    NARROW_OPERATOR(-)
    NARROW_OPERATOR(*)
    NARROW_OPERATOR(/)
#undef NARROW_OPERATOR
#define NARROW_COMPARISON(op) \
    friend bool operator op(Narrow a, Narrow b) { return float(a) op float(b); }
    NARROW_COMPARISON(==)
    NARROW_COMPARISON(!=)
    NARROW_COMPARISON(<)
    NARROW_COMPARISON(<=)
    NARROW_COMPARISON(>)
    NARROW_COMPARISON(>=)
#undef NARROW_COMPARISON
};

using __nv_bfloat16 = Narrow<FormatBf16>;
using __half = Narrow<FormatF16>;
using __half_raw = __half;
using __nv_fp8_e4m3 = Narrow<FormatFp8>;
enum { __NV_E4M3 };

inline __nv_bfloat16 __float2bfloat16(float x) { return x; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) { return x; }
inline float __bfloat162float(__nv_bfloat16 x) { return x; }
inline __half __float2half(float x) { return x; }
inline float __half2float(__half x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return x.__x; }
inline __half __ushort_as_half(unsigned short) { std::abort(); }
inline __half_raw __nv_cvt_fp8_to_halfraw(uint8_t, int) { std::abort(); }

struct __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
#define BF162_OPERATION(name, op) \
    inline __nv_bfloat162 name(__nv_bfloat162 a, __nv_bfloat162 b) { return {a.x op b.x, a.y op b.y}; }
BF162_OPERATION(__hadd2, +)
BF162_OPERATION(__hsub2, -)
BF162_OPERATION(__hmul2, *)
#undef BF162_OPERATION

template <class F> bool __hisnan(Narrow<F> x) { return float(x) != float(x); }
template <class F> Narrow<F> __hmax_nan(Narrow<F> a, Narrow<F> b) { return __hisnan(a) || a > b ? a : b; }
template <class F> Narrow<F> __hmin_nan(Narrow<F> a, Narrow<F> b) { return __hisnan(a) || a < b ? a : b; }
template <class F> Narrow<F> __habs(Narrow<F> x) { return std::fabs(float(x)); }
template <class F> Narrow<F> hsqrt(Narrow<F> x) { return std::sqrt(float(x)); }
template <class F> Narrow<F> hcos(Narrow<F> x) { return std::cos(float(x)); }
template <class F> Narrow<F> hsin(Narrow<F> x) { return std::sin(float(x)); }
template <class F> Narrow<F> hlog(Narrow<F> x) { return std::log(float(x)); }
template <class F> Narrow<F> hexp(Narrow<F> x) { return std::exp(float(x)); }
