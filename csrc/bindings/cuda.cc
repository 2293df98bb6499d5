// lstm_fast._cuda: the CUDA kernels on arrays that frameworks own. Tests compile the same file for an emulated device.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "bindings/array.h"
#include "bindings/cuda_arguments.h"
#include "bindings/cuda_array.h"
#include "bindings/shapes.h"
#include "bindings/xla_cuda.h"
#include "bindings/xla_python.h"
#include "cuda/kernels.h"
#include "cuda/recurrence.h"
#include "cuda/runtime.h"
#include "cuda/select.h"
#include "lstm_fast/lstm.h"
#ifdef LSTM_FAST_EMULATED
#include "module.h"
#endif

namespace py = pybind11;

namespace lstm_fast::cuda {
namespace {

using py::literals::operator""_a;

using Objects = std::vector<py::object>;

// The one of some values that has a name. `expected` is what the message says of an argument with no such name.
template <class Value>
Value Named(const std::string& name, std::initializer_list<Value> values, const char* argument, const char* expected) {
  for (const Value value : values) {
    if (name == NameOf(value)) return value;
  }
  Refuse(argument, expected, name);
}

Precision PrecisionNamed(const std::string& name) {
  return Named(name, {Precision::kExact, Precision::kTf32, Precision::kTf32x3}, "precision", "exact, tf32 or tf32x3");
}
Pass PassNamed(const std::string& name) {
  return Named(name, {Pass::kForward, Pass::kBackward}, "pass_name", "forward or backward");
}
Exchange ExchangeNamed(const std::string& name) {
  return Named(name, {Exchange::kBlock, Exchange::kCluster, Exchange::kGrid}, "exchange", "block, cluster or grid");
}

// What Python gives for one call. An array is an address on the device, which is taken as it is, or an object that says
// what it is, which is checked and kept until the pass is on the stream; 0 or None where it is absent.
class Call {
 public:
  Call(int device, uintptr_t stream, const std::string& dtype, const std::string& precision, int64_t batch,
       int64_t time, int64_t units, bool go_backwards, bool return_sequences, bool zero_output_for_mask,
       const py::object& mask, const Objects& recurrent_kernels, const Objects& biases, const Objects& h0,
       const Objects& c0, const Objects& recurrent_dropout)
      : device_(device), stream_(reinterpret_cast<Stream>(stream)), dtype_(dtype) {
    const int directions = CheckDirections(static_cast<int64_t>(recurrent_kernels.size()), "recurrent_kernels");
    inputs_.problem = {DTypeNamed(dtype), PrecisionNamed(precision), batch, time, units, directions, go_backwards,
                       return_sequences,  zero_output_for_mask};
    const Problem& p = inputs_.problem;
    CheckProblem(p);
    inputs_.mask = static_cast<const MaskByte*>(Read(mask, "mask", MaskShape(p), "bool", false));
    const void *kernel[2], *bias[2], *h[2], *c[2], *dropout[2];
    ReadEach(recurrent_kernels, "recurrent_kernels", RecurrentKernelShape(p), kernel);
    ReadEach(biases, "biases", BiasShape(p), bias);
    ReadStates(h0, "h0", h);
    ReadStates(c0, "c0", c);
    ReadEach(recurrent_dropout, "recurrent_dropout", RecurrentDropoutShape(p), dropout);
    for (int n = 0; n < directions; ++n) inputs_.direction[n] = {kernel[n], bias[n], h[n], c[n], dropout[n]};
  }

  const Problem& problem() const { return inputs_.problem; }

  const void* Input(const py::object& object, const char* name, const Shape& shape) {
    return Read(object, name, shape, dtype_, false);
  }
  void* Output(const py::object& object, const char* name, const Shape& shape) {
    return Read(object, name, shape, dtype_, true);
  }
  void* ReadReserve(const py::object& object, int64_t step_bytes, bool written) {
    const Problem& p = inputs_.problem;
    const Shape shape = {{p.batch, p.directions, p.time, step_bytes}, "batch, directions, time, reserve_step_bytes"};
    return Read(object, "reserve", shape, "uint8", written);
  }
  template <class Pointer>
  void ReadStates(const Objects& objects, const char* name, Pointer (&fields)[2]) {
    ReadEach(objects, name, StateShape(inputs_.problem), fields);
  }

  template <class Arguments>
  void Run(Arguments& arguments, const py::object& scratch, int64_t scratch_bytes) {
    arguments.scratch = Read(scratch, "scratch", {{scratch_bytes}, "scratch_bytes"}, "uint8", true);
    const py::gil_scoped_release release;
    cuda::Run(inputs_, arguments, scratch_bytes, device_, stream_);
  }

 private:
  // Fills one field for each direction: what is not const is written to.
  template <class Pointer>
  void ReadEach(const Objects& objects, const char* name, const Shape& shape, Pointer (&fields)[2]) {
    const int directions = inputs_.problem.directions;
    if (static_cast<int>(objects.size()) != directions) {
      Refuse(name, std::to_string(directions) + " entries, as in recurrent_kernels", std::to_string(objects.size()));
    }
    constexpr bool kWritten = !std::is_const_v<std::remove_pointer_t<Pointer>>;
    for (int n = 0; n < directions; ++n) {
      fields[n] = Read(objects[static_cast<size_t>(n)], {name, n}, shape, dtype_, kWritten);
    }
  }

  void* Read(const py::object& object, const Name& name, const Shape& shape, const std::string& dtype, bool written) {
    if (object.is_none()) return nullptr;
    if (PyLong_Check(object.ptr())) {
      const size_t address = PyLong_AsSize_t(object.ptr());
      if (PyErr_Occurred()) throw py::error_already_set();
      return reinterpret_cast<void*>(address);
    }
    kept_.push_back(ReadArray(object, {name, dtype, device_, written}, stream_));
    return CheckShape(kept_.back().array, name, shape, false);
  }

  const int device_;
  const Stream stream_;
  const std::string dtype_;
  Inputs inputs_{};
  std::vector<KeptArray> kept_;
};

void RunForward(int device, uintptr_t stream, const std::string& dtype, const std::string& precision, int64_t batch,
                int64_t time, int64_t units, bool go_backwards, bool return_sequences, bool zero_output_for_mask,
                const py::object& z, const py::object& mask, const Objects& recurrent_kernels, const Objects& biases,
                const Objects& h0, const Objects& c0, const Objects& recurrent_dropout, const py::object& y,
                const Objects& h_n, const Objects& c_n, const py::object& reserve, int64_t reserve_step_bytes,
                const py::object& scratch, int64_t scratch_bytes) {
  Call call(device, stream, dtype, precision, batch, time, units, go_backwards, return_sequences, zero_output_for_mask,
            mask, recurrent_kernels, biases, h0, c0, recurrent_dropout);
  ForwardArguments arguments{};
  arguments.z = call.Input(z, "z", ProjectedShape(call.problem()));
  arguments.y = call.Output(y, "y", OutputShape(call.problem()));
  call.ReadStates(h_n, "h_n", arguments.h_n);
  call.ReadStates(c_n, "c_n", arguments.c_n);
  arguments.reserve = call.ReadReserve(reserve, reserve_step_bytes, true);
  arguments.reserve_step_bytes = reserve_step_bytes;
  call.Run(arguments, scratch, scratch_bytes);
}

void RunBackward(int device, uintptr_t stream, const std::string& dtype, const std::string& precision, int64_t batch,
                 int64_t time, int64_t units, bool go_backwards, bool return_sequences, bool zero_output_for_mask,
                 const py::object& mask, const Objects& recurrent_kernels, const Objects& biases, const Objects& h0,
                 const Objects& c0, const Objects& recurrent_dropout, const py::object& reserve,
                 int64_t reserve_step_bytes, const py::object& dy, const Objects& dh_n, const Objects& dc_n,
                 const py::object& dz, const py::object& h_prev, const Objects& dh0, const Objects& dc0,
                 const py::object& scratch, int64_t scratch_bytes) {
  Call call(device, stream, dtype, precision, batch, time, units, go_backwards, return_sequences, zero_output_for_mask,
            mask, recurrent_kernels, biases, h0, c0, recurrent_dropout);
  BackwardArguments arguments{};
  arguments.reserve = call.ReadReserve(reserve, reserve_step_bytes, false);
  arguments.reserve_step_bytes = reserve_step_bytes;
  arguments.dy = call.Input(dy, "dy", OutputShape(call.problem()));
  call.ReadStates(dh_n, "dh_n", arguments.dh_n);
  call.ReadStates(dc_n, "dc_n", arguments.dc_n);
  arguments.dz = call.Output(dz, "dz", ProjectedShape(call.problem()));
  arguments.h_prev = call.Output(h_prev, "h_prev", PreviousStateShape(call.problem()));
  call.ReadStates(dh0, "dh0", arguments.dh0);
  call.ReadStates(dc0, "dc0", arguments.dc0);
  call.Run(arguments, scratch, scratch_bytes);
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
                            "code"_a = device.code));
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
  const Pass pass = PassNamed(pass_name);
  Forced forced = {variant, std::nullopt, blocks, rows};
  if (exchange) forced.exchange = ExchangeNamed(*exchange);
  Force(pass, forced);
}

py::list VariantList() {
  py::list list;
  for (const Variant& variant : Variants()) {
    list.append(py::dict("name"_a = variant.name, "dtype"_a = NameOf(variant.dtype),
                         "precision"_a = NameOf(variant.precision), "tensor_cores"_a = variant.tensor_cores,
                         "rows"_a = variant.rows, "registers"_a = variant.registers, "split"_a = variant.split,
                         "dropout"_a = variant.dropout, "most_threads"_a = variant.most_threads,
                         "most_units"_a = variant.most_units, "row_blocks"_a = variant.row_blocks));
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

// As in python.cc.
PYBIND11_MODULE(LSTM_FAST_CUDA_MODULE, m, py::mod_gil_not_used()) {
  m.doc() =
      "The recurrence of lstm_fast on CUDA devices. Shapes: csrc/cuda/recurrence.h. An array is any object with "
      "__dlpack__ or __cuda_array_interface__, or an address on the device, which nobody checks; None or 0 where it is "
      "absent. Lists have an entry per direction. Nothing waits for the device: the memory must stay what it is until "
      "the stream has passed the call, which is ordered after what the arrays' frameworks have put on other streams.";
  m.attr("__version__") = LSTM_FAST_VERSION;

  m.def("forward", &RunForward, py::arg("device"), py::arg("stream"), py::arg("dtype"), py::arg("precision"),
        py::arg("batch"), py::arg("time"), py::arg("units"), py::arg("go_backwards"), py::arg("return_sequences"),
        py::arg("zero_output_for_mask"), py::arg("z"), py::arg("mask"), py::arg("recurrent_kernels"), py::arg("biases"),
        py::arg("h0"), py::arg("c0"), py::arg("recurrent_dropout"), py::arg("y"), py::arg("h_n"), py::arg("c_n"),
        py::arg("reserve"), py::arg("reserve_step_bytes"), py::arg("scratch"), py::arg("scratch_bytes"),
        "Puts the forward pass on the stream. ValueError names a wrong argument, RuntimeError gives CUDA's reason.");
  m.def("backward", &RunBackward, py::arg("device"), py::arg("stream"), py::arg("dtype"), py::arg("precision"),
        py::arg("batch"), py::arg("time"), py::arg("units"), py::arg("go_backwards"), py::arg("return_sequences"),
        py::arg("zero_output_for_mask"), py::arg("mask"), py::arg("recurrent_kernels"), py::arg("biases"),
        py::arg("h0"), py::arg("c0"), py::arg("recurrent_dropout"), py::arg("reserve"), py::arg("reserve_step_bytes"),
        py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("dz"), py::arg("h_prev"), py::arg("dh0"),
        py::arg("dc0"), py::arg("scratch"), py::arg("scratch_bytes"),
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
  m.def("set_skips", &SetSkips, py::arg("wanted"),
        "Whether timesteps that need no computing are left out, in the whole process.");
  m.def("variants", &VariantList, "The kernels that are compiled.");
  m.def("fused_calls", &FusedCalls, "How often the passes have run in this process.");
  m.def("build_info", &BuildInfo, "How this extension was compiled.");
  xla::DefineHandlers(m, xla::kCudaPlatform, xla::CudaHandlers());

#ifdef LSTM_FAST_EMULATED
  emulation::DefineDevice(m);
#endif
}

}  // namespace lstm_fast::cuda
