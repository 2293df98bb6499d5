#include "cpu/environment.h"

#include <cerrno>
#include <cstdlib>
#include <stdexcept>

namespace lstm_fast {

std::optional<std::string> Variable(const char* name) {
  const char* text = std::getenv(name);
  if (!text || !*text) return std::nullopt;
  return text;
}

std::optional<int64_t> IntegerVariable(const char* name, int64_t least, int64_t most) {
  const std::optional<std::string> text = Variable(name);
  if (!text) return std::nullopt;
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(text->c_str(), &end, 10);
  if (*end != '\0' || errno != 0 || number < least || number > most) {
    throw std::invalid_argument(std::string(name) + ": expected an integer from " + std::to_string(least) + " to " +
                                std::to_string(most) + "; found '" + *text + "'");
  }
  return number;
}

}  // namespace lstm_fast
