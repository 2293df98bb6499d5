#include "bindings/cuda_arguments.h"

#include <cstddef>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/shapes.h"
#include "cuda/runtime.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {
namespace {

// The memory of an argument.
struct Memory {
  enum Kind { kOptional, kRequired, kOutput, kOptionalOutput };

  std::string name;
  const void* data;
  int64_t bytes;
  int64_t alignment;
  Kind kind;
};

void CheckMemory(const Memory& memory) {
  const bool required = memory.kind == Memory::kRequired || memory.kind == Memory::kOutput;
  if (required && !memory.data && memory.bytes > 0) {
    Refuse(memory.name, std::to_string(memory.bytes) + " bytes of memory", "none");
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.data);
  if (address % static_cast<uintptr_t>(memory.alignment) != 0) {
    char found[32];
    std::snprintf(found, sizeof found, "%#llx", static_cast<unsigned long long>(address));
    Refuse(memory.name, "an address aligned to " + std::to_string(memory.alignment) + " bytes", found);
  }
}

// All arguments of a pass, with their sizes.
class Memories {
 public:
  explicit Memories(const Inputs& inputs) : p_(inputs.problem), element_(SizeOf(p_.dtype)) {
    Add("mask", inputs.mask, MaskShape(p_).elements(), 1, Memory::kOptional);
    for (int n = 0; n < p_.directions; ++n) {
      const DirectionInput& d = inputs.direction[n];
      AddArray(Name("recurrent_kernels", n), d.recurrent_kernel, RecurrentKernelShape(p_), Memory::kRequired);
      AddArray(Name("biases", n), d.bias, BiasShape(p_), Memory::kOptional);
      AddArray(Name("h0", n), d.h0, StateShape(p_), Memory::kOptional);
      AddArray(Name("c0", n), d.c0, StateShape(p_), Memory::kOptional);
      AddArray(Name("recurrent_dropout", n), d.recurrent_dropout, RecurrentDropoutShape(p_), Memory::kOptional);
    }
  }

  void Add(const std::string& name, const void* data, int64_t bytes, int64_t alignment, Memory::Kind kind) {
    all_.push_back({name, data, bytes, alignment, kind});
  }
  void AddArray(const std::string& name, const void* data, const Shape& shape, Memory::Kind kind) {
    Add(name, data, shape.elements() * element_, element_, kind);
  }
  template <class Pointer>
  void AddStates(const char* name, Pointer const (&data)[2], Memory::Kind kind) {
    for (int n = 0; n < p_.directions; ++n) AddArray(Name(name, n), data[n], StateShape(p_), kind);
  }
  void AddReserve(const void* data, int64_t step_bytes, Memory::Kind kind) {
    const int64_t least = ReserveStepBytes(p_.dtype, p_.units);
    if (data && (step_bytes < least || step_bytes % kReserveAlignment != 0)) {
      Refuse("reserve_step_bytes",
             "a multiple of " + std::to_string(kReserveAlignment) + ", at least " + std::to_string(least),
             std::to_string(step_bytes));
    }
    Add("reserve", data, p_.batch * p_.directions * p_.time * step_bytes, kReserveAlignment, kind);
  }
  // Returns where the scratch memory begins.
  void* AddScratch(void* data, int64_t bytes, const Inputs& inputs, const Device& device) {
    const bool dropout = inputs.direction[0].recurrent_dropout != nullptr;
    const int64_t needed = ScratchBytes(p_, inputs.mask != nullptr, dropout, device);
    if (needed == 0) return nullptr;
    const int64_t gap = static_cast<int64_t>((uintptr_t{0} - reinterpret_cast<uintptr_t>(data)) % kScratchAlignment);
    if (bytes - gap < needed) {
      Refuse("scratch_bytes", "at least " + std::to_string(needed + gap), std::to_string(bytes));
    }
    if (data) data = static_cast<char*>(data) + gap;
    Add("scratch", data, needed, kScratchAlignment, Memory::kOutput);
    return data;
  }

  void Check() const {
    for (const Memory& memory : all_) CheckMemory(memory);
  }
  const std::vector<Memory>& all() const { return all_; }

 private:
  const Problem& p_;
  const int64_t element_;
  std::vector<Memory> all_;
};

#ifdef LSTM_FAST_EMULATED
// Tells the emulated device of a call's arrays, for the time of the call.
class Registration {
 public:
  explicit Registration(const Memories& memories) {
    for (const Memory& memory : memories.all()) {
      if (!memory.data || memory.bytes == 0) continue;
      const bool written = memory.kind == Memory::kOutput || memory.kind == Memory::kOptionalOutput;
      arrays_.push_back(std::make_unique<emulation::GlobalMemory>(
          memory.data, memory.bytes, written ? emulation::Access::kScratch : emulation::Access::kRead, memory.name));
    }
  }

 private:
  std::vector<std::unique_ptr<emulation::GlobalMemory>> arrays_;
};
#else
struct Registration {
  explicit Registration(const Memories&) {}
};
#endif

void CheckInputs(const Inputs& inputs, int device) {
  CheckProblem(inputs.problem);
  CheckDevice(device);
  const DirectionInput* d = inputs.direction;
  if (inputs.problem.directions == 2 && !d[0].recurrent_dropout != !d[1].recurrent_dropout) {
    Refuse("recurrent_dropout", "multipliers for both directions or for none", "them for one");
  }
}

void AddArrays(const Problem& p, const ForwardArguments& arguments, Memories& memories) {
  memories.AddArray("z", arguments.z, ProjectedShape(p), Memory::kRequired);
  memories.AddArray("y", arguments.y, OutputShape(p), Memory::kOutput);
  memories.AddStates("h_n", arguments.h_n, Memory::kOutput);
  memories.AddStates("c_n", arguments.c_n, Memory::kOutput);
  memories.AddReserve(arguments.reserve, arguments.reserve_step_bytes, Memory::kOptionalOutput);
}

void AddArrays(const Problem& p, const BackwardArguments& arguments, Memories& memories) {
  memories.AddReserve(arguments.reserve, arguments.reserve_step_bytes, Memory::kRequired);
  memories.AddArray("dy", arguments.dy, OutputShape(p), Memory::kOptional);
  memories.AddStates("dh_n", arguments.dh_n, Memory::kOptional);
  memories.AddStates("dc_n", arguments.dc_n, Memory::kOptional);
  memories.AddArray("dz", arguments.dz, ProjectedShape(p), Memory::kOutput);
  memories.AddArray("h_prev", arguments.h_prev, PreviousStateShape(p), Memory::kOptionalOutput);
  memories.AddStates("dh0", arguments.dh0, Memory::kOutput);
  memories.AddStates("dc0", arguments.dc0, Memory::kOutput);
}

// `pass` is Forward() or Backward().
template <class Arguments>
void CheckAndRun(Inputs inputs, Arguments arguments, int64_t scratch_bytes, int device, Stream stream,
                 void (*pass)(const Inputs&, const Arguments&, const Device&, Stream)) {
  CheckInputs(inputs, device);
  if (inputs.problem.time == 0) inputs.mask = nullptr;  // an array of nothing
  const DeviceGuard current(device);
  const Device properties = GetDevice(device);
  Memories memories(inputs);
  AddArrays(inputs.problem, arguments, memories);
  arguments.scratch = memories.AddScratch(arguments.scratch, scratch_bytes, inputs, properties);
  memories.Check();
  const Registration registration(memories);
  pass(inputs, arguments, properties, stream);
}

}  // namespace

Precision PrecisionOf(int64_t value) {
  if (value < 0 || value > 2) Refuse("precision", "0 (exact), 1 (tf32) or 2 (tf32x3)", std::to_string(value));
  return static_cast<Precision>(value);
}

void CheckProblem(const Problem& problem) {
  const auto check = [](const char* name, int64_t value, int64_t least) {
    if (value >= least && value <= INT32_MAX) return;
    Refuse(name, std::to_string(least) + " to " + std::to_string(INT32_MAX), std::to_string(value));
  };
  check("batch", problem.batch, 0);
  check("time", problem.time, 0);
  check("units", problem.units, 1);
  CheckDirections(problem.directions, "directions");
  if (problem.directions == 2 && problem.go_backwards) Refuse("go_backwards", "false with two directions", "true");
}

void CheckDevice(int device) {
  const int count = DeviceCount();
  if (count == 0) {
    const std::string problem = DeviceProblem();
    throw std::runtime_error("lstm_fast: there is no CUDA device" + (problem.empty() ? "" : ": " + problem));
  }
  if (device < 0 || device >= count) Refuse("device", "0 to " + std::to_string(count - 1), std::to_string(device));
}

Inputs Check(const Problem& problem, const InputArrays& arrays) {
  Inputs inputs{};
  inputs.problem = problem;
  Problem& p = inputs.problem;
  inputs.mask = static_cast<const MaskByte*>(CheckShape(arrays.mask, "mask", MaskShape(p), true));
  const Array& kernel = arrays.recurrent_kernels[0];
  if (kernel.rank != 2 || kernel.shape[0] < 1) {
    Refuse("recurrent_kernels[0]", "shape [units, 4 * units]", Found(kernel));
  }
  p.units = kernel.shape[0];
  for (int n = 0; n < p.directions; ++n) {
    const auto check = [&](const std::array<Array, 2>& list, const char* name, const Shape& shape, bool optional) {
      return CheckShape(list[static_cast<size_t>(n)], Name(name, n), shape, optional);
    };
    DirectionInput& d = inputs.direction[n];
    d.recurrent_kernel = check(arrays.recurrent_kernels, "recurrent_kernels", RecurrentKernelShape(p), false);
    d.bias = check(arrays.biases, "biases", BiasShape(p), true);
    d.h0 = check(arrays.h0, "h0", StateShape(p), true);
    d.c0 = check(arrays.c0, "c0", StateShape(p), true);
    d.recurrent_dropout = check(arrays.recurrent_dropout, "recurrent_dropout", RecurrentDropoutShape(p), true);
  }
  return inputs;
}

int64_t RoomyScratchBytes(const Problem& problem, bool masked, bool dropout, int device) {
  CheckProblem(problem);
  CheckDevice(device);
  const DeviceGuard current(device);
  const int64_t bytes = ScratchBytes(problem, masked, dropout, GetDevice(device));
  return bytes == 0 ? 0 : bytes + kScratchAlignment - 1;
}

ScratchBound RoomyScratchBound(const Problem& problem, bool masked, bool dropout, int device) {
  CheckProblem(problem);
  CheckDevice(device);
  const DeviceGuard current(device);
  ScratchBound bound = ScratchBytesAtMost(problem, masked, dropout, GetDevice(device));
  bound.bytes += kScratchAlignment - 1;
  return bound;
}

void Run(const Inputs& inputs, const ForwardArguments& arguments, int64_t scratch_bytes, int device, Stream stream) {
  CheckAndRun(inputs, arguments, scratch_bytes, device, stream, &Forward);
}

void Run(const Inputs& inputs, const BackwardArguments& arguments, int64_t scratch_bytes, int device, Stream stream) {
  CheckAndRun(inputs, arguments, scratch_bytes, device, stream, &Backward);
}

}  // namespace lstm_fast::cuda
