// Runs the kernels on a problem, in memory that shows what they do to it, and compares.
#ifndef LSTM_FAST_TESTS_NATIVE_RUN_H_
#define LSTM_FAST_TESTS_NATIVE_RUN_H_

#include "problem.h"
#include "reference.h"

namespace lstm_fast::test {

// The bytes of all outputs of both passes, in the order of Solution's fields.
struct Outputs {
  std::vector<std::vector<uint8_t>> arrays;
  bool operator==(const Outputs& other) const { return arrays == other.arrays; }
};

// Runs both passes, or the forward pass only. `fill` is what outputs hold before. Throws Failure where something
// outside of an output was written.
Outputs Run(const Case& problem, uint8_t fill = 0xcb, bool backward = true);

// Throws Failure unless the outputs are the reference's, up to rounding.
void Compare(const Case& problem, const Outputs& outputs, bool backward = true);

}  // namespace lstm_fast::test

#endif  // LSTM_FAST_TESTS_NATIVE_RUN_H_
