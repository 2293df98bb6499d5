// Numbers so small that processors compute them slowly.
#ifndef LSTM_FAST_SUBNORMALS_H_
#define LSTM_FAST_SUBNORMALS_H_

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
#endif

namespace lstm_fast {

// While it lives, subnormal numbers are zero in this thread, as operands and as results.
//
// TensorFlow and XLA have it so in their threads, Python and PyTorch have not. A gradient that goes back over a hundred
// timesteps and more becomes subnormal on its way, and some processors are slow with such numbers. A training step of
// 64,256,64,64 with a loss of the last output is 18 times as fast so (Intel Xeon with AVX-512; benchmarks/NOTES.md).
class SubnormalsAreZero {
 public:
  SubnormalsAreZero() : before_(Get()) { Set(before_ | kFlush); }
  ~SubnormalsAreZero() { Set(before_); }
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;

 private:
#if defined(__x86_64__) || defined(__i386__)
  using Word = unsigned;
  static constexpr Word kFlush = 0x8040;  // flush to zero, denormals are zeros
  static Word Get() { return _mm_getcsr(); }
  static void Set(Word word) { _mm_setcsr(word); }
#elif defined(__aarch64__)
  using Word = uint64_t;
  static constexpr Word kFlush = Word{1} << 24;  // FZ
  static Word Get() {
    Word word;
    asm volatile("mrs %0, fpcr" : "=r"(word));
    return word;
  }
  static void Set(Word word) { asm volatile("msr fpcr, %0" : : "r"(word)); }
#else
  using Word = unsigned;
  static constexpr Word kFlush = 0;
  static Word Get() { return 0; }
  static void Set(Word) {}
#endif

  Word before_;
};

}  // namespace lstm_fast

#endif  // LSTM_FAST_SUBNORMALS_H_
