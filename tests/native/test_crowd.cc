// How many threads a team has where other programs are at work, by a clock of the test's own.
#if defined(__linux__)
#include <sched.h>
#endif

#include <string>
#include <thread>

#include "check.h"
#include "cpu/crowd.h"

namespace lstm_fast::testing {
namespace {

using std::chrono::milliseconds;

// Teams that run one after the other, for 5 ms each.
class Teams {
 public:
  // Runs teams for so long; their members are stopped for 3 ms once in `between`, or never. Returns the last team's
  // size.
  int Run(int wanted, milliseconds time, milliseconds between = milliseconds::zero()) {
    const auto end = now_ + time;
    int size = 0;
    milliseconds since{0};
    while (now_ < end) {
      size = crowd_.Limit(wanted, now_);
      constexpr milliseconds kOne{5};
      now_ += kOne;
      since += kOne;
      const bool stopped = between > milliseconds::zero() && since >= between;
      if (stopped) since = milliseconds::zero();
      if (size > 1) crowd_.Report(size, kOne, milliseconds(stopped ? 3 : 0), now_);
    }
    return size;
  }

 private:
  Crowd crowd_;
  Crowd::Clock::time_point now_{};
};

void ExpectThreads(int expected, int found) {
  Expect(found == expected, "expected " + std::to_string(expected) + " threads, found " + std::to_string(found));
}

}  // namespace

LSTM_FAST_TEST(a_team_alone_on_the_machine_has_all_threads) {
  Teams teams;
  ExpectThreads(2, teams.Run(2, milliseconds(1000)));
  ExpectThreads(16, teams.Run(16, milliseconds(1000), milliseconds(200)));
}

LSTM_FAST_TEST(a_team_beside_other_programs_has_fewer_threads) {
  Teams teams;
  ExpectThreads(1, teams.Run(2, milliseconds(100), milliseconds(5)));
  Teams large;
  ExpectThreads(8, large.Run(16, milliseconds(15), milliseconds(5)));
  Expect(large.Run(16, milliseconds(2000), milliseconds(5)) <= 2, "a team of 16 stayed large on a busy machine");
}

LSTM_FAST_TEST(a_team_has_its_threads_again_when_the_others_are_gone) {
  Teams teams;
  ExpectThreads(1, teams.Run(2, milliseconds(5000), milliseconds(5)));
  ExpectThreads(2, teams.Run(2, milliseconds(2000)));
  Teams large;
  large.Run(16, milliseconds(5000), milliseconds(5));
  ExpectThreads(16, large.Run(16, milliseconds(2000)));
}

// Several callers have teams at the same time, some of them since before it was decided.
LSTM_FAST_TEST(a_large_team_that_was_stopped_gives_no_other_more_threads) {
  Crowd crowd;
  const Crowd::Clock::time_point now{};
  crowd.Report(2, milliseconds(25), milliseconds(25), now);
  ExpectThreads(1, crowd.Limit(64, now));
  crowd.Report(64, milliseconds(25), milliseconds(25), now);
  ExpectThreads(1, crowd.Limit(64, now));
}

LSTM_FAST_TEST(more_threads_are_tried_one_step_after_the_other) {
  Crowd crowd;
  Crowd::Clock::time_point now{};
  crowd.Report(2, milliseconds(25), milliseconds(25), now);
  now += milliseconds(200);
  ExpectThreads(2, crowd.Limit(16, now));
  ExpectThreads(2, crowd.Limit(16, now));
  crowd.Report(2, milliseconds(50), milliseconds(0), now);  // nobody was stopped
  ExpectThreads(4, crowd.Limit(16, now));
  now += milliseconds(200);  // nobody has reported
  ExpectThreads(8, crowd.Limit(16, now));
}

LSTM_FAST_TEST(a_thread_that_is_stopped_does_not_run) {
#if defined(__linux__)
  // Two threads on one processor: each is stopped for the other.
  cpu_set_t one;
  CPU_ZERO(&one);
  cpu_set_t all;
  Expect(sched_getaffinity(0, sizeof all, &all) == 0, "sched_getaffinity failed");
  for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; ++i) {
    if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
  }
  const auto work = [&](ThreadUse* use) {
    sched_setaffinity(0, sizeof one, &one);
    const ThreadUse before = ThreadUse::Now();
    const auto end = Crowd::Clock::now() + milliseconds(300);
    while (Crowd::Clock::now() < end) {
    }
    const ThreadUse after = ThreadUse::Now();
    *use = {after.running - before.running, after.stops - before.stops};
  };
  ThreadUse first{}, second{};
  std::thread other(work, &second);
  std::thread same(work, &first);
  same.join();
  other.join();
  Expect(first.stops + second.stops > 0, "neither of two threads on one processor was stopped");
  Expect(first.running > milliseconds(0) && second.running > milliseconds(0), "a thread did not run");
  Expect(first.running + second.running < milliseconds(500), "two threads on one processor ran longer than it did");
#endif
}

}  // namespace lstm_fast::testing
