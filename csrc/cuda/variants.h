// The kernels that are compiled. Each list is in a file of its own, so that they compile side by side; float16 and
// bfloat16 have the same list, and so have both precisions of float32 on tensor cores (make_variant.h).
#ifndef LSTM_FAST_CUDA_VARIANTS_H_
#define LSTM_FAST_CUDA_VARIANTS_H_

#include <vector>

#include "cuda/kernels.h"

namespace lstm_fast::cuda {

std::vector<Variant> SingleVariants();  // of all dtypes but float64
std::vector<Variant> Float32Variants();
std::vector<Variant> Tf32Variants();
std::vector<Variant> Tf32x3Variants();
std::vector<Variant> Float16Variants();
std::vector<Variant> BFloat16Variants();
std::vector<Variant> Float64Variants();

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_VARIANTS_H_
