#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace lstm_fast::testing {
namespace {

// A 16-bit type: a sign, an exponent and a mantissa of so many bits.
struct Small {
  int mantissa_bits;
  int bias;

  double Decode(uint16_t bits) const {
    const int exponent_bits = 15 - mantissa_bits;
    const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    double magnitude;
    if (exponent == (1 << exponent_bits) - 1) {
      magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    } else if (exponent == 0) {
      magnitude = std::ldexp(mantissa, 1 - bias - mantissa_bits);
    } else {
      magnitude = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
    }
    return bits & 0x8000u ? -magnitude : magnitude;
  }

  uint16_t Encode(double value) const {
    const unsigned sign = std::signbit(value) ? 0x8000u : 0u, infinity = 0x7fffu >> mantissa_bits << mantissa_bits;
    const double magnitude = std::fabs(value);
    if (std::isnan(value)) return static_cast<uint16_t>(sign | infinity | 1u << (mantissa_bits - 1));
    if (std::isinf(value)) return static_cast<uint16_t>(sign | infinity);
    if (value == 0.0) return static_cast<uint16_t>(sign);
    int exponent;
    std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
    const int unit = std::max(exponent - 1, 1 - bias) - mantissa_bits;
    // Counts of the last place; a carry into the next power of two is the right number, too.
    const auto places = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, -unit)));
    const auto bits = static_cast<unsigned>(unit + mantissa_bits + bias - 1) * (1u << mantissa_bits) + places;
    return static_cast<uint16_t>(sign | std::min(bits, infinity));
  }
};

constexpr Small kHalf = {10, 15}, kBrain = {7, 127};

template <class T>
T Read(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof value), sizeof value);
  return value;
}

template <class T>
void Write(T value, void* data, int64_t index) {
  std::memcpy(static_cast<char*>(data) + index * static_cast<int64_t>(sizeof value), &value, sizeof value);
}

}  // namespace

double Decode(DType dtype, const void* data, int64_t index) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<double>(Read<float>(data, index));
    case DType::kFloat64:
      return Read<double>(data, index);
    case DType::kFloat16:
      return kHalf.Decode(Read<uint16_t>(data, index));
    case DType::kBFloat16:
      return kBrain.Decode(Read<uint16_t>(data, index));
  }
  return 0.0;
}

void Encode(DType dtype, double value, void* data, int64_t index) {
  switch (dtype) {
    case DType::kFloat32:
      return Write(static_cast<float>(value), data, index);
    case DType::kFloat64:
      return Write(value, data, index);
    case DType::kFloat16:
      return Write(kHalf.Encode(value), data, index);
    case DType::kBFloat16:
      return Write(kBrain.Encode(value), data, index);
  }
}

}  // namespace lstm_fast::testing
