// The element types of arrays: as they are in memory, and as what the kernels compute with.
#ifndef LSTM_FAST_CUDA_ELEMENTS_H_
#define LSTM_FAST_CUDA_ELEMENTS_H_

#include <cstdint>
#include <type_traits>

#include "cuda/device.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
constexpr DType kDTypeOf = std::is_same_v<T, float>    ? DType::kFloat32
                           : std::is_same_v<T, double> ? DType::kFloat64
                           : std::is_same_v<T, Half>   ? DType::kFloat16
                                                       : DType::kBFloat16;

LSTM_FAST_DEVICE float ToReal(float value) { return value; }
LSTM_FAST_DEVICE double ToReal(double value) { return value; }
LSTM_FAST_DEVICE float ToReal(Half value) { return HalfToFloat(value.bits); }
LSTM_FAST_DEVICE float ToReal(BFloat16 value) { return BFloat16ToFloat(value.bits); }

template <class T>
using RealOf = decltype(ToReal(T{}));

// To nearest, ties to even.
template <class T>
LSTM_FAST_DEVICE T Rounded(RealOf<T> value) {
  if constexpr (std::is_same_v<T, Half>) {
    return {FloatToHalf(value)};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {FloatToBFloat16(value)};
  } else {
    return value;
  }
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_ELEMENTS_H_
