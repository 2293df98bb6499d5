// Functions of both sides of a launch. Compilers other than nvcc, and the emulated device, know one side only.
#ifndef LSTM_FAST_CUDA_HOST_DEVICE_H_
#define LSTM_FAST_CUDA_HOST_DEVICE_H_

#ifdef __CUDACC__
#define LSTM_FAST_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LSTM_FAST_HOST_DEVICE inline
#endif

#endif  // LSTM_FAST_CUDA_HOST_DEVICE_H_
