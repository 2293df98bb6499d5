#include "bindings/xla.h"

#include <cstddef>
#include <cstdint>

#include "bindings/arguments.h"
#include "bindings/array.h"
#include "bindings/operands.h"
#include "bindings/shapes.h"
#include "bindings/xla_ffi.h"
#include "bindings/xla_threads.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast::xla {
namespace {

// One call of a handler: its operands, checked, and its results.
class Call {
 public:
  explicit Call(const CallFrame& frame)
      : operands_(frame.arguments, "operands"), results_(frame.results, "results"), type_(operands_.Peek().type) {
    Arguments a{};
    a.dtype = DTypeOf(operands_.Peek(), "x");
    a.directions = CheckDirections(Attribute(frame.attributes, "directions"));
    a.go_backwards = Attribute(frame.attributes, "go_backwards") != 0;
    a.return_sequences = Attribute(frame.attributes, "return_sequences") != 0;
    a.zero_output_for_mask = Attribute(frame.attributes, "zero_output_for_mask") != 0;
    a.reserve_mode = Attribute(frame.attributes, "reserve_mode");
    a.reserve_by_row = true;
    a.x = operands_.Next("x", type_);
    a.mask = operands_.NextOptional("mask", Type::kBool);
    ReadLists(a, kLists, [&](const OperandList<Arguments>& list) {
      return operands_.NextList(list.name, type_, a.directions, list.optional);
    });
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

  void* Result(const Name& name, const Shape& shape, bool optional) {
    return results_.NextData(name, type_, shape, optional);
  }

  void Results(void* (&data)[2], const char* name, const Shape& shape, bool optional) {
    for (int n = 0; n < inputs.problem.directions; ++n) data[n] = Result(Name(name, n), shape, optional);
  }

  // Results of which none may be asked for.
  void NoResults(const char* name) {
    for (int n = 0; n < inputs.problem.directions; ++n) {
      CheckAbsent(results_.NextOptional(Name(name, n), type_), Name(name, n));
    }
  }

  void* ReserveResult() {
    const Problem& p = inputs.problem;
    const Shape shape = {
        {p.batch, p.directions, ReserveSteps(p.reserve, p.time), ReserveStepBytes(p.reserve, p.dtype, p.units)},
        kReserveLetters};
    return results_.NextData("reserve", Type::kUint8, shape, false);
  }

  Inputs inputs;

 private:
  // The reserve as bytes in a row, as Check() takes it.
  static Array Flat(const Array& array) {
    int64_t bytes = array.present ? 1 : 0;
    for (int i = 0; i < array.rank && i < 4; ++i) bytes *= array.shape[static_cast<size_t>(i)];
    return MakeArray(array.data, 1, [bytes](int) { return bytes; });
  }

  Reader operands_, results_;
  Type type_;
};

void RunForward(const CallFrame& frame, Parallel& parallel) {
  Call call(frame);
  const Problem& p = call.inputs.problem;
  ForwardOutput output{};
  output.y = call.Result("y", OutputShape(p), false);
  call.Results(output.h_n, "h_n", StateShape(p), false);
  call.Results(output.c_n, "c_n", StateShape(p), false);
  if (p.reserve != Reserve::kNone) output.reserve = call.ReserveResult();
  Forward(call.inputs, output, parallel);
}

void RunBackward(const CallFrame& frame, Parallel& parallel) {
  Call call(frame);
  const BackwardInput gradient = call.Gradient();
  const Problem& p = call.inputs.problem;
  BackwardOutput output{};
  output.dx = call.Result("dx", InputShape(p), true);
  if (p.projected) {
    call.NoResults("dkernels");
  } else {
    call.Results(output.dkernel, "dkernels", KernelShape(p), true);
  }
  call.Results(output.drecurrent_kernel, "drecurrent_kernels", RecurrentKernelShape(p), true);
  call.Results(output.dbias, "dbiases", BiasShape(p), true);
  call.Results(output.dh0, "dh0", StateShape(p), true);
  call.Results(output.dc0, "dc0", StateShape(p), true);
  Backward(call.inputs, gradient, output, parallel);
}

// Runs a pass on XLA's threads, or on the library's own where the call offers none.
template <void (*kPass)(const CallFrame&, Parallel&)>
void OnThreads(const CallFrame& frame) {
  XlaThreads threads(frame.api, frame.context);
  kPass(frame, threads.available() ? static_cast<Parallel&>(threads) : OwnThreads());
}

}  // namespace

Error* ForwardHandler(CallFrame* frame) { return RunHandler(frame, &OnThreads<&RunForward>); }
Error* BackwardHandler(CallFrame* frame) { return RunHandler(frame, &OnThreads<&RunBackward>); }

const std::vector<NamedHandler>& Handlers() {
  static const std::vector<NamedHandler> handlers = {{"lstm_fast_forward", &ForwardHandler},
                                                     {"lstm_fast_backward", &BackwardHandler}};
  return handlers;
}

}  // namespace lstm_fast::xla
