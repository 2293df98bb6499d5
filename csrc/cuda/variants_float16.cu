// Kernels for float16 on tensor cores, and plain ones, with multiply-add: those of several rows for devices without,
// that of one row for few units.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float16Variants() {
  return {
      MakeVariant<HalfPolicy<Half, 1>, 16, false, false, Passes::kBackward>("float16_8", DType::kFloat16,
                                                                            Precision::kExact),
      MakeVariant<HalfPolicy<Half, 1>, 32, true>("float16_8_32_split", DType::kFloat16, Precision::kExact),
      MakeVariant<HalfPolicy<Half, 4>, 16, true, false, Passes::kBackward>("float16_32_split", DType::kFloat16,
                                                                           Precision::kExact),
      MakeVariant<HalfPolicy<Half, 1>, 16, false, true>("float16_8_dropout", DType::kFloat16, Precision::kExact),
      MakeVariant<MultiplyAddPolicy<Half, float, 1>, 32, false>("float16_plain_1_32", DType::kFloat16,
                                                                Precision::kExact),
      MakeVariant<MultiplyAddPolicy<Half, float, 8>, 16, false>("float16_plain_8", DType::kFloat16, Precision::kExact),
      MakeVariant<MultiplyAddPolicy<Half, float, 8>, 16, false, true>("float16_plain_8_dropout", DType::kFloat16,
                                                                      Precision::kExact)};
}

}  // namespace lstm_fast::cuda
