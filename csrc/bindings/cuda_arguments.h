// Validation and launch of a pass on a CUDA device, the same for every framework.
#ifndef LSTM_FAST_BINDINGS_CUDA_ARGUMENTS_H_
#define LSTM_FAST_BINDINGS_CUDA_ARGUMENTS_H_

#include <array>
#include <cstdint>

#include "bindings/array.h"
#include "bindings/operands.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

// Throw std::invalid_argument: the argument, what was expected, what was found.
Precision PrecisionOf(int64_t value);
void CheckProblem(const Problem& problem);
void CheckDevice(int device);  // std::runtime_error where there is none at all

// The arrays of the inputs that both passes have; lists have an entry for each direction.
struct InputArrays {
  Array mask;
  std::array<Array, 2> recurrent_kernels, biases, h0, c0, recurrent_dropout;
};

// What follows the mask: of the operands of a layer, those that the recurrence knows.
inline constexpr OperandList<InputArrays> kLists[] = {
    {"recurrent_kernels", &InputArrays::recurrent_kernels, false, true},
    {"biases", &InputArrays::biases, true, true},
    {"h0", &InputArrays::h0, true, true},
    {"c0", &InputArrays::c0, true, true},
    {"recurrent_dropout", &InputArrays::recurrent_dropout, true, false},
};

// Returns the inputs of a problem that has all but its units, which are those of the first recurrent kernel.
Inputs Check(const Problem& problem, const InputArrays& arrays);

// Size of the scratch memory that Run() wants: not every framework aligns its memory to kScratchAlignment.
int64_t RoomyScratchBytes(const Problem& problem, bool masked, bool dropout, int device);

ScratchBound RoomyScratchBound(const Problem& problem, bool masked, bool dropout, int device);

// Check everything that can be known of the arguments without reading their arrays, and put the pass on the stream.
// `scratch_bytes` is the size of the scratch memory that they have, whose start is moved to where it is aligned.
void Run(const Inputs& inputs, const ForwardArguments& arguments, int64_t scratch_bytes, int device, Stream stream);
void Run(const Inputs& inputs, const BackwardArguments& arguments, int64_t scratch_bytes, int device, Stream stream);

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_BINDINGS_CUDA_ARGUMENTS_H_
