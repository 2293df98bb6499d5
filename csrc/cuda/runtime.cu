// The CUDA runtime behind runtime.h. Every call's own return code is looked at and the thread's last error never is:
// what others left there is not taken for ours, nor taken away.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "cuda/runtime.h"

namespace lstm_fast::cuda {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": CUDA says: " + cudaGetErrorString(error) + " (" +
                           cudaGetErrorName(error) + ")");
}

int AttributeOf(cudaDeviceAttr attribute, int ordinal) {
  int value = 0;
  Check(cudaDeviceGetAttribute(&value, attribute, ordinal), "cudaDeviceGetAttribute");
  return value;
}

int CurrentDevice() {
  int ordinal = 0;
  Check(cudaGetDevice(&ordinal), "cudaGetDevice");
  return ordinal;
}

// Whether the process has used a device. The runtime does not tell, the driver below it does.
bool HasContext(int ordinal) {
  using State = int (*)(int device, unsigned* flags, int* active);  // cuDevicePrimaryCtxGetState
  void* const driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!driver) return true;
  const auto state = reinterpret_cast<State>(dlsym(driver, "cuDevicePrimaryCtxGetState"));
  unsigned flags = 0;
  int active = 1;
  if (state && state(ordinal, &flags, &active) != 0) active = 1;
  dlclose(driver);
  return active != 0;
}

// Of what this is compiled for, the highest that the device runs: 0 if nothing. It may be of an older generation.
int CodeFor(int capability) {
  int highest = 0;
  for (const int architecture : {__CUDA_ARCH_LIST__}) {
    if (architecture / 10 <= capability) highest = std::max(highest, architecture / 10);
  }
  return highest;
}

// Loading a kernel is not an operation of the stream, and must not break a capture that happens to be under way.
class OutsideCapture {
 public:
  OutsideCapture() { Check(cudaThreadExchangeStreamCaptureMode(&mode_), "cudaThreadExchangeStreamCaptureMode"); }
  ~OutsideCapture() { static_cast<void>(cudaThreadExchangeStreamCaptureMode(&mode_)); }
  OutsideCapture(const OutsideCapture&) = delete;
  OutsideCapture& operator=(const OutsideCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Allows a kernel all shared memory and the largest clusters that the current device has. Once for each of both.
void Prepare(const void* kernel, const char* name) {
  static std::mutex mutex;
  static auto& prepared = *new std::map<std::pair<const void*, int>, bool>;
  const int ordinal = CurrentDevice();
  const std::lock_guard<std::mutex> lock(mutex);
  bool& done = prepared[{kernel, ordinal}];
  if (done) return;
  const OutsideCapture outside;
  cudaFuncAttributes attributes;
  Check(cudaFuncGetAttributes(&attributes, kernel), name);
  const Device device = GetDevice(ordinal);
  if (attributes.ptxVersion / 10 < device.code / 10) {  // another generation
    throw std::runtime_error(
        std::string(name) + ": what runs on this device was compiled for compute capability " +
        std::to_string(attributes.ptxVersion / 10) + "." + std::to_string(attributes.ptxVersion % 10) +
        ": install with CMAKE_ARGS=-DLSTM_FAST_CUDA_ARCHITECTURES=" + std::to_string(10 * device.major + device.minor));
  }
  const int dynamic = static_cast<int>(device.shared_bytes) - static_cast<int>(attributes.sharedSizeBytes);
  Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic), name);
  if (device.code >= 90) {
    Check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  }
  done = true;
}

// A launch's description for CUDA, which points into itself.
struct Configuration {
  Configuration(const Grid& grid, Stream stream) {
    config.gridDim = dim3(static_cast<unsigned>(grid.blocks));
    config.blockDim = dim3(static_cast<unsigned>(grid.threads));
    config.dynamicSmemBytes = static_cast<size_t>(grid.shared_bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attributes;
    if (grid.cluster > 1) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
      attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (grid.cooperative) {
      cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
      attribute.id = cudaLaunchAttributeCooperative;
      attribute.val.cooperative = 1;
    }
  }
  Configuration(const Configuration&) = delete;
  Configuration& operator=(const Configuration&) = delete;

  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
};

}  // namespace

void LaunchKernel(const void* kernel, const char* name, const Grid& grid, void* arguments, Stream stream) {
  Prepare(kernel, name);
  const Configuration configuration(grid, stream);
  void* pointers[] = {arguments};
  Check(cudaLaunchKernelExC(&configuration.config, kernel, pointers), name);
}

void Clear(void* pointer, int64_t bytes, Stream stream) {
  if (bytes == 0) return;
  Check(cudaMemsetAsync(pointer, 0, static_cast<size_t>(bytes), static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}

int DeviceCount() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string DeviceProblem() {
  int count = 0, driver = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess || error == cudaErrorNoDevice) return "";
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) return "no CUDA driver is installed";
  return cudaGetErrorString(error);
}

Device GetDevice(int ordinal) {
  static std::mutex mutex;
  static auto& devices = *new std::map<int, Device>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = devices.find(ordinal);
  if (known != devices.end()) return known->second;
  Device device{};
  device.major = AttributeOf(cudaDevAttrComputeCapabilityMajor, ordinal);
  device.minor = AttributeOf(cudaDevAttrComputeCapabilityMinor, ordinal);
  device.multiprocessors = AttributeOf(cudaDevAttrMultiProcessorCount, ordinal);
  device.shared_bytes = AttributeOf(cudaDevAttrMaxSharedMemoryPerBlockOptin, ordinal);
  device.code = CodeFor(10 * device.major + device.minor);
  return devices[ordinal] = device;
}

int DeviceOf(Stream stream) {
  int ordinal = 0;
#if CUDART_VERSION >= 12080
  Check(cudaStreamGetDevice(static_cast<cudaStream_t>(stream), &ordinal), "cudaStreamGetDevice");
#else
  static_cast<void>(stream);
  ordinal = CurrentDevice();
#endif
  return ordinal;
}

int DeviceOfMemory(const void* pointer) {
  cudaPointerAttributes attributes{};
  Check(cudaPointerGetAttributes(&attributes, pointer), "cudaPointerGetAttributes");
  const bool reachable = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return reachable ? attributes.device : -1;
}

void Await(Stream stream, Stream other) {
  cudaEvent_t event = nullptr;
  Check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(event, static_cast<cudaStream_t>(other));
  const cudaError_t waits =
      recorded == cudaSuccess ? cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event, 0) : cudaSuccess;
  static_cast<void>(cudaEventDestroy(event));  // which CUDA keeps until it is over
  Check(recorded, "cudaEventRecord");
  Check(waits, "cudaStreamWaitEvent");
}

int ResidentBlocks(const void* kernel, int threads, int64_t shared_bytes) {
  Prepare(kernel, "cudaFuncSetAttribute");
  int blocks = 0;
  Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, static_cast<size_t>(shared_bytes)),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks;
}

int ResidentClusters(const void* kernel, int cluster, int threads, int64_t shared_bytes) {
  Prepare(kernel, "cudaFuncSetAttribute");
  const Configuration configuration({cluster, threads, cluster, false, shared_bytes}, nullptr);
  int clusters = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &configuration.config);
  if (error == cudaErrorInvalidClusterSize) return 0;
  Check(error, "cudaOccupancyMaxActiveClusters");
  return clusters;
}

DeviceGuard::DeviceGuard(int ordinal) : previous_(CurrentDevice()), changed_(ordinal != previous_) {
  if (changed_) Check(cudaSetDevice(ordinal), "cudaSetDevice");
}

// To make a device the current one makes a context there, which takes some hundred MiB: a device that nobody has used
// is left alone.
DeviceGuard::~DeviceGuard() {
  if (changed_ && HasContext(previous_)) static_cast<void>(cudaSetDevice(previous_));
}

}  // namespace lstm_fast::cuda
