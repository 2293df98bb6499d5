// The kernels of one instruction set: included once by each of generic.cc, avx2.cc, avx512.cc and neon.cc, which define
// the vector width. Everything but the table at the end has internal linkage, so that the linker cannot keep one
// processor's copy for another. For the same reason no .inl uses the standard library, which has inline code.
#ifndef LSTM_FAST_CPU_KERNEL_INL_
#define LSTM_FAST_CPU_KERNEL_INL_

#include <cstdint>

#include "cpu/backward.inl"
#include "cpu/backward_scratch.inl"
#include "cpu/convert.inl"
#include "cpu/forward.inl"
#include "cpu/kernel.h"
#include "cpu/math.inl"
#include "cpu/pack.inl"
#include "cpu/product.inl"
#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <class Real>
constexpr Kernels<Real> kKernels = {
    kLanes<Real>,      kMicroRows,         ForwardScratchSize<Real>, BackwardScratchSize<Real>,
    ForwardTile<Real>, BackwardTile<Real>, PackGates<Real>,          PackTransposed<Real>,
    UnpackGates<Real>, ConvertArray<Real>, SigmoidArray<Real>,       TanhArray<Real>,
};

}  // namespace

const Isa LSTM_FAST_ISA_SYMBOL = {LSTM_FAST_ISA_NAME, &kKernels<float>, &kKernels<double>};

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_KERNEL_INL_
