// AVX-512 F, DQ, BW and VL: 64-byte vectors, 32 registers.
#define LSTM_FAST_VECTOR_BYTES 64
#define LSTM_FAST_MICRO_ROWS 6  // 6 rows x 4 gates accumulate in 24 registers
#define LSTM_FAST_ISA_NAME "avx512"
#define LSTM_FAST_ISA_SYMBOL kAvx512Isa

#include <immintrin.h>

#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <>
inline Vector<float> MultiplyAdd(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
template <>
inline Vector<double> MultiplyAdd(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}

template <class V>
inline void KeepInRegister(V& v) {
  asm("" : "+v"(v));
}

}  // namespace
}  // namespace lstm_fast

#include "cpu/kernel.inl"
