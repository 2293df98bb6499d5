// Kernels for float32 on tensor cores, in one product.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Tf32Variants() { return TensorFloat32Variants<Precision::kTf32>(); }

}  // namespace lstm_fast::cuda
