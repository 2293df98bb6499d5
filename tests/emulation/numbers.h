// Conversions between float32 and narrower types, on their bits. In a namespace that no argument of a kernel brings in.
#ifndef LSTM_FAST_TESTS_EMULATION_NUMBERS_H_
#define LSTM_FAST_TESTS_EMULATION_NUMBERS_H_

#include <cmath>
#include <cstdint>
#include <cstring>

namespace lstm_fast::emulation::numbers {

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest < 0x0400) return FloatOf(sign | BitsOf(static_cast<float>(rest) * 0x1p-24f));
  if (rest < 0x7c00) return FloatOf(sign | ((rest << 13) + (112u << 23)));
  return FloatOf(sign | 0x7f800000 | rest << 13);
}

inline float BFloat16ToFloat(uint16_t bfloat) { return FloatOf(uint32_t{bfloat} << 16); }

// To nearest, ties to even. As on the device, there is one NaN.
inline uint16_t FloatToHalf(float value) {
  const uint32_t sign = BitsOf(value) >> 16 & 0x8000, rest = BitsOf(value) & 0x7fffffff;
  if (rest > 0x7f800000) return 0x7fff;
  if (rest >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 2^16 and more
  if (rest < 0x38800000) {                                              // less than 2^-14: subnormal
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::lrint(FloatOf(rest) * 0x1p24f)));
  }
  const uint32_t rounded = rest + 0x0fff + (rest >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - (112u << 23)) >> 13);
}

inline uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Ten bits of mantissa; ties away from zero.
inline uint32_t FloatToTf32(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fffffff;
  return (bits + 0x1000) & ~uint32_t{0x1fff};
}

}  // namespace lstm_fast::emulation::numbers

#endif  // LSTM_FAST_TESTS_EMULATION_NUMBERS_H_
