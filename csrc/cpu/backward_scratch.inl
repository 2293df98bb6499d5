// What a tile keeps in the backward pass: how far it has come in each row, and its memory.
#ifndef LSTM_FAST_CPU_BACKWARD_SCRATCH_INL_
#define LSTM_FAST_CPU_BACKWARD_SCRATCH_INL_

#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/gradient.inl"
#include "cpu/input.inl"
#include "cpu/kernel.h"
#include "cpu/product.inl"
#include "cpu/recurrence.inl"
#include "cpu/repeats.inl"
#include "cpu/reserve.inl"
#include "cpu/scratch.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// How far the backward pass has come in a row.
struct Remaining {
  int64_t timesteps;  // real ones, from the first on
  int64_t entries;    // those of them that were computed
  int64_t skips;      // where others were not
  Skip skip;          // the last of these; {} if there is none
  int64_t skipped;    // how many of its timesteps are left

  bool InSkip() const { return skipped > 0 && entries == skip.entry; }
};

template <class Real>
void LoadSkip(const Direction<Real>& d, const Row& row, Remaining& left) {
  left.skip = left.skips > 0 ? Skips<Real>(d, row).Get(left.skips - 1) : Skip{};
  left.skipped = left.skip.steps;
}

// Takes some of the last timesteps of a skip.
template <class Real>
void TakeSkipped(const Direction<Real>& d, const Row& row, int64_t count, Remaining& left) {
  left.timesteps -= count;
  left.skipped -= count;
  if (left.skipped > 0) return;
  --left.skips;
  LoadSkip(d, row, left);
}

// A row's part of a chunk.
template <class Real>
struct BackwardPart {
  Entries<Real> entries;  // its row's, or those recomputed for the chunk
  int64_t first;          // entry of its first step; in a skip, of the first step of the period
  int64_t entry;          // entry of its row; in a skip, of the step that would come next if nothing were skipped
  int64_t period;         // of the skip that it is in; 0: it is in none
  int64_t phase;          // of its first step in the period

  const Real* Gates(int64_t step) const { return entries.At(first + (period > 0 ? (phase + step) % period : step)); }
  // Of the step before; in a skip, or from its second step on.
  const Real* GatesBefore(int64_t step) const {
    return entries.At(first + (period > 0 ? (phase + step + period - 1) % period : step - 1));
  }
};

template <class Real>
struct SkipScratch {
  static constexpr int64_t kStepsAtOnce = 64;  // timesteps between two products with V

  SkipScratch(Scratch<Real>& scratch, const Direction<Real>& d) {
    if (!d.repeats || !d.skips_by_row) return;
    const Sizes<Real> sizes(d);
    factors = scratch.template Take<Real>(kMostPeriod * kFactors * sizes.units);
    of_state = scratch.template Take<Real>(kMostPeriod * MatrixSize(d, d.units));
    of_input = scratch.template Take<Real>(kMostPeriod * MatrixSize(d, d.input));
    flow = scratch.template Take<Real>(kStepsAtOnce * 2 * sizes.units);
    sums = scratch.template Take<Real>(kMostPeriod * 2 * sizes.units);
    dz = scratch.template Take<Real>(kMostPeriod * sizes.panels * sizes.width);
    states = scratch.template Take<Real>(4 * kMostPeriod * sizes.units);
  }

  static int64_t MatrixSize(const Direction<Real>& d, int64_t columns) {
    return 2 * Sizes<Real>(d).units * CeilDivide(columns, kLanes<Real>) * kLanes<Real>;
  }

  enum Factor { kIn, kForget, kCandidate, kOut, kCell, kKept, kFactors };  // a_i, a_f, a_c, a_o, b, f

  Real* factors = nullptr;                        // [period][kFactors][Hp]
  Real *of_state = nullptr, *of_input = nullptr;  // G and V: [period][column panels][2][Hp][width]
  Real* flow = nullptr;                           // [kStepsAtOnce][2][Hp]: dc' and dh
  Real* sums = nullptr;                           // [period][2][Hp]: of dc' and dh
  Real* dz = nullptr;                             // gate rows of a period: its sums
  Real* states = nullptr;                         // [4][period][Hp]: h before, times the dropout masks
};

template <class Real>
struct BackwardScratch {
  BackwardScratch(Real* base, const Direction<Real>& d, int64_t row_count)
      : scratch(base),
        chunk(TakeChunk(scratch, d, row_count)),
        input(scratch, d, row_count),
        state(scratch, d, d.reserve_mode == Reserve::kRecompute ? row_count : 0),
        skip(scratch, d) {
    const Sizes<Real> sizes(d);
    const int64_t pairs = row_count * d.chunk_steps;
    remaining = scratch.template Take<Remaining>(row_count);
    part = scratch.template Take<BackwardPart<Real>>(row_count);
    dz = scratch.template Take<Real>(pairs * sizes.panels * sizes.width);
    dh = scratch.template Take<Real>(row_count * sizes.units);
    dc = scratch.template Take<Real>(row_count * sizes.units);
    c_start = scratch.template Take<Real>(row_count * sizes.units);
    const int64_t h_gates = d.recurrent_dropout ? 4 : 1;
    h_before.rows = scratch.template Take<const Real*>(pairs);
    h_before.gate_stride = pairs * sizes.units;
    h_before.per_gate = d.recurrent_dropout != nullptr;
    h_rows = scratch.template Take<Real>(h_gates * h_before.gate_stride);
    if (d.recurrent_dropout) masks = scratch.template Take<Real>(row_count * 4 * sizes.units);
    const int64_t packed_x = CeilDivide(d.input, kStrip) * (d.input_dropout ? 4 : 1);
    const int64_t packed_h = CeilDivide(d.units, kStrip) * h_gates;
    pair_row = scratch.template Take<int64_t>(pairs);
    pair_offset = scratch.template Take<int64_t>(pairs);
    packed = scratch.template Take<Real>((packed_x > packed_h ? packed_x : packed_h) * pairs * kStrip);
    if (d.repeats) dz_sums = scratch.template Take<Real>(pairs * sizes.panels * sizes.width);
    if (d.reserve_mode == Reserve::kRecompute) {
      recomputed = scratch.template Take<Real>(pairs * 5 * sizes.units);
    }
    if (d.repeats) again = TakeChunk(scratch, d, row_count);
    dy = scratch.template Take<Real>(row_count * sizes.units);
    if (!IsReal<Real>(d.dtype)) x = scratch.template Take<Real>(d.input);
    packed_states = scratch.template Take<Real>(packed_h * pairs * kStrip);
  }

  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Remaining* remaining;      // by row
  BackwardPart<Real>* part;  // by row
  Recurrence<Real> state;    // for recomputing gates
  SkipScratch<Real> skip;
  Chunk again{};           // what is recomputed for the chunk, or for a skip
  Real* dz;                // gate rows of the chunk
  Real *dh, *dc;           // [rows][Hp], flowing back from the step after
  Real* c_start;           // [rows][Hp], before the first step of a part that is in no skip
  Real* dy;                // [rows][Hp]: of a group of a team, one of its rows
  Real* x = nullptr;       // of a timestep of a row, for the leader of a team alone: others may be in a chunk still
  Operand<Real> h_before;  // h before each (step, row) pair, times the dropout masks
  Real* h_rows;
  Real* masks = nullptr;            // [rows][4][Hp]
  int64_t *pair_row, *pair_offset;  // the row of each pair, and where its dx goes
  Real* packed;                     // [gates][strips][pairs][kStrip]: of x, then of h
  Real* packed_states;              // of h, where a team packs both at once
  int kernel_is_finite = -1;        // of W; -1: nobody has looked
  Real* dz_sums = nullptr;          // gate rows: dz, summed over the pairs with one input or state
  Real* recomputed = nullptr;       // [rows][chunk_steps][P][5][L]

  Entries<Real> RecomputedEntries(const Direction<Real>& d, int64_t r) const {
    const int64_t size = 5 * Sizes<Real>(d).units;
    return {recomputed + r * d.chunk_steps * size, nullptr, size};
  }
};

template <class Real>
int64_t BackwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return BackwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_BACKWARD_SCRATCH_INL_
