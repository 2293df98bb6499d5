// The equations of lstm_fast/lstm.h in float64, one number after the other: what the kernels are compared with.
#ifndef LSTM_FAST_TESTS_NATIVE_REFERENCE_H_
#define LSTM_FAST_TESTS_NATIVE_REFERENCE_H_

#include "problem.h"

namespace lstm_fast::test {

struct Solution {
  Values y;               // [B, T or 1, N * H]
  Values h_n[2], c_n[2];  // [B, H]
  Values dx;              // [B, T, D]
  Values dkernel[2];      // [D, 4H]
  Values drecurrent_kernel[2], dbias[2], dh0[2], dc0[2];
};

Solution Solve(const Case& problem);

}  // namespace lstm_fast::test

#endif  // LSTM_FAST_TESTS_NATIVE_REFERENCE_H_
