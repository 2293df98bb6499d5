// Products of dz with a transposed matrix: dx = dz W^T, and dh of the step before, dz U^T.
#ifndef LSTM_FAST_CPU_TRANSPOSED_INL_
#define LSTM_FAST_CPU_TRANSPOSED_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/product.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// out = dz times kVectors vectors of a column panel of a transposed matrix, whose rows are `width` wide, for the pairs
// left[i] points to; sums over the gate panels [first, last) are added to those over the panels before.
template <class Real, int kRows, int kVectors>
LSTM_FAST_INLINE void MultiplyTransposed(const Sizes<Real>& sizes, int64_t first, int64_t last,
                                         const Real* const (&left)[kRows], int64_t left_stride, const Real* panel,
                                         int64_t width, Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  // Summed in blocks of at most 32 terms. One running sum over all gates gave the gradient of h0 1.3 times the error
  // that Keras's has; blocks of 64 gave 1.15.
  constexpr int64_t kBlock = 4 * kL < 32 ? 4 * kL : 32;
  const Extent extent = {1, kBlock, 0, 0, width};
  for (int64_t p = first; p < last; ++p) {
    for (int64_t term = 0; term < sizes.width; term += kBlock) {
      const Real* block[kRows];
      Vector<Real> sums[kRows][kVectors];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        block[i] = left[i] + p * left_stride + term;
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
      }
      MultiplyPanel<Real, kRows, kVectors, 1, false>(block, 0, extent, panel + (p * sizes.width + term) * width, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          Real* to = out + (i * 4 + v) * kL;
          Store(to, p + term == 0 ? sums[i][v] : Load(to) + sums[i][v]);
        }
      }
    }
  }
}

// The same over all gate panels, each gate's part multiplied by its own row of mask, which starts at
// mask[i] + gate * mask_stride.
template <class Real, int kRows, int kVectors>
LSTM_FAST_INLINE void MultiplyTransposedMasked(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                               int64_t left_stride, const Real* panel, int64_t width,
                                               const Real* const (&mask)[kRows], int64_t mask_stride, int64_t valid,
                                               Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  constexpr int64_t kWidth = kVectors * kL;
  const Extent extent = {sizes.panels, kL, left_stride, sizes.width * width, width};
  for (int64_t gate = 0; gate < 4; ++gate) {
    const Real* gate_left[kRows];
    Vector<Real> sums[kRows][kVectors];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      gate_left[i] = left[i] + gate * kL;
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
    }
    MultiplyPanel<Real, kRows, kVectors, 1, false>(gate_left, 0, extent, panel + gate * kL * width, sums);
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      Real part[kWidth];
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) Store(part + v * kL, sums[i][v]);
      Real* to = out + i * 4 * kL;
      for (int64_t j = 0; j < valid; ++j) to[j] = (gate == 0 ? 0 : to[j]) + mask[i][gate * mask_stride + j] * part[j];
    }
  }
}

// The same for kColumns columns of the transpose, which are rows of the matrix [K, 4H] as it was given. Each gate is
// summed by itself, in the lanes of a vector; `mask` is null where there is none.
template <class Real, int kRows, int kColumns>
LSTM_FAST_INLINE void MultiplyTransposedInPlace(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                                int64_t left_stride, const Real* matrix,
                                                const Real* const (&mask)[kRows], int64_t mask_stride, Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  for (int64_t gate = 0; gate < 4; ++gate) {
    Vector<Real> sums[kRows][kColumns];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) sums[i][v] = Vector<Real>{};
    }
    for (int64_t p = 0; p < sizes.panels; ++p) {
      Vector<Real> dz[kRows];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) dz[i] = Load(left[i] + p * left_stride + gate * kL);
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        Vector<Real> term = Load(matrix + (v * 4 + gate) * sizes.units + p * kL);
        KeepInRegister(term);
        LSTM_FAST_UNROLL
        for (int i = 0; i < kRows; ++i) sums[i][v] = MultiplyAdd(dz[i], term, sums[i][v]);
      }
    }
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        Real lanes[kL];
        Store(lanes, sums[i][v]);
        for (int64_t half = kL / 2; half > 0; half /= 2) {
          for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        }
        Real& to = out[i * 4 * kL + v];
        to = (gate == 0 ? 0 : to) + (mask[i] ? mask[i][gate * mask_stride + v] * lanes[0] : lanes[0]);
      }
    }
  }
}

// For `count` pairs from gate row `first` on: dz times columns [first_column, last_column) of a transposed matrix with
// `columns` columns, in transposed panels or in place; first_column is a multiple of L. store(pair, column, values,
// valid) takes up to 4L values of a pair. mask_of(pair) gives its [4][mask_stride] masks.
template <class Real, bool kMasked, class MaskOf, class StoreValues>
LSTM_FAST_INLINE void ForTransposedProduct(const Direction<Real>& d, const Real* dz, int64_t total, int64_t first,
                                           int64_t count, const Real* transposed, int64_t columns, int64_t first_column,
                                           int64_t last_column, const MaskOf& mask_of, int64_t mask_stride,
                                           const StoreValues& store) {
  constexpr int64_t kL = kLanes<Real>;
  // The sums of so many pairs are kept at once, and so many gate panels of the matrix stay in L1 while they pass.
  constexpr int64_t kPairs = 8 * kMicroRows, kPanels = 128 / (4 * kL);
  const Sizes<Real> sizes(d);
  const int64_t depth = sizes.panels * sizes.width, stride = total * sizes.width;
  const int64_t step = kMasked ? sizes.panels : kPanels;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  for (int64_t column = first_column; column < last_column;) {
    const int64_t panel_begin = column / sizes.width * sizes.width;
    const int64_t valid = least(panel_begin + sizes.width, last_column) - column;
    const int64_t width = least(sizes.width, CeilDivide(columns - panel_begin, kL) * kL);
    const Real* panel = transposed + panel_begin * depth + (column - panel_begin);
    for (int64_t begin = 0; begin < count; begin += kPairs) {
      const int64_t pairs = least(kPairs, count - begin);
      alignas(64) Real out[kPairs * 4 * kL];
      const auto operands = [&](int64_t offset, int64_t from_column, auto& left, auto& mask) {
        int64_t pair = begin + offset;
        for (auto& row : left) row = dz + (first + pair++) * sizes.width;
        pair = begin + offset;
        for (auto& row : mask) row = kMasked ? mask_of(pair++) + from_column : nullptr;
      };
      for (int64_t j = 0; d.in_place && j < valid; j += 4) {
        ForRowTiles(pairs, [&](auto tile, int64_t offset) {
          constexpr int kRows = decltype(tile)::value;
          const Real *left[kRows], *mask[kRows];
          operands(offset, column + j, left, mask);
          CallWithVectors(valid - j, [&](auto vectors) {
            MultiplyTransposedInPlace<Real, kRows, decltype(vectors)::value>(
                sizes, left, stride, transposed + (column + j) * 4 * d.units, mask, mask_stride,
                out + offset * 4 * kL + j);
          });
        });
      }
      for (int64_t p = 0; !d.in_place && p < sizes.panels; p += step) {
        ForRowTiles(pairs, [&](auto tile, int64_t offset) {
          constexpr int kRows = decltype(tile)::value;
          const Real *left[kRows], *mask[kRows];
          operands(offset, column, left, mask);
          Real* sums = out + offset * 4 * kL;
          const auto multiply = [&](auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            if constexpr (kMasked) {
              MultiplyTransposedMasked<Real, kRows, kVectors>(sizes, left, stride, panel, width, mask, mask_stride,
                                                              valid, sums);
            } else {
              MultiplyTransposed<Real, kRows, kVectors>(sizes, p, least(p + step, sizes.panels), left, stride, panel,
                                                        width, sums);
            }
          };
          CallWithVectors(CeilDivide(valid, kL), multiply);
        });
      }
      for (int64_t i = 0; i < pairs; ++i) store(begin + i, column, out + i * 4 * kL, valid);
    }
    column += valid;
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_TRANSPOSED_INL_
