// Waiting without sleeping, for what takes less time than waking up: the other threads of a team.
#ifndef LSTM_FAST_CPU_SPIN_H_
#define LSTM_FAST_CPU_SPIN_H_

#include <sched.h>

#include <atomic>
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
