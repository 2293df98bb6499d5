// Waiting without sleeping, for what takes less time than waking up: the other threads of a team. Not for long: who is
// waited for may need this very processor.
#ifndef LSTM_FAST_CPU_SPIN_H_
#define LSTM_FAST_CPU_SPIN_H_

#include <sched.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace lstm_fast {

// Tells the processor that the thread only waits.
inline void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a thread stays on the lookout before it sleeps. Waking one takes 5 to 50 us, a good part of a short call.
inline constexpr std::chrono::microseconds kLookout{50};

// Waits for a condition without sleeping, up to so long; returns whether it came about.
template <class Condition>
bool SpinUntil(const Condition& condition, std::chrono::microseconds most = kLookout) {
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      Pause();
    }
    if (std::chrono::steady_clock::now() - start > most) return false;
  }
}

// Waits until the size of a team is known, which is not 0. Who will say it may need this processor.
inline int WaitForSize(const std::atomic<int>& size) {
  while (true) {
    SpinUntil([&] { return size.load(std::memory_order_acquire) != 0; });
    if (const int members = size.load(std::memory_order_acquire)) return members;
    sched_yield();
  }
}

// Sleeps until `word` is said to have changed, if it is `value` still; may return for no reason.
inline void SleepWhile(std::atomic<unsigned>& word, unsigned value) {
#if defined(__linux__)
  static_assert(sizeof word == sizeof(unsigned), "the kernel reads the word itself");
  syscall(SYS_futex, reinterpret_cast<unsigned*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  static_cast<void>(word);
  static_cast<void>(value);
  sched_yield();
#endif
}

// Says so to all who sleep.
inline void WakeAll(std::atomic<unsigned>& word) {
#if defined(__linux__)
  syscall(SYS_futex, reinterpret_cast<unsigned*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#else
  static_cast<void>(word);
#endif
}

// Where `size` threads wait for each other again and again. It must outlive the last Wait().
class Barrier {
 public:
  using Clock = std::chrono::steady_clock;

  // Returns for how long the calling thread has slept, and waited for a processor after that.
  Clock::duration Wait(int64_t size) {
    const unsigned generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      // One of this thread and of one that falls asleep sees what the other has stored: all four are in one order.
      generation_.store(generation + 1);
      if (asleep_.load() > 0) WakeAll(generation_);
      return {};
    }
    const auto passed = [&] { return generation_.load() != generation; };
    if (SpinUntil(passed, kPatience)) return {};
    // A member is not running, since the machine is busy. The system moves it to a processor that nobody uses, unless
    // the member keeps away from that one.
    asleep_.fetch_add(1);
    const auto begin = Clock::now();
    while (!passed()) SleepWhile(generation_, generation);
    asleep_.fetch_sub(1);
    return Clock::now() - begin;
  }

 private:
  // More than members of a team that all run are apart, and less than the milliseconds for which the system stops one.
  static constexpr std::chrono::microseconds kPatience{200};
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
  std::atomic<int> asleep_{0};
};

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_SPIN_H_
