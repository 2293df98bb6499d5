// Tests register themselves by name; a failed expectation is an exception that says what was found. And what the build
// is instrumented with.
#ifndef LSTM_FAST_TESTS_NATIVE_CHECK_H_
#define LSTM_FAST_TESTS_NATIVE_CHECK_H_

#include <stdexcept>
#include <string>
#include <vector>

namespace lstm_fast::testing {

#if defined(__SANITIZE_ADDRESS__)
#define LSTM_FAST_UNDER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LSTM_FAST_UNDER_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define LSTM_FAST_UNDER_TSAN 1
#endif

#if defined(LSTM_FAST_UNDER_ASAN)
constexpr bool kUnderAsan = true;
#else
constexpr bool kUnderAsan = false;
#endif
#if defined(LSTM_FAST_UNDER_TSAN)
constexpr bool kUnderTsan = true;
#else
constexpr bool kUnderTsan = false;
#endif

// Thrown by a test that cannot run here; the reason is printed.
struct Skipped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] inline void Fail(const std::string& what) { throw std::runtime_error(what); }

inline void Expect(bool condition, const std::string& what) {
  if (!condition) Fail(what);
}

// Each runs in a process of its own, and minds nothing that another left behind.
struct Test {
  const char* name;
  void (*run)();
};

std::vector<Test>& Tests();

struct Registered {
  Registered(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

// What native_tests --table NAME prints.
struct Table {
  Table(const char* table_name, void (*print_table)()) : name(table_name), print(print_table) {
    Tables().push_back(*this);
  }
  static std::vector<Table>& Tables();
  const char* name;
  void (*print)();
};

#define LSTM_FAST_TEST(name)                                                     \
  void Test_##name();                                                            \
  const ::lstm_fast::testing::Registered registered_##name(#name, &Test_##name); \
  void Test_##name()

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_CHECK_H_
