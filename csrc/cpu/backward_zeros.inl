// Timesteps in which all gradients are zero: the backward pass passes over them. A gradient of the last output is often
// less than the least normal number after some hundred timesteps, above all where it comes through padding.
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

// Whether nothing of W and of a row's multipliers of recurrent dropout is infinite or NaN: zero times that is
// NaN, and must be computed. What is not finite in U shows in the gradients of the states.
template <class Real>
bool WeightsAreFinite(const Direction<Real>& d, int64_t r, BackwardScratch<Real>& s) {
  if (s.kernel_is_finite < 0) {
    s.kernel_is_finite = 1;
    if (d.dx.data && !d.projected) {
      WithWeights<TransposedPanels>(d, d.kernel_transposed, [&](const auto& kernel) {
        s.kernel_is_finite = AllFinite(kernel.data, kernel.Elements(Sizes<Real>(d), d.input)) ? 1 : 0;
      });
    }
  }
  if (s.kernel_is_finite == 0) return false;
  const int64_t padded = Sizes<Real>(d).units;
  return !d.recurrent_dropout || AllFinite(s.masks + r * 4 * padded, 4 * padded);
}

// The same of what a row's input at its timestep k is once it is multiplied by the dropout multipliers, which may make
// it infinite.
template <class Real>
bool InputIsFinite(const Direction<Real>& d, const Row& row, int64_t r, int64_t k, BackwardScratch<Real>& s) {
  if (d.projected) return true;
  const int64_t offset = OffsetOf(d.x, row, TimeOf(d, row, k));
  const Real* x = static_cast<const Real*>(d.x.data) + offset;
  if (!IsReal<Real>(d.dtype)) {
    LoadRow(d.dtype, d.x.data, offset, d.input, s.x);
    x = s.x;
  }
  if (!d.input_dropout) return AllFinite(x, d.input);
  Real sum = 0;
  for (int64_t gate = 0; gate < 4; ++gate) {
    const Real* mask = s.input.mask(r, gate);
    for (int64_t i = 0; i < d.input; ++i) sum += x[i] * mask[i] * 0;
  }
  return sum == 0;
}

// Once the gradients of the states have come to nothing, and as long as y's consumers send nothing, all gradients are
// zero: passes over these timesteps, computed ones and skipped ones. What is not finite in earlier states has shown in
// the timesteps after them: an infinite c stays infinite, NaN stays NaN, and its product with zero is NaN. Only h0 may
// be infinite and leave no trace, so the first timestep is not passed over.
template <class Real>
void PassZeros(const Direction<Real>& d, const Row& row, int64_t r, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  Remaining& left = s.remaining[r];
  Real *dh = s.dh + r * padded, *dc = s.dc + r * padded;
  if (!d.passes_zeros || left.timesteps == row.count || left.timesteps <= 1) return;
  if (!Vanished(dh, padded) || !Vanished(dc, padded) || !WeightsAreFinite(d, r, s)) return;
  const int64_t before = left.timesteps;
  for (bool all = true; all && left.timesteps > 1;) {
    const bool in_skip = left.InSkip();
    const int64_t most = in_skip ? left.skipped : Least(left.entries - left.skip.entry, left.timesteps - 1);
    int64_t count = 0;
    while (count < most) {
      const int64_t k = left.timesteps - count - 1;
      if (HasOutputGradient(d, row, k, s.dy)) break;
      if ((!in_skip || count == 0) && !InputIsFinite(d, row, r, k, s)) break;  // in a skip all inputs are the same
      ++count;
    }
    all = count == most;
    if (in_skip && count > 0) {
      TakeSkipped(d, row, count, left);
    } else {
      left.timesteps -= count;
      left.entries -= count;
    }
  }
  if (left.timesteps == before) return;
  __atomic_fetch_add(d.passed_steps, before - left.timesteps, __ATOMIC_RELAXED);
  for (int64_t k = left.timesteps; k < before && d.dx.data && !d.dx_accumulates; ++k) {
    ZeroInputGradient(d, row, TimeOf(d, row, k));
  }
  for (int64_t j = 0; j < padded; ++j) dh[j] = dc[j] = 0;
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_BACKWARD_ZEROS_INL_
