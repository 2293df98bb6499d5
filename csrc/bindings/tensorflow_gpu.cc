// The TensorFlow ops LstmFastCudaForward and LstmFastCudaBackward on CUDA devices: the recurrence only, as
// cuda/recurrence.h states it, on TensorFlow's stream and in its memory. They are written against TensorFlow's C++ API,
// as the C API's TF_GetStream refuses all devices but pluggable ones, which TensorFlow's own GPUs are not. So the
// binary serves the release that it was compiled with; lstm_fast/backends/tensorflow_build.py compiles it for any.
//
// An optional argument that is absent is a tensor of shape [0]. The ops have no kernels for the CPU, where the whole
// layer has one of its own (tensorflow_cpu.cc). Tests compile the same file, with other names, for an emulated device,
// which is the CPU.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "bindings/array.h"
#include "bindings/cuda_arguments.h"
#include "bindings/errors.h"
#include "bindings/operands.h"
#include "bindings/shapes.h"
#include "bindings/tensorflow.h"
#include "cuda/recurrence.h"
#include "cuda/runtime.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "xla/stream_executor/stream.h"

namespace lstm_fast {
namespace {

namespace tf = tensorflow;
using tf::shape_inference::DimensionHandle;
using tf::shape_inference::InferenceContext;
using tf::shape_inference::ShapeHandle;

#ifdef LSTM_FAST_EMULATED
constexpr char kForward[] = "LstmFastEmulatedForward", kBackward[] = "LstmFastEmulatedBackward", kDevice[] = "CPU";
cuda::Stream StreamOf(tf::OpKernelContext*) { return nullptr; }
#else
constexpr char kForward[] = "LstmFastCudaForward", kBackward[] = "LstmFastCudaBackward", kDevice[] = "GPU";
cuda::Stream StreamOf(tf::OpKernelContext* context) {
  return context->op_device_context()->stream()->platform_specific_handle().stream;
}
#endif

// The numbers that need no header of TensorFlow are its own.
static_assert(static_cast<int>(ElementType::kFloat) == tf::DT_FLOAT &&
              static_cast<int>(ElementType::kDouble) == tf::DT_DOUBLE &&
              static_cast<int>(ElementType::kHalf) == tf::DT_HALF &&
              static_cast<int>(ElementType::kBFloat16) == tf::DT_BFLOAT16);
static_assert(static_cast<absl::StatusCode>(ErrorCode::kInvalidArgument) == absl::StatusCode::kInvalidArgument &&
              static_cast<absl::StatusCode>(ErrorCode::kResourceExhausted) == absl::StatusCode::kResourceExhausted &&
              static_cast<absl::StatusCode>(ErrorCode::kInternal) == absl::StatusCode::kInternal);

void ThrowIfError(const absl::Status& status) {
  if (!status.ok()) throw FrameworkError(static_cast<ErrorCode>(status.code()), std::string(status.message()));
}

// Runs body; what it throws is the context's failure.
template <class Context, class Body>
void GuardWithContext(Context* context, const Body& body) {
  Guard(body, [&](ErrorCode code, const char* message) {
    context->CtxFailure(absl::Status(static_cast<absl::StatusCode>(code), message));
  });
}

// One call of an op. Inputs and outputs are taken in their order.
class Call {
 public:
  Call(tf::OpKernelContext* context, const cuda::Problem& attributes) : context_(context), stream_(StreamOf(context)) {
    inputs.problem = attributes;
  }

  Array Next() {
    const tf::Tensor& tensor = context_->input(next_input_++);
    return MakeArray(tensor.data(), tensor.dims(), [&](int axis) { return tensor.dim_size(axis); });
  }

  Array NextOptional() { return AbsentIfEmpty(Next()); }

  // The arguments of both passes, of which `sized` has batch and time for its first sizes.
  void ReadInputs(const Array& sized) {
    cuda::Problem p = inputs.problem;
    p.batch = sized.shape[0];
    p.time = sized.shape[1];
    cuda::InputArrays arrays;
    arrays.mask = NextOptional();
    ReadLists(arrays, cuda::kLists, [&](const OperandList<cuda::InputArrays>& list) { return List(list.optional); });
    inputs = cuda::Check(p, arrays);
  }

  void States(const void* (&data)[2], const char* name) {
    const cuda::Problem& p = inputs.problem;
    const auto arrays = List(true);
    for (int n = 0; n < p.directions; ++n) {
      data[n] = CheckShape(arrays[static_cast<size_t>(n)], Name(name, n), StateShape(p), true);
    }
  }

  void* Output(const Shape& shape) {
    tf::TensorShape sizes;
    for (const int64_t size : shape) sizes.AddDim(size);
    tf::Tensor* tensor = nullptr;
    ThrowIfError(context_->allocate_output(next_output_++, sizes, &tensor));
    return tensor->data();
  }

  void StateOutputs(void* (&data)[2]) {
    const cuda::Problem& p = inputs.problem;
    for (int n = 0; n < p.directions; ++n) data[n] = Output(StateShape(p));
  }

  template <class Arguments>
  void Run(Arguments& arguments) {
    const int device = cuda::DeviceOf(stream_);
    const bool dropout = inputs.direction[0].recurrent_dropout != nullptr;
    const int64_t bytes = cuda::RoomyScratchBytes(inputs.problem, inputs.mask != nullptr, dropout, device);
    tf::Tensor scratch;
    ThrowIfError(context_->allocate_temp(tf::DT_UINT8, tf::TensorShape({bytes}), &scratch));
    arguments.scratch = scratch.data();
    cuda::Run(inputs, arguments, bytes, device, stream_);
  }

  cuda::Inputs inputs{};

 private:
  std::array<Array, 2> List(bool optional) {
    return ReadEntries(inputs.problem.directions, [&](int) { return optional ? NextOptional() : Next(); });
  }

  tf::OpKernelContext* context_;
  const cuda::Stream stream_;
  int next_input_ = 0, next_output_ = 0;
};

Shape ReserveShape(const cuda::Problem& p) {
  return {{p.batch, p.directions, p.time, cuda::ReserveStepBytes(p.dtype, p.units)},
          "batch, directions, time, bytes of a step"};
}

void ComputeForward(Call& call, bool keep) {
  cuda::ForwardArguments arguments{};
  const Array z = call.Next();
  if (z.rank != 4) Refuse("z", "rank 4 (batch, time, directions, 4 * units)", Found(z));
  call.ReadInputs(z);
  const cuda::Problem& p = call.inputs.problem;
  arguments.z = CheckShape(z, "z", ProjectedShape(p), false);
  arguments.y = call.Output(OutputShape(p));
  call.StateOutputs(arguments.h_n);
  call.StateOutputs(arguments.c_n);
  arguments.reserve_step_bytes = cuda::ReserveStepBytes(p.dtype, p.units);
  if (keep) {
    arguments.reserve = call.Output(ReserveShape(p));
  } else {
    call.Output({{0}, "absent"});
  }
  call.Run(arguments);
}

void ComputeBackward(Call& call) {
  cuda::BackwardArguments arguments{};
  const Array x = call.Next();
  if (x.rank < 2) Refuse("x", "rank 2 or more (batch, time)", Found(x));
  call.ReadInputs(x);
  const cuda::Problem& p = call.inputs.problem;
  arguments.reserve_step_bytes = cuda::ReserveStepBytes(p.dtype, p.units);
  arguments.reserve = CheckShape(call.Next(), "reserve", ReserveShape(p), false);
  arguments.dy = CheckShape(call.NextOptional(), "dy", OutputShape(p), true);
  call.States(arguments.dh_n, "dh_n");
  call.States(arguments.dc_n, "dc_n");
  arguments.dz = call.Output(ProjectedShape(p));
  arguments.h_prev = call.Output(PreviousStateShape(p));
  call.StateOutputs(arguments.dh0);
  call.StateOutputs(arguments.dc0);
  call.Run(arguments);
}

// What the kernels of both ops have in common.
class Kernel : public tf::OpKernel {
 public:
  explicit Kernel(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    GuardWithContext(context, [&] {
      tf::DataType type{};
      ThrowIfError(context->GetAttr("T", &type));
      int64_t directions = 0, precision = 0;
      ThrowIfError(context->GetAttr("N", &directions));
      ThrowIfError(context->GetAttr("precision", &precision));
      ThrowIfError(context->GetAttr("go_backwards", &attributes_.go_backwards));
      ThrowIfError(context->GetAttr("return_sequences", &attributes_.return_sequences));
      ThrowIfError(context->GetAttr("zero_output_for_mask", &attributes_.zero_output_for_mask));
      attributes_.dtype = DTypeOf(static_cast<ElementType>(type));
      attributes_.directions = CheckDirections(directions, "recurrent_kernels");
      attributes_.precision = cuda::PrecisionOf(precision);
    });
  }

 protected:
  template <class Body>
  void RunGuarded(tf::OpKernelContext* context, const Body& body) const {
    GuardWithContext(context, [&] {
      Call call(context, attributes_);
      body(call);
    });
  }

 private:
  cuda::Problem attributes_{};
};

class ForwardKernel : public Kernel {
 public:
  explicit ForwardKernel(tf::OpKernelConstruction* context) : Kernel(context) {
    GuardWithContext(context, [&] { ThrowIfError(context->GetAttr("keep", &keep_)); });
  }
  void Compute(tf::OpKernelContext* context) override {
    RunGuarded(context, [this](Call& call) { ComputeForward(call, keep_); });
  }

 private:
  bool keep_ = false;
};

class BackwardKernel : public Kernel {
 public:
  using Kernel::Kernel;
  void Compute(tf::OpKernelContext* context) override { RunGuarded(context, ComputeBackward); }
};

// Static shapes: batch and time of the first input, units of the first recurrent kernel, which follows the mask.
struct Sizes {
  DimensionHandle batch, time, units;
  int64_t directions = 0;
};

absl::Status ReadSizes(InferenceContext* c, Sizes* sizes) {
  ShapeHandle shape;
  TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(0), 2, &shape));
  sizes->batch = c->Dim(shape, 0);
  sizes->time = c->Dim(shape, 1);
  TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &shape));
  sizes->units = c->Dim(shape, 0);
  return c->GetAttr("N", &sizes->directions);
}

absl::Status ForwardShapes(InferenceContext* c) {
  Sizes sizes;
  TF_RETURN_IF_ERROR(ReadSizes(c, &sizes));
  bool sequences = false, keep = false;
  TF_RETURN_IF_ERROR(c->GetAttr("return_sequences", &sequences));
  TF_RETURN_IF_ERROR(c->GetAttr("keep", &keep));
  DimensionHandle features;
  TF_RETURN_IF_ERROR(c->Multiply(sizes.units, sizes.directions, &features));
  int output = 0;
  c->set_output(output++, c->MakeShape({sizes.batch, sequences ? sizes.time : c->MakeDim(1), features}));
  for (int64_t i = 0; i < 2 * sizes.directions; ++i) c->set_output(output++, c->Matrix(sizes.batch, sizes.units));
  c->set_output(output, keep ? c->MakeShape({sizes.batch, c->MakeDim(sizes.directions), sizes.time, c->UnknownDim()})
                             : c->Vector(0));
  return absl::OkStatus();
}

absl::Status BackwardShapes(InferenceContext* c) {
  Sizes sizes;
  TF_RETURN_IF_ERROR(ReadSizes(c, &sizes));
  DimensionHandle gates;
  TF_RETURN_IF_ERROR(c->Multiply(sizes.units, 4, &gates));
  const DimensionHandle directions = c->MakeDim(sizes.directions);
  int output = 0;
  c->set_output(output++, c->MakeShape({sizes.batch, sizes.time, directions, gates}));
  c->set_output(output++, c->MakeShape({sizes.batch, sizes.time, directions, sizes.units}));
  for (int64_t i = 0; i < 2 * sizes.directions; ++i) c->set_output(output++, c->Matrix(sizes.batch, sizes.units));
  return absl::OkStatus();
}

// z is [B, T, N, 4H].
REGISTER_OP(kForward)
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("N: int >= 1")
    .Attr("go_backwards: bool")
    .Attr("return_sequences: bool")
    .Attr("zero_output_for_mask: bool")
    .Attr("precision: int")
    .Attr("keep: bool")
    .Input("z: T")
    .Input("mask: bool")
    .Input("recurrent_kernels: N * T")
    .Input("biases: N * T")
    .Input("h0: N * T")
    .Input("c0: N * T")
    .Input("recurrent_dropout: N * T")
    .Output("y: T")
    .Output("h_n: N * T")
    .Output("c_n: N * T")
    .Output("reserve: uint8")
    .SetShapeFn(ForwardShapes);

// Of x, only the first two sizes are looked at: batch and time.
REGISTER_OP(kBackward)
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("N: int >= 1")
    .Attr("go_backwards: bool")
    .Attr("return_sequences: bool")
    .Attr("zero_output_for_mask: bool")
    .Attr("precision: int")
    .Input("x: T")
    .Input("mask: bool")
    .Input("recurrent_kernels: N * T")
    .Input("biases: N * T")
    .Input("h0: N * T")
    .Input("c0: N * T")
    .Input("recurrent_dropout: N * T")
    .Input("reserve: uint8")
    .Input("dy: T")
    .Input("dh_n: N * T")
    .Input("dc_n: N * T")
    .Output("dz: T")
    .Output("h_prev: T")
    .Output("dh0: N * T")
    .Output("dc0: N * T")
    .SetShapeFn(BackwardShapes);

#define LSTM_FAST_REGISTER(T)                                                                    \
  REGISTER_KERNEL_BUILDER(Name(kForward).Device(kDevice).TypeConstraint<T>("T"), ForwardKernel); \
  REGISTER_KERNEL_BUILDER(Name(kBackward).Device(kDevice).TypeConstraint<T>("T"), BackwardKernel)

LSTM_FAST_REGISTER(float);
LSTM_FAST_REGISTER(double);
LSTM_FAST_REGISTER(Eigen::half);
LSTM_FAST_REGISTER(tf::bfloat16);

#undef LSTM_FAST_REGISTER

}  // namespace
}  // namespace lstm_fast
