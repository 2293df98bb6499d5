// Memory and threads that run out leave the library as it was; kept buffers are bounded, and given back.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "faults.h"
#include "lstm_fast/workspace.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

// Both passes of which use several threads.
Options Large() {
  Options o;
  o.batch = 40;
  o.time = 20;
  o.input = 24;
  o.units = 40;
  o.masked = Masked::kHoles;
  return o;
}

// The next call, and the one after it, after a call that was refused memory.
void FailOneByOne(const Options& options, bool for_good) {
  const Settings settings;
  const Case problem(options);
  SetThreadCount(4);
  Outputs expected(problem), outputs(problem);
  expected.Run(problem);
  int64_t refused = 0;
  for (int64_t n = 1;; ++n) {
    Trim();  // so that no buffer is found again
    const std::string when = "allocation " + std::to_string(n) + ", " + Describe(options);
    bool failed = false, done = false;
    try {
      const FailingAllocation failing(n, for_good);
      outputs.Run(problem);
      done = true;
      failed = failing.failed();
    } catch (const std::bad_alloc&) {
      failed = true;
      ++refused;
    }
    if (done) outputs.ExpectSameBits(expected, "done without " + when);
    outputs.Run(problem);
    outputs.ExpectWhole();
    outputs.ExpectSameBits(expected, "after " + when);
    if (!failed) break;
  }
  Expect(refused > 5, "hardly any allocation failed: " + std::to_string(refused));
}

LSTM_FAST_TEST(every_allocation_may_fail) {
  Options o;
  o.batch = 20;  // as little as several threads are used for
  o.time = 16;
  o.input = 8;
  o.units = 40;
  o.reserve = Reserve::kNone;
  FailOneByOne(o, false);
  FailOneByOne(o, true);
  o.reserve = Reserve::kGates;
  o.directions = 2;
  o.masked = Masked::kHoles;
  FailOneByOne(o, false);
  FailOneByOne(o, true);
  o.reserve = Reserve::kRecompute;
  FailOneByOne(o, false);
  Options teams;
  teams.batch = 3;
  teams.time = 60;
  teams.units = 72;
  FailOneByOne(teams, false);
}

// The first helper, or a further one: the others, and the caller, do what there is to do.
LSTM_FAST_TEST(there_may_be_no_memory_for_a_thread) {
  const Settings settings;
  for (const int threads : {2, 3, 5}) {
    SetThreadCount(threads);
    for (int round = 0; round < 3; ++round) {
      std::atomic<int> runs{0};
      std::atomic<int>* const counter = &runs;
      bool failed;
      {
        const FailingAllocation failing(1, true);
        OwnThreads().For(100, [counter](int64_t) { ++*counter; });
        failed = failing.failed();
      }
      Expect(failed, "no thread was asked for");
      Expect(runs == 100, std::to_string(runs) + " of 100 tasks ran");
    }
    std::atomic<int> members{0};
    OwnThreads().Together(threads, std::chrono::milliseconds(1), [&](int, int) { ++members; });
    Expect(members >= 1 && members <= threads, std::to_string(members) + " members");
  }
}

// Where no exception may leave.
LSTM_FAST_TEST(a_buffer_is_released_without_memory) {
  std::vector<std::unique_ptr<Workspace>> buffers;
  for (size_t i = 0; i < 200; ++i) buffers.push_back(std::make_unique<Workspace>(64 + 64 * i));
  const FailingAllocation failing(1, true);
  while (!buffers.empty()) buffers.pop_back();
}

// A pool that has no helpers yet, which cannot be made, or only some.
LSTM_FAST_TEST(threads_may_not_be_had) {
  const Settings settings;
  const Case problem(Large());
  SetThreadCount(1);
  Outputs expected(problem), outputs(problem);
  expected.Run(problem);
  SetThreadCount(4);
  for (const int64_t threads : {0, 1, 2}) {
    const FailingThreads failing(threads);
    for (int i = 0; i < 3; ++i) {
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, "with few threads");
    }
    Expect(threads > 0 || failing.failed(), "no thread was asked for");
  }
  // Once there are threads again, they are made.
  std::atomic<bool> all{false};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!all && std::chrono::steady_clock::now() < end) {
    std::atomic<int> inside{0};
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    OwnThreads().For(4, [&](int64_t) {
      if (++inside == 4) all = true;
      while (!all && std::chrono::steady_clock::now() < patience) std::this_thread::yield();
      --inside;
    });
  }
  Expect(all, "fewer than 4 threads are made once they can be had");
}

constexpr size_t kMebibyte = 1 << 20;

LSTM_FAST_TEST(kept_buffers_are_bounded_and_given_back) {
  Expect(KeptBytes() == 0, "something is kept from the start");
  {
    const Workspace large(32 * kMebibyte);
  }
  const int64_t kept = KeptBytes();
  Expect(kept >= static_cast<int64_t>(32 * kMebibyte), "a buffer was not kept");
  {
    const Workspace small(9 * kMebibyte);
    Expect(KeptBytes() == kept, "a request took a buffer of more than twice its size");
    const Workspace again(30 * kMebibyte);
    Expect(KeptBytes() == 0, "a request did not take the buffer that fits");
  }
  const int64_t both = KeptBytes();
  Expect(both >= static_cast<int64_t>(41 * kMebibyte), "not both buffers were kept");
  Expect(Trim() == both, "trimming gave back something else than what was kept");
  Expect(KeptBytes() == 0, "something is kept after trimming");
  {
    const Workspace huge(static_cast<size_t>(KeptBytesLimit()) + kMebibyte);
  }
  Expect(KeptBytes() == 0, "a buffer beyond the limit was kept");
  for (size_t i = 0; i < 200; ++i) {
    const Workspace a((1 + i % 7) * kMebibyte), b(4096 + 64 * i), c(40 * kMebibyte + i * kMebibyte);
    Expect(KeptBytes() <= KeptBytesLimit(), "more is kept than the limit");
  }
  Expect(KeptBytes() > 0, "nothing is kept");
}

LSTM_FAST_TEST(nothing_is_kept_where_the_limit_is_0) {
  setenv("LSTM_FAST_KEEP_MIB", "0", 1);
  Expect(KeptBytesLimit() == 0, "the limit is not 0");
  const Case problem(Large());
  Outputs outputs(problem);
  outputs.Run(problem);
  Expect(KeptBytes() == 0, "something is kept");
}

LSTM_FAST_TEST(a_limit_that_is_no_number_is_refused) {
  for (const char* text : {"-1", "1.5", "much", "99999999999999999999"}) {
    setenv("LSTM_FAST_KEEP_MIB", text, 1);
    std::string refused;
    try {
      static_cast<void>(KeptBytesLimit());
    } catch (const std::invalid_argument& error) {
      refused = error.what();
    }
    Expect(refused.find(text) != std::string::npos, std::string(text) + " is not refused by name");
  }
}

LSTM_FAST_TEST(buffers_are_given_back_while_others_compute) {
  const Settings settings;
  SetThreadCount(2);
  const Case problem(Large());
  Outputs expected(problem);
  expected.Run(problem);
  std::atomic<bool> done{false};
  std::thread trims([&] {
    while (!done) {
      Trim();
      Expect(KeptBytes() >= 0, "fewer bytes than none are kept");
    }
  });
  std::string error;
  try {
    Outputs outputs(problem);
    for (int i = 0; i < 20; ++i) {
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, "while another thread trims");
    }
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  done = true;
  trims.join();
  Expect(error.empty(), error);
}

}  // namespace
}  // namespace lstm_fast::testing
