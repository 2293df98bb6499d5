// Kernels for few units, a row in one block: multiply-add in float32, whatever the elements.
#include <algorithm>

#include "cuda/single_backward.h"
#include "cuda/single_forward.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {
namespace {

template <class T, int kUnits>
Variant MakeSingle(const char* name, DType dtype) {
  Variant variant{};
  variant.name = name;
  variant.dtype = dtype;
  variant.precision = Precision::kExact;
  variant.rows = 1;
  variant.registers = std::max(SingleFragments(kUnits, false), SingleFragments(kUnits, true));
  variant.most_threads = 4 * kUnits;
  variant.most_units = kUnits;
  variant.forward = &RunSingleForward<T, kUnits>;
  variant.backward = &RunSingleBackward<T, kUnits>;
  return variant;
}

}  // namespace

std::vector<Variant> SingleVariants() {
  return {MakeSingle<float, 16>("float32_single_16", DType::kFloat32),
          MakeSingle<float, 32>("float32_single_32", DType::kFloat32),
          MakeSingle<float, 48>("float32_single_48", DType::kFloat32),
          MakeSingle<float, 64>("float32_single_64", DType::kFloat32),
          MakeSingle<Half, 16>("float16_single_16", DType::kFloat16),
          MakeSingle<Half, 32>("float16_single_32", DType::kFloat16),
          MakeSingle<Half, 48>("float16_single_48", DType::kFloat16),
          MakeSingle<Half, 64>("float16_single_64", DType::kFloat16),
          MakeSingle<BFloat16, 16>("bfloat16_single_16", DType::kBFloat16),
          MakeSingle<BFloat16, 32>("bfloat16_single_32", DType::kBFloat16),
          MakeSingle<BFloat16, 48>("bfloat16_single_48", DType::kBFloat16),
          MakeSingle<BFloat16, 64>("bfloat16_single_64", DType::kBFloat16)};
}

}  // namespace lstm_fast::cuda
