// Kernels for float32, exact: multiply-add.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float32Variants() {
  return {
      MakeVariant<MultiplyAddPolicy<float, float, 1>, 32, false>("float32_1_32", DType::kFloat32, Precision::kExact),
      MakeVariant<MultiplyAddPolicy<float, float, 8>, 16, false, false, Passes::kBackward>("float32_8", DType::kFloat32,
                                                                                           Precision::kExact),
      MakeVariant<MultiplyAddPolicy<float, float, 8>, 32, true>("float32_8_32_split", DType::kFloat32,
                                                                Precision::kExact),
      MakeVariant<MultiplyAddPolicy<float, float, 8>, 16, false, true>("float32_8_dropout", DType::kFloat32,
                                                                       Precision::kExact),
      // With many units h of 8 rows, four times, is more than a block has memory for.
      MakeVariant<MultiplyAddPolicy<float, float, 1>, 16, false, true>("float32_1_dropout", DType::kFloat32,
                                                                       Precision::kExact)};
}

}  // namespace lstm_fast::cuda
