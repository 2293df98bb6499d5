// The package's own threads: what Parallel promises, and which processors they run on.
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "cpu/processors.h"
#include "lstm_fast/parallel.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

cpu_set_t ProcessorsOfThisThread() {
  cpu_set_t set;
  CPU_ZERO(&set);
  Expect(sched_getaffinity(0, sizeof set, &set) == 0, "sched_getaffinity failed");
  return set;
}

// Binds the calling thread to the first of its processors.
void BindToOne() {
  const cpu_set_t all = ProcessorsOfThisThread();
  int first = 0;
  while (!CPU_ISSET(first, &all)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  Expect(sched_setaffinity(0, sizeof one, &one) == 0, "sched_setaffinity failed");
}

void NeedTwoProcessors() {
  const cpu_set_t all = ProcessorsOfThisThread();
  if (CPU_COUNT(&all) < 2) throw Skipped("needs two processors");
}

LSTM_FAST_TEST(every_task_runs_once) {
  const Settings settings;
  for (const int threads : {1, 2, 5}) {
    SetThreadCount(threads);
    for (const int64_t count : {0, 1, 2, 3, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      OwnThreads().For(count, [&](int64_t index) { ++runs.at(static_cast<size_t>(index)); });
      for (const auto& run : runs) Expect(run == 1, "a task ran " + std::to_string(run) + " times");
    }
  }
}

LSTM_FAST_TEST(members_of_a_team_run_at_the_same_time) {
  const Settings settings;
  SetThreadCount(4);
  for (int round = 0; round < 200; ++round) {
    std::mutex mutex;
    std::set<int> ranks;
    std::set<std::thread::id> threads;
    std::atomic<int> arrived{0}, sizes{0}, members{0};
    OwnThreads().Together(3, std::chrono::milliseconds(1), [&](int rank, int size) {
      {
        const std::lock_guard<std::mutex> lock(mutex);
        ranks.insert(rank);
        threads.insert(std::this_thread::get_id());
      }
      ++members;
      sizes += size;
      ++arrived;
      while (arrived < size) std::this_thread::yield();  // for ever, unless all of them run
    });
    const auto count = static_cast<size_t>(members.load());
    Expect(count >= 1 && count <= 3, std::to_string(count) + " of 3 members ran");
    Expect(sizes == members * members, "members were told different sizes");
    Expect(ranks.size() == count && *ranks.rbegin() == members - 1, "ranks are not 0, 1, ...");
    Expect(threads.size() == count, "two members share a thread");
  }
}

// The system may wake a helper up on the processor of its caller, which works or waits: then it comes after some ms.
LSTM_FAST_TEST(helpers_come_soon_after_a_pause) {
  NeedTwoProcessors();
  const Settings settings;
  SetThreadCount(2);
  // Other programs may keep it from coming, for a while.
  int most = 0;
  for (int batch = 0; batch < 20 && most < 10; ++batch) {
    int came = 0;
    for (int round = 0; round < 20; ++round) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
      OwnThreads().Together(2, std::chrono::milliseconds(1), [&](int rank, int size) {
        if (rank == 0 && size == 2) ++came;
      });
    }
    most = std::max(most, came);
  }
  Expect(most >= 10, "a helper came within 1 ms in " + std::to_string(most) + " of 20 calls");
}

LSTM_FAST_TEST(a_thread_keeps_away_from_a_processor) {
  NeedTwoProcessors();
  const cpu_set_t all = ProcessorsOfThisThread();
  std::thread([&] {
    int one = 0;
    while (!CPU_ISSET(one, &all)) ++one;
    cpu_set_t others = all;
    CPU_CLR(one, &others);
    RunOnProcessorsBut(one, pthread_self());
    const cpu_set_t without = ProcessorsOfThisThread();
    Expect(CPU_EQUAL(&without, &others), "it may run on another set than all but one");
    Expect(RunsOnProcessorsBut(one, pthread_self()), "it is said to run on others");
    Expect(!RunsOnProcessorsBut(-1, pthread_self()), "it is said to run on all");
    Expect(CurrentProcessor() != one, "it runs on that one");
    RunOnProcessorsBut(-1, pthread_self());
    const cpu_set_t again = ProcessorsOfThisThread();
    Expect(CPU_EQUAL(&again, &all), "it may not run on all again");
  }).join();
}

LSTM_FAST_TEST(a_team_has_no_more_members_than_processors) {
  const Settings settings;
  const int threads = ProcessorCount() + 3;
  SetThreadCount(threads);
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> members{0};
    OwnThreads().Together(threads, std::chrono::milliseconds(1), [&](int, int size) { members = size; });
    Expect(members <= ProcessorCount(), std::to_string(members) + " members");
  }
}

LSTM_FAST_TEST(helpers_take_no_signals) {
  const Settings settings;
  SetThreadCount(2);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> helpers{0}, open{0};
  for (int round = 0; round < 1000 && helpers == 0; ++round) {
    OwnThreads().For(2, [&](int64_t) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (std::this_thread::get_id() == caller) return;
      sigset_t blocked;
      pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
      ++helpers;
      for (const int signal : {SIGINT, SIGTERM, SIGALRM, SIGUSR1, SIGCHLD})
        open += sigismember(&blocked, signal) ? 0 : 1;
      open += sigismember(&blocked, SIGSEGV);
    });
  }
  Expect(helpers > 0, "no helper ever came");
  Expect(open == 0, "a helper takes signals meant for the program, or none of a fault of its own");
}

// Two of `threads` are at work for another caller. Returns how many of as many are together, and for how long they were
// waited for.
std::pair<int, double> BesideAnother(int threads) {
  const Settings settings;
  SetThreadCount(threads);
  std::atomic<int> at_work{0};
  std::atomic<bool> done{false};
  std::thread other([&] {
    OwnThreads().For(2, [&](int64_t) {
      ++at_work;
      while (!done) std::this_thread::yield();
    });
  });
  while (at_work < 2) std::this_thread::yield();
  const auto begin = std::chrono::steady_clock::now();
  std::atomic<int> together{0};
  OwnThreads().Together(threads, std::chrono::seconds(30), [&](int, int size) { together = size; });
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  done = true;
  other.join();
  return {together.load(), time.count()};
}

LSTM_FAST_TEST(nobody_waits_for_helpers_that_work_for_others) {
  for (const int threads : {2, 3, 4}) {
    const auto [together, seconds] = BesideAnother(threads);
    const int expected = std::min(ProcessorCount(), std::max(1, threads - 2));
    Expect(together == expected, std::to_string(together) + " threads of " + std::to_string(expected));
    Expect(seconds < 15, "it waited for " + std::to_string(seconds) + " s");
  }
}

LSTM_FAST_TEST(the_number_of_threads_may_change_while_others_compute) {
  const Settings settings;
  Options o;
  o.batch = 40;
  o.time = 20;
  o.units = 40;
  const Case problem(o);
  Outputs expected(problem);
  expected.Run(problem);
  std::atomic<bool> done{false};
  std::thread changes([&] {
    for (int i = 0; !done; ++i) {
      SetThreadCount(1 + i % 4);
      std::this_thread::yield();
    }
  });
  std::string error;
  try {
    Outputs outputs(problem);
    for (int i = 0; i < 30; ++i) {
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, "while the number of threads changes");
    }
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  done = true;
  changes.join();
  Expect(error.empty(), error);
}

LSTM_FAST_TEST(a_count_below_1_is_refused) {
  for (const int count : {0, -1}) {
    bool refused = false;
    try {
      SetThreadCount(count);
    } catch (const std::invalid_argument&) {
      refused = true;
    }
    Expect(refused, std::to_string(count) + " threads were not refused");
  }
}

LSTM_FAST_TEST(a_bound_thread_that_calls_first_does_not_decide_for_all) {
  NeedTwoProcessors();
  const cpu_set_t all = ProcessorsOfThisThread();
  int counted = 0;
  std::thread([&] {
    BindToOne();
    counted = ThreadCount();
  }).join();
  if (std::string(ThreadCountSource()) != "processors")
    throw Skipped(std::string(ThreadCountSource()) + " decides here");
  Expect(counted == CPU_COUNT(&all),
         "threads: " + std::to_string(counted) + " of " + std::to_string(CPU_COUNT(&all)) + " processors");
}

LSTM_FAST_TEST(helpers_of_a_bound_thread_are_not_bound) {
  NeedTwoProcessors();
  const cpu_set_t all = ProcessorsOfThisThread();
  BindToOne();
  const int processor = CurrentProcessor();
  SetThreadCount(3);
  std::atomic<int> helpers{0}, bound{0};
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 1000 && helpers == 0; ++round) {
    OwnThreads().Together(3, std::chrono::milliseconds(1), [&](int, int) {
      if (std::this_thread::get_id() == caller) return;
      const cpu_set_t own = ProcessorsOfThisThread();
      cpu_set_t others = all;
      CPU_CLR(processor, &others);  // the caller's, from which they may keep away
      cpu_set_t both;
      CPU_AND(&both, &own, &others);
      ++helpers;
      bound += CPU_EQUAL(&both, &others) ? 0 : 1;
    });
  }
  Expect(helpers > 0, "no helper ever came");
  Expect(bound == 0, std::to_string(bound) + " of " + std::to_string(helpers) + " helpers were bound");
}

}  // namespace
}  // namespace lstm_fast::testing
