// The emulated device, as the Python module of the kernels that run on it offers it to tests.
#ifndef LSTM_FAST_TESTS_EMULATION_MODULE_H_
#define LSTM_FAST_TESTS_EMULATION_MODULE_H_

#include <pybind11/pybind11.h>

namespace lstm_fast::emulation {

void DefineDevice(pybind11::module_& m);

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_MODULE_H_
