// Which kernel runs a pass, and how the pass is cut up for a device.
#ifndef LSTM_FAST_CUDA_SELECT_H_
#define LSTM_FAST_CUDA_SELECT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "cuda/kernels.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

LSTM_FAST_EXPORT const char* NameOf(Precision precision);
LSTM_FAST_EXPORT const char* NameOf(Pass pass);
LSTM_FAST_EXPORT const char* NameOf(Exchange exchange);

struct Choice {
  Cut cut;
  double microseconds;         // of a timestep of all rows, by the cost model
  int64_t fragments;           // of the recurrent kernel that a warp has to do with,
  int64_t fragments_streamed;  // and of these, those that are read from global memory in every timestep
};

// How many groups the device holds at once; 0: it cannot launch even one.
using ResidentQuery = std::function<int64_t(const Variant& variant, const Cut& cut)>;

// The cheapest of all cuts that the device can run. Throws std::invalid_argument, which names the dtype and the
// device's compute capability, or what is forced, if there is none.
Choice Choose(const Problem& problem, bool dropout, Pass pass, const Device& device, const ResidentQuery& resident);

// What the groups of any choice exchange through global memory, counters included, whatever the batch: no more than so
// many bytes.
int64_t MostExchangeBytes(Problem problem, bool dropout, Pass pass, const Device& device,
                          const ResidentQuery& resident);

// The first on the current device, which the runtime is asked about (recurrence.cu).
LSTM_FAST_EXPORT Choice ChooseOnDevice(const Problem& problem, bool dropout, Pass pass, const Device& device);

LSTM_FAST_EXPORT std::string Describe(const Choice& choice, Pass pass);

// What tests and tuning fix of a pass's cut. Holds for the whole process.
struct Forced {
  std::optional<std::string> variant;
  std::optional<Exchange> exchange;
  std::optional<int> blocks, rows;
};
LSTM_FAST_EXPORT void Force(Pass pass, const Forced& forced);

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SELECT_H_
