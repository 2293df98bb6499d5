// native_tests [--list] [FILTER...]: runs the tests whose names contain one of the filters, or all. The last line says
// how many passed and failed. native_tests --table NAME prints a table instead.
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "check.h"

namespace lstm_fast::testing {

std::vector<Test>& Tests() {
  static std::vector<Test> tests;
  return tests;
}

std::vector<Table>& Table::Tables() {
  static std::vector<Table> tables;
  return tables;
}

namespace {

constexpr const char* kAlone = "--alone";  // followed by the name of a test: runs it in this process
constexpr unsigned kMostSeconds = 900;     // of one test, on a busy machine: a test that hangs must fail
constexpr int kSkippedStatus = 77;

enum class Outcome { kPassed, kFailed, kSkipped };

Outcome RunHere(const Test& test) {
  alarm(kMostSeconds);
  try {
    test.run();
  } catch (const Skipped& skipped) {
    std::printf("%s: skipped: %s\n", test.name, skipped.what());
    return Outcome::kSkipped;
  } catch (const std::exception& error) {
    std::printf("%s: FAILED: %s\n", test.name, error.what());
    return Outcome::kFailed;
  }
  alarm(0);
  std::printf("%s: passed\n", test.name);
  return Outcome::kPassed;
}

// In a fresh process, so that a crash or a test that hangs is a failure of this test alone.
Outcome RunInChild(const Test& test) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "native_tests", kAlone, test.name, static_cast<char*>(nullptr));
    std::perror("/proc/self/exe");
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return Outcome::kPassed;
  if (WIFEXITED(status) && WEXITSTATUS(status) == kSkippedStatus) return Outcome::kSkipped;
  if (WIFSIGNALED(status)) {
    std::printf("%s: FAILED: %s\n", test.name, WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)));
  }
  return Outcome::kFailed;
}

int Main(const std::vector<std::string>& arguments) {
  for (const Table& table : Table::Tables()) {
    if (arguments != std::vector<std::string>{"--table", table.name}) continue;
    table.print();
    return 0;
  }
  int passed = 0, failed = 0, skipped = 0;
  for (const Test& test : Tests()) {
    if (arguments.size() == 2 && arguments[0] == kAlone) {
      if (arguments[1] != test.name) continue;
      const Outcome outcome = RunHere(test);
      return outcome == Outcome::kPassed ? 0 : outcome == Outcome::kSkipped ? kSkippedStatus : 1;
    }
    if (arguments.size() == 1 && arguments[0] == "--list") {
      std::printf("%s\n", test.name);
      continue;
    }
    bool wanted = arguments.empty();
    for (const std::string& filter : arguments) wanted |= std::strstr(test.name, filter.c_str()) != nullptr;
    if (!wanted) continue;
    const Outcome outcome = RunInChild(test);
    ++(outcome == Outcome::kPassed ? passed : outcome == Outcome::kFailed ? failed : skipped);
  }
  if (arguments == std::vector<std::string>{"--list"}) return 0;
  if (passed + failed + skipped == 0) {
    std::fprintf(stderr, "no test has such a name; native_tests --list shows them all\n");
    return 2;
  }
  if (skipped) std::printf("%d skipped, for the reasons above\n", skipped);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace lstm_fast::testing

int main(int count, char** arguments) { return lstm_fast::testing::Main({arguments + 1, arguments + count}); }
