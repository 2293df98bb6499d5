// exp-based sigmoid and tanh on vectors. Errors are bounded by tests over the whole range: float32 3 ULP, float64 4
// ULP. NaN gives NaN.
#ifndef LSTM_FAST_CPU_MATH_INL_
#define LSTM_FAST_CPU_MATH_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

// exp(f x) = 2^n exp(f r) with f r in [-ln(2) / 2, ln(2) / 2]; `scale` is 2^n. n may be 128 (float64: 1024), where it
// is infinity, and without kWide up to 60. With f in the constants, exp(-x) and exp(2x) cost as much as exp(x).
template <class Real, int kFactor, bool kWide>
LSTM_FAST_INLINE void SplitExp(Vector<Real> x, Vector<Real>& scale, Vector<Real>& r) {
  using Traits = VectorTraits<Real>;
  const Vector<Real> magic = Broadcast(Traits::kRoundingMagic);
  const Vector<Real> shifted = MultiplyAdd(x, Broadcast(static_cast<Real>(kFactor * 1.4426950408889634)), magic);
  const Vector<Real> n = shifted - magic;
  if constexpr (kWide) {
    r = MultiplyAdd(n, Broadcast(-Traits::kLn2High / kFactor), x);
    r = MultiplyAdd(n, Broadcast(-Traits::kLn2Low / kFactor), r);
  } else {  // n times what a rounded ln(2) leaves out is small
    r = MultiplyAdd(n, Broadcast(-(Traits::kLn2High + Traits::kLn2Low) / kFactor), x);
  }
  typename Traits::Integer bits;  // n and the exponent's bias, in the lowest of them
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits <<= Traits::kMantissaBits;
  __builtin_memcpy(&scale, &bits, sizeof bits);
}

// (expm1(f r) - f r) / r^2.
template <class Real, int kFactor>
LSTM_FAST_INLINE Vector<Real> Expm1Rest(Vector<Real> r) {
  using Traits = VectorTraits<Real>;
  constexpr auto power = [](int exponent) {
    Real value = 1;
    for (int i = 0; i < exponent; ++i) value *= kFactor;
    return value;
  };
  Vector<Real> sum = Broadcast(Traits::kExpm1[Traits::kDegree] * power(Traits::kDegree + 2));
  LSTM_FAST_UNROLL
  for (int i = Traits::kDegree - 1; i >= 0; --i) sum = MultiplyAdd(sum, r, Broadcast(Traits::kExpm1[i] * power(i + 2)));
  return sum;
}

// NaN passes.
template <class Real>
LSTM_FAST_INLINE Vector<Real> Clamp(Vector<Real> x, Real low, Real high) {
  return AtMost(Broadcast(high), AtLeast(Broadcast(low), x));
}

template <class Real>
LSTM_FAST_INLINE Vector<Real> SigmoidOf(Vector<Real> x) {
  using Traits = VectorTraits<Real>;
  Vector<Real> scale, r;
  SplitExp<Real, -1, true>(Clamp<Real>(x, -Traits::kExpMax, -Traits::kExpMin), scale, r);
  const Vector<Real> one = Broadcast(Real(1));
  const Vector<Real> exp = MultiplyAdd(MultiplyAdd(Expm1Rest<Real, -1>(r), r, -one), r, one);
  return one / MultiplyAdd(scale, exp, one);
}

// expm1(2x) / (expm1(2x) + 2): exact to a few ULP near zero too, where 1 - 2 / (exp(2x) + 1) would cancel.
template <class Real>
LSTM_FAST_INLINE Vector<Real> TanhOf(Vector<Real> x) {
  using Traits = VectorTraits<Real>;
  Vector<Real> scale, r;
  SplitExp<Real, 2, false>(Clamp<Real>(x, -Traits::kTanhMax, Traits::kTanhMax), scale, r);
  const Vector<Real> rest = MultiplyAdd(r * r, Expm1Rest<Real, 2>(r), r + r);
  const Vector<Real> expm1 = MultiplyAdd(scale, rest, scale - Broadcast(Real(1)));
  return expm1 / (expm1 + Broadcast(Real(2)));
}

template <class Real, class Function>
void ApplyToArray(const Real* x, Real* y, int64_t count, const Function& function) {
  constexpr int64_t kL = kLanes<Real>;
  for (int64_t i = 0; i < count; i += kL) {
    const int64_t valid = Least(count - i, kL);
    Real values[kL] = {};
    for (int64_t lane = 0; lane < valid; ++lane) values[lane] = x[i + lane];
    Store(values, function(Load(values)));
    for (int64_t lane = 0; lane < valid; ++lane) y[i + lane] = values[lane];
  }
}

template <class Real>
void SigmoidArray(const Real* x, Real* y, int64_t count) {
  ApplyToArray<Real>(x, y, count, [](Vector<Real> v) { return SigmoidOf<Real>(v); });
}

template <class Real>
void TanhArray(const Real* x, Real* y, int64_t count) {
  ApplyToArray<Real>(x, y, count, [](Vector<Real> v) { return TanhOf<Real>(v); });
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_MATH_INL_
