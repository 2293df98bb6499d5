// Memory of a tile.
#ifndef LSTM_FAST_CPU_SCRATCH_INL_
#define LSTM_FAST_CPU_SCRATCH_INL_

#include <cstdint>

#include "cpu/kernel.h"

namespace lstm_fast {
namespace {

// Hands out 64-byte aligned pieces of the scratch buffer; with a null base it only measures, and all pieces are null.
template <class Real>
class Scratch {
 public:
  explicit Scratch(Real* base) : base_(reinterpret_cast<char*>(base)) {}

  template <class T>
  T* Take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += CeilDivide(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return piece;
  }

  int64_t elements() const { return used_ / static_cast<int64_t>(sizeof(Real)); }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_SCRATCH_INL_
