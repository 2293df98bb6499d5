// Vectors of LSTM_FAST_VECTOR_BYTES bytes, through the compiler's vector extension, and what an instruction set's file
// must say of them. Everything here has internal linkage: see kernel.inl.
#ifndef LSTM_FAST_CPU_SIMD_INL_
#define LSTM_FAST_CPU_SIMD_INL_

#include <cstdint>

// An editor reads each .inl alone: then as generic.cc has it.
#if !defined(LSTM_FAST_VECTOR_BYTES)
#define LSTM_FAST_VECTOR_BYTES 16
#define LSTM_FAST_MICRO_ROWS 3
#define LSTM_FAST_ISA_NAME "generic"
#define LSTM_FAST_ISA_SYMBOL kGenericIsa
#endif

namespace lstm_fast {
namespace {

#define LSTM_FAST_INLINE inline __attribute__((always_inline))
// LSTM_FAST_UNROLL stands before every loop that indexes an array of vectors: unless all of them are unrolled, the
// array lives in memory. GCC and clang each know a pragma of their own. LSTM_FAST_KEEP_LOOP stands before a loop over
// terms: clang 14 unrolls it where their number is fixed, and then keeps sums on the stack. GCC is left to its own
// choice.
#if defined(__clang__)
#define LSTM_FAST_UNROLL _Pragma("clang loop unroll(full)")
#define LSTM_FAST_KEEP_LOOP _Pragma("clang loop unroll(disable)")
#else
#define LSTM_FAST_UNROLL _Pragma("GCC unroll 16")
#define LSTM_FAST_KEEP_LOOP
#endif

template <class Real>
struct VectorTraits;

template <>
struct VectorTraits<float> {
  typedef float Type __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES)));
  // Anywhere, and of whatever type.
  typedef float InMemory __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES), aligned(1), may_alias));
  typedef uint32_t Integer __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES)));
  static constexpr int kMantissaBits = 23;
  // Added to x, leaves x rounded, and the exponent's bias, in the lowest bits.
  static constexpr float kRoundingMagic = 0x1.8p23f + 127;
  static constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 0x1.7f7d1cp-20f;
  // exp overflows to infinity above, and is below any effect on 1 + exp beneath.
  static constexpr float kExpMax = 88.9f, kExpMin = -87.0f;
  static constexpr float kTanhMax = 9.1f;  // tanh rounds to 1 from 9.011 on
  // expm1(r) = r + r^2 * polynomial(r) on |r| <= ln(2) / 2, a minimax fit: relative error 1.3e-8.
  static constexpr int kDegree = 4;
  static constexpr float kExpm1[kDegree + 1] = {0.5f, 0.16666541993618011f, 0.04166628047823906f, 0.008366644382476807f,
                                                0.0013946554390713573f};
};

template <>
struct VectorTraits<double> {
  typedef double Type __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES)));
  typedef double InMemory __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES), aligned(1), may_alias));
  typedef uint64_t Integer __attribute__((vector_size(LSTM_FAST_VECTOR_BYTES)));
  static constexpr int kMantissaBits = 52;
  static constexpr double kRoundingMagic = 0x1.8p52 + 1023;
  static constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kExpMax = 710.0, kExpMin = -708.0;
  static constexpr double kTanhMax = 20.0;  // tanh rounds to 1 from 19.06 on
  // Taylor series: the first term left out, r^14 / 14!, is 4e-18 at the end of the range.
  static constexpr int kDegree = 11;
  static constexpr double kExpm1[kDegree + 1] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                                 1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                                 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
};

template <class Real>
using Vector = typename VectorTraits<Real>::Type;

template <class Real>
constexpr int64_t kLanes = LSTM_FAST_VECTOR_BYTES / static_cast<int64_t>(sizeof(Real));

// By type on AArch64, where GCC 12 makes memcpy's 16 bytes an integer and then leaves arrays of sums in memory: 94 of
// the 474 inner loops of neon.cc used the stack.
template <class Real>
LSTM_FAST_INLINE Vector<Real> Load(const Real* from) {
#if defined(__aarch64__)
  return *reinterpret_cast<const typename VectorTraits<Real>::InMemory*>(from);
#else
  Vector<Real> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
#endif
}

// Reads up to kLanes elements of `count`; lanes beyond them are 0.
template <class Real>
LSTM_FAST_INLINE Vector<Real> LoadPart(const Real* from, int64_t count) {
  if (count >= kLanes<Real>) return Load(from);
  Real values[kLanes<Real>] = {};
  for (int64_t lane = 0; lane < count; ++lane) values[lane] = from[lane];
  return Load(values);
}

template <class Real>
LSTM_FAST_INLINE void Store(Real* to, const Vector<Real>& v) {
#if defined(__aarch64__)
  *reinterpret_cast<typename VectorTraits<Real>::InMemory*>(to) = v;
#else
  __builtin_memcpy(to, &v, sizeof v);
#endif
}

// Fetches `count` elements into a cache ahead of their use. Harmless where there is no memory.
template <class Real>
LSTM_FAST_INLINE void Prefetch(const Real* base, int64_t offset, int64_t count) {
  const auto from = reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(offset) * sizeof(Real);
  const uintptr_t bytes = static_cast<uintptr_t>(count) * sizeof(Real);
  for (uintptr_t i = 0; i < bytes; i += 64) __builtin_prefetch(reinterpret_cast<const void*>(from + i));
}

template <class Real>
LSTM_FAST_INLINE Vector<Real> Broadcast(Real x) {
  return x - Vector<Real>{};  // x - 0 is x, also for -0; the compiler makes it a plain broadcast
}

// a * b + c, rounded once where the instruction set does so. Its file says how.
template <class V>
inline V MultiplyAdd(V a, V b, V c);

// Makes the compiler take v for a value that it cannot load again. Likewise.
template <class V>
inline void KeepInRegister(V& v);

// Of two equal or unordered values, both give x. One instruction on x86, whose min and max are such.
template <class V>
inline V AtLeast(V low, V x) {
  return x < low ? low : x;
}
template <class V>
inline V AtMost(V high, V x) {
  return x > high ? high : x;
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_SIMD_INL_
