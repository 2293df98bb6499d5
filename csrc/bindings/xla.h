// The kernels as XLA's foreign functions: what JAX, and TensorFlow where it compiles with XLA, call.
#ifndef LSTM_FAST_BINDINGS_XLA_H_
#define LSTM_FAST_BINDINGS_XLA_H_

#include <vector>

#include "bindings/xla_call.h"

namespace lstm_fast::xla {

// Operands: x, mask, then those of kLists in arguments.h; what is absent has shape [0], and operands beyond these are
// not looked at. Where the kernels are absent, x is projected.
// Attributes, all int64: directions, go_backwards, return_sequences, zero_output_for_mask, reserve_mode.
//
// Forward has the results y, h_n and c_n per direction and, unless reserve_mode is 0, the reserve: uint8, laid out by
// row. Backward has the further operands reserve (absent if reserve_mode is 0), dy, dh_n and dc_n per direction, and
// the results dx, then dkernels, drecurrent_kernels, dbiases, dh0 and dc0 per direction; a result of shape [0] is not
// computed.
Error* ForwardHandler(CallFrame* frame);
Error* BackwardHandler(CallFrame* frame);

// Both, by name, for XLA's platform "Host".
const std::vector<NamedHandler>& Handlers();

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_H_
