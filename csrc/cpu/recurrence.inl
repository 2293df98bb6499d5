// The recurrence over a chunk whose inputs are projected: h and c of step after step. The forward pass runs it, and the
// backward pass where it computes gates again.
#ifndef LSTM_FAST_CPU_RECURRENCE_INL_
#define LSTM_FAST_CPU_RECURRENCE_INL_

#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/kernel.h"
#include "cpu/math.inl"
#include "cpu/placement.inl"
#include "cpu/product.inl"
#include "cpu/scratch.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// Its state and buffers.
template <class Real>
struct Recurrence {
  Recurrence(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count) : rows(row_count) {
    const Sizes<Real> sizes(d);
    z = scratch.template Take<Real>(row_count * d.chunk_steps * sizes.panels * sizes.width);
    h = scratch.template Take<Real>(row_count * sizes.units);
    h_next = scratch.template Take<Real>(row_count * sizes.units);
    c = scratch.template Take<Real>(row_count * sizes.units);
    kept = scratch.template Take<Real*>(row_count * d.chunk_steps);
    if (d.recurrent_dropout) {
      masks = scratch.template Take<Real>(row_count * 4 * sizes.units);
      h_masked = scratch.template Take<Real>(row_count * 4 * sizes.units);
    }
  }

  int64_t rows;
  Real* z;                   // gate rows of the chunk
  Real *h, *h_next, *c;      // [rows][Hp]
  Real** kept;               // by pair of the chunk: where its gates go; null: they are not kept
  Real* masks = nullptr;     // [rows][4][Hp]
  Real* h_masked = nullptr;  // [4][rows][Hp]
};

// One step of the rows at the positions [begin, end): from h and c to h_next and, in the place of c, the next c.
// `terms` of h are multiplied: all, or none where there is no state or z holds their product already; then U is not
// read.
template <class Real, bool kPerGate>
void StepRows(const Direction<Real>& d, GatePanels<Real> recurrent_kernel, const Chunk& chunk, int64_t step,
              int64_t begin, int64_t end, int64_t terms, Recurrence<Real>& state, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Extent extent = {1, terms, 0, 0, sizes.width};
  const int64_t gate_stride = state.rows * sizes.units, first_pair = chunk.first[step];
  const Real* h = kPerGate ? state.h_masked : state.h;
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* panel = terms > 0 ? recurrent_kernel.data + p * d.units * sizes.width : nullptr;
    ForRegisterTiles(end - begin, [&](auto register_tile, int64_t offset) {
      constexpr int kRows = decltype(register_tile)::value;
      const int64_t first = begin + offset;
      const Real* left[kRows];
      Vector<Real> sums[kRows][4];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        left[i] = h + chunk.row[first + i] * sizes.units;
        const Real* z = state.z + (p * chunk.inputs + chunk.InputOf(first_pair + first + i)) * sizes.width;
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) sums[i][v] = Load(z + v * kL);
      }
      MultiplyPanel<Real, kRows, 4, 1, kPerGate>(left, gate_stride, extent, panel, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Real* c_row = state.c + chunk.row[first + i] * sizes.units + p * kL;
        const Vector<Real> in = SigmoidOf<Real>(sums[i][0]), forget = SigmoidOf<Real>(sums[i][1]);
        const Vector<Real> candidate = TanhOf<Real>(sums[i][2]), out = SigmoidOf<Real>(sums[i][3]);
        const Vector<Real> c = MultiplyAdd(forget, Load(c_row), in * candidate);
        Store(c_row, c);
        sums[i][0] = c;
        sums[i][3] = out;
        if (Real* kept = state.kept[first_pair + first + i]) {
          kept += p * 5 * kL;
          Store(kept, in);
          Store(kept + kL, forget);
          Store(kept + 2 * kL, candidate);
          Store(kept + 3 * kL, out);
          Store(kept + 4 * kL, c);
          Prefetch(kept, 5 * kL, 5 * kL);  // of the next panel, which is written next
        }
      }
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Store(state.h_next + chunk.row[first + i] * sizes.units + p * kL, sums[i][3] * TanhOf<Real>(sums[i][0]));
      }
    });
  }
}

// The same in place: h U is added to z first.
template <class Real, bool kPerGate>
void StepRows(const Direction<Real>& d, Matrix<Real> recurrent_kernel, const Chunk& chunk, int64_t step, int64_t begin,
              int64_t end, int64_t terms, Recurrence<Real>& state, const Share& share) {
  const Sizes<Real> sizes(d);
  const int64_t gate_stride = state.rows * sizes.units, first_pair = chunk.first[step];
  const Real* h = kPerGate ? state.h_masked : state.h;
  const auto left_of = [&](int64_t i, int64_t gate) {
    return h + (kPerGate ? gate * gate_stride : 0) + chunk.row[begin + i] * sizes.units;
  };
  MultiplyInPlace(share.first, share.last, d.units, recurrent_kernel.data, terms, end - begin, left_of,
                  state.z + (first_pair + begin) * sizes.width, chunk.inputs * sizes.width);
  StepRows<Real, kPerGate>(d, GatePanels<Real>{nullptr}, chunk, step, begin, end, 0, state, share);
}

// One step of those rows at the positions [first, last) that are active in it.
template <class Real, bool kPerGate>
void Step(const Direction<Real>& d, const Chunk& chunk, int64_t step, int64_t first, int64_t last,
          Recurrence<Real>& state, const Share& share) {
  const int64_t active = Least(chunk.active[step], last), padded = Sizes<Real>(d).units;
  for (int64_t position = first; position < active && kPerGate; ++position) {
    const int64_t r = chunk.row[position];
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t j = 0; j < padded; ++j) {
        state.h_masked[(gate * state.rows + r) * padded + j] =
            state.h[r * padded + j] * state.masks[(r * 4 + gate) * padded + j];
      }
    }
  }
  // There is nothing to multiply before a row's first timestep if no state was given.
  const auto starts = [&](int64_t position) { return step == 0 && !d.h0 && chunk.from[position] == 0; };
  for (int64_t begin = first; begin < active;) {
    int64_t end = step == 0 ? begin + 1 : active;
    while (end < active && starts(end) == starts(begin)) ++end;
    WithWeights<GatePanels>(d, d.recurrent_kernel, [&](const auto& recurrent_kernel) {
      StepRows<Real, kPerGate>(d, recurrent_kernel, chunk, step, begin, end, starts(begin) ? 0 : d.units, state, share);
    });
    begin = end;
  }
}

// Runs the recurrence over a chunk that is projected, for the rows at the positions [first, last). After each step
// on_step(step) sees this member's units of h_next and c; it waits for the team, if that shares units.
template <class Real, class OnStep>
LSTM_FAST_INLINE void RunChunk(const Direction<Real>& d, const Chunk& chunk, int64_t first, int64_t last,
                               Recurrence<Real>& state, const Share& share, const OnStep& on_step) {
  for (int64_t step = 0; step < chunk.steps; ++step) {
    d.recurrent_dropout ? Step<Real, true>(d, chunk, step, first, last, state, share)
                        : Step<Real, false>(d, chunk, step, first, last, state, share);
    on_step(step);
    Real* previous = state.h;
    state.h = state.h_next;
    state.h_next = previous;
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_RECURRENCE_INL_
