// AVX2 and FMA: 32-byte vectors, 16 registers.
#define LSTM_FAST_VECTOR_BYTES 32
#define LSTM_FAST_MICRO_ROWS 3  // 3 rows x 4 gates accumulate in 12 registers; 3 broadcasts and 1 panel vector fill 16
#define LSTM_FAST_ISA_NAME "avx2"
#define LSTM_FAST_ISA_SYMBOL kAvx2Isa

#include <immintrin.h>

#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

template <>
inline Vector<float> MultiplyAdd(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
template <>
inline Vector<double> MultiplyAdd(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}

template <class V>
inline void KeepInRegister(V& v) {
  asm("" : "+x"(v));
}

}  // namespace
}  // namespace lstm_fast

#include "cpu/kernel.inl"
