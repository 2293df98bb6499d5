// A child of fork() computes, whatever its parent's threads were doing.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

// Exits with 0 if the child gets the same bits; SIGALRM ends one that hangs.
[[noreturn]] void ComputeInChild(const Case& problem, const Outputs& expected) {
  alarm(30);
  try {
    Outputs again(problem);
    again.Run(problem);
    again.ExpectSameBits(expected, "in the child");
  } catch (const std::exception&) {
    _exit(1);
  }
  _exit(0);
}

void ExpectOfChild(pid_t child, const std::string& when) {
  Expect(child > 0, when + ": fork failed");
  int status = 0;
  Expect(waitpid(child, &status, 0) == child, when + ": no such child");
  Expect(!WIFSIGNALED(status) || WTERMSIG(status) != SIGALRM, when + ": the child hangs");
  Expect(!WIFSIGNALED(status), when + ": the child crashed");
  Expect(WEXITSTATUS(status) == 0, when + ": the child has other bits");
}

Options Problem(int64_t batch, int64_t units) {
  Options o;
  o.batch = batch;
  o.time = 20;
  o.input = 6;
  o.units = units;
  return o;
}

LSTM_FAST_TEST(fork_when_nothing_runs) {
  if (kUnderTsan) throw Skipped("ThreadSanitizer ends a process that forks and then starts threads");
  const Settings settings;
  SetThreadCount(3);
  const Case problem(Problem(64, 40));
  Outputs expected(problem);
  expected.Run(problem);
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    if (child == 0) ComputeInChild(problem, expected);
    ExpectOfChild(child, "fork " + std::to_string(i));
    Outputs again(problem);
    again.Run(problem);
    again.ExpectSameBits(expected, "in the parent");
  }
}

// One thread runs passes one after the other; the library's locks are then held much of the time.
void ForkWhileAnotherThreadComputes(const Options& busy_with, int forks) {
  if (kUnderTsan) throw Skipped("ThreadSanitizer ends a process that forks and then starts threads");
  if (kUnderAsan) throw Skipped("AddressSanitizer's own locks are not taken at fork: a child may hang in malloc");
  const Settings settings;
  SetThreadCount(2);
  const Case busy(busy_with), problem(Problem(2, 5));
  Outputs expected(problem);
  expected.Run(problem);
  std::atomic<bool> done{false};
  std::thread other([&] {
    Outputs outputs(busy);
    while (!done) outputs.Run(busy);
  });
  std::string error;
  for (int i = 0; i < forks && error.empty(); ++i) {
    const pid_t child = fork();
    if (child == 0) ComputeInChild(problem, expected);
    try {
      ExpectOfChild(child, "fork " + std::to_string(i));
    } catch (const std::exception& failure) {
      error = failure.what();
    }
  }
  done = true;
  other.join();
  Expect(error.empty(), error);
}

LSTM_FAST_TEST(fork_during_tiny_passes) {
  Options tiny = Problem(1, 1);
  tiny.time = 1;
  ForkWhileAnotherThreadComputes(tiny, 400);
}
LSTM_FAST_TEST(fork_during_passes_on_several_threads) { ForkWhileAnotherThreadComputes(Problem(64, 40), 100); }

// A child of a child, each of which has started threads of its own.
LSTM_FAST_TEST(fork_of_a_fork) {
  if (kUnderTsan) throw Skipped("ThreadSanitizer ends a process that forks and then starts threads");
  const Settings settings;
  SetThreadCount(3);
  const Case problem(Problem(64, 40));
  Outputs expected(problem);
  expected.Run(problem);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    Outputs again(problem);
    again.Run(problem);
    const pid_t grandchild = fork();
    if (grandchild == 0) ComputeInChild(problem, expected);
    int status = 0;
    waitpid(grandchild, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
  }
  ExpectOfChild(child, "fork");
}

}  // namespace
}  // namespace lstm_fast::testing
