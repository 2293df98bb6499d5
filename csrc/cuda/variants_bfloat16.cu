// Kernels for bfloat16 on tensor cores, and plain ones, with multiply-add: those of several rows for devices without,
// that of one row for few units.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> BFloat16Variants() {
  return {
      MakeVariant<HalfPolicy<BFloat16, 1>, 16, false, false, Passes::kBackward>("bfloat16_8", DType::kBFloat16,
                                                                                Precision::kExact),
      MakeVariant<HalfPolicy<BFloat16, 1>, 32, true>("bfloat16_8_32_split", DType::kBFloat16, Precision::kExact),
      MakeVariant<HalfPolicy<BFloat16, 4>, 16, true, false, Passes::kBackward>("bfloat16_32_split", DType::kBFloat16,
                                                                               Precision::kExact),
      MakeVariant<HalfPolicy<BFloat16, 1>, 16, false, true>("bfloat16_8_dropout", DType::kBFloat16, Precision::kExact),
      MakeVariant<MultiplyAddPolicy<BFloat16, float, 1>, 32, false>("bfloat16_plain_1_32", DType::kBFloat16,
                                                                    Precision::kExact),
      MakeVariant<MultiplyAddPolicy<BFloat16, float, 8>, 16, false>("bfloat16_plain_8", DType::kBFloat16,
                                                                    Precision::kExact),
      MakeVariant<MultiplyAddPolicy<BFloat16, float, 8>, 16, false, true>("bfloat16_plain_8_dropout", DType::kBFloat16,
                                                                          Precision::kExact)};
}

}  // namespace lstm_fast::cuda
