// Kernels for float64: multiply-add.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float64Variants() {
  return {MakeVariant<MultiplyAddPolicy<double, double, 8>, 16, false>("float64_8", DType::kFloat64, Precision::kExact),
          MakeVariant<MultiplyAddPolicy<double, double, 8>, 16, false, true>("float64_8_dropout", DType::kFloat64,
                                                                             Precision::kExact),
          MakeVariant<MultiplyAddPolicy<double, double, 1>, 16, false, true>("float64_1_dropout", DType::kFloat64,
                                                                             Precision::kExact)};
}

}  // namespace lstm_fast::cuda
