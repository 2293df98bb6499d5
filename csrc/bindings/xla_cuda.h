// The CUDA kernels as XLA's foreign functions: the recurrence only, as cuda/recurrence.h states it.
#ifndef LSTM_FAST_BINDINGS_XLA_CUDA_H_
#define LSTM_FAST_BINDINGS_XLA_CUDA_H_

#include <vector>

#include "bindings/xla_call.h"

namespace lstm_fast::xla {

// lstm_fast_cuda_forward has the operands z [B, T, N, 4H] and mask, then those of kLists in cuda_arguments.h; what is
// absent has shape [0], and operands beyond these are not looked at. Results: y, h_n and c_n per direction, reserve [B,
// N, T, bytes of a step] or [0], scratch. Attributes, all int64: directions, go_backwards, return_sequences,
// zero_output_for_mask, precision.
//
// lstm_fast_cuda_backward has the operands of forward without z, then reserve, dy, dh_n and dc_n per direction, and the
// results dz [B, T, N, 4H], h_prev [B, T, N, H] or [0], dh0 and dc0 per direction, scratch.
//
// reserve and scratch are uint8, and scratch has as many bytes as scratch_bytes() of the Python module says.
Error* CudaForwardHandler(CallFrame* frame);
Error* CudaBackwardHandler(CallFrame* frame);

// Both, by name, for the platform kCudaPlatform.
const std::vector<NamedHandler>& CudaHandlers();

#ifdef LSTM_FAST_EMULATED
constexpr char kCudaPlatform[] = "Host";
#else
constexpr char kCudaPlatform[] = "CUDA";
#endif

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_CUDA_H_
