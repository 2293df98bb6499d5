// What TensorFlow's ops on the CPU and on GPUs have in common, though they are written against different APIs of it:
// the one in C (tensorflow_cpu.cc), the other in C++ (tensorflow_gpu.cc).
#ifndef LSTM_FAST_BINDINGS_TENSORFLOW_H_
#define LSTM_FAST_BINDINGS_TENSORFLOW_H_

#include "lstm_fast/lstm.h"

namespace lstm_fast {

// The element types that the ops have kernels for, by the numbers that both APIs know them by.
enum class ElementType : int { kFloat = 1, kDouble = 2, kBFloat16 = 14, kHalf = 19 };

inline DType DTypeOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat:
      return DType::kFloat32;
    case ElementType::kDouble:
      return DType::kFloat64;
    case ElementType::kHalf:
      return DType::kFloat16;
    default:
      return DType::kBFloat16;
  }
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_TENSORFLOW_H_
