// The TensorFlow ops LstmFastForward and LstmFastBackward on the CPU, through TensorFlow's C API, whose binary
// interface is stable over releases. An optional argument that is absent is a tensor of shape [0]; where the kernels
// are, x is projected.
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/array.h"
#include "bindings/errors.h"
#include "bindings/operands.h"
#include "bindings/shapes.h"
#include "bindings/tensorflow.h"
#include "bindings/tensorflow_c.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"
#include "lstm_fast/workspace.h"

namespace lstm_fast {
namespace {

struct DeleteStatus {
  void operator()(TF_Status* status) const { TF_DeleteStatus(status); }
};
struct DeleteTensor {
  void operator()(TF_Tensor* tensor) const { TF_DeleteTensor(tensor); }
};
struct DeleteShapeHandle {
  void operator()(TF_ShapeHandle* shape) const { TF_DeleteShapeHandle(shape); }
};
using Status = std::unique_ptr<TF_Status, DeleteStatus>;
using Tensor = std::unique_ptr<TF_Tensor, DeleteTensor>;
using ShapeHandle = std::unique_ptr<TF_ShapeHandle, DeleteShapeHandle>;

void ThrowIfError(const Status& status) {
  const TF_Code code = TF_GetCode(status.get());
  if (code != TF_OK) throw FrameworkError(static_cast<ErrorCode>(code), TF_Message(status.get()));
}

// Runs body, and calls report(status) for what it throws.
template <class Body, class Report>
void GuardWithStatus(const Body& body, const Report& report) {
  Guard(body, [&](ErrorCode code, const char* message) {
    const Status status(TF_NewStatus());
    TF_SetStatus(status.get(), static_cast<TF_Code>(code), message);
    report(status.get());
  });
}

// The attributes of a node.
struct Attributes {
  TF_DataType type;
  DType dtype;
  int directions;
  bool go_backwards, return_sequences, zero_output_for_mask;
  int64_t reserve_mode;
};

void* Create(TF_OpKernelConstruction* context) {
  std::unique_ptr<Attributes> attributes;
  bool failed = false;
  GuardWithStatus(
      [&] {
        attributes = std::make_unique<Attributes>();
        const Status status(TF_NewStatus());
        const auto get_bool = [&](const char* name) {
          unsigned char value = 0;
          TF_OpKernelConstruction_GetAttrBool(context, name, &value, status.get());
          ThrowIfError(status);
          return value != 0;
        };
        const auto get_int = [&](const char* name) {
          int64_t value = 0;
          TF_OpKernelConstruction_GetAttrInt64(context, name, &value, status.get());
          ThrowIfError(status);
          return value;
        };
        TF_OpKernelConstruction_GetAttrType(context, "T", &attributes->type, status.get());
        ThrowIfError(status);
        attributes->dtype = DTypeOf(static_cast<ElementType>(attributes->type));
        attributes->directions = CheckDirections(get_int("N"));
        attributes->go_backwards = get_bool("go_backwards");
        attributes->return_sequences = get_bool("return_sequences");
        attributes->zero_output_for_mask = get_bool("zero_output_for_mask");
        attributes->reserve_mode = get_int("reserve_mode");
      },
      [&](TF_Status* status) {
        failed = true;
        TF_OpKernelConstruction_Failure(context, status);
      });
  return failed ? nullptr : attributes.release();
}

void Destroy(void* attributes) { delete static_cast<Attributes*>(attributes); }

// Inputs are read in order; the tensors are kept until the call ends.
class InputReader {
 public:
  explicit InputReader(TF_OpKernelContext* context) : context_(context), status_(TF_NewStatus()) {}

  Array Next() {
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context_, static_cast<int>(tensors_.size()), &tensor, status_.get());
    ThrowIfError(status_);
    tensors_.push_back(Tensor(tensor));  // owned before the vector has to grow
    return MakeArray(TF_TensorData(tensor), TF_NumDims(tensor), [tensor](int axis) { return TF_Dim(tensor, axis); });
  }

  Array NextOptional() { return AbsentIfEmpty(Next()); }

  std::array<Array, 2> List(int directions, bool optional) {
    return ReadEntries(directions, [&](int) { return optional ? NextOptional() : Next(); });
  }

  Arguments Common(const Attributes& attributes) {
    Arguments a{};
    a.dtype = attributes.dtype;
    a.directions = attributes.directions;
    a.go_backwards = attributes.go_backwards;
    a.return_sequences = attributes.return_sequences;
    a.zero_output_for_mask = attributes.zero_output_for_mask;
    a.reserve_mode = attributes.reserve_mode;
    a.x = Next();
    a.mask = NextOptional();
    ReadLists(a, kLists, [&](const OperandList<Arguments>& list) { return List(a.directions, list.optional); });
    return a;
  }

 private:
  TF_OpKernelContext* context_;
  Status status_;
  std::vector<Tensor> tensors_;
};

// Outputs are allocated in order. Large ones find the memory of the step before again: TensorFlow's allocator gives it
// back to the system, and touching fresh pages costs up to a fifth of a pass, for the reserve more than the pass
// itself.
class OutputWriter {
 public:
  explicit OutputWriter(TF_OpKernelContext* context) : context_(context), status_(TF_NewStatus()) {}

  void* Next(TF_DataType type, int64_t element_size, const Shape& shape) {
    const int64_t bytes = element_size * shape.elements();
    return bytes < kReusedBytes ? Allocate(type, bytes, shape) : Reuse(type, bytes, shape);
  }

 private:
  static constexpr int64_t kReusedBytes = 256 * 1024;

  void* Allocate(TF_DataType type, int64_t bytes, const Shape& shape) {
    TF_Tensor* tensor = TF_AllocateOutput(context_, static_cast<int>(tensors_.size()), type, shape.begin(),
                                          shape.rank(), static_cast<size_t>(bytes), status_.get());
    ThrowIfError(status_);
    tensors_.push_back(Tensor(tensor));
    return TF_TensorData(tensor);
  }

  void* Reuse(TF_DataType type, int64_t bytes, const Shape& shape) {
    auto workspace = std::make_unique<Workspace>(static_cast<size_t>(bytes));
    void* data = workspace->data<void>();
    const auto release = [](void*, size_t, void* owner) { delete static_cast<Workspace*>(owner); };
    tensors_.push_back(Tensor(TF_NewTensor(type, shape.begin(), shape.rank(), data, static_cast<size_t>(bytes), release,
                                           workspace.release())));
    TF_SetOutput(context_, static_cast<int>(tensors_.size()) - 1, tensors_.back().get(), status_.get());
    ThrowIfError(status_);
    return data;
  }

  TF_OpKernelContext* context_;
  Status status_;
  std::vector<Tensor> tensors_;
};

void ComputeForward(void* kernel, TF_OpKernelContext* context) {
  GuardWithStatus(
      [&] {
        const Attributes& attributes = *static_cast<const Attributes*>(kernel);
        InputReader reader(context);
        const Inputs inputs = Check(reader.Common(attributes));
        const Problem& p = inputs.problem;
        OutputWriter writer(context);
        const auto next = [&](const Shape& shape) {
          return writer.Next(attributes.type, SizeOf(attributes.dtype), shape);
        };
        ForwardOutput output{};
        output.y = next(OutputShape(p));
        for (int n = 0; n < p.directions; ++n) output.h_n[n] = next(StateShape(p));
        for (int n = 0; n < p.directions; ++n) output.c_n[n] = next(StateShape(p));
        output.reserve = writer.Next(TF_UINT8, 1, Shape({ReserveBytes(p, inputs.mask)}, "bytes"));
        Forward(inputs, output, OwnThreads());
      },
      [&](TF_Status* status) { TF_OpKernelContext_Failure(context, status); });
}

void ComputeBackward(void* kernel, TF_OpKernelContext* context) {
  GuardWithStatus(
      [&] {
        const Attributes& attributes = *static_cast<const Attributes*>(kernel);
        InputReader reader(context);
        const Arguments arguments = reader.Common(attributes);
        const Inputs inputs = Check(arguments);
        const Problem& p = inputs.problem;
        GradientArguments gradient;
        gradient.reserve = reader.Next();
        gradient.dy = reader.Next();
        gradient.dh_n = reader.List(p.directions, false);
        gradient.dc_n = reader.List(p.directions, false);
        const BackwardInput backward = Check(inputs, gradient);

        OutputWriter writer(context);
        const auto next = [&](const Shape& shape) {
          return writer.Next(attributes.type, SizeOf(attributes.dtype), shape);
        };
        BackwardOutput output{};
        output.dx = next(InputShape(p));
        // What is absent has no gradient: a tensor of shape [0], like the argument.
        const Shape absent = {{0}, "absent"};
        const auto next_of = [&](void*(&outputs)[2], const std::array<Array, 2>& of, const Shape& shape) {
          for (size_t n = 0; n < static_cast<size_t>(p.directions); ++n) {
            void* data = next(of[n].present ? shape : absent);
            outputs[n] = of[n].present ? data : nullptr;
          }
        };
        next_of(output.dkernel, arguments.kernels, KernelShape(p));
        for (int n = 0; n < p.directions; ++n) output.drecurrent_kernel[n] = next(RecurrentKernelShape(p));
        next_of(output.dbias, arguments.biases, BiasShape(p));
        next_of(output.dh0, arguments.h0, StateShape(p));
        next_of(output.dc0, arguments.c0, StateShape(p));
        Backward(inputs, backward, output, OwnThreads());
      },
      [&](TF_Status* status) { TF_OpKernelContext_Failure(context, status); });
}

// Gives each listed output the shape of an input, or an unknown one for -1. TensorFlow's C API cannot compute
// dimensions; the Python side sets the static shapes that need it.
void SetOutputShapes(TF_ShapeInferenceContext* context, const std::vector<int>& input_of_output, TF_Status* status) {
  const ShapeHandle shape(TF_NewShapeHandle());
  TF_ShapeInferenceContextGetInput(context, 0, shape.get(), status);
  if (TF_GetCode(status) != TF_OK) return;
  TF_ShapeInferenceContextWithRank(context, shape.get(), 3, shape.get(), status);
  if (TF_GetCode(status) != TF_OK) return;
  TF_ShapeInferenceContextSetUnknownShape(context, status);
  for (size_t i = 0; i < input_of_output.size() && TF_GetCode(status) == TF_OK; ++i) {
    if (input_of_output[i] < 0) continue;
    TF_ShapeInferenceContextGetInput(context, input_of_output[i], shape.get(), status);
    if (TF_GetCode(status) != TF_OK) return;
    TF_ShapeInferenceContextSetOutput(context, static_cast<int>(i), shape.get(), status);
  }
}

// Inputs are x, mask and the lists of N; the backward op has reserve, dy and two lists of N more.
void ForwardShapes(TF_ShapeInferenceContext* context, TF_Status* status) { SetOutputShapes(context, {}, status); }

void BackwardShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  const int64_t lists = static_cast<int64_t>(std::size(kLists)) + 2;
  const int directions = static_cast<int>((TF_ShapeInferenceContextNumInputs(context) - 4) / lists);
  std::vector<int> input_of_output = {0};  // dx has the shape of x
  int input = 2;
  for (const OperandList<Arguments>& list : kLists) {
    for (int n = 0; n < directions; ++n, ++input) {
      if (list.has_gradient) input_of_output.push_back(input);
    }
  }
  SetOutputShapes(context, input_of_output, status);
}

void RegisterOp(const char* name, const std::vector<const char*>& inputs, const std::vector<const char*>& outputs,
                void (*shapes)(TF_ShapeInferenceContext*, TF_Status*), void (*compute)(void*, TF_OpKernelContext*)) {
  TF_OpDefinitionBuilder* op = TF_NewOpDefinitionBuilder(name);
  for (const char* attribute : {"T: {float, double, half, bfloat16}", "N: int >= 1", "go_backwards: bool",
                                "return_sequences: bool", "zero_output_for_mask: bool", "reserve_mode: int"}) {
    TF_OpDefinitionBuilderAddAttr(op, attribute);
  }
  TF_OpDefinitionBuilderAddInput(op, "x: T");
  TF_OpDefinitionBuilderAddInput(op, "mask: bool");
  for (const OperandList<Arguments>& list : kLists) {
    TF_OpDefinitionBuilderAddInput(op, (std::string(list.name) + ": N * T").c_str());
  }
  for (const char* input : inputs) TF_OpDefinitionBuilderAddInput(op, input);
  for (const char* output : outputs) TF_OpDefinitionBuilderAddOutput(op, output);
  TF_OpDefinitionBuilderSetShapeInferenceFunction(op, shapes);
  const Status status(TF_NewStatus());
  TF_RegisterOpDefinition(op, status.get());
  ThrowIfError(status);
  for (const ElementType type :
       {ElementType::kFloat, ElementType::kDouble, ElementType::kHalf, ElementType::kBFloat16}) {
    TF_KernelBuilder* kernel = TF_NewKernelBuilder(name, "CPU", &Create, compute, &Destroy);
    TF_KernelBuilder_TypeConstraint(kernel, "T", static_cast<TF_DataType>(type), status.get());
    ThrowIfError(status);
    TF_RegisterKernelBuilder(name, kernel, status.get());
    ThrowIfError(status);
  }
}

// Ops can only be registered while the library is being loaded. A failure leaves the ops out, which the Python side
// notices; an exception must not leave a static initialiser.
[[maybe_unused]] const bool registered = [] {
  bool complete = true;
  GuardWithStatus(
      [] {
        RegisterOp("LstmFastForward", {}, {"y: T", "h_n: N * T", "c_n: N * T", "reserve: uint8"}, &ForwardShapes,
                   &ComputeForward);
        RegisterOp(
            "LstmFastBackward", {"reserve: uint8", "dy: T", "dh_n: N * T", "dc_n: N * T"},
            {"dx: T", "dkernels: N * T", "drecurrent_kernels: N * T", "dbiases: N * T", "dh0: N * T", "dc0: N * T"},
            &BackwardShapes, &ComputeBackward);
      },
      [&](TF_Status* status) {
        complete = false;
        std::fprintf(stderr, "lstm_fast: TensorFlow refused the ops: %s\n", TF_Message(status));
      });
  return complete;
}();

}  // namespace
}  // namespace lstm_fast
