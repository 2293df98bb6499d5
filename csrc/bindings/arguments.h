// Validation of a call's arguments, the same for every framework: a binding describes its arrays, Check() compares them
// with the contract of lstm.h and says what is wrong in terms of the argument's name.
#ifndef LSTM_FAST_BINDINGS_ARGUMENTS_H_
#define LSTM_FAST_BINDINGS_ARGUMENTS_H_

#include <array>
#include <cstdint>

#include "bindings/array.h"
#include "bindings/operands.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast {

struct Arguments {
  DType dtype;  // of every array but the mask, which the binding has checked to be boolean
  int directions;
  bool go_backwards, return_sequences, zero_output_for_mask;
  int64_t reserve_mode;
  bool reserve_by_row;
  Array x, mask;
  // Without kernels, x is projected.
  std::array<Array, 2> kernels, recurrent_kernels, biases, h0, c0, input_dropout, recurrent_dropout;
};

// What follows x and the mask.
inline constexpr OperandList<Arguments> kLists[] = {
    {"kernels", &Arguments::kernels, true, true},
    {"recurrent_kernels", &Arguments::recurrent_kernels, false, true},
    {"biases", &Arguments::biases, true, true},
    {"h0", &Arguments::h0, true, true},
    {"c0", &Arguments::c0, true, true},
    {"input_dropout", &Arguments::input_dropout, true, false},
    {"recurrent_dropout", &Arguments::recurrent_dropout, true, false},
};

struct GradientArguments {
  Array reserve, dy;  // reserve in bytes, rank 1
  std::array<Array, 2> dh_n, dc_n;
};

// Throw std::invalid_argument: the argument, what was expected, what was found.
Inputs Check(const Arguments& arguments);
BackwardInput Check(const Inputs& inputs, const GradientArguments& gradient);

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_ARGUMENTS_H_
