// As much of a test framework as is needed here: tests by name, and checks that say what they found.
#ifndef LSTM_FAST_TESTS_NATIVE_TEST_H_
#define LSTM_FAST_TESTS_NATIVE_TEST_H_

#include <stdexcept>
#include <string>
#include <vector>

namespace lstm_fast::test {

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

struct Registration {
  Registration(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

inline void Check(bool holds, const std::string& what) {
  if (!holds) throw Failure(what);
}

}  // namespace lstm_fast::test

// Defines a test.
#define TEST(name)                                               \
  static void name();                                            \
  static const Registration registration_of_##name(#name, name); \
  static void name()

// Whether a sanitizer is compiled in, for what one of them cannot do.
#if defined(__SANITIZE_THREAD__)
#define LSTM_FAST_TSAN 1
#else
#define LSTM_FAST_TSAN 0
#endif

#endif  // LSTM_FAST_TESTS_NATIVE_TEST_H_
