// What frameworks are told of what went wrong: no exception may pass through them.
#ifndef LSTM_FAST_BINDINGS_ERRORS_H_
#define LSTM_FAST_BINDINGS_ERRORS_H_

#include <cstdint>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace lstm_fast {

// Both APIs of TensorFlow and XLA's have these numbers for these errors.
enum class ErrorCode : uint32_t { kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13 };

// An error that a framework itself reported, with its code: perhaps one that is not listed above.
struct FrameworkError : std::runtime_error {
  FrameworkError(ErrorCode reported, const std::string& message) : std::runtime_error(message), code(reported) {}
  ErrorCode code;
};

// Runs body, and calls report(code, message) for what it throws.
template <class Body, class Report>
void Guard(const Body& body, const Report& report) {
  try {
    body();
  } catch (const FrameworkError& error) {
    report(error.code, error.what());
  } catch (const std::invalid_argument& error) {
    report(ErrorCode::kInvalidArgument, error.what());
  } catch (const std::bad_alloc&) {
    report(ErrorCode::kResourceExhausted, "lstm_fast: out of memory");
  } catch (const std::exception& error) {
    report(ErrorCode::kInternal, error.what());
  }
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_ERRORS_H_
