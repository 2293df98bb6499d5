// Kernels for float32 on tensor cores, in three products.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Tf32x3Variants() {
  return {MakeVariant<Tf32Policy<1, true>, 16, false, false, Passes::kBackward>("tf32x3_8", DType::kFloat32,
                                                                                Precision::kTf32x3),
          MakeVariant<Tf32Policy<1, true>, 32, true>("tf32x3_8_32_split", DType::kFloat32, Precision::kTf32x3),
          MakeVariant<Tf32Policy<4, true>, 16, true, false, Passes::kBackward>("tf32x3_32_split", DType::kFloat32,
                                                                               Precision::kTf32x3),
          MakeVariant<Tf32Policy<1, true>, 16, false, true>("tf32x3_8_dropout", DType::kFloat32, Precision::kTf32x3)};
}

}  // namespace lstm_fast::cuda
