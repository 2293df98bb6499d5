// Every tolerance of the native tests, derived as in tests/tolerances.py: an error is measured in units of the dtype's
// roundoff times a norm of the operands. By Cauchy-Schwarz a dot product of x and w is at most |x| |w|, and its
// rounding error a small multiple of roundoff |x| |w|. What a timestep gets wrong is carried on by the cell state, and
// independent errors add up like the square root of their number.
#ifndef LSTM_FAST_TESTS_NATIVE_TOLERANCE_H_
#define LSTM_FAST_TESTS_NATIVE_TOLERANCE_H_

#include "reference.h"

namespace lstm_fast::testing {

// How far each array may be off.
struct Tolerance {
  double y = 0.0, dx = 0.0;
  struct Direction {
    double h_n, c_n, dkernel, drecurrent_kernel, dbias, dh0, dc0;
  } direction[2] = {};
};

Tolerance ToleranceOf(const Case& problem, const Solution& exact);

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_TOLERANCE_H_
