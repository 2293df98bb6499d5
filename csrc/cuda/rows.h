// Which rows of the batch a group runs, in which order, and where their timesteps are in time and in memory.
#ifndef LSTM_FAST_CUDA_ROWS_H_
#define LSTM_FAST_CUDA_ROWS_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/host_device.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

LSTM_FAST_HOST_DEVICE constexpr bool IsReversed(int direction, const Problem& problem) {
  return problem.directions == 2 ? direction == 1 : problem.go_backwards;
}

// A set of rows in one direction: what a group runs from the first timestep to the last.
struct RowSet {
  int64_t first;
  int direction;
  bool reversed;  // in time

  LSTM_FAST_DEVICE RowSet(int64_t set, const Cut& cut, const Problem& problem)
      : first(set / problem.directions * cut.rows),
        direction(static_cast<int>(set % problem.directions)),
        reversed(IsReversed(direction, problem)) {}

  static LSTM_FAST_DEVICE int64_t Count(const Cut& cut, const Problem& problem) {
    return CeilDivide(problem.batch, cut.rows) * problem.directions;
  }
};

// Runs the sets of a group, one after the other: run(set). load(set) comes first, and where the direction has changed.
template <class Load, class Run>
LSTM_FAST_DEVICE void ForEachSet(int group, const Cut& cut, const Problem& problem, const Load& load, const Run& run) {
  const int64_t sets = RowSet::Count(cut, problem);
  int loaded = -1;
  for (int64_t index = group; index < sets; index += cut.groups) {
    const RowSet set(index, cut, problem);
    if (set.direction != loaded) load(set);
    loaded = set.direction;
    run(set);
  }
}

// The row at a place in the order in which rows run.
LSTM_FAST_DEVICE GroupRow RowAt(int64_t place, const Problem& problem, const DevicePlan& plan) {
  if (place >= problem.batch) return {-1, 0, 0};
  if (plan.order == nullptr) return {static_cast<int32_t>(place), static_cast<int32_t>(problem.time), 0};
  const int32_t batch = InGlobal<const int32_t>(plan.order)[place];
  return {batch, InGlobal<const int32_t>(plan.count)[batch], InGlobal<const int32_t>(plan.first)[batch]};
}

// Finds the set's rows, for all threads of the block after its next barrier. Returns the most timesteps of a row.
LSTM_FAST_DEVICE int LoadRows(const RowSet& set, const Cut& cut, const Problem& problem, const DevicePlan& plan,
                              Shared<GroupRow> rows) {
  for (int r = Thread(); r < cut.rows; r += Threads()) rows[r] = RowAt(set.first + r, problem, plan);
  if (plan.order == nullptr) return static_cast<int>(problem.time);
  const Global<const int32_t> order = InGlobal<const int32_t>(plan.order), count = InGlobal<const int32_t>(plan.count);
  int most = 0;  // rows are sorted, but for very large batches
  for (int64_t place = set.first; place < set.first + cut.rows && place < problem.batch; ++place) {
    const int of_row = count[order[place]];
    most = of_row > most ? of_row : most;
  }
  return most;
}

// Where in time a row's real timestep k is, in the order of processing.
LSTM_FAST_DEVICE int32_t TimeOf(const GroupRow& row, int k, bool reversed, int time, Global<const int32_t> steps) {
  const int ascending = reversed ? row.count - 1 - k : k;
  return row.first >= 0 ? row.first + ascending : int32_t{steps[int64_t{row.batch} * time + ascending]};
}

// Where in a sequence [B, T, ...] of outputs the entry of a timestep is: one direction that runs backward in time
// writes in the order of processing, two write in that of the input.
LSTM_FAST_DEVICE int OutputPlace(int t, const Problem& problem) {
  return problem.go_backwards && problem.directions == 1 ? static_cast<int>(problem.time) - 1 - t : t;
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_ROWS_H_
