// Kernels for few units: one block, or a cluster of two, has everything of one row, the whole recurrent kernel in its
// registers, and passes its states on through shared memory with one barrier a timestep. A timestep waits for what is
// before it all the way, so what counts is how long that way is, not how much there is to compute: sums are added up by
// shuffles, every lane evaluates one function, and the cell is computed by all lanes that need it. Several blocks share
// a multiprocessor where there are more rows than multiprocessors, and fill each other's pauses.
#ifndef LSTM_FAST_CUDA_SINGLE_H_
#define LSTM_FAST_CUDA_SINGLE_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/host_device.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"
#include "cuda/single_exchange.h"

namespace lstm_fast::cuda {

// Timesteps whose inputs are on their way while one is computed.
constexpr int kSingleAhead = 3;

// Threads of a block, and how many blocks a multiprocessor holds: what of it one block leaves idle another can have.
LSTM_FAST_HOST_DEVICE constexpr int SingleThreads(int units, int blocks) { return 4 * units / blocks; }
LSTM_FAST_HOST_DEVICE constexpr int SingleResident(int units, int blocks) {
  return blocks > 1 ? 1 : 512 / SingleThreads(units, blocks);
}

// Where the real timesteps of a row are in time, in the order of processing. Without gaps no memory is asked.
template <bool kGaps>
class Times {
 public:
  LSTM_FAST_DEVICE Times(const GroupRow& row, bool reversed, int time, const DevicePlan& plan)
      : origin_(reversed ? row.first + row.count - 1 : row.first),
        sign_(reversed ? -1 : 1),
        steps_(InGlobal<const int32_t>(plan.steps)) {
    if constexpr (kGaps) steps_ += int64_t{row.batch} * time + (reversed ? row.count - 1 : 0);
  }

  LSTM_FAST_DEVICE int Of(int k) const {
    if constexpr (kGaps) return steps_[k * sign_];
    return origin_ + k * sign_;
  }
  // Of time, from one timestep to the next.
  LSTM_FAST_DEVICE int Sign() const { return sign_; }

 private:
  int origin_, sign_;
  Global<const int32_t> steps_;
};

// A place in a sequence [T, ...] that goes from one real timestep of a row to the next, or, kStep = -1, to the one
// before.
template <class T, bool kGaps, int kStep>
class Cursor {
 public:
  // Begins at timestep k; `sequence` is at time 0, and `step` from one point in time to the next.
  LSTM_FAST_DEVICE Cursor(Global<T> sequence, int64_t step, const Times<kGaps>& times, int k)
      : times_(times), at_(sequence), step_(step), k_(k) {
    if constexpr (!kGaps) {
      at_ += times.Of(k) * step;
      step_ *= kStep * times.Sign();
    }
  }

  LSTM_FAST_DEVICE Global<T> operator*() const {
    if constexpr (kGaps) return at_ + times_.Of(k_) * step_;
    return at_;
  }
  LSTM_FAST_DEVICE void Advance() {
    k_ += kStep;
    if constexpr (!kGaps) at_ += step_;
  }
  // Stays at the end of the row, beyond which is nothing to read.
  LSTM_FAST_DEVICE void AdvanceWithin(int end) {
    if (k_ != end) Advance();
  }
  // Without gaps only.
  LSTM_FAST_DEVICE void AdvanceBy(int count) {
    k_ += count * kStep;
    at_ += count * step_;
  }
  LSTM_FAST_DEVICE void MoveTo(int k) { AdvanceBy((k - k_) * kStep); }
  // From one real timestep to the next that the cursor comes to.
  LSTM_FAST_DEVICE int64_t Step() const { return step_; }

 private:
  const Times<kGaps>& times_;
  Global<T> at_;
  int64_t step_;
  int k_;
};

// What both passes know of a problem, and of the unit and the gate that a thread has. Threads of units that do not
// exist compute another unit once more, and write nothing.
template <class T, int kBlocks, class Call>
class SinglePass : protected SingleExchange<kBlocks> {
 protected:
  LSTM_FAST_DEVICE SinglePass(const Call& call, int in_warp, int gate)
      : problem_(call.inputs.problem),
        inputs_(call.inputs),
        arguments_(call.arguments),
        cut_(call.cut),
        plan_(call.plan),
        units_(static_cast<int>(problem_.units)),
        time_(static_cast<int>(problem_.time)),
        features_(problem_.directions * units_),
        first_unit_(Block() % kBlocks * cut_.units + Thread() / 32 * kWarpUnits),
        exists_(first_unit_ + in_warp < units_),
        unit_(exists_ ? first_unit_ + in_warp : units_ - 1),
        gate_(gate) {}

  // The rows of this block, one after the other: load(set) where the direction is new, then run(set, row, times).
  template <class Load, class Run>
  LSTM_FAST_DEVICE void ForEachRow(const Load& load, const Run& run) const {
    ForEachSet(Block() / kBlocks, cut_, problem_, load, [&](const RowSet& set) {
      const GroupRow row = RowAt(set.first, problem_, plan_);
      if (row.first < 0) {
        run(set, row, Times<true>(row, set.reversed, time_, plan_));
      } else {
        run(set, row, Times<false>(row, set.reversed, time_, plan_));
      }
    });
  }

  // An element of an array that may be null.
  LSTM_FAST_DEVICE float Given(const void* array, int64_t at) const {
    const Global<const T> given = InGlobal<const T>(array);
    return IsNull(given) ? 0.0f : ToReal(given[at]);
  }

  // Fills registers with at(n). Unrolled, the loop would need the registers of all its addresses at once.
  template <int kCount, class At>
  static LSTM_FAST_DEVICE void Fill(float (&registers)[kCount], const At& at) {
    float loaded[kCount];
    LSTM_FAST_NO_UNROLL
    for (int n = 0; n < kCount; ++n) loaded[n] = at(n);
    LSTM_FAST_UNROLL
    for (int n = 0; n < kCount; ++n) registers[n] = loaded[n];
  }

  // Places of this thread's unit, for a row: in a state [B, H], in a timestep's values of all directions, and in a
  // sequence of these [B, T, N * H], at timestep 0.
  LSTM_FAST_DEVICE int64_t StateOf(const GroupRow& row) const { return int64_t{row.batch} * units_ + unit_; }
  LSTM_FAST_DEVICE int ColumnOf(const RowSet& set) const { return set.direction * units_ + unit_; }
  LSTM_FAST_DEVICE int64_t SequenceOf(const RowSet& set, const GroupRow& row) const {
    return int64_t{row.batch} * time_ * features_ + ColumnOf(set);
  }
  // In a sequence of gates, [B, T, N, 4H], of this thread's own gate.
  LSTM_FAST_DEVICE int64_t GatesOf(const RowSet& set, const GroupRow& row) const {
    return int64_t{row.batch} * time_ * (4 * features_) + (set.direction * 4 + gate_) * units_ + unit_;
  }
  // The reserve of a row at timestep 0.
  template <class Byte>
  LSTM_FAST_DEVICE Global<Byte> ReserveOf(const RowSet& set, const GroupRow& row) const {
    const int64_t sequence = int64_t{row.batch} * problem_.directions + set.direction;
    return InGlobal<Byte>(arguments_.reserve) + sequence * time_ * arguments_.reserve_step_bytes;
  }

  const Problem& problem_;
  const Inputs& inputs_;
  const decltype(Call::arguments)& arguments_;
  const Cut& cut_;
  const DevicePlan& plan_;
  const int units_, time_, features_;
  const int first_unit_;  // of this warp
  const bool exists_;
  const int unit_, gate_;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SINGLE_H_
