// What the library does to the process that it is in: fork, callers, memory that runs out, processors, kept buffers.
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <system_error>
#include <thread>

#include "allocations.h"
#include "lstm_fast/isa.h"
#include "lstm_fast/parallel.h"
#include "lstm_fast/workspace.h"
#include "run.h"
#include "test.h"

namespace lstm_fast::test {
namespace {

// A problem of a given shape, both passes of which use several threads if they may.
Case Shaped(int64_t batch, int64_t time, int64_t units) {
  Bytes bytes({0, 2, 0});
  Case c = MakeCase(bytes, {0, 0, 0, 1});
  c.isa = AvailableIsas().back();
  c.threads = 3;
  Problem& p = c.problem;
  p.batch = batch;
  p.time = time;
  p.input = p.units = units;
  p.directions = 1;
  p.projected = p.go_backwards = p.reserve_by_row = c.mask.size() > 0;
  p.return_sequences = true;
  p.reserve = Reserve::kGates;
  const auto filled = [](int64_t count, double value) { return Values(static_cast<size_t>(count), value); };
  c.x = filled(batch * time * units, 0.5);
  c.direction[0] = {};
  c.direction[0].kernel = c.direction[0].recurrent_kernel = filled(units * 4 * units, 1.0 / 64);
  c.dy = filled(batch * time * units, 0.25);
  return c;
}

TEST(a_child_computes_that_was_forked_while_others_compute) {
#if LSTM_FAST_TSAN
  return;  // ThreadSanitizer does not follow threads into a child
#endif
  const Case tiny = Shaped(1, 3, 8), large = Shaped(64, 20, 64);
  const Outputs expected = Run(large);
  std::atomic<bool> stop{false};
  std::vector<std::thread> callers;
  for (const Case* c : {&tiny, &tiny, &large}) {
    callers.emplace_back([&stop, c] {
      while (!stop) Run(*c);
    });
  }
  int bad = 0;
  for (int i = 0; i < 400 && bad == 0; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);  // what ends a child that hangs
      _exit(Run(large) == expected ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    bad += status != 0;
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  Check(bad == 0, "a child hung or computed something else");
}

TEST(callers_at_the_same_time) {
  std::vector<Case> cases;
  std::vector<Outputs> alone;
  for (int64_t n = 0; n < 6; ++n) cases.push_back(Shaped(5 + 11 * n, 20, 16 + 9 * n));
  for (const Case& c : cases) alone.push_back(Run(c));
  std::atomic<int> bad{0};
  std::vector<std::thread> callers;
  for (size_t n = 0; n < cases.size(); ++n) {
    callers.emplace_back([&, n] {
      for (int i = 0; i < 10; ++i) bad += !(Run(cases[n]) == alone[n]);
    });
  }
  for (std::thread& caller : callers) caller.join();
  Check(bad == 0, "other bits beside other callers");
}

// Each allocation of both passes fails once, alone, and with all after it.
TEST(memory_that_runs_out_leaves_the_library_as_it_was) {
  for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
    Case c = Shaped(40, 20, 64);
    c.problem.reserve = reserve;
    c.threads = 4;
    const Outputs expected = Run(c);
    for (const bool for_good : {false, true}) {
      int64_t failed = 0;
      for (int64_t nth = 1;; ++nth) {
        Trim();  // so that nothing is found among kept buffers
        bool completed = false;
        try {
          const FailingAllocation failing(nth, for_good);
          Run(c);
          completed = failing.count() < nth;
        } catch (const std::bad_alloc&) {
          ++failed;
        }
        Check(Run(c) == expected, "other bits after allocation " + std::to_string(nth) + " failed");
        if (completed) break;
      }
      Check(failed > 10, "hardly anything failed");
    }
  }
}

// A pool that has no helpers yet, in a process of its own, when no thread can be made.
TEST(without_threads_the_caller_computes_alone) {
#if LSTM_FAST_TSAN
  return;  // ThreadSanitizer ends the process where a thread cannot be made
#endif
  const Case c = Shaped(64, 20, 64);
  const Outputs expected = Run(c);
  const pid_t child = fork();  // whose pool starts over
  if (child == 0) {
    alarm(20);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, size_t{1} << 47);  // more than there are addresses
    if (pthread_setattr_default_np(&attributes) != 0) _exit(2);
    bool none = false;
    try {
      std::thread([] {}).join();
    } catch (const std::system_error&) {
      none = true;
    }
    if (!none) _exit(3);
    _exit(Run(c) == expected ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  Check(status == 0, "status " + std::to_string(WEXITSTATUS(status)));
}

TEST(helpers_of_a_bound_thread_are_not_bound) {
#if LSTM_FAST_TSAN
  return;  // it forks, as above
#endif
  cpu_set_t all;
  sched_getaffinity(0, sizeof all, &all);
  const Case c = Shaped(64, 20, 64);
  const pid_t child = fork();  // whose pool has no helpers yet
  if (child == 0) {
    alarm(20);
    int first = 0;
    while (!CPU_ISSET(first, &all)) ++first;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) _exit(2);
    SetThreadCount(3);
    struct Seen {
      cpu_set_t* all;
      std::atomic<int> helpers{0}, as_all{0};
    } seen{&all};
    const pthread_t caller = pthread_self();
    OwnThreads().Together(3, [&](int, int) {
      if (pthread_equal(caller, pthread_self())) return;
      cpu_set_t own;
      sched_getaffinity(0, sizeof own, &own);
      ++seen.helpers;
      seen.as_all += CPU_EQUAL(&own, seen.all);
    });
    _exit(seen.helpers == seen.as_all ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  Check(status == 0, "status " + std::to_string(WEXITSTATUS(status)));
}

TEST(kept_buffers_are_bounded_and_given_back) {
  Trim();
  Check(KeptBytes() == 0, "something is kept after Trim()");
  constexpr int64_t kMebibyte = 1 << 20;
  {
    const Workspace large(32 * kMebibyte);
  }
  const int64_t kept = KeptBytes();
  Check(kept >= 32 * kMebibyte, "a buffer was not kept");
  {
    const Workspace small(9 * kMebibyte);
    Check(KeptBytes() == kept, "a request took a buffer of more than twice its size");
    const Workspace again(30 * kMebibyte);
    Check(KeptBytes() == 0, "a request did not take the buffer that fits");
  }
  const int64_t both = KeptBytes();
  Check(Trim() == both, "Trim() gave back something else");
  {
    const Workspace huge(static_cast<size_t>(KeptBytesLimit()) + kMebibyte);
  }
  Check(KeptBytes() == 0, "a buffer beyond the limit was kept");
  for (int i = 0; i < 200; ++i) {
    const Workspace a(static_cast<size_t>(1 + i % 7) * kMebibyte), b(4096 + 64 * static_cast<size_t>(i));
  }
  Check(KeptBytes() <= KeptBytesLimit(), "more is kept than the limit");
  Trim();
}

}  // namespace
}  // namespace lstm_fast::test
