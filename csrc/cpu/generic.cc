// Portable kernels: 16-byte vectors, which every 64-bit processor has. Products and sums are rounded separately.
#define LSTM_FAST_VECTOR_BYTES 16
#define LSTM_FAST_MICRO_ROWS 3
#define LSTM_FAST_ISA_NAME "generic"
#define LSTM_FAST_ISA_SYMBOL kGenericIsa

#include "cpu/simd.inl"

namespace lstm_fast {
namespace {

inline Vector<float> MultiplyAdd(Vector<float> a, Vector<float> b, Vector<float> c) { return a * b + c; }
inline Vector<double> MultiplyAdd(Vector<double> a, Vector<double> b, Vector<double> c) { return a * b + c; }

template <class V>
inline V AtLeast(V low, V x) {
  return x < low ? low : x;
}
template <class V>
inline V AtMost(V high, V x) {
  return x > high ? high : x;
}

template <class V>
inline void KeepInRegister(V&) {}

}  // namespace
}  // namespace lstm_fast

#include "cpu/kernel.inl"
