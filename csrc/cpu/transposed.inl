// Products of dz with a transposed matrix: dx = dz W^T, and dh of the step before, dz U^T.
#ifndef LSTM_FAST_CPU_TRANSPOSED_INL_
#define LSTM_FAST_CPU_TRANSPOSED_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/placement.inl"
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
  // At most 32 terms are summed at once. One running sum over all gates gave the gradient of h0 1.3 times the error
  // that Keras's has; 64 at once gave 1.15.
  constexpr int64_t kTermsAtOnce = Least(4 * kL, 32);
  const Extent extent = {1, kTermsAtOnce, 0, 0, width};
  for (int64_t p = first; p < last; ++p) {
    for (int64_t term = 0; term < sizes.width; term += kTermsAtOnce) {
      const Real* terms[kRows];
      Vector<Real> sums[kRows][kVectors];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        terms[i] = left[i] + p * left_stride + term;
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
      }
      MultiplyPanel<Real, kRows, kVectors, 1, false>(terms, 0, extent, panel + (p * sizes.width + term) * width, sums);
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
// masks[i] + column + gate * mask_stride.
template <class Real, int kRows, int kVectors>
LSTM_FAST_INLINE void MultiplyTransposedMasked(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                               int64_t left_stride, const Real* panel, int64_t width,
                                               const Real* const* masks, int64_t column, int64_t mask_stride,
                                               int64_t valid, Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  constexpr int64_t kWidth = kVectors * kL;
  // Of as many terms as lanes. GCC 12 would unroll the loop over a number that it knows, and keep sums on the stack.
  const Extent extent = {sizes.panels, sizes.width / 4, left_stride, sizes.width * width, width};
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
      const Real* mask = masks[i] + column + gate * mask_stride;
      for (int64_t j = 0; j < valid; ++j) to[j] = (gate == 0 ? 0 : to[j]) + mask[j] * part[j];
    }
  }
}

// The same for kColumns columns of the transpose, which are rows of the matrix [K, 4H] as it was given. Each gate is
// summed by itself, in the lanes of a vector. Without kMasked there are no masks.
template <class Real, int kRows, int kColumns, bool kMasked>
LSTM_FAST_INLINE void MultiplyTransposedInPlace(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                                int64_t left_stride, const Real* matrix, const Real* const* masks,
                                                int64_t column, int64_t mask_stride, Real* out) {
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
        const Real sum = kMasked ? masks[i][column + gate * mask_stride + v] * lanes[0] : lanes[0];
        to = (gate == 0 ? 0 : to) + sum;
      }
    }
  }
}

// The pairs and columns of such a product. Columns are those of the transpose, rows of the matrix.
template <class Real>
struct TransposedProduct {
  const Real* dz;                     // gate rows
  int64_t total;                      // of so many pairs
  int64_t first, count;               // the pairs that are multiplied
  int64_t columns;                    // of the whole transpose
  int64_t first_column, last_column;  // those that are wanted; the first is a multiple of L
  int64_t mask_stride;                // of the masks, [4][mask_stride] for each pair
};

// out = dz times the columns [column, column + valid), of one column panel, for `pairs` pairs: those of the gate rows
// from dz on. With kMasked each has masks.
template <bool kMasked, class Real>
void MultiplyColumns(const Sizes<Real>& sizes, TransposedPanels<Real> weights, const TransposedProduct<Real>& product,
                     int64_t column, int64_t valid, const Real* dz, const Real* const* masks, int64_t pairs,
                     Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  // So many gate panels stay in L1 while all pairs pass.
  constexpr int64_t kPanels = 128 / (4 * kL);
  const int64_t step = kMasked ? sizes.panels : kPanels, stride = product.total * sizes.width;
  const int64_t panel_begin = column / sizes.width * sizes.width, mask_stride = product.mask_stride;
  const int64_t width = Least(sizes.width, CeilDivide(product.columns - panel_begin, kL) * kL);
  const Real* panel = weights.data + panel_begin * sizes.panels * sizes.width + (column - panel_begin);
  for (int64_t p = 0; p < sizes.panels; p += step) {
    ForRegisterTiles(pairs, [&](auto register_tile, int64_t first) {
      constexpr int kRows = decltype(register_tile)::value;
      const Real* left[kRows];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) left[i] = dz + (first + i) * sizes.width;
      Real* sums = out + first * 4 * kL;
      CallWithVectors(CeilDivide(valid, kL), [&](auto vectors) {
        constexpr int kVectors = decltype(vectors)::value;
        if constexpr (kMasked) {
          MultiplyTransposedMasked<Real, kRows, kVectors>(sizes, left, stride, panel, width, masks + first, column,
                                                          mask_stride, valid, sums);
        } else {
          MultiplyTransposed<Real, kRows, kVectors>(sizes, p, Least(p + step, sizes.panels), left, stride, panel, width,
                                                    sums);
        }
      });
    });
  }
}

// The same in place.
template <bool kMasked, class Real>
void MultiplyColumns(const Sizes<Real>& sizes, Matrix<Real> weights, const TransposedProduct<Real>& product,
                     int64_t column, int64_t valid, const Real* dz, const Real* const* masks, int64_t pairs,
                     Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  const int64_t stride = product.total * sizes.width, mask_stride = product.mask_stride;
  for (int64_t j = 0; j < valid; j += 4) {
    const Real* matrix = weights.data + (column + j) * 4 * sizes.units;
    ForRegisterTiles(pairs, [&](auto register_tile, int64_t first) {
      constexpr int kRows = decltype(register_tile)::value;
      const Real* left[kRows];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) left[i] = dz + (first + i) * sizes.width;
      CallWithVectors(valid - j, [&](auto vectors) {
        MultiplyTransposedInPlace<Real, kRows, decltype(vectors)::value, kMasked>(
            sizes, left, stride, matrix, masks + first, column + j, mask_stride, out + first * 4 * kL + j);
      });
    });
  }
}

// store(n, column, values, valid) takes up to 4L values of the n-th of the pairs. mask_of(n) gives its masks.
template <bool kMasked, class Real, class Weights, class MaskOf, class StoreValues>
LSTM_FAST_INLINE void ForColumns(const Sizes<Real>& sizes, const Weights& weights,
                                 const TransposedProduct<Real>& product, const MaskOf& mask_of,
                                 const StoreValues& store) {
  constexpr int64_t kL = kLanes<Real>;
  constexpr int64_t kPairs = 8 * kMicroRows;  // whose sums are kept at once
  for (int64_t column = product.first_column; column < product.last_column;) {
    const int64_t panel_end = (column / sizes.width + 1) * sizes.width;
    const int64_t valid = Least(panel_end, product.last_column) - column;
    for (int64_t begin = 0; begin < product.count; begin += kPairs) {
      const int64_t pairs = Least(kPairs, product.count - begin);
      const Real* masks[kPairs];
      for (int64_t i = 0; i < pairs && kMasked; ++i) masks[i] = mask_of(begin + i);
      alignas(64) Real out[kPairs * 4 * kL];
      MultiplyColumns<kMasked>(sizes, weights, product, column, valid,
                               product.dz + (product.first + begin) * sizes.width, masks, pairs, out);
      for (int64_t i = 0; i < pairs; ++i) store(begin + i, column, out + i * 4 * kL, valid);
    }
    column += valid;
  }
}

// The same with `transposed`, in transposed panels or in place.
template <class Real, class MaskOf, class StoreValues>
LSTM_FAST_INLINE void ForTransposedProduct(const Direction<Real>& d, const Real* transposed, bool masked,
                                           const TransposedProduct<Real>& product, const MaskOf& mask_of,
                                           const StoreValues& store) {
  const Sizes<Real> sizes(d);
  WithWeights<TransposedPanels>(d, transposed, [&](const auto& weights) {
    masked ? ForColumns<true>(sizes, weights, product, mask_of, store)
           : ForColumns<false>(sizes, weights, product, mask_of, store);
  });
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_TRANSPOSED_INL_
