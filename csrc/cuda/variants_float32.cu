// Kernels for float32, exact: multiply-add.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float32Variants() {
  return {MakeVariant<MultiplyAddPolicy<float, 1>, 32, false>(),
          MakeVariant<MultiplyAddPolicy<float, 8>, 16, false, false, Passes::kBackward>(),
          MakeVariant<MultiplyAddPolicy<float, 8>, 32, true>(),
          MakeVariant<MultiplyAddPolicy<float, 8>, 16, false, true>(),
          // With many units h of 8 rows, four times, is more than a block has memory for.
          MakeVariant<MultiplyAddPolicy<float, 1>, 16, false, true>()};
}

}  // namespace lstm_fast::cuda
