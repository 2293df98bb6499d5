// How long a timestep takes by how a pass is cut, as far as is known.
#ifndef LSTM_FAST_CUDA_COST_H_
#define LSTM_FAST_CUDA_COST_H_

#include <cstdint>

#include "cuda/kernels.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

// Microseconds of one timestep of those sets of rows that run at once. Of the recurrent kernel a warp reads so many
// fragments anew in every timestep.
double StepMicroseconds(const Problem& problem, Pass pass, const Variant& variant, const Cut& cut,
                        int64_t fragments_streamed, const Device& device);

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_COST_H_
