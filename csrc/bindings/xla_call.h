// What handlers of XLA's foreign function interface have in common: reading a call's operands, results and attributes,
// errors, registration.
#ifndef LSTM_FAST_BINDINGS_XLA_CALL_H_
#define LSTM_FAST_BINDINGS_XLA_CALL_H_

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "bindings/array.h"
#include "bindings/xla_ffi.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::xla {

constexpr char kReserveLetters[] = "batch, directions, steps, bytes of a step";

// The dtype of the operand that decides that of the call, whose name the message gives.
DType DTypeOf(const Buffer& buffer, const char* name);

Array ArrayOf(const Buffer& buffer);

int64_t Attribute(const Attributes& attributes, std::string_view name);

// Arguments, or results, in their order.
class Reader {
 public:
  Reader(const Buffers& buffers, const char* what) : buffers_(buffers), what_(what) {}

  const Buffer& Peek() const;
  Array Next(const Name& name, Type type);
  Array NextOptional(const Name& name, Type type);  // shape [0]: absent
  // The data of the next one, which has that shape; null where it is optional and absent.
  void* NextData(const Name& name, Type type, const Shape& shape, bool optional);
  std::array<Array, 2> NextList(const char* name, Type type, int directions, bool optional);

 private:
  const Buffers& buffers_;
  const char* what_;
  int64_t next_ = 0;
};

// Runs a handler's body and turns what it throws into an error. Where the call only asks about the handler, answers
// that instead.
Error* RunHandler(CallFrame* frame, void (*body)(const CallFrame&));

// The stream of a call on a device. Throws std::runtime_error with the reason if there is none.
void* StreamOf(const CallFrame& frame);

struct NamedHandler {
  const char* name;
  Handler* handler;
};

// Registers handlers with the runtime whose interface this is. Throws std::runtime_error with the reason if it refuses.
void RegisterHandlers(const Api* api, std::string_view platform, const std::vector<NamedHandler>& handlers);

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_CALL_H_
