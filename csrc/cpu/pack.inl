// Packing of weights into panels, and unpacking of their gradients.
#ifndef LSTM_FAST_CPU_PACK_INL_
#define LSTM_FAST_CPU_PACK_INL_

#include <cstddef>
#include <cstdint>

#include "cpu/convert.inl"
#include "cpu/kernel.h"
#include "cpu/simd.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// Reads up to kLanes elements; a whole vector at once where there are that many.
template <class Real>
LSTM_FAST_INLINE void LoadLanes(DType dtype, const void* from, int64_t offset, int64_t count, Real* to) {
  if (IsReal<Real>(dtype) && count == kLanes<Real>) {
    Store(to, Load(static_cast<const Real*>(from) + offset));
  } else {
    LoadRow(dtype, from, offset, count, to);
  }
}

// Row by row: a panel's part of a large row is half a line in a page of its own, and reading panel by panel took ten
// times as long.
template <class Real>
void PackGates(DType dtype, const void* matrix, int64_t k, int64_t k0, int64_t k1, int64_t units, Real* packed) {
  constexpr int64_t kL = kLanes<Real>;
  const int64_t panels = CeilDivide(units, kL);
  for (int64_t row = k0; row < k1; ++row) {
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t first = p * kL, valid = Least(units - first, kL);
      for (int64_t gate = 0; gate < 4; ++gate) {
        Real* to = packed + ((p * k + row) * 4 + gate) * kL;
        if (!matrix || valid < kL) Store(to, Vector<Real>{});
        if (matrix) LoadLanes(dtype, matrix, (row * 4 + gate) * units + first, valid, to);
      }
    }
  }
}

// Unit panels that are read or written at once: whole lines of a row. Lines of which only a part is used are gone from
// L1 before the rest is, since the rows of a large matrix all map to the same few sets.
template <class Real>
constexpr int64_t kPanelsAtOnce = 128 / (kLanes<Real> * static_cast<int64_t>(sizeof(Real)));

template <class Real>
void PackTransposed(DType dtype, const void* matrix, int64_t k, int64_t units, int64_t panel, Real* packed) {
  constexpr int64_t kL = kLanes<Real>, kPanels = kPanelsAtOnce<Real>;
  const int64_t first = panel * 4 * kL, valid = Least(k - first, 4 * kL);
  const int64_t width = CeilDivide(valid, kL) * kL, panels = CeilDivide(units, kL);
  if (valid < width || units < panels * kL) {
    __builtin_memset(packed, 0, static_cast<size_t>(panels * 4 * kL * width) * sizeof(Real));
  }
  // The columns inside, so that the rows that are written stay in L1 until they are full.
  for (int64_t gate = 0; gate < 4; ++gate) {
    for (int64_t begin = 0; begin < panels; begin += kPanels) {
      const int64_t end = Least(begin + kPanels, panels);
      for (int64_t column = 0; column < valid; ++column) {
        const int64_t row = ((first + column) * 4 + gate) * units;
        __builtin_prefetch(static_cast<const char*>(matrix) + (row + (begin + kPanels) * kL) * SizeOf(dtype));
        __builtin_prefetch(static_cast<const char*>(matrix) + (row + (begin + kPanels) * kL) * SizeOf(dtype) + 64);
        for (int64_t p = begin; p < end; ++p) {
          const int64_t lanes = Least(units - p * kL, kL);
          Real values[kL];
          LoadLanes(dtype, matrix, row + p * kL, lanes, values);
          Real* to = packed + (p * 4 + gate) * kL * width + column;
          if (lanes == kL) {
            LSTM_FAST_UNROLL
            for (int64_t lane = 0; lane < kL; ++lane) to[lane * width] = values[lane];
          } else {
            for (int64_t lane = 0; lane < lanes; ++lane) to[lane * width] = values[lane];
          }
        }
      }
    }
  }
}

template <class Real>
void UnpackGates(DType dtype, const Real* packed, int64_t count, int64_t stride, int64_t k, int64_t k0, int64_t k1,
                 int64_t units, void* matrix) {
  constexpr int64_t kL = kLanes<Real>, kPanels = kPanelsAtOnce<Real>;
  const int64_t panels = CeilDivide(units, kL);
  for (int64_t begin = 0; begin < panels; begin += kPanels) {
    const int64_t end = Least(begin + kPanels, panels);
    for (int64_t row = k0; row < k1; ++row) {
      for (int64_t gate = 0; gate < 4; ++gate) {
        for (int64_t p = begin; p < end; ++p) {
          const Real* from = packed + ((p * k + row) * 4 + gate) * kL;
          Vector<Real> sum = Load(from);
          for (int64_t i = 1; i < count; ++i) sum += Load(from + i * stride);
          const int64_t offset = (row * 4 + gate) * units + p * kL, lanes = Least(units - p * kL, kL);
          if (IsReal<Real>(dtype) && lanes == kL) {
            Store(static_cast<Real*>(matrix) + offset, sum);
            continue;
          }
          Real values[kL];
          Store(values, sum);
          StoreRow(dtype, matrix, offset, lanes, values);
        }
      }
    }
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_PACK_INL_
