// Which timesteps of a batch there are to compute: those that the mask leaves, and how many of them repeat their input.
#ifndef LSTM_FAST_CPU_PLAN_H_
#define LSTM_FAST_CPU_PLAN_H_

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast {

struct Plan {
  std::vector<Row> rows;  // by falling number of timesteps that are expected to be computed
  std::vector<int32_t> steps;
  int64_t timesteps = 0;         // real ones, over all rows
  int64_t longest = 0;           // real ones of a row
  int64_t reserve_elements = 0;  // per direction
  int64_t parts_elements = 0;    // of these, the rows' parts; what follows are blocks
  bool repeats = false;          // in any row
};

// Plans a batch whose reserve has so many units, padding included. To find out where rows repeat their inputs, a few
// rows of x are read. The plan depends on nothing else than the inputs: the backward pass makes the same.
Plan MakePlan(const Inputs& inputs, int64_t padded_units);

// How many timesteps of a row are expected to be computed where it may skip those that repeat.
int64_t ExpectedTimesteps(const Row& row);

// Elements of the reserve of one direction of a row with `count` real timesteps.
int64_t ReserveElements(Reserve mode, int64_t count, int64_t padded_units);

// Elements from one direction of a row to the next, where the reserve is laid out by row.
int64_t ReserveStride(const Problem& problem);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PLAN_H_
