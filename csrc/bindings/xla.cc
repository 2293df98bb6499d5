#include "bindings/xla.h"

#include <array>
#include <exception>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/arguments.h"
#include "bindings/xla_threads.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast::xla {
namespace {

constexpr char kReserveShape[] = "batch, directions, steps, bytes of a step";

DType DTypeOf(const Buffer& x) {
  switch (x.type) {
    case Type::kFloat32:
      return DType::kFloat32;
    case Type::kFloat64:
      return DType::kFloat64;
    case Type::kFloat16:
      return DType::kFloat16;
    case Type::kBFloat16:
      return DType::kBFloat16;
    default:
      throw std::invalid_argument("x: expected dtype float32, float64, float16 or bfloat16; found XLA's type " +
                                  std::to_string(static_cast<uint32_t>(x.type)));
  }
}

int64_t Attribute(const Attributes& attributes, std::string_view name) {
  std::string found = "none";
  for (int64_t i = 0; i < attributes.size; ++i) {
    if (std::string_view(attributes.names[i]->data, attributes.names[i]->size) != name) continue;
    const auto* scalar = static_cast<const Scalar*>(attributes.values[i]);
    if (attributes.kinds[i] == AttributeKind::kScalar && scalar->type == Type::kInt64) {
      return *static_cast<const int64_t*>(scalar->value);
    }
    found = "one of another type";
  }
  throw std::invalid_argument(std::string(name) + ": expected an int64 attribute; found " + found);
}

std::string Indexed(const char* name, int direction) {
  return std::string(name) + "[" + std::to_string(direction) + "]";
}

// Arguments, or results, in their order.
class Reader {
 public:
  Reader(const Buffers& buffers, const char* what) : buffers_(buffers), what_(what) {}

  const Buffer& Peek() const {
    if (next_ >= buffers_.size) {
      throw std::invalid_argument(std::string(what_) + ": expected more than " + std::to_string(buffers_.size));
    }
    if (buffers_.kinds[next_] != Kind::kBuffer) {
      throw std::invalid_argument(std::string(what_) + ": expected arrays only; found something else");
    }
    return *static_cast<const Buffer*>(buffers_.values[next_]);
  }

  Array Next(const std::string& name, Type type) {
    const Buffer& buffer = Peek();
    ++next_;
    if (buffer.type != type) {
      throw std::invalid_argument(name + ": expected XLA's type " + std::to_string(static_cast<uint32_t>(type)) +
                                  "; found " + std::to_string(static_cast<uint32_t>(buffer.type)));
    }
    Array array;
    array.data = buffer.data;
    array.present = true;
    array.rank = static_cast<int>(buffer.rank);
    for (int i = 0; i < array.rank && i < 4; ++i) array.shape[static_cast<size_t>(i)] = buffer.shape[i];
    return array;
  }

  Array NextOptional(const std::string& name, Type type) {
    const Array array = Next(name, type);
    return array.rank == 1 && array.shape[0] == 0 ? Array{} : array;
  }

  std::array<Array, 2> NextList(const char* name, Type type, int directions, bool optional) {
    std::array<Array, 2> arrays;
    for (int n = 0; n < directions; ++n) {
      arrays[static_cast<size_t>(n)] = optional ? NextOptional(Indexed(name, n), type) : Next(Indexed(name, n), type);
    }
    return arrays;
  }

 private:
  const Buffers& buffers_;
  const char* what_;
  int64_t next_ = 0;
};

// One call of a handler: its operands, checked, and its results.
class Call {
 public:
  explicit Call(const CallFrame& frame)
      : operands_(frame.arguments, "operands"), results_(frame.results, "results"), type_(operands_.Peek().type) {
    Arguments a{};
    a.dtype = DTypeOf(operands_.Peek());
    a.directions = CheckDirections(Attribute(frame.attributes, "directions"));
    a.go_backwards = Attribute(frame.attributes, "go_backwards") != 0;
    a.return_sequences = Attribute(frame.attributes, "return_sequences") != 0;
    a.zero_output_for_mask = Attribute(frame.attributes, "zero_output_for_mask") != 0;
    a.reserve_mode = Attribute(frame.attributes, "reserve_mode");
    a.reserve_by_row = true;
    a.x = operands_.Next("x", type_);
    a.mask = operands_.NextOptional("mask", Type::kBool);
    a.kernels = operands_.NextList("kernels", type_, a.directions, true);
    a.recurrent_kernels = operands_.NextList("recurrent_kernels", type_, a.directions, false);
    a.biases = operands_.NextList("biases", type_, a.directions, true);
    a.h0 = operands_.NextList("h0", type_, a.directions, true);
    a.c0 = operands_.NextList("c0", type_, a.directions, true);
    a.input_dropout = operands_.NextList("input_dropout", type_, a.directions, true);
    a.recurrent_dropout = operands_.NextList("recurrent_dropout", type_, a.directions, true);
    inputs = Check(a);
  }

  BackwardInput Gradient() {
    const int directions = inputs.problem.directions;
    GradientArguments gradient;
    gradient.reserve = Flat(operands_.NextOptional("reserve", Type::kUint8));
    gradient.dy = operands_.NextOptional("dy", type_);
    gradient.dh_n = operands_.NextList("dh_n", type_, directions, true);
    gradient.dc_n = operands_.NextList("dc_n", type_, directions, true);
    return Check(inputs, gradient);
  }

  void* Result(const std::string& name, std::initializer_list<int64_t> shape, const char* letters, bool optional) {
    return CheckShape(optional ? results_.NextOptional(name, type_) : results_.Next(name, type_), name, shape, letters,
                      optional);
  }

  void Results(void* (&data)[2], const char* name, std::initializer_list<int64_t> shape, const char* letters,
               bool optional) {
    for (int n = 0; n < inputs.problem.directions; ++n) data[n] = Result(Indexed(name, n), shape, letters, optional);
  }

  // Results of which none may be asked for.
  void NoResults(const char* name) {
    for (int n = 0; n < inputs.problem.directions; ++n) {
      CheckAbsent(results_.NextOptional(Indexed(name, n), type_), Indexed(name, n));
    }
  }

  void* ReserveResult() {
    const Problem& p = inputs.problem;
    return CheckShape(
        results_.Next("reserve", Type::kUint8), "reserve",
        {p.batch, p.directions, ReserveSteps(p.reserve, p.time), ReserveStepBytes(p.reserve, p.dtype, p.units)},
        kReserveShape, false);
  }

  Inputs inputs;

 private:
  // The reserve as bytes in a row, as Check() takes it.
  static Array Flat(const Array& array) {
    Array flat;
    flat.data = array.data;
    flat.present = true;
    flat.rank = 1;
    flat.shape[0] = array.present ? 1 : 0;
    for (int i = 0; i < array.rank && i < 4; ++i) flat.shape[0] *= array.shape[static_cast<size_t>(i)];
    return flat;
  }

  Reader operands_, results_;
  Type type_;
};

void RunForward(const CallFrame& frame, Parallel& parallel) {
  Call call(frame);
  const Problem& p = call.inputs.problem;
  ForwardOutput output{};
  output.y = call.Result("y", {p.batch, p.return_sequences ? p.time : 1, p.directions * p.units},
                         "batch, time or 1, directions * units", false);
  call.Results(output.h_n, "h_n", {p.batch, p.units}, "batch, units", false);
  call.Results(output.c_n, "c_n", {p.batch, p.units}, "batch, units", false);
  if (p.reserve != Reserve::kNone) output.reserve = call.ReserveResult();
  Forward(call.inputs, output, parallel);
}

void RunBackward(const CallFrame& frame, Parallel& parallel) {
  Call call(frame);
  const BackwardInput gradient = call.Gradient();
  const Problem& p = call.inputs.problem;
  BackwardOutput output{};
  output.dx = call.Result("dx", {p.batch, p.time, p.input}, "batch, time, features", true);
  if (p.projected) {
    call.NoResults("dkernels");
  } else {
    call.Results(output.dkernel, "dkernels", {p.input, 4 * p.units}, "features, 4 * units", true);
  }
  call.Results(output.drecurrent_kernel, "drecurrent_kernels", {p.units, 4 * p.units}, "units, 4 * units", true);
  call.Results(output.dbias, "dbiases", {4 * p.units}, "4 * units", true);
  call.Results(output.dh0, "dh0", {p.batch, p.units}, "batch, units", true);
  call.Results(output.dc0, "dc0", {p.batch, p.units}, "batch, units", true);
  Backward(call.inputs, gradient, output, parallel);
}

// Answers a question about the handler, if that is what the call is.
bool Describe(const CallFrame& frame) {
  for (Extension* extension = frame.extensions; extension; extension = extension->next) {
    if (extension->type != ExtensionType::kMetadata) continue;
    Metadata& metadata = *reinterpret_cast<MetadataExtension*>(extension)->metadata;
    metadata.version = {sizeof(Version), nullptr, kMajor, kMinor};
    metadata.traits = 0;
    return true;
  }
  return false;
}

Error* Fail(const Api* api, Code code, const char* message) {
  CreateError arguments = {kCreateErrorSize, nullptr, message, code};
  return api->create_error(&arguments);
}

// Runs a handler's body and turns what it throws into an error; no exception may pass through XLA.
Error* Guard(CallFrame* frame, void (*body)(const CallFrame&, Parallel&)) {
  if (Describe(*frame)) return nullptr;
  try {
    XlaThreads threads(frame->api, frame->context);
    body(*frame, threads.available() ? static_cast<Parallel&>(threads) : OwnThreads());
  } catch (const std::invalid_argument& error) {
    return Fail(frame->api, Code::kInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    return Fail(frame->api, Code::kResourceExhausted, "lstm_fast: out of memory");
  } catch (const std::exception& error) {
    return Fail(frame->api, Code::kInternal, error.what());
  }
  return nullptr;
}

}  // namespace

Error* ForwardHandler(CallFrame* frame) { return Guard(frame, &RunForward); }
Error* BackwardHandler(CallFrame* frame) { return Guard(frame, &RunBackward); }

void RegisterWith(const Api* api) {
  for (const auto& [name, handler] : {std::pair<std::string_view, Handler*>(kForward, &ForwardHandler),
                                      std::pair<std::string_view, Handler*>(kBackward, &BackwardHandler)}) {
    constexpr std::string_view kPlatform = "Host";
    Register arguments{};
    arguments.struct_size = kRegisterSize;
    arguments.name = {name.data(), name.size()};
    arguments.platform = {kPlatform.data(), kPlatform.size()};
    arguments.execute = handler;
    Error* error = api->register_handler(&arguments);
    if (!error) continue;
    GetMessage get = {sizeof get, nullptr, error, nullptr};
    api->get_message(&get);
    const std::string message = get.message;
    DestroyError destroy = {sizeof destroy, nullptr, error};
    api->destroy_error(&destroy);
    throw std::runtime_error(message);
  }
}

}  // namespace lstm_fast::xla
