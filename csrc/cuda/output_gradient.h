// The gradient of the outputs that a timestep has determined: its own, and with carried outputs those of the masked
// timesteps after it.
#ifndef LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_
#define LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/group.h"
#include "cuda/kernels.h"

namespace lstm_fast::cuda {

// Of a unit of a row.
template <class T>
class OutputGradient {
 public:
  using Real = decltype(ToReal(T{}));

  LSTM_FAST_DEVICE OutputGradient(const BackwardCall& call, const RowSet& set, const Row& row, int unit)
      : dy_(InGlobal<const T>(call.arguments.dy)),
        steps_(InGlobal<const int32_t>(call.plan.steps)),
        time_(static_cast<int>(call.inputs.problem.time)),
        step_(call.inputs.problem.directions * static_cast<int>(call.inputs.problem.units)),
        reversed_(set.reversed),
        sequences_(!IsNull(dy_) && call.inputs.problem.return_sequences),
        last_only_(!IsNull(dy_) && !call.inputs.problem.return_sequences),
        zero_(call.inputs.problem.zero_output_for_mask),
        carried_(sequences_ && call.plan.order && !zero_) {
    const Problem& problem = call.inputs.problem;
    const int place = sequences_ ? OutputPlace(0, problem) : 0;
    if (!IsNull(dy_)) {
      const int64_t outputs = sequences_ ? int64_t{row.batch} * time_ + place : row.batch;
      dy_ += outputs * step_ + set.direction * static_cast<int>(problem.units) + unit;
    }
    if (place > 0) step_ = -step_;
  }

  // The gradients of outputs at their own places, if there are such: that of time 0, and the step to time 1.
  LSTM_FAST_DEVICE bool OfSequences() const { return sequences_; }
  LSTM_FAST_DEVICE Global<const T> Sequence() const { return dy_; }
  LSTM_FAST_DEVICE int Step() const { return step_; }

  // Of the outputs that the last timestep has determined after its own place, or, where there is only one, of that.
  LSTM_FAST_DEVICE Real AfterLast(int time) const {
    const int end = reversed_ ? -1 : time_, next = time + (reversed_ ? -1 : 1);
    if (last_only_) return next != end && zero_ ? Real(0) : Real(ToReal(*dy_));
    return carried_ ? Sum(next, end) : Real(0);
  }

  // Of those between timestep k and the next one.
  LSTM_FAST_DEVICE Real InGap(const Row& row, int k, int time) const {
    if (!carried_ || k == row.count - 1) return 0;
    return Sum(time + (reversed_ ? -1 : 1), TimeOf(row, k + 1, reversed_, time_, steps_));
  }

 private:
  LSTM_FAST_DEVICE Real Sum(int from, int end) const {
    Real sum = 0;
    for (int t = from; t != end; t += reversed_ ? -1 : 1) sum += Real(ToReal(dy_[int64_t{t} * step_]));
    return sum;
  }

  Global<const T> dy_;  // at timestep 0, or the only one
  const Global<const int32_t> steps_;
  const int time_;
  int step_;  // from one timestep to the next
  const bool reversed_, sequences_, last_only_, zero_, carried_;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_OUTPUT_GRADIENT_H_
