// A tile, some rows of one direction: its sizes, its units and their owners, when its rows are, and their states.
#ifndef LSTM_FAST_CPU_TILE_INL_
#define LSTM_FAST_CPU_TILE_INL_

#include <cstdint>

#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <class Real>
struct Sizes {
  explicit Sizes(const Direction<Real>& d)
      : panels(CeilDivide(d.units, kLanes<Real>)), units(panels * kLanes<Real>), width(4 * kLanes<Real>) {}
  int64_t panels;
  int64_t units;  // with padding lanes
  int64_t width;  // of a gate panel: 4 * lanes
};

// The units that one member of a team owns: whole panels.
struct Share {
  template <class Real>
  Share(const Direction<Real>& d, const Team& team) {
    const int64_t panels = Sizes<Real>(d).panels;
    first = team.First(panels);
    last = team.Last(panels);
    first_unit = first * kLanes<Real>;
    units = Least(last * kLanes<Real>, d.units) - first_unit;
  }
  int64_t first, last;        // panels
  int64_t first_unit, units;  // real ones
};

// Input time of a row's k-th real timestep in processing order.
template <class Real>
LSTM_FAST_INLINE int64_t TimeOf(const Direction<Real>& d, const Row& row, int64_t k) {
  return row.steps[d.reversed ? row.count - 1 - k : k];
}

// Time of input time t in y.
template <class Real>
LSTM_FAST_INLINE int64_t OutputTime(const Direction<Real>& d, int64_t t) {
  return d.reversed && !d.input_order ? d.time - 1 - t : t;
}

// Where a row is in a sequence at such a time, in elements.
LSTM_FAST_INLINE int64_t OffsetOf(const Sequence& sequence, const Row& row, int64_t time) {
  return row.batch * sequence.batch_stride + time * sequence.time_stride;
}

template <class Real>
LSTM_FAST_INLINE bool LastStepIsReal(const Direction<Real>& d, const Row& row) {
  return row.count > 0 && TimeOf(d, row, row.count - 1) == (d.reversed ? 0 : d.time - 1);
}

// body(gate, unit, count) for runs of up to kRun units that a member of a team owns, in the order of a row of x or dx:
// gate after gate. Runs begin with a panel.
template <class Real>
constexpr int64_t kRun = 8 * kLanes<Real>;

template <class Real, class Body>
LSTM_FAST_INLINE void ForGateRuns(const Share& share, const Body& body) {
  const int64_t end = share.first_unit + share.units;
  for (int64_t gate = 0; gate < 4; ++gate) {
    for (int64_t unit = share.first_unit; unit < end; unit += kRun<Real>) {
      body(gate, unit, Least(end - unit, kRun<Real>));
    }
  }
}

// Reads rows of a [B, H] state into [rows][Hp]; null gives zeros.
template <class Real>
void LoadState(const Direction<Real>& d, const void* state, const Row* rows, int64_t row_count, Real* to) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t r = 0; r < row_count; ++r) {
    Real* row = to + r * padded;
    for (int64_t j = 0; j < padded; ++j) row[j] = 0;
    if (state) LoadRow(d.dtype, state, rows[r].batch * d.units, d.units, row);
  }
}

// Reads the recurrent dropout multipliers of the tile's rows into [rows][4][Hp].
template <class Real>
void LoadRecurrentMasks(const Direction<Real>& d, const Row* rows, int64_t row_count, Real* to) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t r = 0; r < row_count; ++r) {
    for (int64_t gate = 0; gate < 4; ++gate) {
      Real* row = to + (r * 4 + gate) * padded;
      for (int64_t j = 0; j < padded; ++j) row[j] = 0;
      LoadRow(d.dtype, d.recurrent_dropout, (gate * d.batch + rows[r].batch) * d.units, d.units, row);
    }
  }
}

// Multiplies a state by a row's recurrent dropout multipliers: the one for each gate is gate_stride elements on.
template <class Real>
void MaskState(const Sizes<Real>& sizes, const Real* masks, int64_t gate_stride, Real* h) {
  for (int64_t gate = 3; gate >= 0; --gate) {  // gate 0, which overwrites h, last
    const Real* mask = masks + gate * sizes.units;
    for (int64_t j = 0; j < sizes.units; ++j) h[gate * gate_stride + j] = h[j] * mask[j];
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_TILE_INL_
