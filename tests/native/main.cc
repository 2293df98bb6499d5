// Runs the native tests: all, or those whose name contains the argument.
#include <cstdio>
#include <cstring>
#include <exception>

#include "test.h"

int main(int count, char** arguments) {
  using lstm_fast::test::Tests;
  const char* filter = count > 1 ? arguments[1] : "";
  int passed = 0, failed = 0;
  for (const auto& test : Tests()) {
    if (!std::strstr(test.name, filter)) continue;
    std::printf("%s ", test.name);
    std::fflush(stdout);
    try {
      test.run();
      ++passed;
      std::puts("passed");
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED: %s\n", error.what());
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed > 0 || passed == 0;
}
