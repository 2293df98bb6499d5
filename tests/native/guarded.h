// An array between guard bytes, which nobody may touch. Its end is exact: with AddressSanitizer the guards may not even
// be read.
#ifndef LSTM_FAST_TESTS_NATIVE_GUARDED_H_
#define LSTM_FAST_TESTS_NATIVE_GUARDED_H_

#include <cstdint>
#include <cstring>
#include <memory>

#include "check.h"
#if defined(LSTM_FAST_UNDER_ASAN)
#include <sanitizer/asan_interface.h>
#endif

namespace lstm_fast::testing {

class Guarded {
 public:
  // What an array holds before anybody writes it: NaN in every dtype, with a payload that no arithmetic here makes.
  static constexpr uint16_t kUnwritten = 0x7ff5;

  Guarded() = default;

  // `shift` bytes off a cache line.
  Guarded(int64_t bytes, int64_t shift) : bytes_(bytes), memory_(new char[Size(kGuard + 64 + bytes + kGuard)]) {
    const auto address = reinterpret_cast<uintptr_t>(memory_.get()) + kGuard;
    begin_ = kGuard + static_cast<int64_t>((64 - address % 64) % 64) + shift % 64;
    std::memset(memory_.get() + begin_ - kGuard, kGuardByte, Size(kGuard));
    std::memset(memory_.get() + begin_ + bytes_, kGuardByte, Size(kGuard - shift % 64));
    Clear();
    Forbid();
  }

  Guarded(Guarded&&) = default;
  Guarded& operator=(Guarded&& other) {
    Allow();
    bytes_ = other.bytes_;
    begin_ = other.begin_;
    memory_ = std::move(other.memory_);
    return *this;
  }
  ~Guarded() { Allow(); }

  bool present() const { return memory_ != nullptr; }
  int64_t bytes() const { return bytes_; }
  // Null where there is no array.
  char* data() { return memory_ ? memory_.get() + begin_ : nullptr; }
  const char* data() const { return memory_ ? memory_.get() + begin_ : nullptr; }

  // Forgets what was written.
  void Clear() {
    for (int64_t i = 0; i + 2 <= bytes_; i += 2) std::memcpy(data() + i, &kUnwritten, 2);
  }

  bool GuardsAreWhole() const {
    if (!memory_) return true;
    Allow();
    bool whole = true;
    for (int64_t i = 0; i < kGuard; ++i) whole &= memory_[Size(begin_ - kGuard + i)] == kGuardByte;
    for (int64_t i = 0; i < kGuard - 64; ++i) whole &= memory_[Size(begin_ + bytes_ + i)] == kGuardByte;
    Forbid();
    return whole;
  }

 private:
  static constexpr int64_t kGuard = 192;
  static constexpr char kGuardByte = 0x5b;
  static size_t Size(int64_t bytes) { return static_cast<size_t>(bytes); }

  void Forbid() const {
#if defined(LSTM_FAST_UNDER_ASAN)
    __asan_poison_memory_region(memory_.get() + begin_ - kGuard, Size(kGuard));
    __asan_poison_memory_region(memory_.get() + begin_ + bytes_, Size(kGuard - 64));
    __asan_unpoison_memory_region(memory_.get() + begin_, Size(bytes_));
#endif
  }
  void Allow() const {
#if defined(LSTM_FAST_UNDER_ASAN)
    if (memory_) __asan_unpoison_memory_region(memory_.get() + begin_ - kGuard, Size(2 * kGuard - 64 + bytes_));
#endif
  }

  int64_t bytes_ = 0, begin_ = 0;
  std::unique_ptr<char[]> memory_;
};

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_GUARDED_H_
