// Portable kernels: 16-byte vectors, which every 64-bit processor has. Products and sums are rounded separately.
#define LSTM_FAST_VECTOR_BYTES 16
#define LSTM_FAST_MICRO_ROWS 3
#define LSTM_FAST_ISA_NAME "generic"
#define LSTM_FAST_ISA_SYMBOL kGenericIsa

#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <class V>
inline V MultiplyAdd(V a, V b, V c) {
  return a * b + c;
}

template <class V>
inline void KeepInRegister(V&) {}

}  // namespace
}  // namespace lstm_fast

#include "cpu/kernel.inl"
