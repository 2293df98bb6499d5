// The kernels that are compiled, by dtype. Each file variants_*.cu adds those of one dtype, so that they compile side
// by side.
#ifndef LSTM_FAST_CUDA_VARIANTS_H_
#define LSTM_FAST_CUDA_VARIANTS_H_

#include <vector>

#include "cuda/backward.h"
#include "cuda/forward.h"
#include "cuda/kernels.h"
#include "cuda/product.h"

namespace lstm_fast::cuda {

// Which passes there is a kernel for. Forward, sums of several rows are always split, and 8 rows at once: nothing else
// was faster where it was measured (H100).
enum class Passes { kBoth, kBackward };

// A fragment takes 4 registers of a thread, so 16 of them leave a thread enough for blocks of 512 threads, 32 for 256.
template <class Policy, int kRegisters, bool kSplit, bool kDropout = false, Passes kPasses = Passes::kBoth>
Variant MakeVariant(const char* name, DType dtype, Precision precision) {
  constexpr int kMostThreads = kRegisters > 16 ? 256 : 512;
  Variant variant = {name,       dtype,   precision, Policy::kTensorCores, Policy::kRows,
                     kRegisters, kSplit,  kDropout,  kMostThreads,         0,
                     0,          nullptr, nullptr};
  if constexpr (kPasses == Passes::kBoth) {
    variant.forward = &RunForward<Policy, kRegisters, kSplit, kDropout, kMostThreads>;
  }
  variant.backward = &RunBackward<Policy, kRegisters, kDropout, kMostThreads>;
  return variant;
}

// A name says how many rows a warp computes at once, and then how many fragments are in registers if not 16.
std::vector<Variant> SingleVariants();  // of all dtypes but float64
std::vector<Variant> Float32Variants();
std::vector<Variant> Tf32Variants();
std::vector<Variant> Tf32x3Variants();
std::vector<Variant> Float16Variants();
std::vector<Variant> BFloat16Variants();
std::vector<Variant> Float64Variants();

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_VARIANTS_H_
