// Variables of the environment that users set.
#ifndef LSTM_FAST_CPU_ENVIRONMENT_H_
#define LSTM_FAST_CPU_ENVIRONMENT_H_

#include <cstdint>
#include <optional>
#include <string>

namespace lstm_fast {

// The value of a variable; nothing where it is not set or empty.
std::optional<std::string> Variable(const char* name);

// The same of a whole number. Throws std::invalid_argument where it is none, or not from `least` to `most`.
std::optional<int64_t> IntegerVariable(const char* name, int64_t least, int64_t most);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_ENVIRONMENT_H_
