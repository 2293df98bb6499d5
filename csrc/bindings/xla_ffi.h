// The part of XLA's foreign function interface (FFI) that the handlers use, declared here because neither jaxlib nor
// TensorFlow is needed at build time. It is version 0.1 of the interface, which jaxlib 0.5 and later and
// TensorFlow 2.18 and later all accept: a runtime refuses a handler whose minor version is above its own, and takes
// older ones. Structs begin with their own size, and grow at the end: a runtime hands out more than is declared here,
// but may refuse, or write beyond, what is smaller than its own. So what we hand out has what version 0.5 has, and
// reads as well by older ones. tests/test_xla.py compares everything below with the header that jaxlib brings.
#ifndef LSTM_FAST_BINDINGS_XLA_FFI_H_
#define LSTM_FAST_BINDINGS_XLA_FFI_H_

#include <cstddef>
#include <cstdint>

#include "bindings/errors.h"

namespace lstm_fast::xla {

constexpr int32_t kMajor = 0, kMinor = 1;

struct Error;    // owned by who receives it
struct Context;  // of one execution

using Code = ErrorCode;
enum class Type : uint32_t {
  kBool = 1,
  kInt64 = 5,
  kUint8 = 6,
  kFloat16 = 10,
  kFloat32 = 11,
  kFloat64 = 12,
  kBFloat16 = 16
};
enum class Stage : uint32_t {};                       // handlers here are registered for execution only
enum class Kind : uint32_t { kBuffer = 1 };           // of an argument and of a result
enum class AttributeKind : uint32_t { kScalar = 3 };  // others are not read
enum class ExtensionType : uint32_t { kMetadata = 1 };

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};

struct Version {
  size_t struct_size;
  Extension* extensions;
  int32_t major, minor;
};

// What a handler is asked for when it is registered, by a call that is not to do anything else.
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

struct Bytes {
  const char* data;
  size_t size;
};

struct Buffer {  // dense, row-major
  size_t struct_size;
  Extension* extensions;
  Type type;
  void* data;
  int64_t rank;
  int64_t* shape;
};

struct Buffers {  // arguments or results
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  Kind* kinds;
  void** values;  // Buffer*
};

struct Scalar {
  Type type;
  void* value;
};

struct Attributes {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  AttributeKind* kinds;
  Bytes** names;
  void** values;  // Scalar*
};

struct CreateError {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  Code code;
};
constexpr size_t kCreateErrorSize = offsetof(CreateError, code) + sizeof(Code);  // without padding

struct GetDetails {
  size_t struct_size;
  Extension* extensions;
  Error* error;
  const char* message;  // out
  Code code;            // out, from 0.5 on
};
constexpr size_t kGetDetailsSize = offsetof(GetDetails, code) + sizeof(Code);  // without padding

struct DestroyError {
  size_t struct_size;
  Extension* extensions;
  Error* error;
};

struct CallFrame;
using Handler = Error*(CallFrame*);

struct Register {
  size_t struct_size;
  Extension* extensions;
  Bytes name, platform;
  Handler *instantiate, *prepare, *initialize, *execute;  // all but the last may be null
  Handler* record;                                        // null; before 0.5, the traits are here: none
  uint32_t traits;
};
constexpr size_t kRegisterSize = offsetof(Register, traits) + sizeof(uint32_t);  // without padding

struct StreamGet {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  void* stream;  // out
};

struct Schedule {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  void (*task)(void*);
  void* data;
};

struct NumThreads {
  size_t struct_size;
  Extension* extensions;
  Context* context;
  int64_t* count;  // out
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(CreateError*);
  void (*get_details)(GetDetails*);
  void (*destroy_error)(DestroyError*);
  Error* (*register_handler)(Register*);
  Error* (*stream_get)(StreamGet*);
  void (*unused[6])();
  Error* (*schedule)(Schedule*);
  Error* (*num_threads)(NumThreads*);
};

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;
  Context* context;
  Stage stage;
  Buffers arguments, results;
  Attributes attributes;
};

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_FFI_H_
