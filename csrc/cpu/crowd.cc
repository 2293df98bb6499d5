#include "cpu/crowd.h"

#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <algorithm>

#include "cpu/fork.h"

namespace lstm_fast {
namespace {

using std::chrono::milliseconds;

// So much time of teams is looked at before it is decided that they are alone. The system lets a thread run for about
// 3 ms: one such stop does not count.
constexpr milliseconds kWindow{40};
// Stopped for a larger part of the time than one in so many, others are at work. Another program on a member's
// processor takes half of it, what the system itself has to do takes some thousandths for each member.
constexpr int kPart = 8;
// Before more threads are tried again: twice as long each time, so that trials take little.
constexpr milliseconds kFirstPause{200}, kLongestPause{1600};

}  // namespace

ThreadUse ThreadUse::Now() {
#if defined(RUSAGE_THREAD)
  rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) == 0) {
    const auto of = [](const timeval& time) {
      return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
    };
    return {of(usage.ru_utime) + of(usage.ru_stime), usage.ru_nivcsw};
  }
#endif
  return {};
}

Crowd& Crowd::OfProcess() {
  static auto* crowd = new Crowd;  // never destroyed: threads may outlive static destruction
  return *crowd;
}

void LockCrowd() { Crowd::OfProcess().mutex().lock(); }

void UnlockCrowd() { Crowd::OfProcess().mutex().unlock(); }

int Crowd::Limit(int wanted, Clock::time_point now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (most_ < wanted && now >= until_) {
    most_ = most_ > INT_MAX / 2 ? INT_MAX : 2 * most_;
    until_ = now + kFirstPause;  // or until such teams have run for a while
    trying_ = true;
    time_ = {};
    stopped_ = {};
  }
  return std::min(most_, wanted);
}

void Crowd::Report(int size, Clock::duration time, Clock::duration stopped, Clock::time_point now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  time_ += time;
  stopped_ += stopped;
  const bool beside_others = stopped_ * kPart > std::max<Clock::duration>(time_, kWindow);
  if (!beside_others && time_ < kWindow) return;
  if (beside_others) {
    most_ = std::min(most_, std::max(1, size / 2));  // less than that may have been decided since the team began
    pause_ = std::clamp<Clock::duration>(2 * pause_, kFirstPause, kLongestPause);
    until_ = now + pause_;
  } else {
    pause_ = {};
    if (trying_) until_ = now;
  }
  trying_ = false;
  time_ = {};
  stopped_ = {};
}

}  // namespace lstm_fast
