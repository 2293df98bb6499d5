// What a real timestep gets of the gradients of outputs, beside that of its own place in a sequence of them: the only
// output, or, where masked timesteps carry on the output of the real one before them, theirs.
#ifndef LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_
#define LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"

namespace lstm_fast::cuda {

// The last real timestep of a row, at `time`. `dy` is at this unit of the only output.
template <class T>
LSTM_FAST_DEVICE auto OnlyOutputGradient(const BackwardCall& call, const RowSet& set, Global<const T> dy, int time) {
  using Real = RealOf<T>;
  const Problem& problem = call.inputs.problem;
  const bool padded = time != (set.reversed ? 0 : static_cast<int>(problem.time) - 1);
  return padded && problem.zero_output_for_mask ? Real(0) : Real(ToReal(*dy));
}

// Timestep k of a row, at `time`, of outputs in a sequence whose unit at time 0 is at `dy`. After the last real
// timestep masked ones may be many: their sum is there already.
template <class T>
LSTM_FAST_DEVICE auto CarriedGradient(const BackwardCall& call, const RowSet& set, const GroupRow& row, int unit, int k,
                                      int time, Global<const T> dy) {
  using Real = RealOf<T>;
  if (call.padding == nullptr) return Real(0);
  const Problem& problem = call.inputs.problem;
  if (k == row.count - 1) {
    const Global<const Real> sums = InGlobal<const Real>(call.padding);
    return Real(sums[(set.direction * problem.batch + row.batch) * problem.units + unit]);
  }
  const int step = set.reversed ? -1 : 1, features = problem.directions * static_cast<int>(problem.units);
  const int next =
      TimeOf(row, k + 1, set.reversed, static_cast<int>(problem.time), InGlobal<const int32_t>(call.plan.steps));
  Real sum = 0;
  for (int t = time + step; t != next; t += step) sum += Real(ToReal(dy[int64_t{OutputPlace(t, problem)} * features]));
  return sum;
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_
