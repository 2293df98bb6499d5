#include "module.h"

#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/runtime.h"
#include "machine.h"

namespace py = pybind11;

namespace lstm_fast::emulation {

void DefineDevice(py::module_& m) {
  m.def(
      "set_device",
      [](int major, int minor, int multiprocessors, int64_t shared_bytes, std::optional<int> code) {
        SetDevice({major, minor, multiprocessors, shared_bytes, code.value_or(10 * major + minor)});
      },
      py::arg("major"), py::arg("minor"), py::arg("multiprocessors"), py::arg("shared_bytes"),
      py::arg("code") = py::none(), "What the emulated device, of this thread, is.");
  m.def(
      "take_waits",
      [] {
        std::vector<std::pair<uintptr_t, uintptr_t>> waits;
        for (const auto& [stream, other] : std::exchange(cuda::Waits(), {})) {
          waits.emplace_back(reinterpret_cast<uintptr_t>(stream), reinterpret_cast<uintptr_t>(other));
        }
        return waits;
      },
      "Pairs of a stream and another that it has been made to wait for since the last call.");
  m.def("take_barriers", &TakeBarriers, "How many barriers blocks and clusters have passed since the last call.");
  m.def("seed", &SetSeed, py::arg("seed"), "Decides in which order the device's threads run.");
}

}  // namespace lstm_fast::emulation
