// A problem for the kernels, made from a few options and a seed, with all its arrays.
#ifndef LSTM_FAST_TESTS_NATIVE_CASE_H_
#define LSTM_FAST_TESTS_NATIVE_CASE_H_

#include <cstdint>
#include <string>

#include "guarded.h"
#include "lstm_fast/lstm.h"
#include "numbers.h"

namespace lstm_fast::testing {

// How x lies in memory. What lies between its rows is NaN, and never to be read.
enum class Layout : int { kDense, kGaps, kTimeMajor, kBackward, kCount };

// Which timesteps are real.
enum class Masked : int { kNo, kRight, kLeft, kHoles, kEveryOtherRow, kAll, kNothing, kCount };

// Where every row has the same input for long, a bit later in each. The recurrent kernels are then small enough for the
// states to come to rest.
enum class Repeated : int { kNo, kEnd, kBeginning, kMiddle, kTwice, kCount };

// A number that is not finite, in one place of the first row with a real timestep.
enum class Spoiled : int { kNo, kX, kState, kCell, kGradient, kCount };

struct Options {
  DType dtype = DType::kFloat32;
  int64_t batch = 3, time = 5, input = 4, units = 5;
  int directions = 1;
  bool projected = false;  // x is, then, as wide as the gates, whatever `input` says
  bool go_backwards = false;
  bool return_sequences = true;
  bool zero_output_for_mask = false;
  Reserve reserve = Reserve::kGates;
  bool reserve_by_row = false;
  bool bias = true, h0 = true, c0 = true, input_dropout = false, recurrent_dropout = false;
  bool dy = true, dh_n = true, dc_n = true;                       // given
  bool dx = true, dweights = true, dbias = true, dstates = true;  // wanted
  Layout layout = Layout::kDense;
  int shift = 0;  // elements that every array lies off a cache line
  Masked masked = Masked::kNo;
  uint8_t real_byte = 1;  // what stands for real in the mask; 0 for any byte but 0
  Repeated repeated = Repeated::kNo;
  // Gradients come to nothing in some timesteps: forget gates and recurrent kernels are small, there is a bias, and y
  // has gradients in its last timestep and one in the middle only.
  bool vanishing = false;
  bool nan_in_padding = false;  // in whatever belongs to masked timesteps and is not to be read
  Spoiled spoiled = Spoiled::kNo;
  double spoiler = 0.0;
  uint64_t seed = 0;
};

// All options that differ from the default, as text.
std::string Describe(const Options& options);

struct DirectionArrays {
  Guarded kernel, recurrent_kernel, bias, h0, c0, input_dropout, recurrent_dropout, dh_n, dc_n;
};

struct Case {
  explicit Case(const Options& options);

  // The contract's view of the arrays.
  Inputs inputs() const;
  BackwardInput gradients(const void* reserve) const;

  bool real(int64_t b, int64_t t) const { return !mask.present() || mask.data()[b * options.time + t] != 0; }
  int64_t XOffset(int64_t b, int64_t t) const { return x_first + b * x_batch_stride + t * x_time_stride; }
  // The row that holds a number that is not finite, or -1.
  int64_t SpoiledRow() const { return spoiled_row; }

  Options options;
  int64_t features;  // of x
  Guarded x, mask, dy;
  int64_t x_first, x_batch_stride, x_time_stride;  // in elements
  DirectionArrays direction[2];
  int64_t spoiled_row = -1;
};

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_CASE_H_
