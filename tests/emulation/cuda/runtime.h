// In place of csrc/cuda/runtime.h: what the host uses of CUDA, on the emulated device. Launches have ended on return.
#ifndef LSTM_FAST_TESTS_EMULATION_CUDA_RUNTIME_H_
#define LSTM_FAST_TESTS_EMULATION_CUDA_RUNTIME_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda/recurrence.h"
#include "machine.h"

namespace lstm_fast::cuda {

using emulation::Grid;

template <class Arguments>
void Launch(void (*kernel)(Arguments), const char* name, const Grid& grid, const Arguments& arguments, Stream) {
  emulation::Run(name, grid, [&] { kernel(arguments); });
}

inline void Clear(void* pointer, int64_t bytes, Stream) { emulation::Clear(pointer, bytes); }

inline int DeviceCount() { return 1; }
inline std::string DeviceProblem() { return ""; }
inline Device GetDevice(int) { return emulation::GetDevice(); }
inline int DeviceOf(Stream) { return 0; }
// The upper half of all addresses, which no process has, stands for another device, and the first page for the host.
inline int DeviceOfMemory(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address >> 63 ? 1 : address < 4096 ? -1 : 0;
}

// Pairs of streams of which the first has been made to wait for the second.
inline std::vector<std::pair<Stream, Stream>>& Waits() {
  static std::vector<std::pair<Stream, Stream>> waits;
  return waits;
}
inline void Await(Stream stream, Stream other) { Waits().emplace_back(stream, other); }

// One block is all that a multiprocessor holds.
template <class Arguments>
int ResidentBlocks(void (*)(Arguments), int, int64_t shared_bytes) {
  return shared_bytes <= emulation::GetDevice().shared_bytes ? 1 : 0;
}
template <class Arguments>
int ResidentClusters(void (*kernel)(Arguments), int cluster, int threads, int64_t shared_bytes) {
  const Device device = emulation::GetDevice();
  return device.code < 90 ? 0 : ResidentBlocks(kernel, threads, shared_bytes) * device.multiprocessors / cluster;
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int) {}
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_TESTS_EMULATION_CUDA_RUNTIME_H_
