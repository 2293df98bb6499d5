// Kernels for float32 on tensor cores, in one product.
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Tf32Variants() {
  return {MakeVariant<Tf32Policy<1, false>, 16, false, false, Passes::kBackward>("tf32_8", DType::kFloat32,
                                                                                 Precision::kTf32),
          MakeVariant<Tf32Policy<1, false>, 32, true>("tf32_8_32_split", DType::kFloat32, Precision::kTf32),
          MakeVariant<Tf32Policy<4, false>, 16, true, false, Passes::kBackward>("tf32_32_split", DType::kFloat32,
                                                                                Precision::kTf32),
          MakeVariant<Tf32Policy<1, false>, 16, false, true>("tf32_8_dropout", DType::kFloat32, Precision::kTf32)};
}

}  // namespace lstm_fast::cuda
