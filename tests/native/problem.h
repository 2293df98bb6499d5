// Problems for the kernels, made from bytes: from a seed in the tests, from whatever it comes upon in the fuzzer.
#ifndef LSTM_FAST_TESTS_NATIVE_PROBLEM_H_
#define LSTM_FAST_TESTS_NATIVE_PROBLEM_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lstm_fast/lstm.h"

namespace lstm_fast::test {

using Values = std::vector<double>;  // each one that the problem's dtype has

// What a problem is made from. After the last byte there are zeros.
class Bytes {
 public:
  explicit Bytes(std::vector<uint8_t> bytes) : bytes_(std::move(bytes)) {}

  uint8_t Next() { return place_ < bytes_.size() ? bytes_[place_++] : uint8_t{0}; }
  bool Flag() { return Next() % 2 != 0; }
  int64_t Below(int64_t bound) { return (Next() | Next() << 8) % bound; }

 private:
  std::vector<uint8_t> bytes_;
  size_t place_ = 0;
};

std::vector<uint8_t> BytesOfSeed(uint64_t seed);

struct DirectionValues {
  std::optional<Values> kernel;                                          // [D, 4H], without it x is projected
  Values recurrent_kernel;                                               // [H, 4H]
  std::optional<Values> bias, h0, c0, input_dropout, recurrent_dropout;  // shapes as in DirectionInput
  std::optional<Values> dh_n, dc_n;                                      // [B, H]
};

struct Case {
  Problem problem;
  DirectionValues direction[2];
  Values x;                    // [B, T, D], dense; in memory with the gaps below
  int64_t row_gap, time_gap;   // elements of x after each row and each timestep
  std::vector<MaskByte> mask;  // [B, T]; empty: none
  std::optional<Values> dy;    // [B, T or 1, N * H]
  int misaligned;              // elements by which arrays miss the allocator's alignment
  int threads;
  std::string isa;

  bool Real(int64_t row, int64_t time) const {
    return mask.empty() || TimestepIsReal(mask[static_cast<size_t>(row * problem.time + time)]);
  }
  std::string Words() const;
};

// Sizes are at most these.
struct Sizes {
  int64_t batch, time, input, units;
};

// A problem for one of the instruction sets of this processor.
Case MakeCase(Bytes& bytes, const Sizes& most);

}  // namespace lstm_fast::test

#endif  // LSTM_FAST_TESTS_NATIVE_PROBLEM_H_
