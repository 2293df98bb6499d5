// How a Python module offers its XLA handlers.
#ifndef LSTM_FAST_BINDINGS_XLA_PYTHON_H_
#define LSTM_FAST_BINDINGS_XLA_PYTHON_H_

#include <pybind11/pybind11.h>

#include <cstdint>
#include <vector>

#include "bindings/xla_call.h"

namespace lstm_fast::xla {

inline void DefineHandlers(pybind11::module_& m, const char* platform, const std::vector<NamedHandler>& handlers) {
  namespace py = pybind11;
  m.def(
      "xla_handlers",
      [&handlers] {
        py::dict capsules;
        for (const auto& [name, handler] : handlers) {
          // As jax.ffi.register_ffi_target takes them.
          capsules[name] = py::capsule(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET");
        }
        return capsules;
      },
      "XLA's handlers by name, as capsules; their contract is in csrc/bindings/xla.h or xla_cuda.h.");
  m.def(
      "register_xla_handlers",
      [platform, &handlers](uintptr_t api) { RegisterHandlers(reinterpret_cast<const Api*>(api), platform, handlers); },
      py::arg("api"), "Registers them with the runtime whose XLA_FFI_Api is at this address; RuntimeError if refused.");
}

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_PYTHON_H_
