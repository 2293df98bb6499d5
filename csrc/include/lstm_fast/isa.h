// The instruction sets: which are compiled in, which this processor runs, which is active. An instruction set can be
// forced with LSTM_FAST_ISA or SetIsa(); an unknown or unavailable name is an error, never a silent default.
#ifndef LSTM_FAST_ISA_H_
#define LSTM_FAST_ISA_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lstm_fast/lstm.h"

namespace lstm_fast {

LSTM_FAST_EXPORT std::vector<std::string> CompiledIsas();   // slowest first
LSTM_FAST_EXPORT std::vector<std::string> AvailableIsas();  // slowest first

// Throw std::invalid_argument for a name that is unknown or unavailable here. Without a name: the initial one again.
// For tests and measurements: no call may be under way, and a backward pass needs the isa of its forward pass.
LSTM_FAST_EXPORT std::string ActiveIsa();
LSTM_FAST_EXPORT void SetIsa(const std::optional<std::string>& name);

// How often Forward() and Backward() have run in this process: a test's proof that the fused path was taken.
struct CallCounts {
  int64_t forward, backward;
};
LSTM_FAST_EXPORT CallCounts GetCallCounts();

// Real timesteps of all forward passes in this process, and those of them that were computed: others repeat, bit for
// bit, what came before them in their row. `without_gradient`: real timesteps that the backward passes left
// out, because all gradients in them were zero.
struct TimestepCounts {
  int64_t given, computed, without_gradient;
};
LSTM_FAST_EXPORT TimestepCounts GetTimestepCounts();

// Whether timesteps that repeat, and those without a gradient, are left out, for comparison. Throws
// std::invalid_argument when LSTM_FAST_SKIP_REPEATS, which says it at first, and again after
// SetSkipsRepeats(std::nullopt), is neither 0 nor 1.
LSTM_FAST_EXPORT bool SkipsRepeats();
LSTM_FAST_EXPORT void SetSkipsRepeats(std::optional<bool> skips);

// The active instruction set's own sigmoid and tanh, elementwise over `count` values, so that tests can bound their
// error. dtype must be kFloat32 or kFloat64.
LSTM_FAST_EXPORT void Sigmoid(DType dtype, const void* x, void* y, int64_t count);
LSTM_FAST_EXPORT void Tanh(DType dtype, const void* x, void* y, int64_t count);

}  // namespace lstm_fast

#endif  // LSTM_FAST_ISA_H_
