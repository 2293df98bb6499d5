// The gradients of the weights: products of a transposed left operand, x or h, with dz.
#ifndef LSTM_FAST_CPU_GRADIENT_INL_
#define LSTM_FAST_CPU_GRADIENT_INL_

#include <cstddef>
#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/kernel.h"
#include "cpu/product.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// Columns of a left operand that are packed side by side: a few register tiles, so that packing copies vectors.
constexpr int64_t kGroup = 12;
static_assert(kGroup % kMicroRows == 0);

// Turns the rows of an operand into groups of columns: [groups][pairs][kGroup].
template <class Real>
void PackColumns(const Operand<Real>& rows, int64_t gate, int64_t total, int64_t columns, Real* packed,
                 const Team& team) {
  const int64_t whole = columns / kGroup * kGroup;
  for (int64_t pair = team.First(total); pair < team.Last(total); ++pair) {
    const Real* from = rows.rows[pair] + gate * rows.gate_stride;
    Real* to = packed + pair * kGroup;
    for (int64_t column = 0; column < whole; column += kGroup) {
      __builtin_memcpy(to, from + column, sizeof(Real) * kGroup);
      to += total * kGroup;
    }
    for (int64_t i = whole; i < columns; ++i) to[i - whole] = from[i];
  }
}

template <class Real>
void PackOperand(const Operand<Real>& rows, int64_t columns, int64_t total, Real* packed, const Team& team) {
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  for (int64_t gate = 0; gate < (rows.per_gate ? 4 : 1); ++gate) {
    PackColumns(rows, gate, total, columns, packed + gate * gate_stride, team);
  }
}

// Where element (k, gate, unit) of a gradient lies, in gate panels of `columns` rows or in a matrix [columns, 4H].
struct Placement {
  template <class Real>
  Placement(const Sizes<Real>& sizes, bool in_place, int64_t columns)
      : panel(in_place ? kLanes<Real> : columns * sizes.width),
        column(in_place ? 4 * sizes.units : sizes.width),
        gate(in_place ? sizes.units : kLanes<Real>) {}
  int64_t panel, column, gate;  // elements from one to the next
};

// gradient += left^T dz for some columns and panels, where `packed` holds the columns of left. Each block of pairs is
// summed by itself and then added: one running sum over thousands of timesteps would lose digits that Keras, which adds
// a product per timestep, keeps. The first column is a multiple of kMicroRows.
template <class Real, bool kPerGate>
void AccumulateBlock(const Direction<Real>& d, const Real* packed, int64_t columns, int64_t first_column,
                     int64_t last_column, int64_t first_panel, int64_t last_panel, const Real* dz, int64_t total,
                     bool fresh, bool in_place, Real* gradient) {
  // Pairs summed at once: dz of so many pairs stays in L1 while all columns pass.
  constexpr int64_t kBlock = 128;
  const Sizes<Real> sizes(d);
  const Placement at(sizes, in_place, columns);
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  // In place, the columns pass over so many panels at once: a part of a line in a page of its own is slow to write.
  const int64_t panels = in_place ? 1 + kBlock / total : 1;
  for (int64_t group = first_panel; group < last_panel; group += panels) {
    const int64_t group_end = group + panels < last_panel ? group + panels : last_panel;
    for (int64_t begin = 0; begin < total; begin += kBlock) {
      const Extent extent = {1, total - begin < kBlock ? total - begin : kBlock, 0, 0, sizes.width};
      for (int64_t column = first_column; column < last_column; column += kMicroRows) {
        const int64_t offset = column % kGroup;
        const Real* block = packed + (column - offset) * total + begin * kGroup + offset;
        for (int64_t p = group; p < group_end; ++p) {
          const Real* panel = dz + (p * total + begin) * sizes.width;
          Real* to = gradient + p * at.panel + column * at.column;
          const auto accumulate = [&](auto tile, int64_t first) {
            constexpr int kRows = decltype(tile)::value;
            const Real* left[kRows];
            Vector<Real> sums[kRows][4];
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              left[i] = block + first + i;
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) sums[i][v] = Vector<Real>{};
            }
            MultiplyPanel<Real, kRows, 4, kGroup, kPerGate>(left, gate_stride, extent, panel, sums);
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) {
                Real* sum = to + (first + i) * at.column + v * at.gate;
                Store(sum, fresh && begin == 0 ? sums[i][v] : Load(sum) + sums[i][v]);
              }
            }
          };
          ForRowTiles(last_column - column < kMicroRows ? last_column - column : kMicroRows, accumulate);
        }
      }
    }
  }
}

// The same for this member's part: whole panels in place, and otherwise register tiles of panels, of which there are
// more.
template <class Real, bool kPerGate>
void AccumulateGradient(const Direction<Real>& d, const Real* packed, int64_t columns, const Real* dz, int64_t total,
                        bool fresh, bool in_place, Real* gradient, const Team& team) {
  if (in_place || team.size == 1) {
    const Share share(d, team);
    AccumulateBlock<Real, kPerGate>(d, packed, columns, 0, columns, share.first, share.last, dz, total, fresh, in_place,
                                    gradient);
    return;
  }
  const int64_t tiles = CeilDivide(columns, kMicroRows), all = Sizes<Real>(d).panels * tiles, last = team.Last(all);
  for (int64_t tile = team.First(all); tile < last;) {
    const int64_t panel = tile / tiles, begin = tile % tiles;
    const int64_t end = begin + last - tile < tiles ? begin + last - tile : tiles;
    AccumulateBlock<Real, kPerGate>(d, packed, columns, begin * kMicroRows,
                                    end * kMicroRows < columns ? end * kMicroRows : columns, panel, panel + 1, dz,
                                    total, fresh, in_place, gradient);
    tile += end - begin;
  }
}

template <class Real>
void AccumulateMatrix(const Direction<Real>& d, bool per_gate, int64_t columns, const Real* dz, int64_t total,
                      const Real* packed, bool fresh, bool in_place, Real* gradient, const Team& team) {
  per_gate ? AccumulateGradient<Real, true>(d, packed, columns, dz, total, fresh, in_place, gradient, team)
           : AccumulateGradient<Real, false>(d, packed, columns, dz, total, fresh, in_place, gradient, team);
}

template <class Real>
void AccumulateBias(const Sizes<Real>& sizes, const Share& share, const Real* dz, int64_t total, bool fresh,
                    bool in_place, Real* gradient) {
  constexpr int64_t kL = kLanes<Real>;
  const Placement at(sizes, in_place, 1);
  for (int64_t p = share.first; p < share.last; ++p) {
    Vector<Real> sums[4];
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) sums[v] = Vector<Real>{};
    for (int64_t pair = 0; pair < total; ++pair) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < 4; ++v) sums[v] += Load(dz + (p * total + pair) * sizes.width + v * kL);
    }
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) {
      Real* sum = gradient + p * at.panel + v * at.gate;
      Store(sum, fresh ? sums[v] : Load(sum) + sums[v]);
    }
  }
}

// Zeros this member's share of the gradient of `columns` rows of weights: of either layout an even part.
template <class Real>
void ClearGradient(const Sizes<Real>& sizes, const Share& share, int64_t columns, Real* gradient) {
  const int64_t size = columns * sizes.width;
  if (size == 0) return;  // then there may be no memory for it, which memset() must not be given
  __builtin_memset(gradient + share.first * size, 0,
                   static_cast<size_t>((share.last - share.first) * size) * sizeof(Real));
}

// Sums dz, of this member's units, over the pairs that have one number; they are numbered in the order of the pairs.
template <class Real>
const Real* SumByNumber(const Sizes<Real>& sizes, const Share& share, const Chunk& chunk, const int64_t* number_of,
                        int64_t numbers, const Real* dz, Real* sums) {
  constexpr int64_t kL = kLanes<Real>;
  if (numbers == chunk.total) return dz;
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* from = dz + p * chunk.total * sizes.width;
    int64_t next = 0;
    for (int64_t pair = 0; pair < chunk.total; ++pair) {
      Real* to = sums + (p * numbers + number_of[pair]) * sizes.width;
      const bool first = number_of[pair] == next;
      next += first ? 1 : 0;
      LSTM_FAST_UNROLL
      for (int v = 0; v < 4; ++v) {
        Store(to + v * kL, first ? Load(from + v * kL) : Load(to + v * kL) + Load(from + v * kL));
      }
      from += sizes.width;
    }
  }
  return sums;
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_GRADIENT_INL_
