// dx, the gradient of x.
#ifndef LSTM_FAST_CPU_INPUT_GRADIENT_INL_
#define LSTM_FAST_CPU_INPUT_GRADIENT_INL_

#include <cstdint>

#include "cpu/backward_scratch.inl"
#include "cpu/chunk.inl"
#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "cpu/transposed.inl"

namespace lstm_fast {
namespace {

// Writes some values of dx, at most 4L, or adds them to what the other direction wrote. Of two directions, none writes
// -0: to that, adding 0 makes a difference, and where timesteps repeat it depends on the cut whether 0 is added.
template <class Real>
LSTM_FAST_INLINE void StoreInputGradientPart(const Direction<Real>& d, int64_t offset, int64_t count,
                                             const Real* values) {
  if (!d.dx_accumulates) {
    Real sums[4 * kLanes<Real>];
    if (d.input_order && !d.projected) {
      for (int64_t j = 0; j < count; ++j) sums[j] = values[j] + Real(0);
      values = sums;
    }
    StoreRow(d.dx_dtype, d.dx.data, offset, count, values);
    return;
  }
  Real* to = static_cast<Real*>(d.dx.data) + offset;
  for (int64_t j = 0; j < count; ++j) to[j] += values[j];
}

template <class Real>
void ZeroInputGradient(const Direction<Real>& d, const Row& row, int64_t time) {
  ZeroRow(d.dx_dtype, d.dx.data, OffsetOf(d.dx, row, time), d.projected ? 4 * d.units : d.input);
}

template <class Real>
void ZeroMaskedInputGradient(const Direction<Real>& d, const Row& row) {
  int64_t next = 0;
  for (int64_t t = 0; t < d.time; ++t) {
    if (next < row.count && row.steps[next] == t) {
      ++next;
    } else {
      ZeroInputGradient(d, row, t);
    }
  }
}

// dx = dz W^T for the whole chunk, each member of the team for its share of the pairs.
template <class Real>
void StoreInputGradient(const Direction<Real>& d, BackwardScratch<Real>& s, const Team& team) {
  const int64_t first = team.First(s.chunk.total), count = team.Last(s.chunk.total) - first;
  const auto mask_of = [&](int64_t pair) { return s.input.mask(s.pair_row[first + pair], 0); };
  const auto store = [&](int64_t pair, int64_t column, const Real* values, int64_t valid) {
    StoreInputGradientPart(d, s.pair_offset[first + pair] + column, valid, values);
  };
  ForTransposedProduct(d, d.kernel_transposed, d.input_dropout != nullptr,
                       {s.dz, s.chunk.total, first, count, d.input, 0, d.input, d.input}, mask_of, store);
}

// dx = dz, for the rows at the positions [begin, end), each member of their group for its own units. Not -0: where
// timesteps are passed over, which depends on the cut, dx is 0.
template <class Real>
void StoreProjectedGradient(const Direction<Real>& d, const Row* rows, int64_t begin, int64_t end,
                            const BackwardScratch<Real>& s, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  ForPairsByRow(s.chunk, begin, end, [&](int64_t r, int64_t k, int64_t pair) {
    const int64_t offset = OffsetOf(d.dx, rows[r], TimeOf(d, rows[r], k));
    ForGateRuns<Real>(share, [&](int64_t gate, int64_t unit, int64_t count) {
      alignas(64) Real gathered[kRun<Real>];
      const Real* from = s.dz + (unit / kL * s.chunk.total + pair) * sizes.width + gate * kL;
      for (int64_t i = 0; i < count; i += kL) {
        Store(gathered + i, Load(from) + Vector<Real>{});
        from += s.chunk.total * sizes.width;
      }
      StoreRow(d.dx_dtype, d.dx.data, offset + gate * d.units + unit, count, gathered);
    });
  });
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_INPUT_GRADIENT_INL_
