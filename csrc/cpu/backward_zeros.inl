// Skipped timesteps in which all gradients are zero: the backward pass passes over them.
#ifndef LSTM_FAST_CPU_BACKWARD_ZEROS_INL_
#define LSTM_FAST_CPU_BACKWARD_ZEROS_INL_

#include <cstdint>

#include "cpu/backward_scratch.inl"
#include "cpu/convert.inl"
#include "cpu/input_gradient.inl"
#include "cpu/kernel.h"
#include "cpu/output_gradient.inl"
#include "cpu/placement.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// Whether the gradients of a row's states, subnormal numbers aside, have come to nothing.
template <class Real>
bool Vanished(const Real* values, int64_t count) {
  constexpr Real kLeastNormal = sizeof(Real) == 8 ? Real(0x1p-1022) : Real(0x1p-126f);
  Real most = 0;
  bool ordered = true;
  for (int64_t j = 0; j < count; ++j) {
    const Real magnitude = values[j] < 0 ? -values[j] : values[j];
    ordered = ordered && magnitude == magnitude;
    most = magnitude > most ? magnitude : most;
  }
  return ordered && most < kLeastNormal;
}

template <class Real>
bool AllFinite(const Real* values, int64_t count) {
  Real sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += values[j] * 0;  // NaN if one is not
  return sum == 0;
}

// Whether nothing of a row's input and of W is infinite or NaN, which no gradient may multiply unseen, zero or not.
template <class Real>
bool ProductsAreFinite(const Direction<Real>& d, const Row& row, int64_t k, BackwardScratch<Real>& s) {
  if (d.projected) return true;
  const int64_t offset = OffsetOf(d.x, row, TimeOf(d, row, k));
  Real* x = s.packed;  // which is not in use between chunks, and has room for a row
  LoadRow(d.dtype, d.x.data, offset, d.input, x);
  if (!AllFinite(x, d.input)) return false;
  if (s.kernel_is_finite < 0) {
    WithWeights<TransposedPanels>(d, d.kernel_transposed, [&](const auto& kernel) {
      const int64_t count = kernel.Elements(Sizes<Real>(d), d.input);
      s.kernel_is_finite = !d.dx.data || AllFinite(kernel.data, count) ? 1 : 0;
    });
  }
  return s.kernel_is_finite > 0;
}

// In a skip, once the gradients of the states have come to nothing, and as long as y's consumers send nothing, all
// gradients are zero: passes over these timesteps. Whatever is not finite in the states shows in a whole period.
template <class Real>
void PassZeros(const Direction<Real>& d, const Row& row, int64_t r, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  Remaining& left = s.remaining[r];
  Real *dh = s.dh + r * padded, *dc = s.dc + r * padded;
  if (!left.InSkip() || !left.covered || d.input_dropout || d.recurrent_dropout) return;
  if (!Vanished(dh, padded) || !Vanished(dc, padded) || !ProductsAreFinite(d, row, left.timesteps - 1, s)) return;
  int64_t count = 0;
  while (count < left.skipped && !HasOutputGradient(d, row, left.timesteps - count - 1, s.dy)) ++count;
  for (int64_t k = left.timesteps - count; k < left.timesteps && d.dx.data && !d.dx_accumulates; ++k) {
    ZeroInputGradient(d, row, TimeOf(d, row, k));
  }
  for (int64_t j = 0; j < padded; ++j) dh[j] = dc[j] = 0;
  if (count > 0) TakeSkipped(d, row, count, left);
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_BACKWARD_ZEROS_INL_
