// dy, the gradient that y's consumers send.
#ifndef LSTM_FAST_CPU_OUTPUT_GRADIENT_INL_
#define LSTM_FAST_CPU_OUTPUT_GRADIENT_INL_

#include <cstdint>

#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/simd.inl"
#include "cpu/tile.inl"

namespace lstm_fast {
namespace {

// body(time) for each time of y that holds h of a row's step k: its own and, unless masked outputs are zero, the masked
// timesteps that follow it.
template <class Real, class Body>
LSTM_FAST_INLINE void ForOutputs(const Direction<Real>& d, const Row& row, int64_t k, const Body& body) {
  if (!d.return_sequences) {
    if (k + 1 == row.count && (!d.zero_output_for_mask || LastStepIsReal(d, row))) body(0);
    return;
  }
  const int64_t t = TimeOf(d, row, k), direction = d.reversed ? -1 : 1;
  int64_t end = t + direction;
  if (d.masked && !d.zero_output_for_mask) {
    const int64_t after = d.reversed ? -1 : d.time;
    end = k + 1 < row.count ? TimeOf(d, row, k + 1) : after;
  }
  for (int64_t s = t; s != end; s += direction) body(OutputTime(d, s));
}

// Adds the gradient that y's consumers send to a row's step k, for `units` units from first_unit on, where dh points;
// the buffer has room for them.
template <class Real>
void AddOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, int64_t first_unit, int64_t units,
                       Real* buffer, Real* dh) {
  if (!d.dy.data) return;
  ForOutputs(d, row, k, [&](int64_t time) {
    const int64_t offset = OffsetOf(d.dy, row, time) + first_unit;
    const Real* values = buffer;
    if (IsReal<Real>(d.dtype)) {
      values = static_cast<const Real*>(d.dy.data) + offset;
    } else {
      LoadRow(d.dtype, d.dy.data, offset, units, buffer);
    }
    for (int64_t j = 0; j < units; ++j) dh[j] += values[j];
  });
}

// Whether y's consumers send anything but zero to a row's step k.
template <class Real>
bool HasOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, Real* buffer) {
  bool found = false;
  if (!d.dy.data) return found;
  ForOutputs(d, row, k, [&](int64_t time) {
    LoadRow(d.dtype, d.dy.data, OffsetOf(d.dy, row, time), d.units, buffer);
    for (int64_t j = 0; j < d.units; ++j) found = found || buffer[j] != 0;  // NaN is not zero
  });
  return found;
}

// Rows of dy lie as far apart as whole sequences, and are read backward: no processor foresees it.
template <class Real>
LSTM_FAST_INLINE void PrefetchOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, const Share& share) {
  if (!d.dy.data || !d.return_sequences || !IsReal<Real>(d.dtype)) return;
  const int64_t time = OutputTime(d, TimeOf(d, row, k));
  const int64_t offset = OffsetOf(d.dy, row, time) + share.first_unit;
  Prefetch(static_cast<const Real*>(d.dy.data), offset, share.units);
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_OUTPUT_GRADIENT_INL_
