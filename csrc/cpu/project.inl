// What the input adds to the gates of a chunk: z = x W + b, or z = x + b where x is projected already.
#ifndef LSTM_FAST_CPU_PROJECT_INL_
#define LSTM_FAST_CPU_PROJECT_INL_

#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/placement.inl"
#include "cpu/product.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// z = x W + b, for the inputs [begin, end) of `total`.
template <class Real, bool kPerGate>
void Project(const Direction<Real>& d, GatePanels<Real> kernel, const Operand<Real>& x, int64_t begin, int64_t end,
             int64_t total, Real* z, const Share& share) {
  const Sizes<Real> sizes(d);
  const Extent extent = {1, d.input, 0, 0, sizes.width};
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* bias = d.bias + p * sizes.width;
    const Real* panel = kernel.data + p * d.input * sizes.width;
    ForRegisterTiles(end - begin, [&](auto register_tile, int64_t offset) {
      constexpr int kRows = decltype(register_tile)::value;
      const int64_t first = begin + offset;
      const Real* left[kRows];
      Vector<Real> sums[kRows][4];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        left[i] = x.rows[first + i];
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) sums[i][v] = Load(bias + v * kLanes<Real>);
      }
      MultiplyPanel<Real, kRows, 4, 1, kPerGate>(left, x.gate_stride, extent, panel, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Real* out = z + (p * total + first + i) * sizes.width;
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) Store(out + v * kLanes<Real>, sums[i][v]);
      }
    });
  }
}

// The same in place.
template <class Real, bool kPerGate>
void Project(const Direction<Real>& d, Matrix<Real> kernel, const Operand<Real>& x, int64_t begin, int64_t end,
             int64_t total, Real* z, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* bias = d.bias + p * sizes.width;
    for (int64_t input = begin; input < end; ++input) {
      Real* out = z + (p * total + input) * sizes.width;
      for (int64_t gate = 0; gate < 4; ++gate) Store(out + gate * kL, Load(bias + gate * kL));
    }
  }
  const auto left_of = [&](int64_t i, int64_t gate) {
    return x.rows[begin + i] + (kPerGate ? gate * x.gate_stride : 0);
  };
  MultiplyInPlace(share.first, share.last, d.units, kernel.data, d.input, end - begin, left_of, z + begin * sizes.width,
                  total * sizes.width);
}

// z = x + b, where x is projected already, for the rows at the positions [begin, end).
template <class Real>
void CopyProjected(const Direction<Real>& d, const Chunk& chunk, const Row* rows, int64_t begin, int64_t end, Real* z,
                   const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  int64_t input = -1;
  ForPairsByRow(chunk, begin, end, [&](int64_t r, int64_t k, int64_t pair) {
    if (chunk.InputOf(pair) == input) return;
    input = chunk.InputOf(pair);
    const int64_t offset = OffsetOf(d.x, rows[r], TimeOf(d, rows[r], k));
    ForGateRuns<Real>(share, [&](int64_t gate, int64_t unit, int64_t count) {
      alignas(64) Real converted[kRun<Real>];
      const Real* from = converted;
      if (IsReal<Real>(d.dtype)) {
        from = static_cast<const Real*>(d.x.data) + offset + gate * d.units + unit;
      } else {
        LoadRow(d.dtype, d.x.data, offset + gate * d.units + unit, count, converted);
      }
      Real* to = z + (unit / kL * chunk.inputs + input) * sizes.width + gate * kL;
      const Real* bias = d.bias + unit * 4 + gate * kL;
      for (int64_t i = 0; i < count; i += kL) {
        Store(to, LoadPart(from + i, count - i) + Load(bias));
        to += chunk.inputs * sizes.width;
        bias += sizes.width;
      }
    });
  });
}

// Projects the inputs [first_input, last_input) of a chunk; of a projected x, those of the rows at [first, last).
template <class Real>
LSTM_FAST_INLINE void ProjectChunk(const Direction<Real>& d, const Chunk& chunk, const Row* rows,
                                   const Operand<Real>& x, int64_t first, int64_t last, int64_t first_input,
                                   int64_t last_input, Real* z, const Share& share) {
  if (d.projected) {
    CopyProjected(d, chunk, rows, first, last, z, share);
  } else {
    WithWeights<GatePanels>(d, d.kernel, [&](const auto& kernel) {
      x.per_gate ? Project<Real, true>(d, kernel, x, first_input, last_input, chunk.inputs, z, share)
                 : Project<Real, false>(d, kernel, x, first_input, last_input, chunk.inputs, z, share);
    });
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PROJECT_INL_
