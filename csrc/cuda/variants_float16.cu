// Kernels for float16.
#include "cuda/make_variant.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {

std::vector<Variant> Float16Variants() { return HalfVariants<Half>(); }

}  // namespace lstm_fast::cuda
