// Kernels for few units, a row in one block or in a cluster of two: multiply-add in float32, whatever the elements.
#include <algorithm>

#include "cuda/single_backward.h"
#include "cuda/single_forward.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {
namespace {

template <class T, int kUnits, int kBlocks>
Variant MakeSingle(const char* name, DType dtype) {
  Variant variant{};
  variant.name = name;
  variant.dtype = dtype;
  variant.precision = Precision::kExact;
  variant.rows = 1;
  variant.registers = std::max(SingleFragments(kUnits, false), SingleFragments(kUnits, true));
  variant.most_threads = SingleThreads(kUnits, kBlocks);
  variant.most_units = kUnits;
  variant.row_blocks = kBlocks;
  variant.forward = &RunSingleForward<T, kUnits, kBlocks>;
  variant.backward = &RunSingleBackward<T, kUnits, kBlocks>;
  return variant;
}

}  // namespace

std::vector<Variant> SingleVariants() {
  return {MakeSingle<float, 16, 1>("float32_single_16", DType::kFloat32),
          MakeSingle<float, 32, 1>("float32_single_32", DType::kFloat32),
          MakeSingle<float, 48, 1>("float32_single_48", DType::kFloat32),
          MakeSingle<float, 64, 1>("float32_single_64", DType::kFloat32),
          MakeSingle<float, 96, 2>("float32_single_96", DType::kFloat32),
          MakeSingle<float, 128, 2>("float32_single_128", DType::kFloat32),
          MakeSingle<Half, 16, 1>("float16_single_16", DType::kFloat16),
          MakeSingle<Half, 32, 1>("float16_single_32", DType::kFloat16),
          MakeSingle<Half, 48, 1>("float16_single_48", DType::kFloat16),
          MakeSingle<Half, 64, 1>("float16_single_64", DType::kFloat16),
          MakeSingle<Half, 96, 2>("float16_single_96", DType::kFloat16),
          MakeSingle<Half, 128, 2>("float16_single_128", DType::kFloat16),
          MakeSingle<BFloat16, 16, 1>("bfloat16_single_16", DType::kBFloat16),
          MakeSingle<BFloat16, 32, 1>("bfloat16_single_32", DType::kBFloat16),
          MakeSingle<BFloat16, 48, 1>("bfloat16_single_48", DType::kBFloat16),
          MakeSingle<BFloat16, 64, 1>("bfloat16_single_64", DType::kBFloat16),
          MakeSingle<BFloat16, 96, 2>("bfloat16_single_96", DType::kBFloat16),
          MakeSingle<BFloat16, 128, 2>("bfloat16_single_128", DType::kBFloat16)};
}

}  // namespace lstm_fast::cuda
