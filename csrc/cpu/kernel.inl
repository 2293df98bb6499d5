// The kernels of one instruction set: included once by each of generic.cc, avx2.cc, avx512.cc and neon.cc, which define
// the vector width. Everything but the table at the end has internal linkage, so that the linker cannot keep one
// processor's copy for another.
#include <cstddef>

#include "cpu/kernel.h"
// clang-format off
#include "cpu/math.inl"
#include "cpu/convert.inl"
#include "cpu/product.inl"
#include "cpu/tile.inl"
#include "cpu/reserve.inl"
#include "cpu/repeats.inl"
#include "cpu/forward.inl"
#include "cpu/backward_skip.inl"
#include "cpu/backward.inl"
#include "cpu/pack.inl"
// clang-format on

namespace lstm_fast {
namespace {

template <class Real>
void SigmoidArray(const Real* x, Real* y, int64_t count) {
  ApplyToArray<Real>(x, y, count, [](Vector<Real> v) { return SigmoidOf<Real>(v); });
}

template <class Real>
void TanhArray(const Real* x, Real* y, int64_t count) {
  ApplyToArray<Real>(x, y, count, [](Vector<Real> v) { return TanhOf<Real>(v); });
}

template <class Real>
constexpr Kernels<Real> kKernels = {
    kLanes<Real>,      kMicroRows,         ForwardScratchSize<Real>, BackwardScratchSize<Real>,
    ForwardTile<Real>, BackwardTile<Real>, PackGates<Real>,          PackTransposed<Real>,
    UnpackGates<Real>, ConvertArray<Real>, SigmoidArray<Real>,       TanhArray<Real>,
};

}  // namespace

const Isa LSTM_FAST_ISA_SYMBOL = {LSTM_FAST_ISA_NAME, &kKernels<float>, &kKernels<double>};

}  // namespace lstm_fast
