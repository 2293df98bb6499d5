#include "cpu/crowd.h"

#if defined(__linux__)
#include <sys/resource.h>
#endif

#include <algorithm>

#include "cpu/fork.h"

namespace lstm_fast {
namespace {

using std::chrono::milliseconds;

// So much time of teams is looked at before it is decided. The system lets a thread run for about 3 ms.
constexpr milliseconds kWindow{20};
// Stopped more often than that, on average, others are at work: a machine with nothing else to do stops a thread some
// times a second, one with another program on the same processor some hundred times.
constexpr milliseconds kBetweenStops{10};
// Before more threads are tried again: twice as long each time, so that trials take little.
constexpr milliseconds kFirstPause{200}, kLongestPause{1600};

}  // namespace

int64_t TimesStopped() {
#if defined(RUSAGE_THREAD)
  rusage usage;
  if (getrusage(RUSAGE_THREAD, &usage) == 0) return usage.ru_nivcsw;
#endif
  return 0;
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
    stopped_ = 0;
  }
  return std::min(most_, wanted);
}

void Crowd::Report(int size, Clock::duration time, int64_t stopped, Clock::time_point now) {
  const std::lock_guard<std::mutex> lock(mutex_);
  time_ += time;
  stopped_ += stopped;
  if (time_ < kWindow) return;
  if (stopped_ * kBetweenStops > time_) {
    most_ = std::min(most_, std::max(1, size / 2));  // less than that may have been decided since the team began
    pause_ = std::clamp<Clock::duration>(2 * pause_, kFirstPause, kLongestPause);
    until_ = now + pause_;
  } else {
    pause_ = {};
    if (trying_) until_ = now;
  }
  trying_ = false;
  time_ = {};
  stopped_ = 0;
}

}  // namespace lstm_fast
