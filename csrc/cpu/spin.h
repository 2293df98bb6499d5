// Waiting without sleeping, for what takes less time than waking up: the other threads of a team.
#ifndef LSTM_FAST_CPU_SPIN_H_
#define LSTM_FAST_CPU_SPIN_H_

#include <sched.h>

#include <atomic>
#include <chrono>
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

// Waits for a condition without sleeping, up to kLookout; returns whether it came about.
template <class Condition>
bool SpinUntil(const Condition& condition) {
  const auto start = std::chrono::steady_clock::now();
  while (true) {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      Pause();
    }
    if (std::chrono::steady_clock::now() - start > kLookout) return false;
  }
}

// Where `size` threads wait for each other again and again.
class Barrier {
 public:
  void Wait(int64_t size) {
    const unsigned generation = generation_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived_.store(0, std::memory_order_relaxed);
      generation_.store(generation + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; generation_.load(std::memory_order_acquire) == generation; ++spins) {
      // A member that is not running, since the machine is busy, needs this thread's processor.
      spins < kSpins ? Pause() : static_cast<void>(sched_yield());
    }
  }

 private:
  static constexpr int kSpins = 10000;
  alignas(64) std::atomic<int64_t> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
};

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_SPIN_H_
