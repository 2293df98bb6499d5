#include "bindings/xla_cuda.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "bindings/array.h"
#include "bindings/cuda_arguments.h"
#include "bindings/operands.h"
#include "bindings/shapes.h"
#include "bindings/xla_ffi.h"
#include "cuda/recurrence.h"
#include "cuda/runtime.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::xla {
namespace {

cuda::Stream StreamOfCall(const CallFrame& frame) {
#ifdef LSTM_FAST_EMULATED
  static_cast<void>(frame);
  return nullptr;
#else
  return StreamOf(frame);
#endif
}

// One call of a handler. Operands and results are read in their order.
class Call {
 public:
  explicit Call(const CallFrame& frame)
      : operands_(frame.arguments, "operands"),
        results_(frame.results, "results"),
        attributes_(frame.attributes),
        stream_(StreamOfCall(frame)) {}

  // The inputs that both passes have, which take batch and time from z.
  const void* ReadForward() {
    type_ = operands_.Peek().type;
    const DType dtype = DTypeOf(operands_.Peek(), "z");
    const Array z = operands_.Next("z", type_);
    if (z.rank != 4) Refuse("z", "rank 4 (batch, time, directions, 4 * units)", Found(z));
    ReadInputs(dtype, z.shape[0], z.shape[1]);
    return CheckShape(z, "z", ProjectedShape(inputs.problem), false);
  }

  // The same, from dz: of the operands, only some that may be absent have them.
  void* ReadBackward() {
    type_ = results_.Peek().type;
    const DType dtype = DTypeOf(results_.Peek(), "dz");
    const Array dz = ArrayOf(results_.Peek());
    if (dz.rank != 4) Refuse("dz", "rank 4 (batch, time, directions, 4 * units)", Found(dz));
    ReadInputs(dtype, dz.shape[0], dz.shape[1]);
    return Result("dz", ProjectedShape(inputs.problem), false);
  }

  const void* Operand(const char* name, const Shape& shape) { return operands_.NextData(name, type_, shape, true); }

  void States(const void* (&data)[2], const char* name) {
    const auto arrays = operands_.NextList(name, type_, inputs.problem.directions, true);
    for (int n = 0; n < inputs.problem.directions; ++n) {
      data[n] = CheckShape(arrays[static_cast<size_t>(n)], Name(name, n), StateShape(inputs.problem), true);
    }
  }

  void* Result(const Name& name, const Shape& shape, bool optional) {
    return results_.NextData(name, type_, shape, optional);
  }

  void StateResults(void* (&data)[2], const char* name) {
    const cuda::Problem& p = inputs.problem;
    for (int n = 0; n < p.directions; ++n) data[n] = Result(Name(name, n), StateShape(p), false);
  }

  void* ReserveOperand(int64_t& step_bytes) { return Reserve(operands_, false, step_bytes); }
  void* ReserveResult(int64_t& step_bytes) { return Reserve(results_, true, step_bytes); }

  // With the last result.
  template <class Arguments>
  void Run(Arguments& arguments) {
    const Array scratch = results_.NextOptional("scratch", Type::kUint8);
    if (scratch.present && scratch.rank != 1) Refuse("scratch", "rank 1 (bytes)", Found(scratch));
    arguments.scratch = scratch.data;
    cuda::Run(inputs, arguments, scratch.present ? scratch.shape[0] : 0, cuda::DeviceOf(stream_), stream_);
  }

  cuda::Inputs inputs{};

 private:
  int64_t Attribute(std::string_view name) const { return xla::Attribute(attributes_, name); }

  void ReadInputs(DType dtype, int64_t batch, int64_t time) {
    cuda::Problem p{};
    p.dtype = dtype;
    p.precision = cuda::PrecisionOf(Attribute("precision"));
    p.batch = batch;
    p.time = time;
    p.directions = CheckDirections(Attribute("directions"), "directions");
    p.go_backwards = Attribute("go_backwards") != 0;
    p.return_sequences = Attribute("return_sequences") != 0;
    p.zero_output_for_mask = Attribute("zero_output_for_mask") != 0;
    cuda::InputArrays arrays;
    arrays.mask = operands_.NextOptional("mask", Type::kBool);
    ReadLists(arrays, cuda::kLists, [&](const OperandList<cuda::InputArrays>& list) {
      return operands_.NextList(list.name, type_, p.directions, list.optional);
    });
    inputs = cuda::Check(p, arrays);
  }

  void* Reserve(Reader& reader, bool optional, int64_t& step_bytes) {
    const Array array = reader.NextOptional("reserve", Type::kUint8);
    const cuda::Problem& p = inputs.problem;
    step_bytes = array.rank == 4 ? array.shape[3] : cuda::ReserveStepBytes(p.dtype, p.units);
    return CheckShape(array, "reserve", {{p.batch, p.directions, p.time, step_bytes}, kReserveLetters}, optional);
  }

  Reader operands_, results_;
  const Attributes& attributes_;
  cuda::Stream stream_;
  Type type_{};
};

void RunForward(const CallFrame& frame) {
  Call call(frame);
  cuda::ForwardArguments arguments{};
  arguments.z = call.ReadForward();
  const cuda::Problem& p = call.inputs.problem;
  arguments.y = call.Result("y", OutputShape(p), false);
  call.StateResults(arguments.h_n, "h_n");
  call.StateResults(arguments.c_n, "c_n");
  arguments.reserve = call.ReserveResult(arguments.reserve_step_bytes);
  call.Run(arguments);
}

void RunBackward(const CallFrame& frame) {
  Call call(frame);
  cuda::BackwardArguments arguments{};
  arguments.dz = call.ReadBackward();
  const cuda::Problem& p = call.inputs.problem;
  arguments.reserve = call.ReserveOperand(arguments.reserve_step_bytes);
  arguments.dy = call.Operand("dy", OutputShape(p));
  call.States(arguments.dh_n, "dh_n");
  call.States(arguments.dc_n, "dc_n");
  arguments.h_prev = call.Result("h_prev", PreviousStateShape(p), true);
  call.StateResults(arguments.dh0, "dh0");
  call.StateResults(arguments.dc0, "dc0");
  call.Run(arguments);
}

}  // namespace

Error* CudaForwardHandler(CallFrame* frame) { return RunHandler(frame, &RunForward); }
Error* CudaBackwardHandler(CallFrame* frame) { return RunHandler(frame, &RunBackward); }

const std::vector<NamedHandler>& CudaHandlers() {
  static const std::vector<NamedHandler> handlers = {{"lstm_fast_cuda_forward", &CudaForwardHandler},
                                                     {"lstm_fast_cuda_backward", &CudaBackwardHandler}};
  return handlers;
}

}  // namespace lstm_fast::xla
