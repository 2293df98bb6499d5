// Kernels for bfloat16.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> BFloat16Variants() { return HalfVariants<BFloat16>(); }

}  // namespace lstm_fast::cuda
