// What the schedule uses of the CUDA runtime. Like device.h it has a stand-in of the same names for tests,
// tests/emulation/cuda/runtime.h. Functions throw std::runtime_error with CUDA's own reason; none of them waits for the
// device, and what is put on a stream may be captured into a graph.
#ifndef LSTM_FAST_CUDA_RUNTIME_H_
#define LSTM_FAST_CUDA_RUNTIME_H_

#include <cstdint>
#include <string>

#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

struct Grid {
  int blocks, threads;
  int cluster;       // blocks of a cluster; 1: none
  bool cooperative;  // all blocks are resident at once, or the launch fails
  int64_t shared_bytes;
};

// On the current device, whose stream it is.
void LaunchKernel(const void* kernel, const char* name, const Grid& grid, void* arguments, Stream stream);
template <class Arguments>
void Launch(void (*kernel)(Arguments), const char* name, const Grid& grid, const Arguments& arguments, Stream stream) {
  Arguments copy = arguments;
  LaunchKernel(reinterpret_cast<const void*>(kernel), name, grid, &copy, stream);
}

// Sets memory to zero.
void Clear(void* pointer, int64_t bytes, Stream stream);

LSTM_FAST_EXPORT int DeviceCount();            // 0 where there is no usable driver; never throws
LSTM_FAST_EXPORT std::string DeviceProblem();  // why DeviceCount() is 0, if not for want of devices
LSTM_FAST_EXPORT Device GetDevice(int ordinal);
LSTM_FAST_EXPORT int DeviceOf(Stream stream);
LSTM_FAST_EXPORT int DeviceOfMemory(const void* pointer);  // -1: it is not a device's

// What is put on a stream from now on runs after what is on another stream now.
LSTM_FAST_EXPORT void Await(Stream stream, Stream other);

// How many blocks of a kernel a multiprocessor of the current device holds, and how many clusters the whole device:
// 0 if not even one.
int ResidentBlocks(const void* kernel, int threads, int64_t shared_bytes);
int ResidentClusters(const void* kernel, int cluster, int threads, int64_t shared_bytes);
template <class Arguments>
int ResidentBlocks(void (*kernel)(Arguments), int threads, int64_t shared_bytes) {
  return ResidentBlocks(reinterpret_cast<const void*>(kernel), threads, shared_bytes);
}
template <class Arguments>
int ResidentClusters(void (*kernel)(Arguments), int cluster, int threads, int64_t shared_bytes) {
  return ResidentClusters(reinterpret_cast<const void*>(kernel), cluster, threads, shared_bytes);
}

// Makes a device current in this thread for a scope.
class LSTM_FAST_EXPORT DeviceGuard {
 public:
  explicit DeviceGuard(int ordinal);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_;
  bool changed_;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_RUNTIME_H_
