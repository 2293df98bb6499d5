// Arrays on a CUDA device that a Python framework owns, by DLPack or by the CUDA array interface.
#ifndef LSTM_FAST_BINDINGS_CUDA_ARRAY_H_
#define LSTM_FAST_BINDINGS_CUDA_ARRAY_H_

#include <pybind11/pybind11.h>

#include <memory>
#include <string>

#include "bindings/array.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

// What an array has to be, its shape apart.
struct Wanted {
  std::string name;   // of the argument
  std::string dtype;  // as NumPy calls it
  int device;
  bool written;
};

struct KeptArray {
  Array array;
  std::shared_ptr<void> keeper;  // of its memory; null: whoever has the object
};

// Reads an object with __dlpack__ or, failing that, __cuda_array_interface__ (version 2 or 3). What is put on `stream`
// from then on is ordered after what the array waits for, and nothing waits for the device. Throws
// std::invalid_argument, or ValueError with the framework's exception for its cause.
KeptArray ReadArray(const pybind11::object& object, const Wanted& wanted, Stream stream);

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_BINDINGS_CUDA_ARRAY_H_
