// The register tile: a few rows times a packed panel of a few vectors. Every product of the layer is made of it, and
// each output is summed in one fixed order, whatever the tile, so that a row's bits do not depend on its neighbours.
#ifndef LSTM_FAST_CPU_PRODUCT_INL_
#define LSTM_FAST_CPU_PRODUCT_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

constexpr int kMicroRows = LSTM_FAST_MICRO_ROWS;

template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

// The summed dimension: `segments` of `length` terms. Strides lead from one segment to the next, panel_step from one
// term of the panel to the next, all in elements.
struct Extent {
  int64_t segments, length, left_stride, panel_stride, panel_step;
};

// sums[i][v] += left[i][k] * panel[k][v] over the extent. Consecutive k are kLeftStep elements apart on the left. With
// kPerGate, vector v reads the left operand from gate_stride * v on: each gate has its own dropout mask.
template <class Real, int kRows, int kVectors, int kLeftStep, bool kPerGate>
LSTM_FAST_INLINE void MultiplyPanel(const Real* const (&left)[kRows], int64_t gate_stride, const Extent& extent,
                                    const Real* panel, Vector<Real> (&sums)[kRows][kVectors]) {
  for (int64_t segment = 0; segment < extent.segments; ++segment) {
    const Real* row[kRows];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) row[i] = left[i] + segment * extent.left_stride;
    const Real* terms = panel + segment * extent.panel_stride;
    LSTM_FAST_KEEP_LOOP
    for (int64_t k = 0; k < extent.length; ++k) {
      if constexpr (kPerGate) {
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          const Vector<Real> term = Load(terms + v * kLanes<Real>);
          LSTM_FAST_UNROLL
          for (int i = 0; i < kRows; ++i) {
            sums[i][v] = MultiplyAdd(Broadcast(row[i][v * gate_stride + k * kLeftStep]), term, sums[i][v]);
          }
        }
      } else {
        // Broadcasts first, then the panel through one register: the other order spills and halves the speed.
        Vector<Real> factor[kRows];
        LSTM_FAST_UNROLL
        for (int i = 0; i < kRows; ++i) factor[i] = Broadcast(row[i][k * kLeftStep]);
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          Vector<Real> term = Load(terms + v * kLanes<Real>);
          KeepInRegister(term);  // or the compiler loads it again for each row, and loads become the limit
          LSTM_FAST_UNROLL
          for (int i = 0; i < kRows; ++i) sums[i][v] = MultiplyAdd(factor[i], term, sums[i][v]);
        }
      }
      terms += extent.panel_step;
    }
  }
}

// Not inlined: within the loops around it the compiler runs out of registers and spills the sums, up to 1.4 times
// slower.
template <int kRows, class Body>
__attribute__((noinline)) void CallRegisterTile(int64_t first, const Body& body) {
  body(Constant<kRows>{}, first);
}

// body(Constant<rows>, first), for a number of rows up to kMost that is known only here.
template <int kMost, class Body>
LSTM_FAST_INLINE void CallWithRows(int64_t rows, int64_t first, const Body& body) {
  if (kMost == 1 || rows == kMost) {
    CallRegisterTile<kMost>(first, body);
  } else if constexpr (kMost > 1) {
    CallWithRows<kMost - 1>(rows, first, body);
  }
}

// body(Constant<vectors>), for 1 to 4 vectors.
template <class Body>
LSTM_FAST_INLINE void CallWithVectors(int64_t vectors, const Body& body) {
  switch (vectors) {
    case 1:
      body(Constant<1>{});
      break;
    case 2:
      body(Constant<2>{});
      break;
    case 3:
      body(Constant<3>{});
      break;
    default:
      body(Constant<4>{});
  }
}

// Cuts `count` rows into full register tiles and two of nearly equal size for the rest: one of a single row waits for
// its own sums.
template <class Body>
LSTM_FAST_INLINE void ForRegisterTiles(int64_t count, const Body& body) {
  int64_t first = 0;
  while (first < count) {
    const int64_t left = count - first;
    const int64_t rows = left >= 2 * kMicroRows ? kMicroRows : left > kMicroRows ? CeilDivide(left, 2) : left;
    CallWithRows<kMicroRows>(rows, first, body);
    first += rows;
  }
}

// One operand's rows, by pointer; gate g of a row with a dropout mask lies g * gate_stride further on.
template <class Real>
struct Operand {
  const Real** rows;
  int64_t gate_stride;
  bool per_gate;
};

// z += left * matrix, for the unit panels [first_panel, last_panel), for `count` rows. The matrix [K, 4H] is read as it
// was given, a few of its rows at a time: column after column would touch a page for each part of a line. z is kept in
// between, and so summed in the order of the packed panels, to the bit. left_of(i, gate) is row i of the left operand.
template <class Real, class LeftOf>
void MultiplyInPlace(int64_t first_panel, int64_t last_panel, int64_t units, const Real* matrix, int64_t k,
                     int64_t count, const LeftOf& left_of, Real* z, int64_t z_stride) {
  constexpr int64_t kL = kLanes<Real>, kTerms = 16;
  for (int64_t term = 0; term < k; term += kTerms) {
    const Extent extent = {1, Least(k - term, kTerms), 0, 0, 4 * units};
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t p = first_panel; p < last_panel; p += 4) {
        ForRegisterTiles(count, [&](auto register_tile, int64_t first) {
          constexpr int kRows = decltype(register_tile)::value;
          const Real* left[kRows];
          LSTM_FAST_UNROLL
          for (int i = 0; i < kRows; ++i) left[i] = left_of(first + i, gate) + term;
          CallWithVectors(last_panel - p, [&](auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            Real* to = z + p * z_stride + first * 4 * kL + gate * kL;
            Vector<Real> sums[kRows][kVectors];
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < kVectors; ++v) sums[i][v] = Load(to + v * z_stride + i * 4 * kL);
            }
            MultiplyPanel<Real, kRows, kVectors, 1, false>(left, 0, extent, matrix + (term * 4 + gate) * units + p * kL,
                                                           sums);
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < kVectors; ++v) Store(to + v * z_stride + i * 4 * kL, sums[i][v]);
            }
          });
        });
      }
    }
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PRODUCT_INL_
