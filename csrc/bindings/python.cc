// lstm_fast._core: the kernels on NumPy arrays, and the library's switches and counters.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/array.h"
#include "bindings/operands.h"
#include "bindings/shapes.h"
#include "bindings/xla.h"
#include "bindings/xla_python.h"
#include "lstm_fast/isa.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"
#include "lstm_fast/workspace.h"

namespace py = pybind11;

namespace lstm_fast {
namespace {

using py::literals::operator""_a;

// NumPy has no bfloat16 of its own: it comes as an extension type, or, where the caller says so, as its bits in uint16.
DType DTypeOf(const py::array& array, const Name& name, bool bfloat16_bits = false) {
  const py::dtype dtype = array.dtype();
  if (bfloat16_bits) {
    if (dtype.kind() == 'u' && dtype.itemsize() == 2) return DType::kBFloat16;
    throw py::type_error(std::string(name) + ": expected dtype uint16, the bits of bfloat16; found " +
                         std::string(py::str(dtype)));
  }
  if (dtype.kind() == 'f' && dtype.byteorder() != '>') {
    if (dtype.itemsize() == 4) return DType::kFloat32;
    if (dtype.itemsize() == 8) return DType::kFloat64;
    if (dtype.itemsize() == 2) return DType::kFloat16;
  }
  const std::string found = py::str(dtype);
  if (found == "bfloat16") return DType::kBFloat16;
  throw py::type_error(std::string(name) + ": expected dtype float32, float64, float16 or bfloat16; found " + found);
}

Array View(const py::array& array, const Name& name) {
  if (!(array.flags() & py::array::c_style)) {
    throw py::value_error(std::string(name) + ": expected a C-contiguous array; found strides of another order");
  }
  return MakeArray(const_cast<void*>(array.data()), static_cast<int>(array.ndim()),
                   [&](int axis) { return array.shape(axis); });
}

py::array AsArray(const py::handle& object, const Name& name) {
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(std::string(name) + ": expected a numpy.ndarray; found " +
                         std::string(py::str(py::type::of(object).attr("__name__"))));
  }
  return py::reinterpret_borrow<py::array>(object);
}

// The arrays of a call, which outlive it: a thread may change the lists that they came in while this one computes.
using Kept = std::vector<py::object>;

// An optional array of x's dtype.
Array OptionalView(const py::handle& object, const Name& name, DType dtype, bool bfloat16_bits, Kept& kept) {
  if (object.is_none()) return {};
  const py::array array = AsArray(object, name);
  kept.push_back(array);
  if (DTypeOf(array, name, bfloat16_bits) != dtype) {
    throw py::type_error(std::string(name) + ": expected the dtype of x; found " + std::string(py::str(array.dtype())));
  }
  return View(array, name);
}

std::array<Array, 2> ViewList(const py::sequence& list, const char* name, int directions, DType dtype,
                              bool bfloat16_bits, Kept& kept) {
  if (static_cast<int>(list.size()) != directions) {
    throw py::value_error(std::string(name) + ": expected " + std::to_string(directions) +
                          " entries, as in kernels; found " + std::to_string(list.size()));
  }
  return ReadEntries(directions, [&](int n) {
    const py::object entry = list[static_cast<size_t>(n)];
    return OptionalView(entry, {name, n}, dtype, bfloat16_bits, kept);
  });
}

py::array Empty(const py::dtype& dtype, const Shape& shape) {
  return py::array(dtype, std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

// Bytes that the next step finds again once the array is gone: touching fresh memory costs more than the pass itself.
py::array ReusedBytes(int64_t bytes) {
  const py::dtype dtype = py::dtype::of<uint8_t>();
  if (bytes == 0) return Empty(dtype, {{0}, "bytes"});
  auto workspace = std::make_unique<Workspace>(static_cast<size_t>(bytes));
  void* data = workspace->data<void>();
  const py::capsule owner(workspace.get(), [](void* released) { delete static_cast<Workspace*>(released); });
  static_cast<void>(workspace.release());
  return py::array(dtype, {bytes}, {1}, data, owner);
}

// The arguments that forward and backward share, with the array whose dtype they have.
struct Call {
  py::array x;
  Arguments arguments;
  Kept kept;
};

// What follows x and the mask, in the order of kLists.
using Lists = std::array<std::reference_wrapper<const py::sequence>, std::size(kLists)>;

Call Describe(const py::object& x_object, const py::object& mask, const Lists& lists, bool go_backwards,
              bool return_sequences, bool zero_output_for_mask, int64_t reserve_mode, bool bfloat16_bits) {
  Call call{AsArray(x_object, "x"), {}, {}};
  call.kept.reserve(24);
  Arguments& a = call.arguments;
  a.dtype = DTypeOf(call.x, "x", bfloat16_bits);
  a.directions = CheckDirections(static_cast<int64_t>(lists[0].get().size()));
  a.go_backwards = go_backwards;
  a.return_sequences = return_sequences;
  a.zero_output_for_mask = zero_output_for_mask;
  a.reserve_mode = reserve_mode;
  a.x = View(call.x, "x");
  if (!mask.is_none()) {
    const py::array array = AsArray(mask, "mask");
    if (array.dtype().kind() != 'b') {
      throw py::type_error("mask: expected dtype bool; found " + std::string(py::str(array.dtype())));
    }
    call.kept.push_back(array);
    a.mask = View(array, "mask");
  }
  auto given = lists.begin();
  ReadLists(a, kLists, [&](const OperandList<Arguments>& list) {
    return ViewList(*given++, list.name, a.directions, a.dtype, bfloat16_bits, call.kept);
  });
  return call;
}

py::tuple ForwardArrays(const py::object& x, const py::object& mask, const py::sequence& kernels,
                        const py::sequence& recurrent_kernels, const py::sequence& biases, const py::sequence& h0,
                        const py::sequence& c0, const py::sequence& input_dropout,
                        const py::sequence& recurrent_dropout, bool go_backwards, bool return_sequences,
                        bool zero_output_for_mask, int64_t reserve_mode, bool bfloat16_bits) {
  const Lists lists = {kernels, recurrent_kernels, biases, h0, c0, input_dropout, recurrent_dropout};
  const Call call =
      Describe(x, mask, lists, go_backwards, return_sequences, zero_output_for_mask, reserve_mode, bfloat16_bits);
  const Inputs inputs = Check(call.arguments);
  const Problem& p = inputs.problem;
  const py::dtype dtype = call.x.dtype();
  py::array y = Empty(dtype, OutputShape(p));
  py::array reserve = ReusedBytes(ReserveBytes(p, inputs.mask));
  py::list h_n, c_n;
  ForwardOutput output{};
  output.y = y.mutable_data();
  output.reserve = reserve.mutable_data();
  for (int n = 0; n < p.directions; ++n) {
    py::array h = Empty(dtype, StateShape(p)), c = Empty(dtype, StateShape(p));
    output.h_n[n] = h.mutable_data();
    output.c_n[n] = c.mutable_data();
    h_n.append(h);
    c_n.append(c);
  }
  {
    const py::gil_scoped_release release;
    Forward(inputs, output, OwnThreads());
  }
  return py::make_tuple(y, h_n, c_n, reserve);
}

py::tuple BackwardArrays(const py::object& x, const py::object& mask, const py::sequence& kernels,
                         const py::sequence& recurrent_kernels, const py::sequence& biases, const py::sequence& h0,
                         const py::sequence& c0, const py::sequence& input_dropout,
                         const py::sequence& recurrent_dropout, const py::object& reserve, const py::object& dy,
                         const py::sequence& dh_n, const py::sequence& dc_n, bool go_backwards, bool return_sequences,
                         bool zero_output_for_mask, int64_t reserve_mode, bool bfloat16_bits, bool with_dx) {
  const Lists lists = {kernels, recurrent_kernels, biases, h0, c0, input_dropout, recurrent_dropout};
  Call call =
      Describe(x, mask, lists, go_backwards, return_sequences, zero_output_for_mask, reserve_mode, bfloat16_bits);
  const Inputs inputs = Check(call.arguments);
  const Problem& p = inputs.problem;
  const DType dtype = call.arguments.dtype;
  GradientArguments gradient;
  const py::array reserve_array = AsArray(reserve, "reserve");
  if (reserve_array.itemsize() != 1) {
    throw py::type_error("reserve: expected dtype uint8; found " + std::string(py::str(reserve_array.dtype())));
  }
  gradient.reserve = View(reserve_array, "reserve");
  gradient.dy = OptionalView(dy, "dy", dtype, bfloat16_bits, call.kept);
  gradient.dh_n = ViewList(dh_n, "dh_n", p.directions, dtype, bfloat16_bits, call.kept);
  gradient.dc_n = ViewList(dc_n, "dc_n", p.directions, dtype, bfloat16_bits, call.kept);
  const BackwardInput backward = Check(inputs, gradient);

  const py::dtype array_dtype = call.x.dtype();
  py::object dx = py::none();
  py::list dkernels, drecurrent_kernels, dbiases, dh0, dc0;
  BackwardOutput output{};
  if (with_dx) {
    py::array array = Empty(array_dtype, InputShape(p));
    output.dx = array.mutable_data();
    dx = array;
  }
  const auto add = [&](py::list& list, const Shape& shape) {
    py::array array = Empty(array_dtype, shape);
    list.append(array);
    return array.mutable_data();
  };
  for (int n = 0; n < p.directions; ++n) {
    if (p.projected) {
      dkernels.append(py::none());
    } else {
      output.dkernel[n] = add(dkernels, KernelShape(p));
    }
    output.drecurrent_kernel[n] = add(drecurrent_kernels, RecurrentKernelShape(p));
    if (inputs.direction[n].bias) {
      output.dbias[n] = add(dbiases, BiasShape(p));
    } else {
      dbiases.append(py::none());
    }
    output.dh0[n] = add(dh0, StateShape(p));
    output.dc0[n] = add(dc0, StateShape(p));
  }
  {
    const py::gil_scoped_release release;
    Backward(inputs, backward, output, OwnThreads());
  }
  return py::make_tuple(dx, dkernels, drecurrent_kernels, dbiases, dh0, dc0);
}

py::array Elementwise(void (*function)(DType, const void*, void*, int64_t), const py::array& x) {
  const DType dtype = DTypeOf(x, "x");
  if (dtype != DType::kFloat32 && dtype != DType::kFloat64) {
    throw py::type_error("x: expected dtype float32 or float64; found " + std::string(py::str(x.dtype())));
  }
  const Array view = View(x, "x");
  py::array y(x.dtype(), std::vector<py::ssize_t>(x.shape(), x.shape() + x.ndim()));
  function(dtype, view.data, y.mutable_data(), x.size());
  return y;
}

int64_t StepBytes(int64_t reserve_mode, const std::string& dtype, int64_t units) {
  if (reserve_mode < 0 || reserve_mode > 2) {
    throw py::value_error("reserve_mode: expected 0, 1 or 2; found " + std::to_string(reserve_mode));
  }
  return ReserveStepBytes(static_cast<Reserve>(reserve_mode), DTypeNamed(dtype), units);
}

void FollowThreads(int threads, const std::string& source) {
  static std::mutex mutex;
  static auto* const sources = new std::set<std::string>;  // never destroyed: the pool refers to them
  const std::lock_guard<std::mutex> lock(mutex);
  FollowThreadCount(threads, sources->insert(source).first->c_str());
}

py::dict FusedCalls() {
  const CallCounts counts = GetCallCounts();
  return py::dict("forward"_a = counts.forward, "backward"_a = counts.backward);
}

py::dict Timesteps() {
  const TimestepCounts counts = GetTimestepCounts();
  return py::dict("given"_a = counts.given, "computed"_a = counts.computed,
                  "without_gradient"_a = counts.without_gradient);
}

py::dict BuildInfo() {
  return py::dict("compiler"_a = __VERSION__, "build_type"_a = LSTM_FAST_BUILD_TYPE, "isas"_a = CompiledIsas(),
                  "cuda"_a = LSTM_FAST_CUDA_STATE, "tensorflow"_a = LSTM_FAST_TENSORFLOW_STATE);
}

}  // namespace

// Nothing here needs the interpreter's lock: what is global is in the library, which is made for many threads.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of lstm_fast, on NumPy arrays. Shapes and equations: csrc/include/lstm_fast/lstm.h.";
  m.attr("__version__") = LSTM_FAST_VERSION;

  m.def("forward", &ForwardArrays, py::arg("x"), py::arg("mask"), py::arg("kernels"), py::arg("recurrent_kernels"),
        py::arg("biases"), py::arg("h0"), py::arg("c0"), py::arg("input_dropout"), py::arg("recurrent_dropout"),
        py::arg("go_backwards"), py::arg("return_sequences"), py::arg("zero_output_for_mask"), py::arg("reserve_mode"),
        py::arg("bfloat16_bits") = false,
        "Returns (y, h_n, c_n, reserve). Lists have an entry per direction; optional arrays may be None. Where all "
        "kernels are, x is projected already. With bfloat16_bits, all arrays but the mask are uint16 and hold "
        "bfloat16.");
  m.def("backward", &BackwardArrays, py::arg("x"), py::arg("mask"), py::arg("kernels"), py::arg("recurrent_kernels"),
        py::arg("biases"), py::arg("h0"), py::arg("c0"), py::arg("input_dropout"), py::arg("recurrent_dropout"),
        py::arg("reserve"), py::arg("dy"), py::arg("dh_n"), py::arg("dc_n"), py::arg("go_backwards"),
        py::arg("return_sequences"), py::arg("zero_output_for_mask"), py::arg("reserve_mode"),
        py::arg("bfloat16_bits") = false, py::arg("with_dx") = true,
        "Returns (dx, dkernels, drecurrent_kernels, dbiases, dh0, dc0), None for what is absent; dx is None, and not "
        "computed, without with_dx.");

  m.def("isa", &ActiveIsa, "The active instruction set.");
  m.def("available_isas", &AvailableIsas, "Instruction sets that this processor runs, slowest first.");
  m.def("compiled_isas", &CompiledIsas, "Instruction sets in this build, slowest first.");
  m.def("set_isa", &SetIsa, py::arg("isa"),
        "Forces an instruction set; ValueError if it cannot be had. None: as at the start.");
  m.def("threads", &ThreadCount, "Threads that a call may use.");
  m.def("threads_source", &ThreadCountSource, "What decided how many these are.");
  m.def("set_threads", &SetThreadCount, py::arg("threads"),
        "Sets threads(); ValueError if not from 1 to 4096. None: as at the start.");
  m.def("follow_threads", &FollowThreads, py::arg("threads"), py::arg("source"),
        "Says how many threads a framework uses; 0: that is not known. Fewer count, where nobody has asked for more.");
  m.def("kept_bytes", &KeptBytes, "Bytes of buffers that are kept for the next call.");
  m.def("kept_bytes_limit", &KeptBytesLimit, "The most of them: LSTM_FAST_KEEP_MIB; ValueError if that is no number.");
  m.def("set_kept_bytes_limit", &SetKeptBytesLimit, py::arg("bytes"), py::call_guard<py::gil_scoped_release>(),
        "Sets kept_bytes_limit(); ValueError if negative. None: as at the start.");
  m.def("trim", &Trim, py::call_guard<py::gil_scoped_release>(), "Gives them back to the system; returns their bytes.");
  m.def("fused_calls", &FusedCalls, "How often the kernels have run in this process, through any binding.");
  m.def("timesteps", &Timesteps,
        "Real timesteps of all forward passes in this process, those of them that did not repeat others, and those "
        "that the backward passes left out, as all gradients in them were zero.");
  m.def("skips_repeats", &SkipsRepeats,
        "Whether timesteps that repeat, and those without a gradient, are left out: LSTM_FAST_SKIP_REPEATS; ValueError "
        "if that is neither 0 nor 1.");
  m.def("set_skips_repeats", &SetSkipsRepeats, py::arg("skips"), "Sets skips_repeats(). None: as at the start.");
  m.attr("checkpoint_interval") = kCheckpointInterval;
  m.def("reserve_step_bytes", &StepBytes, py::arg("reserve_mode"), py::arg("dtype"), py::arg("units"),
        "Last size of a reserve that is laid out by row: [B, N, steps, this], where steps is T or, for reserve_mode 2, "
        "T / checkpoint_interval rounded up.");
  xla::DefineHandlers(m, "Host", xla::Handlers());
  m.def("build_info", &BuildInfo, "How this extension was compiled.");

  m.def("_sigmoid", [](const py::array& x) { return Elementwise(&Sigmoid, x); }, py::arg("x"), "For tests.");
  m.def("_tanh", [](const py::array& x) { return Elementwise(&Tanh, x); }, py::arg("x"), "For tests.");
}

}  // namespace lstm_fast
