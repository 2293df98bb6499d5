#include "bindings/xla_call.h"

#include <stdexcept>
#include <string>

#include "bindings/errors.h"
#include "bindings/operands.h"

namespace lstm_fast::xla {
namespace {

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

void ThrowIf(const Api* api, Error* error) {
  if (!error) return;
  GetDetails get = {kGetDetailsSize, nullptr, error, "XLA gives no reason", {}};
  api->get_details(&get);
  const std::string message = get.message;
  DestroyError destroy = {sizeof destroy, nullptr, error};
  api->destroy_error(&destroy);
  throw std::runtime_error(message);
}

}  // namespace

DType DTypeOf(const Buffer& buffer, const char* name) {
  switch (buffer.type) {
    case Type::kFloat32:
      return DType::kFloat32;
    case Type::kFloat64:
      return DType::kFloat64;
    case Type::kFloat16:
      return DType::kFloat16;
    case Type::kBFloat16:
      return DType::kBFloat16;
    default:
      Refuse(name, "dtype float32, float64, float16 or bfloat16",
             "XLA's type " + std::to_string(static_cast<uint32_t>(buffer.type)));
  }
}

Array ArrayOf(const Buffer& buffer) {
  return MakeArray(buffer.data, static_cast<int>(buffer.rank), [&](int axis) { return buffer.shape[axis]; });
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
  Refuse(std::string(name), "an int64 attribute", found);
}

const Buffer& Reader::Peek() const {
  if (next_ >= buffers_.size) {
    throw std::invalid_argument(std::string(what_) + ": expected more than " + std::to_string(buffers_.size));
  }
  if (buffers_.kinds[next_] != Kind::kBuffer) Refuse(what_, "arrays only", "something else");
  return *static_cast<const Buffer*>(buffers_.values[next_]);
}

Array Reader::Next(const Name& name, Type type) {
  const Buffer& buffer = Peek();
  ++next_;
  if (buffer.type != type) {
    Refuse(name, "XLA's type " + std::to_string(static_cast<uint32_t>(type)),
           std::to_string(static_cast<uint32_t>(buffer.type)));
  }
  return ArrayOf(buffer);
}

Array Reader::NextOptional(const Name& name, Type type) { return AbsentIfEmpty(Next(name, type)); }

void* Reader::NextData(const Name& name, Type type, const Shape& shape, bool optional) {
  return CheckShape(optional ? NextOptional(name, type) : Next(name, type), name, shape, optional);
}

std::array<Array, 2> Reader::NextList(const char* name, Type type, int directions, bool optional) {
  return ReadEntries(directions,
                     [&](int n) { return optional ? NextOptional(Name(name, n), type) : Next(Name(name, n), type); });
}

Error* RunHandler(CallFrame* frame, void (*body)(const CallFrame&)) {
  if (Describe(*frame)) return nullptr;
  Error* failure = nullptr;
  Guard([&] { body(*frame); },
        [&](Code code, const char* message) {
          CreateError arguments = {kCreateErrorSize, nullptr, message, code};
          failure = frame->api->create_error(&arguments);
        });
  return failure;
}

void* StreamOf(const CallFrame& frame) {
  StreamGet get = {sizeof get, nullptr, frame.context, nullptr};
  ThrowIf(frame.api, frame.api->stream_get(&get));
  return get.stream;
}

void RegisterHandlers(const Api* api, std::string_view platform, const std::vector<NamedHandler>& handlers) {
  for (const auto& [name, handler] : handlers) {
    const std::string_view view = name;
    Register arguments{};
    arguments.struct_size = kRegisterSize;
    arguments.name = {view.data(), view.size()};
    arguments.platform = {platform.data(), platform.size()};
    arguments.execute = handler;
    ThrowIf(api, api->register_handler(&arguments));
  }
}

}  // namespace lstm_fast::xla
