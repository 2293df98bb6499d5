// The four dtypes as bits, to and from double; written apart from the kernels' own conversions. And random numbers,
// the same everywhere.
#ifndef LSTM_FAST_TESTS_NATIVE_NUMBERS_H_
#define LSTM_FAST_TESTS_NATIVE_NUMBERS_H_

#include <cstdint>

#include "lstm_fast/lstm.h"

namespace lstm_fast::testing {

double Decode(DType dtype, const void* data, int64_t index);

// Rounds to nearest, ties to even; overflow gives infinity.
void Encode(DType dtype, double value, void* data, int64_t index);

// SplitMix64 (Steele, Lea and Flood 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Bits() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t Below(int64_t limit) { return static_cast<int64_t>(Bits() % static_cast<uint64_t>(limit)); }
  // Between -sqrt(3) and sqrt(3): mean 0, variance 1.
  double Number() { return (static_cast<double>(Bits() >> 11) * 0x1p-52 - 1.0) * 1.7320508075688772; }

 private:
  uint64_t state_;
};

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_NUMBERS_H_
