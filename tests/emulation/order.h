// What happened before what. Threads are ordered by barriers of a whole warp, block or cluster, and by signals; other
// accesses to the same memory race, no matter in which order they happened to run.
//
// Each thread has a clock, which goes up at every barrier and signal. The lanes of a warp have the same clock after
// every barrier, so that one number per warp says how much of it is known to be over. Only what a single lane released
// by a signal has to be kept for that lane.
#ifndef LSTM_FAST_TESTS_EMULATION_ORDER_H_
#define LSTM_FAST_TESTS_EMULATION_ORDER_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace lstm_fast::emulation {

constexpr uint32_t kLanes = 32;

// Thread ids are not used again by later launches, which makes everything of an earlier launch older than `first`.
// Whole warps have them, so that id / kLanes tells warps apart.
constexpr uint32_t kNobody = 0, kHost = 1, kFirstThread = kLanes;

// A thread at a time.
struct Epoch {
  uint32_t thread = kNobody;
  uint32_t clock = 0;
};

// The part of the past that a thread knows to be over.
class Knowledge {
 public:
  explicit Knowledge(std::size_t warps) : warps_(warps) {}

  // `thread` counts from the first of the launch.
  bool Covers(uint32_t thread, uint32_t clock) const {
    if (clock < warps_[thread / kLanes]) return true;
    if (threads_.empty()) return false;
    const auto found = threads_.find(thread);
    return found != threads_.end() && clock <= found->second;
  }

  void Join(const Knowledge& other) {
    for (std::size_t i = 0; i < warps_.size(); ++i) warps_[i] = std::max(warps_[i], other.warps_[i]);
    for (const auto& [thread, clock] : other.threads_) AddThread(thread, clock);
  }
  // All that the warp did at clocks less than this one.
  void AddWarp(uint32_t warp, uint32_t clock) { warps_[warp] = std::max(warps_[warp], clock); }
  // What the thread did at clocks up to and including this one.
  void AddThread(uint32_t thread, uint32_t clock) {
    if (!Covers(thread, clock)) threads_[thread] = clock;
  }
  // Forgets what is covered twice.
  void Tidy() {
    for (auto i = threads_.begin(); i != threads_.end();) {
      i = i->second < warps_[i->first / kLanes] ? threads_.erase(i) : std::next(i);
    }
  }

 private:
  std::vector<uint32_t> warps_;
  std::map<uint32_t, uint32_t> threads_;
};

// A thread, as far as order goes.
struct Actor {
  uint32_t id = kNobody;
  uint32_t first = kFirstThread;  // of the launch
  uint32_t clock = 0;
  const Knowledge* knowledge = nullptr;

  bool IsAfter(const Epoch& epoch) const {
    return epoch.thread < first || epoch.thread == id || knowledge->Covers(epoch.thread - first, epoch.clock);
  }
};

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_ORDER_H_
