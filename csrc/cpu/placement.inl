// Where the weights [K, 4H] are that a product reads: packed in panels, or in place, in the caller's own matrix. In
// place saves the packing, which takes longer than a few timesteps do; H is then a multiple of L. cuts.cc decides for a
// call. Each place is a type, and products have a function for either.
#ifndef LSTM_FAST_CPU_PLACEMENT_INL_
#define LSTM_FAST_CPU_PLACEMENT_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// Gate panels, for the forward pass.
template <class Real>
struct GatePanels {
  const Real* data;
};

// Transposed panels, for the backward pass.
template <class Real>
struct TransposedPanels {
  const Real* data;

  // Of so many columns, padding included.
  static int64_t Elements(const Sizes<Real>& sizes, int64_t columns) {
    return CeilDivide(columns, kLanes<Real>) * kLanes<Real> * sizes.panels * sizes.width;
  }
};

// The matrix itself, for both.
template <class Real>
struct Matrix {
  const Real* data;

  static int64_t Elements(const Sizes<Real>& sizes, int64_t columns) { return columns * 4 * sizes.units; }
};

// Calls body(weights), which are in such panels or in place. Asked for each product: if the types were arguments of the
// templates of a whole pass, all that these have in common would be compiled twice.
template <template <class> class Panels, class Real, class Body>
LSTM_FAST_INLINE void WithWeights(const Direction<Real>& d, const Real* data, const Body& body) {
  d.in_place ? body(Matrix<Real>{data}) : body(Panels<Real>{data});
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PLACEMENT_INL_
