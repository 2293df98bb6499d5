// exp-based sigmoid and tanh on vectors. Errors are bounded by tests over the whole range: float32 3 ULP, float64 4
// ULP. NaN gives NaN.
namespace lstm_fast {
namespace {

// x = n * ln(2) + r. Gives 2^n in `scale` and expm1(r) in `rest`: exp(x) = scale * (1 + rest). n may be 128 (float64:
// 1024), where scale is infinity.
template <class Real>
LSTM_FAST_INLINE void SplitExp(Vector<Real> x, Vector<Real>& scale, Vector<Real>& rest) {
  using Traits = VectorTraits<Real>;
  using Integer = typename Traits::Integer;
  const Vector<Real> magic = Broadcast(Traits::kRoundingMagic);
  const Vector<Real> shifted = MultiplyAdd(x, Broadcast(static_cast<Real>(1.4426950408889634)), magic);
  const Vector<Real> n = shifted - magic;
  Vector<Real> r = MultiplyAdd(n, Broadcast(-Traits::kLn2High), x);
  r = MultiplyAdd(n, Broadcast(-Traits::kLn2Low), r);
  Vector<Real> polynomial = Broadcast(Traits::kExpm1[Traits::kDegree]);
  LSTM_FAST_UNROLL
  for (int i = Traits::kDegree - 1; i >= 0; --i) polynomial = MultiplyAdd(polynomial, r, Broadcast(Traits::kExpm1[i]));
  rest = MultiplyAdd(r * r, polynomial, r);
  Integer shifted_bits, magic_bits;
  __builtin_memcpy(&shifted_bits, &shifted, sizeof shifted);
  __builtin_memcpy(&magic_bits, &magic, sizeof magic);
  const Integer bits = (shifted_bits - magic_bits + Traits::kExponentBias) << Traits::kMantissaBits;
  __builtin_memcpy(&scale, &bits, sizeof bits);
}

// NaN passes.
template <class Real>
LSTM_FAST_INLINE Vector<Real> Clamp(Vector<Real> x, Real low, Real high) {
  return AtMost(Broadcast(high), AtLeast(Broadcast(low), x));
}

template <class Real>
LSTM_FAST_INLINE Vector<Real> SigmoidOf(Vector<Real> x) {
  using Traits = VectorTraits<Real>;
  Vector<Real> scale, rest;
  SplitExp<Real>(Clamp<Real>(-x, Traits::kExpMin, Traits::kExpMax), scale, rest);
  const Vector<Real> one = Broadcast(Real(1));
  return one / MultiplyAdd(scale, one + rest, one);
}

// expm1(2x) / (expm1(2x) + 2): exact to a few ULP near zero too, where 1 - 2 / (exp(2x) + 1) would cancel.
template <class Real>
LSTM_FAST_INLINE Vector<Real> TanhOf(Vector<Real> x) {
  using Traits = VectorTraits<Real>;
  x = Clamp<Real>(x, -Traits::kTanhMax, Traits::kTanhMax);
  Vector<Real> scale, rest;
  SplitExp<Real>(x + x, scale, rest);
  const Vector<Real> expm1 = MultiplyAdd(scale, rest, scale - Broadcast(Real(1)));
  return expm1 / (expm1 + Broadcast(Real(2)));
}

}  // namespace
}  // namespace lstm_fast
