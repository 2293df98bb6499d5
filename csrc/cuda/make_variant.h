// How a variant is made of templates of kernels, and those lists of variants that two files have.
#ifndef LSTM_FAST_CUDA_MAKE_VARIANT_H_
#define LSTM_FAST_CUDA_MAKE_VARIANT_H_

#include <vector>

#include "cuda/backward.h"
#include "cuda/elements.h"
#include "cuda/forward.h"
#include "cuda/kernels.h"
#include "cuda/product.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

// Which passes there is a kernel for. Forward, sums of several rows are always split, and 8 rows at once: nothing else
// was faster where it was measured (H100).
enum class Passes { kBoth, kBackward };

// A fragment takes 4 registers of a thread, so 16 of them leave a thread enough for blocks of 512 threads, 32 for 256.
template <class Policy, int kRegisters, bool kSplit, bool kDropout = false, Passes kPasses = Passes::kBoth>
Variant MakeVariant() {
  constexpr int kMostThreads = kRegisters > 16 ? 256 : 512;
  Variant variant{};
  variant.dtype = kDTypeOf<typename Policy::Element>;
  variant.precision = Policy::kPrecision;
  variant.tensor_cores = Policy::kTensorCores;
  variant.rows = Policy::kRows;
  variant.registers = kRegisters;
  variant.split = kSplit;
  variant.dropout = kDropout;
  variant.most_threads = kMostThreads;
  if constexpr (kPasses == Passes::kBoth) {
    variant.forward = &RunForward<Policy, kRegisters, kSplit, kDropout, kMostThreads>;
  }
  variant.backward = &RunBackward<Policy, kRegisters, kDropout, kMostThreads>;
  return variant;
}

// float32 on tensor cores.
template <Precision kPrecision>
std::vector<Variant> TensorFloat32Variants() {
  return {MakeVariant<Tf32Policy<1, kPrecision>, 16, false, false, Passes::kBackward>(),
          MakeVariant<Tf32Policy<1, kPrecision>, 32, true>(),
          MakeVariant<Tf32Policy<4, kPrecision>, 16, true, false, Passes::kBackward>(),
          MakeVariant<Tf32Policy<1, kPrecision>, 16, false, true>()};
}

// float16 or bfloat16: on tensor cores, and with multiply-add. Of the latter, those of several rows are for devices
// without tensor cores, that of one row for few units.
template <class T>
std::vector<Variant> HalfVariants() {
  return {MakeVariant<HalfPolicy<T, 1>, 16, false, false, Passes::kBackward>(),
          MakeVariant<HalfPolicy<T, 1>, 32, true>(),
          MakeVariant<HalfPolicy<T, 4>, 16, true, false, Passes::kBackward>(),
          MakeVariant<HalfPolicy<T, 1>, 16, false, true>(),
          MakeVariant<MultiplyAddPolicy<T, 1>, 32, false>(),
          MakeVariant<MultiplyAddPolicy<T, 8>, 16, false>(),
          MakeVariant<MultiplyAddPolicy<T, 8>, 16, false, true>()};
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_MAKE_VARIANT_H_
