// Kernels for float64: multiply-add.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float64Variants() {
  return {MakeVariant<MultiplyAddPolicy<double, 8>, 16, false>(),
          MakeVariant<MultiplyAddPolicy<double, 8>, 16, false, true>(),
          MakeVariant<MultiplyAddPolicy<double, 1>, 16, false, true>()};
}

}  // namespace lstm_fast::cuda
