// What the contract (lstm_fast/lstm.h) says, in float64 and one number at a time: the place to read what the kernels
// compute.
#ifndef LSTM_FAST_TESTS_NATIVE_REFERENCE_H_
#define LSTM_FAST_TESTS_NATIVE_REFERENCE_H_

#include <string>
#include <vector>

#include "case.h"

namespace lstm_fast::testing {

// Outputs and gradients, with the shapes of the contract; empty where there is none.
struct Solution {
  std::vector<double> y, dx;
  struct Direction {
    std::vector<double> h_n, c_n, dkernel, drecurrent_kernel, dbias, dh0, dc0;
    // [B, T, 4H]: the gradients of the pre-activations, had the terms that make dc one sign. They cancel where dc_n and
    // dy oppose each other, and the roundings of dc are those of its terms.
    std::vector<double> dz_terms;
  } direction[2];
};

Solution Solve(const Case& problem);

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_REFERENCE_H_
