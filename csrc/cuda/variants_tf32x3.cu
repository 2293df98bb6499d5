// Kernels for float32 on tensor cores, in three products.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Tf32x3Variants() { return TensorFloat32Variants<Precision::kTf32x3>(); }

}  // namespace lstm_fast::cuda
