// The elements of arrays in memory, as doubles: what the reference computes with.
#ifndef LSTM_FAST_TESTS_NATIVE_NUMBERS_H_
#define LSTM_FAST_TESTS_NATIVE_NUMBERS_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "lstm_fast/lstm.h"

namespace lstm_fast::test {

// Bits of mantissa, the leading one included, and the least exponent of a normal number.
struct Format {
  int mantissa, least_exponent;
};

inline Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return {53, -1022};
    case DType::kFloat32:
      return {24, -126};
    case DType::kFloat16:
      return {11, -14};
    case DType::kBFloat16:
      return {8, -126};
  }
  return {};
}

// Half a unit in the last place of 1.
inline double Roundoff(DType dtype) { return std::ldexp(1.0, -FormatOf(dtype).mantissa); }

// The nearest number that the dtype has, to even between two. |value| must be far from its greatest number.
inline double Round(DType dtype, double value) {
  if (value == 0 || !std::isfinite(value) || dtype == DType::kFloat64) return value;
  const Format format = FormatOf(dtype);
  int exponent = 0;
  std::frexp(value, &exponent);
  const int unit = (exponent > format.least_exponent ? exponent : format.least_exponent + 1) - format.mantissa;
  return std::ldexp(std::nearbyint(std::ldexp(value, -unit)), unit);
}

// Writes a number that the dtype has.
inline void Store(DType dtype, double value, void* to) {
  if (dtype == DType::kFloat64) {
    std::memcpy(to, &value, 8);
    return;
  }
  const float single = static_cast<float>(value);
  uint32_t bits = 0;
  std::memcpy(&bits, &single, 4);
  if (dtype == DType::kFloat32) {
    std::memcpy(to, &bits, 4);
    return;
  }
  uint16_t half = static_cast<uint16_t>(bits >> 16);
  if (dtype == DType::kFloat16) {
    const uint16_t sign = half & 0x8000u;
    const double size = std::fabs(value);
    if (std::isnan(value)) {
      half = 0x7e00;
    } else if (std::isinf(value)) {
      half = static_cast<uint16_t>(sign | 0x7c00u);
    } else if (size < std::ldexp(1.0, -14)) {
      half = static_cast<uint16_t>(sign | static_cast<unsigned>(std::ldexp(size, 24)));
    } else {
      int exponent = 0;
      const double mantissa = std::frexp(size, &exponent);  // in [0.5, 1)
      half =
          static_cast<uint16_t>(sign | static_cast<unsigned>((exponent + 14) * 1024 + std::ldexp(mantissa, 11) - 1024));
    }
  }
  std::memcpy(to, &half, 2);
}

inline double Load(DType dtype, const void* from) {
  if (dtype == DType::kFloat64) {
    double value = 0;
    std::memcpy(&value, from, 8);
    return value;
  }
  uint32_t bits = 0;
  if (dtype == DType::kFloat32) {
    std::memcpy(&bits, from, 4);
  } else {
    uint16_t half = 0;
    std::memcpy(&half, from, 2);
    if (dtype == DType::kFloat16) {
      const int exponent = half >> 10 & 31, mantissa = half & 1023;
      const double size = exponent == 31 ? (mantissa ? std::nan("") : INFINITY)
                          : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                         : std::ldexp(mantissa, -24);
      return half & 0x8000u ? -size : size;
    }
    bits = static_cast<uint32_t>(half) << 16;
  }
  float value = 0;
  std::memcpy(&value, &bits, 4);
  return static_cast<double>(value);
}

}  // namespace lstm_fast::test

#endif  // LSTM_FAST_TESTS_NATIVE_NUMBERS_H_
