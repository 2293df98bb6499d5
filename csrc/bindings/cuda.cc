// lstm_fast._cuda: the CUDA kernels on arrays that are given by their addresses, as frameworks own them. Tests compile
// the same file for an emulated device.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/array.h"
#include "bindings/cuda_arguments.h"
#include "bindings/xla_cuda.h"
#include "bindings/xla_python.h"
#include "cuda/kernels.h"
#include "cuda/recurrence.h"
#include "cuda/runtime.h"
#include "cuda/select.h"

namespace py = pybind11;

namespace lstm_fast::cuda {
namespace {

using py::literals::operator""_a;

using Address = uintptr_t;  // 0: absent
using Addresses = std::vector<Address>;

template <class T = void>
T* At(Address address) {
  return reinterpret_cast<T*>(address);
}

// Fills one field for each direction.
template <class Pointer>
void Spread(const Addresses& addresses, const char* name, int directions, Pointer (&fields)[2]) {
  if (static_cast<int>(addresses.size()) != directions) {
    Refuse(name, std::to_string(directions) + " entries, as in recurrent_kernels", std::to_string(addresses.size()));
  }
  for (int n = 0; n < directions; ++n) fields[n] = At(addresses[static_cast<size_t>(n)]);
}

Inputs InputsOf(const std::string& dtype, const std::string& precision, int64_t batch, int64_t time, int64_t units,
                bool go_backwards, bool return_sequences, bool zero_output_for_mask, Address mask,
                const Addresses& recurrent_kernels, const Addresses& biases, const Addresses& h0, const Addresses& c0,
                const Addresses& recurrent_dropout) {
  Inputs inputs{};
  const int directions = CheckDirections(static_cast<int64_t>(recurrent_kernels.size()), "recurrent_kernels");
  inputs.problem = {DTypeNamed(dtype), PrecisionNamed(precision), batch, time, units, directions, go_backwards,
                    return_sequences,  zero_output_for_mask};
  inputs.mask = At<const bool>(mask);
  const void *kernel[2], *bias[2], *h[2], *c[2], *dropout[2];
  Spread(recurrent_kernels, "recurrent_kernels", directions, kernel);
  Spread(biases, "biases", directions, bias);
  Spread(h0, "h0", directions, h);
  Spread(c0, "c0", directions, c);
  Spread(recurrent_dropout, "recurrent_dropout", directions, dropout);
  for (int n = 0; n < directions; ++n) inputs.direction[n] = {kernel[n], bias[n], h[n], c[n], dropout[n]};
  return inputs;
}

void ForwardAddresses(int device, Address stream, const std::string& dtype, const std::string& precision, int64_t batch,
                      int64_t time, int64_t units, bool go_backwards, bool return_sequences, bool zero_output_for_mask,
                      Address z, Address mask, const Addresses& recurrent_kernels, const Addresses& biases,
                      const Addresses& h0, const Addresses& c0, const Addresses& recurrent_dropout, Address y,
                      const Addresses& h_n, const Addresses& c_n, Address reserve, int64_t reserve_step_bytes,
                      Address scratch, int64_t scratch_bytes) {
  const Inputs inputs = InputsOf(dtype, precision, batch, time, units, go_backwards, return_sequences,
                                 zero_output_for_mask, mask, recurrent_kernels, biases, h0, c0, recurrent_dropout);
  ForwardArguments arguments{};
  arguments.z = At(z);
  arguments.y = At(y);
  Spread(h_n, "h_n", inputs.problem.directions, arguments.h_n);
  Spread(c_n, "c_n", inputs.problem.directions, arguments.c_n);
  arguments.reserve = At(reserve);
  arguments.reserve_step_bytes = reserve_step_bytes;
  arguments.scratch = At(scratch);
  Run(inputs, arguments, scratch_bytes, device, At(stream));
}

void BackwardAddresses(int device, Address stream, const std::string& dtype, const std::string& precision,
                       int64_t batch, int64_t time, int64_t units, bool go_backwards, bool return_sequences,
                       bool zero_output_for_mask, Address mask, const Addresses& recurrent_kernels,
                       const Addresses& biases, const Addresses& h0, const Addresses& c0,
                       const Addresses& recurrent_dropout, Address reserve, int64_t reserve_step_bytes, Address dy,
                       const Addresses& dh_n, const Addresses& dc_n, Address dz, Address h_prev, const Addresses& dh0,
                       const Addresses& dc0, Address scratch, int64_t scratch_bytes) {
  const Inputs inputs = InputsOf(dtype, precision, batch, time, units, go_backwards, return_sequences,
                                 zero_output_for_mask, mask, recurrent_kernels, biases, h0, c0, recurrent_dropout);
  const int directions = inputs.problem.directions;
  BackwardArguments arguments{};
  arguments.reserve = At(reserve);
  arguments.reserve_step_bytes = reserve_step_bytes;
  arguments.dy = At(dy);
  Spread(dh_n, "dh_n", directions, arguments.dh_n);
  Spread(dc_n, "dc_n", directions, arguments.dc_n);
  arguments.dz = At(dz);
  arguments.h_prev = At(h_prev);
  Spread(dh0, "dh0", directions, arguments.dh0);
  Spread(dc0, "dc0", directions, arguments.dc0);
  arguments.scratch = At(scratch);
  Run(inputs, arguments, scratch_bytes, device, At(stream));
}

// What of a problem decides how it is cut.
Problem ProblemOf(const std::string& dtype, const std::string& precision, int64_t batch, int64_t time, int64_t units,
                  int directions) {
  Problem problem{};
  problem.dtype = DTypeNamed(dtype);
  problem.precision = PrecisionNamed(precision);
  problem.batch = batch;
  problem.time = time;
  problem.units = units;
  problem.directions = directions;
  CheckProblem(problem);
  return problem;
}

int64_t ScratchBytesOf(int device, const std::string& dtype, const std::string& precision, int64_t batch, int64_t time,
                       int64_t units, int directions, bool masked, bool dropout) {
  const Problem problem = ProblemOf(dtype, precision, batch, time, units, directions);
  return RoomyScratchBytes(problem, masked, dropout, device);
}

py::tuple ScratchBoundOf(int device, const std::string& dtype, const std::string& precision, int64_t units,
                         int directions, bool masked, bool dropout) {
  const Problem problem = ProblemOf(dtype, precision, 0, 0, units, directions);
  const ScratchBound bound = RoomyScratchBound(problem, masked, dropout, device);
  return py::make_tuple(bound.bytes_of_timestep, bound.bytes_of_row, bound.bytes);
}

py::list Devices() {
  py::list devices;
  for (int i = 0; i < DeviceCount(); ++i) {
    const Device device = GetDevice(i);
    devices.append(py::dict("capability"_a = py::make_tuple(device.major, device.minor),
                            "multiprocessors"_a = device.multiprocessors, "shared_bytes"_a = device.shared_bytes,
                            "registers"_a = device.registers));
  }
  return devices;
}

py::dict DescribePass(const Problem& problem, bool dropout, Pass pass, const Device& device) {
  const Choice choice = [&] {
    const py::gil_scoped_release release;
    return ChooseOnDevice(problem, dropout, pass, device);
  }();
  const Cut& cut = choice.cut;
  return py::dict("words"_a = Describe(choice, pass), "variant"_a = Variants()[static_cast<size_t>(cut.variant)].name,
                  "exchange"_a = NameOf(cut.exchange), "blocks"_a = cut.blocks, "units"_a = cut.units,
                  "rows"_a = cut.rows, "groups"_a = cut.groups, "warps"_a = cut.warps, "splits"_a = cut.splits,
                  "shared_bytes"_a = cut.shared_bytes, "fragments"_a = choice.fragments,
                  "fragments_shared"_a = cut.fragments_shared, "fragments_streamed"_a = choice.fragments_streamed,
                  "microseconds"_a = choice.microseconds);
}

py::dict DescribeProblem(int device, const std::string& dtype, const std::string& precision, int64_t batch,
                         int64_t units, int directions, bool dropout) {
  const Problem problem = ProblemOf(dtype, precision, batch, 1, units, directions);
  CheckDevice(device);
  const DeviceGuard current(device);
  py::dict passes;
  for (const Pass pass : {Pass::kForward, Pass::kBackward}) {
    passes[NameOf(pass)] = DescribePass(problem, dropout, pass, GetDevice(device));
  }
  return passes;
}

void ForcePass(const std::string& pass_name, const std::optional<std::string>& variant,
               const std::optional<std::string>& exchange, std::optional<int> blocks, std::optional<int> rows) {
  std::optional<Pass> pass;
  for (const Pass candidate : {Pass::kForward, Pass::kBackward}) {
    if (pass_name == NameOf(candidate)) pass = candidate;
  }
  if (!pass) Refuse("pass_name", "forward or backward", pass_name);
  Forced forced = {variant, std::nullopt, blocks, rows};
  if (exchange) {
    for (const Exchange candidate : {Exchange::kBlock, Exchange::kCluster, Exchange::kGrid}) {
      if (*exchange == NameOf(candidate)) forced.exchange = candidate;
    }
    if (!forced.exchange) Refuse("exchange", "block, cluster or grid", *exchange);
  }
  Force(*pass, forced);
}

py::list VariantList() {
  py::list list;
  for (const Variant& variant : Variants()) {
    list.append(py::dict("name"_a = variant.name, "dtype"_a = NameOf(variant.dtype),
                         "precision"_a = NameOf(variant.precision), "tensor_cores"_a = variant.tensor_cores,
                         "rows"_a = variant.rows, "registers"_a = variant.registers, "split"_a = variant.split,
                         "dropout"_a = variant.dropout, "most_threads"_a = variant.most_threads));
  }
  return list;
}

py::dict FusedCalls() {
  const CallCounts counts = GetCallCounts();
  return py::dict("forward"_a = counts.forward, "backward"_a = counts.backward);
}

py::dict BuildInfo() {
#ifdef LSTM_FAST_EMULATED
  return py::dict("compiler"_a = __VERSION__, "emulated"_a = true);
#else
  return py::dict("compiler"_a = __VERSION__, "emulated"_a = false, "nvcc"_a = LSTM_FAST_NVCC,
                  "architectures"_a = LSTM_FAST_CUDA_ARCHITECTURES);
#endif
}

}  // namespace

PYBIND11_MODULE(LSTM_FAST_CUDA_MODULE, m) {
  m.doc() =
      "The recurrence of lstm_fast on CUDA devices. Shapes: csrc/cuda/recurrence.h. Arrays are given by their "
      "addresses "
      "on the device, 0 where one is absent, and lists have an entry per direction. Nothing waits for the device.";
  m.attr("__version__") = LSTM_FAST_VERSION;

  m.def("forward", &ForwardAddresses, py::arg("device"), py::arg("stream"), py::arg("dtype"), py::arg("precision"),
        py::arg("batch"), py::arg("time"), py::arg("units"), py::arg("go_backwards"), py::arg("return_sequences"),
        py::arg("zero_output_for_mask"), py::arg("z"), py::arg("mask"), py::arg("recurrent_kernels"), py::arg("biases"),
        py::arg("h0"), py::arg("c0"), py::arg("recurrent_dropout"), py::arg("y"), py::arg("h_n"), py::arg("c_n"),
        py::arg("reserve"), py::arg("reserve_step_bytes"), py::arg("scratch"), py::arg("scratch_bytes"),
        py::call_guard<py::gil_scoped_release>(),
        "Puts the forward pass on the stream. ValueError names a wrong argument, RuntimeError gives CUDA's reason.");
  m.def("backward", &BackwardAddresses, py::arg("device"), py::arg("stream"), py::arg("dtype"), py::arg("precision"),
        py::arg("batch"), py::arg("time"), py::arg("units"), py::arg("go_backwards"), py::arg("return_sequences"),
        py::arg("zero_output_for_mask"), py::arg("mask"), py::arg("recurrent_kernels"), py::arg("biases"),
        py::arg("h0"), py::arg("c0"), py::arg("recurrent_dropout"), py::arg("reserve"), py::arg("reserve_step_bytes"),
        py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("dz"), py::arg("h_prev"), py::arg("dh0"),
        py::arg("dc0"), py::arg("scratch"), py::arg("scratch_bytes"), py::call_guard<py::gil_scoped_release>(),
        "Puts the backward pass on the stream, as forward() does.");
  m.def("scratch_bytes", &ScratchBytesOf, py::arg("device"), py::arg("dtype"), py::arg("precision"), py::arg("batch"),
        py::arg("time"), py::arg("units"), py::arg("directions"), py::arg("masked"), py::arg("dropout"),
        py::call_guard<py::gil_scoped_release>(), "Size of the scratch memory of either pass; it may be 0.");
  m.def("scratch_bound", &ScratchBoundOf, py::arg("device"), py::arg("dtype"), py::arg("precision"), py::arg("units"),
        py::arg("directions"), py::arg("masked"), py::arg("dropout"),
        "Three numbers: the first for every timestep of every row, the second for every row and the third are together "
        "no less than scratch_bytes().");
  m.def(
      "reserve_step_bytes",
      [](const std::string& dtype, int64_t units) { return ReserveStepBytes(DTypeNamed(dtype), units); },
      py::arg("dtype"), py::arg("units"), "Last size of a reserve [B, N, T, this].");

  m.def("devices", &Devices, "The CUDA devices of this machine, by ordinal; none where there is no driver.");
  m.def("device_problem", &DeviceProblem, "Why devices() is empty, if not for want of devices; else empty.");
  m.def("describe", &DescribeProblem, py::arg("device"), py::arg("dtype"), py::arg("precision"), py::arg("batch"),
        py::arg("units"), py::arg("directions"), py::arg("dropout"),
        "How the passes of a problem are cut for a device, in words and in numbers.");
  m.def("force", &ForcePass, py::arg("pass_name"), py::arg("variant") = py::none(), py::arg("exchange") = py::none(),
        py::arg("blocks") = py::none(), py::arg("rows") = py::none(),
        "Fixes what is given of how a pass is cut, in the whole process, for tests and tuning; nothing: undoes it.");
  m.def("variants", &VariantList, "The kernels that are compiled.");
  m.def("fused_calls", &FusedCalls, "How often the passes have run in this process.");
  m.def("build_info", &BuildInfo, "How this extension was compiled.");
  xla::DefineHandlers(m, xla::kCudaPlatform, xla::CudaHandlers());

#ifdef LSTM_FAST_EMULATED
  m.def(
      "set_device",
      [](int major, int minor, int multiprocessors, int64_t shared_bytes, int64_t registers) {
        emulation::SetDevice({major, minor, multiprocessors, shared_bytes, registers});
      },
      py::arg("major"), py::arg("minor"), py::arg("multiprocessors"), py::arg("shared_bytes"),
      py::arg("registers") = 65536, "What the emulated device, of this thread, is.");
  m.def("seed", &emulation::SetSeed, py::arg("seed"), "Decides in which order the device's threads run.");
#endif
}

}  // namespace lstm_fast::cuda
