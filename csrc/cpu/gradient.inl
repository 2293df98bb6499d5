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

// Columns of a left operand that are packed side by side, a strip: a few register tiles, so that packing copies
// vectors.
constexpr int64_t kStrip = 12;
static_assert(kStrip % kMicroRows == 0);

// Turns the rows of an operand into strips of columns: [strips][pairs][kStrip].
template <class Real>
void PackColumns(const Operand<Real>& rows, int64_t gate, int64_t total, int64_t columns, Real* packed,
                 const Team& team) {
  const int64_t whole = columns / kStrip * kStrip;
  for (int64_t pair = team.First(total); pair < team.Last(total); ++pair) {
    const Real* from = rows.rows[pair] + gate * rows.gate_stride;
    Real* to = packed + pair * kStrip;
    for (int64_t column = 0; column < whole; column += kStrip) {
      __builtin_memcpy(to, from + column, sizeof(Real) * kStrip);
      to += total * kStrip;
    }
    for (int64_t i = whole; i < columns; ++i) to[i - whole] = from[i];
  }
}

template <class Real>
void PackOperand(const Operand<Real>& rows, int64_t columns, int64_t total, Real* packed, const Team& team) {
  const int64_t gate_stride = CeilDivide(columns, kStrip) * total * kStrip;
  for (int64_t gate = 0; gate < (rows.per_gate ? 4 : 1); ++gate) {
    PackColumns(rows, gate, total, columns, packed + gate * gate_stride, team);
  }
}

// Pairs that are summed at once: their dz stays in L1 while all columns pass.
constexpr int64_t kPairsAtOnce = 128;

// The gradient of a matrix of weights, and where its element (column, gate, unit) lies: in gate panels or in place. Its
// rows are the columns of the left operand. These are two kinds of value, not two types: products, which are the same
// for both, would be compiled twice.
template <class Real>
struct MatrixGradient {
  MatrixGradient(const Sizes<Real>& sizes, bool is_in_place, int64_t column_count, Real* sums)
      : data(sums),
        columns(column_count),
        panel(is_in_place ? kLanes<Real> : column_count * sizes.width),
        column(is_in_place ? 4 * sizes.units : sizes.width),
        gate(is_in_place ? sizes.units : kLanes<Real>),
        in_place(is_in_place) {}

  // In place, the columns pass over several panels at once: a part of a line in a page of its own is slow to write.
  int64_t PanelsAtOnce(int64_t total) const { return in_place ? 1 + kPairsAtOnce / total : 1; }

  Real* data;
  int64_t columns;
  int64_t panel, column, gate;  // elements from one to the next
  bool in_place;
};

// The gradients of all weights of a direction.
template <class Real>
struct Gradients {
  Gradients(const Direction<Real>& d, const WeightGradient<Real>& of)
      : kernel(Sizes<Real>(d), of.in_place, d.input, of.kernel),
        recurrent_kernel(Sizes<Real>(d), of.in_place, d.units, of.recurrent_kernel),
        bias(Sizes<Real>(d), of.in_place, 1, of.bias),
        fresh(of.fresh) {}

  MatrixGradient<Real> kernel, recurrent_kernel, bias;
  bool fresh;  // nothing has been added yet: what is there is overwritten
};

// gradient += left^T dz for some columns and panels, where `packed` holds the columns of left. kPairsAtOnce pairs are
// summed by themselves and then added: one running sum over thousands of timesteps would lose digits that Keras, which
// adds a product per timestep, keeps. The first column is a multiple of kMicroRows.
template <class Real, bool kPerGate>
void AccumulatePanels(const Direction<Real>& d, const Real* packed, int64_t first_column, int64_t last_column,
                      int64_t first_panel, int64_t last_panel, const Real* dz, int64_t total, bool fresh,
                      const MatrixGradient<Real>& gradient) {
  const Sizes<Real> sizes(d);
  const int64_t gate_stride = CeilDivide(gradient.columns, kStrip) * total * kStrip;
  const int64_t panels = gradient.PanelsAtOnce(total);
  for (int64_t panel_begin = first_panel; panel_begin < last_panel; panel_begin += panels) {
    const int64_t panel_end = Least(panel_begin + panels, last_panel);
    for (int64_t begin = 0; begin < total; begin += kPairsAtOnce) {
      const Extent extent = {1, Least(total - begin, kPairsAtOnce), 0, 0, sizes.width};
      for (int64_t column = first_column; column < last_column; column += kMicroRows) {
        const int64_t offset = column % kStrip;
        const Real* strip = packed + (column - offset) * total + begin * kStrip + offset;
        for (int64_t p = panel_begin; p < panel_end; ++p) {
          const Real* panel = dz + (p * total + begin) * sizes.width;
          Real* to = gradient.data + p * gradient.panel + column * gradient.column;
          const auto accumulate = [&](auto register_tile, int64_t first) {
            constexpr int kRows = decltype(register_tile)::value;
            const Real* left[kRows];
            Vector<Real> sums[kRows][4];
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              left[i] = strip + first + i;
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) sums[i][v] = Vector<Real>{};
            }
            MultiplyPanel<Real, kRows, 4, kStrip, kPerGate>(left, gate_stride, extent, panel, sums);
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) {
                Real* sum = to + (first + i) * gradient.column + v * gradient.gate;
                Store(sum, fresh && begin == 0 ? sums[i][v] : Load(sum) + sums[i][v]);
              }
            }
          };
          ForRegisterTiles(Least(last_column - column, kMicroRows), accumulate);
        }
      }
    }
  }
}

// The same for this member's part: whole panels in place, and otherwise register tiles of panels, of which there are
// more.
template <class Real, bool kPerGate>
void AccumulatePart(const Direction<Real>& d, const Real* packed, const Real* dz, int64_t total, bool fresh,
                    const MatrixGradient<Real>& gradient, const Team& team) {
  const int64_t columns = gradient.columns;
  if (gradient.in_place || team.size == 1) {
    const Share share(d, team);
    AccumulatePanels<Real, kPerGate>(d, packed, 0, columns, share.first, share.last, dz, total, fresh, gradient);
    return;
  }
  const int64_t of_panel = CeilDivide(columns, kMicroRows), all = Sizes<Real>(d).panels * of_panel;
  const int64_t last = team.Last(all);
  for (int64_t register_tile = team.First(all); register_tile < last;) {
    const int64_t panel = register_tile / of_panel, begin = register_tile % of_panel;
    const int64_t end = Least(begin + last - register_tile, of_panel);
    AccumulatePanels<Real, kPerGate>(d, packed, begin * kMicroRows, Least(end * kMicroRows, columns), panel, panel + 1,
                                     dz, total, fresh, gradient);
    register_tile += end - begin;
  }
}

template <class Real>
void AccumulateMatrix(const Direction<Real>& d, bool per_gate, const Real* packed, const Real* dz, int64_t total,
                      bool fresh, const MatrixGradient<Real>& gradient, const Team& team) {
  per_gate ? AccumulatePart<Real, true>(d, packed, dz, total, fresh, gradient, team)
           : AccumulatePart<Real, false>(d, packed, dz, total, fresh, gradient, team);
}

template <class Real>
void AccumulateBias(const Sizes<Real>& sizes, const Share& share, const Real* dz, int64_t total, bool fresh,
                    const MatrixGradient<Real>& gradient) {
  constexpr int64_t kL = kLanes<Real>;
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
      Real* sum = gradient.data + p * gradient.panel + v * gradient.gate;
      Store(sum, fresh ? sums[v] : Load(sum) + sums[v]);
    }
  }
}

// Zeros this member's share of a gradient: wherever it lies, an even part.
template <class Real>
void ClearGradient(const Sizes<Real>& sizes, const Share& share, const MatrixGradient<Real>& gradient) {
  const int64_t size = gradient.columns * sizes.width;
  if (size == 0) return;  // then there may be no memory for it, which memset() must not be given
  __builtin_memset(gradient.data + share.first * size, 0,
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
