// Rows in the dtype of the arguments, to and from the type of the arithmetic.
#ifndef LSTM_FAST_CPU_CONVERT_INL_
#define LSTM_FAST_CPU_CONVERT_INL_

#include <cstddef>
#include <cstdint>

#include "cpu/simd.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

LSTM_FAST_INLINE uint32_t BitsOf(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

LSTM_FAST_INLINE float FloatOf(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// No step reads or makes a subnormal float32, which the threads of some frameworks flush to zero.
LSTM_FAST_INLINE float FromHalf(uint16_t half) {
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t infinite = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  const uint32_t subnormal = BitsOf(static_cast<float>(static_cast<int32_t>(magnitude & 0x3ffu)) * 0x1p-24f);
  const uint32_t bits = magnitude < 0x400u ? subnormal : (magnitude << 13) + (112u << 23);
  return FloatOf(bits | infinite | (half & 0x8000u) << 16);
}

// Round to nearest, ties to even.
LSTM_FAST_INLINE uint16_t ToHalf(float x) {
  const uint32_t bits = BitsOf(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    half = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);  // subnormal: the sum rounds at 2^-24
  } else {
    half = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<uint16_t>(half | sign);
}

LSTM_FAST_INLINE float FromBFloat16(uint16_t x) { return FloatOf(static_cast<uint32_t>(x) << 16); }

LSTM_FAST_INLINE uint16_t ToBFloat16(float x) {
  const uint32_t bits = BitsOf(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;  // NaN
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Reads `count` elements of dtype from element `offset` on. float64 problems are read as double, all others as float.
template <class Real>
inline void LoadRow(DType dtype, const void* from, int64_t offset, int64_t count, Real* to) {
  if constexpr (sizeof(Real) == 4) {
    const uint16_t* half = static_cast<const uint16_t*>(from) + offset;
    if (dtype == DType::kFloat16) {
      for (int64_t i = 0; i < count; ++i) to[i] = FromHalf(half[i]);
      return;
    }
    if (dtype == DType::kBFloat16) {
      for (int64_t i = 0; i < count; ++i) to[i] = FromBFloat16(half[i]);
      return;
    }
  }
  const Real* same = static_cast<const Real*>(from) + offset;
  for (int64_t i = 0; i < count; ++i) to[i] = same[i];
}

template <class Real>
inline void StoreRow(DType dtype, void* to, int64_t offset, int64_t count, const Real* from) {
  if constexpr (sizeof(Real) == 4) {
    uint16_t* half = static_cast<uint16_t*>(to) + offset;
    if (dtype == DType::kFloat16) {
      for (int64_t i = 0; i < count; ++i) half[i] = ToHalf(from[i]);
      return;
    }
    if (dtype == DType::kBFloat16) {
      for (int64_t i = 0; i < count; ++i) half[i] = ToBFloat16(from[i]);
      return;
    }
  }
  Real* same = static_cast<Real*>(to) + offset;
  for (int64_t i = 0; i < count; ++i) same[i] = from[i];
}

// Zero has the same bits, none, in every dtype.
inline void ZeroRow(DType dtype, void* to, int64_t offset, int64_t count) {
  __builtin_memset(static_cast<char*>(to) + offset * SizeOf(dtype), 0, static_cast<size_t>(count * SizeOf(dtype)));
}

template <class Real>
LSTM_FAST_INLINE bool IsReal(DType dtype) {
  return dtype == (sizeof(Real) == 8 ? DType::kFloat64 : DType::kFloat32);
}

template <class Real>
void ConvertArray(DType dtype, const Real* from, void* to, int64_t count) {
  StoreRow(dtype, to, 0, count, from);
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_CONVERT_INL_
