// NEON, which every AArch64 processor has: 16-byte vectors, 32 registers.
#define LSTM_FAST_VECTOR_BYTES 16
// 4 rows x 4 gates accumulate in 16 registers, as many sums as four units with a latency of four can work on. With 6
// rows one register is to spare: clang 14 kept sums on the stack in 23 of 932 inner loops. Chosen by that, not by
// speed.
#define LSTM_FAST_MICRO_ROWS 4
#define LSTM_FAST_ISA_NAME "neon"
#define LSTM_FAST_ISA_SYMBOL kNeonIsa

#include <arm_neon.h>

#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <>
inline Vector<float> MultiplyAdd(Vector<float> a, Vector<float> b, Vector<float> c) {
  return vfmaq_f32(c, a, b);
}
template <>
inline Vector<double> MultiplyAdd(Vector<double> a, Vector<double> b, Vector<double> c) {
  return vfmaq_f64(c, a, b);
}

template <class V>
inline void KeepInRegister(V& v) {
  asm("" : "+w"(v));
}

}  // namespace
}  // namespace lstm_fast

#include "cpu/kernel.inl"
