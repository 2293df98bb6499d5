// Timesteps that repeat. While a row's input stays the same, bit for bit, one step is a fixed function of h and c. So
// once h and c are what they were `period` steps before, all that follows repeats these steps until the input changes,
// and is copied, not computed. What was skipped is a multiple of the period, which leaves the states as they are.
//
// Rows skip between chunks only, and the chunks of a problem with repeats have one length: where they skip follows from
// their own numbers, and neither from the other rows nor from the threads.
#ifndef LSTM_FAST_CPU_REPEATS_INL_
#define LSTM_FAST_CPU_REPEATS_INL_

#include <cstddef>
#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/kernel.h"
#include "cpu/reserve.inl"
#include "cpu/scratch.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// Longer periods are not looked for.
constexpr int64_t kMostPeriod = 8;
static_assert(kMostPeriod <= kBlockSteps);

// Whether a row has the same input at its k-th real timestep, in processing order, as at the one before.
template <class Real>
bool RepeatsInput(const Direction<Real>& d, const Row& row, int64_t k) {
  if (k == 0) return false;
  const int64_t size = SizeOf(d.dtype), features = d.projected ? 4 * d.units : d.input;
  const auto at = [&](int64_t step) {
    return static_cast<const char*>(d.x.data) + OffsetOf(d.x, row, TimeOf(d, row, step)) * size;
  };
  return __builtin_memcmp(at(k), at(k - 1), static_cast<size_t>(features * size)) == 0;
}

// Numbers the different inputs of a chunk in the order of its pairs. known(position) says that all inputs of a row are
// the same, and that nobody needs to look.
template <class Real, class Known>
void NumberInputs(const Direction<Real>& d, const Row* rows, Chunk& chunk, const Known& known) {
  if (!d.repeats) return;
  int64_t inputs = 0;
  for (int64_t step = 0; step < chunk.steps; ++step) {
    for (int64_t position = 0; position < chunk.active[step]; ++position) {
      const Row& row = rows[chunk.row[position]];
      const bool repeats =
          step > 0 && row.repeated > 0 && (known(position) || RepeatsInput(d, row, chunk.from[position] + step));
      const int64_t before = step > 0 ? chunk.input_of[chunk.Pair(step - 1, position)] : 0;
      chunk.input_of[chunk.Pair(step, position)] = repeats ? before : inputs++;
    }
  }
  chunk.inputs = inputs;
}

// Numbers the different states before the steps of a chunk, likewise. period_of(position) is that of the skip that a
// row is in, or 0.
template <class PeriodOf, class Real>
void NumberStates(const Direction<Real>& d, Chunk& chunk, const PeriodOf& period_of) {
  if (!d.repeats) return;
  int64_t states = 0;
  for (int64_t step = 0; step < chunk.steps; ++step) {
    for (int64_t position = 0; position < chunk.active[step]; ++position) {
      const int64_t period = period_of(position);
      const bool repeats = period > 0 && step >= period;
      chunk.state_of[chunk.Pair(step, position)] =
          repeats ? chunk.state_of[chunk.Pair(step - period, position)] : states++;
    }
  }
  chunk.states = states;
}

// Follows the states of the rows of a tile in the forward pass, and lets them skip what would repeat.
template <class Real>
class Orbits {
 public:
  Orbits(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count)
      : d_(d), padded_(Sizes<Real>(d).units), row_count_(row_count) {
    if (!d.repeats) return;
    watched_ = scratch.template Take<bool>(row_count);
    since_ = scratch.template Take<int64_t>(row_count);
    skips_ = scratch.template Take<int64_t>(row_count);
    returns_ = scratch.template Take<uint32_t>(row_count * Sizes<Real>(d).panels);
    first_ = TakeStates(scratch);
    last_ = TakeStates(scratch);
  }

  void Start() {
    for (int64_t r = 0; r < row_count_ && d_.repeats; ++r) {
      watched_[r] = false;
      since_[r] = skips_[r] = 0;
    }
  }

  // Chooses the rows to watch in a chunk: those whose inputs are the same in all of it. Keeps their states before it.
  void Watch(const Row* rows, const Chunk& chunk, const Real* h, const Real* c) {
    if (!d_.repeats) return;
    for (int64_t position = 0; position < chunk.rows; ++position) {
      const int64_t r = chunk.row[position], from = chunk.from[position], end = from + chunk.count[position];
      watched_[r] = false;
      if (rows[r].repeated == 0) continue;
      if (!RepeatsInput(d_, rows[r], from)) since_[r] = from;
      for (int64_t step = 1; step < chunk.count[position]; ++step) {
        const bool repeats = chunk.SharesInputs() && chunk.input_of[chunk.Pair(step, position)] ==
                                                         chunk.input_of[chunk.Pair(step - 1, position)];
        if (!repeats) since_[r] = from + step;
      }
      watched_[r] = since_[r] <= from && chunk.count[position] == d_.chunk_steps && rows[r].count - end >= kLeastSkip;
      if (watched_[r]) Keep(first_, r * padded_, h, c, padded_);
    }
  }

  // Notes, for this member's units, which rows are after a step of the chunk where they were before it, and which have
  // come to rest in its last step: most do so in the end, and need not wait for a whole chunk in which they do.
  void Compare(const Chunk& chunk, int64_t step, const Real* h, const Real* c, const Share& share,
               const Team& team) const {
    if (!d_.repeats) return;
    const int64_t first = share.first * kLanes<Real>;
    const int64_t units = (share.last - share.first) * kLanes<Real>;
    for (int64_t position = 0; position < chunk.active[step]; ++position) {
      const int64_t r = chunk.row[position], at = r * padded_ + first;
      if (!watched_[r]) continue;
      uint32_t& returns = returns_[team.rank * row_count_ + r];
      if (step == 0) returns = 0;
      if (Same(first_, at, h, c, units)) returns |= 1u << step;
      if (step == chunk.steps - 2) Keep(last_, at, h, c, units);
      if (step == chunk.steps - 1 && Same(last_, at, h, c, units)) returns |= kAtRest;
    }
  }

  // After a chunk: how many of the timesteps from `step` on a row may skip, after `entry` computed ones. Copies their
  // outputs, and makes a note in the reserve.
  int64_t Leave(const Row& row, int64_t r, int64_t step, int64_t entry, const Team& team) {
    if (!d_.repeats || !watched_[r]) return 0;
    uint32_t returns = ~0u;
    for (int64_t member = 0; member < team.size; ++member) returns &= returns_[member * row_count_ + r];
    if (returns == 0) return 0;
    const int64_t period = returns & kAtRest ? 1 : __builtin_ctz(returns) + 1;
    if (period > kMostPeriod) return 0;
    int64_t end = step;
    while (end < row.count && RepeatsInput(d_, row, end)) ++end;
    const int64_t steps = (end - step) / period * period;
    if (steps < kLeastSkip) return 0;
    Skips<Real>(d_, row).Put(skips_[r]++,
                             {static_cast<int32_t>(entry), static_cast<int32_t>(period), static_cast<int32_t>(steps)});
    __atomic_fetch_add(d_.skipped_steps, steps, __ATOMIC_RELAXED);
    for (int64_t k = step; k < step + steps && d_.return_sequences && d_.y.data; ++k) CopyOutput(row, k - period, k);
    return steps;
  }

 private:
  // Of `returns_`. Not that of a period of 1: the members of a team must mean the same steps.
  static constexpr uint32_t kAtRest = 1u << 31;
  static_assert(kCheckpointInterval < 31);

  struct States {
    Real *h, *c;  // [rows][Hp]
  };

  States TakeStates(Scratch<Real>& scratch) const {
    const int64_t size = row_count_ * padded_;
    return {scratch.template Take<Real>(size), scratch.template Take<Real>(size)};
  }

  static void Keep(const States& states, int64_t at, const Real* h, const Real* c, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(Real);
    __builtin_memcpy(states.h + at, h + at, bytes);
    __builtin_memcpy(states.c + at, c + at, bytes);
  }

  static bool Same(const States& states, int64_t at, const Real* h, const Real* c, int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(Real);
    return __builtin_memcmp(states.h + at, h + at, bytes) == 0 && __builtin_memcmp(states.c + at, c + at, bytes) == 0;
  }

  void CopyOutput(const Row& row, int64_t from, int64_t to) const {
    const int64_t size = SizeOf(d_.dtype);
    const auto at = [&](int64_t k) {
      return static_cast<char*>(d_.y.data) + OffsetOf(d_.y, row, OutputTime(d_, TimeOf(d_, row, k))) * size;
    };
    __builtin_memcpy(at(to), at(from), static_cast<size_t>(d_.units * size));
  }

  const Direction<Real>& d_;
  const int64_t padded_, row_count_;
  bool* watched_ = nullptr;
  int64_t* since_ = nullptr;     // from which timestep on a row's input is what it is
  int64_t* skips_ = nullptr;     // how many a row has made
  uint32_t* returns_ = nullptr;  // [members][rows]: bit n, that the states after step n are those before the chunk
  States first_{}, last_{};      // before the chunk, and before its last step
};

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_REPEATS_INL_
