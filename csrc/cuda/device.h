// What the kernels use of the device, on CUDA. The kernels name nothing of CUDA themselves, so that tests can compile
// the same code for the processor: tests/emulation/cuda/device.h has the same names, and takes this file's place by
// standing first on the include path.
#ifndef LSTM_FAST_CUDA_DEVICE_H_
#define LSTM_FAST_CUDA_DEVICE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#define LSTM_FAST_KERNEL __global__
#define LSTM_FAST_DEVICE __device__ __forceinline__
// A kernel's greatest number of threads in a block, and how many such blocks a multiprocessor has to hold.
#define LSTM_FAST_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// A kernel's argument: read where it is, though its address is taken.
#define LSTM_FAST_ARGUMENT const __grid_constant__
#define LSTM_FAST_UNROLL _Pragma("unroll")
#define LSTM_FAST_NO_UNROLL _Pragma("unroll 1")

namespace lstm_fast::cuda {

// The kernels that what is being compiled here may have to run: those for tensor cores, or what stands in for them.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kHasTensorCores = false, kLacksTensorCores = true;
#else
constexpr bool kHasTensorCores = true, kLacksTensorCores = false;
#endif

// Memory, named by where it is. Here these are pointers; under emulation every access is checked.
template <class T>
using Global = T*;
template <class T>
using Shared = T*;  // of this block, or, from Remote(), of another block of its cluster

// What a kernel got as an argument.
template <class T>
LSTM_FAST_DEVICE Global<T> InGlobal(const void* pointer) {
  return static_cast<T*>(const_cast<void*>(pointer));
}
template <class T>
LSTM_FAST_DEVICE bool IsNull(Global<T> pointer) {
  return pointer == nullptr;
}

template <class U, class T>
LSTM_FAST_DEVICE U* Cast(T* pointer) {
  return reinterpret_cast<U*>(pointer);
}

// The block's dynamic shared memory from byte `offset` on; `count` elements of it will be used.
template <class T>
LSTM_FAST_DEVICE Shared<T> InShared(int64_t offset, int64_t count) {
  extern __shared__ __align__(16) unsigned char memory[];
  static_cast<void>(count);
  return reinterpret_cast<T*>(memory + offset);
}

// The place of `pointer` in the shared memory of block `rank` of the cluster.
template <class T>
LSTM_FAST_DEVICE Shared<T> Remote(Shared<T> pointer, int rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t remote;
  asm("mapa.u64 %0, %1, %2;" : "=l"(remote) : "l"(pointer), "r"(rank));
  return reinterpret_cast<T*>(remote);
#else
  static_cast<void>(rank);
  return pointer;
#endif
}

// Grids and blocks have one dimension.
LSTM_FAST_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }
LSTM_FAST_DEVICE int Threads() { return static_cast<int>(blockDim.x); }
LSTM_FAST_DEVICE int Block() { return static_cast<int>(blockIdx.x); }
LSTM_FAST_DEVICE int Blocks() { return static_cast<int>(gridDim.x); }

// Barriers: what was written before them is seen after them, by the block, or by all blocks of the cluster.
LSTM_FAST_DEVICE void SyncBlock() { __syncthreads(); }
// That of the cluster is in two parts; what a thread does in between, which must not be with shared memory, is ordered
// by neither. Arriving waits until what the thread has written to global memory is there, too.
LSTM_FAST_DEVICE void ArriveAtCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
LSTM_FAST_DEVICE void AwaitCluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Whole warps only.
template <class T>
LSTM_FAST_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value that a lane of the warp has.
template <class T>
LSTM_FAST_DEVICE T ShuffleFrom(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
// Bit i: whether lane i says so.
LSTM_FAST_DEVICE uint32_t Ballot(bool value) { return __ballot_sync(0xffffffffu, value); }
LSTM_FAST_DEVICE int CountBits(uint32_t bits) { return __popc(bits); }
LSTM_FAST_DEVICE int HighestBit(uint32_t bits) { return 31 - __clz(static_cast<int>(bits)); }

// Between blocks that share no cluster. Values pass through L2; a signal orders what its thread, and those that met it
// at a barrier before, have stored.
template <int kBytes>
struct Carrier;
template <>
struct Carrier<2> {
  using Type = unsigned short;
};
template <>
struct Carrier<4> {
  using Type = unsigned;
};
template <>
struct Carrier<8> {
  using Type = unsigned long long;
};
template <>
struct Carrier<16> {
  using Type = uint4;
};
template <class T>
LSTM_FAST_DEVICE T LoadL2(Global<const T> pointer) {
  const auto bits = __ldcg(reinterpret_cast<const typename Carrier<sizeof(T)>::Type*>(pointer));
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
LSTM_FAST_DEVICE void StoreL2(Global<T> pointer, T value) {
  typename Carrier<sizeof(T)>::Type bits;
  memcpy(&bits, &value, sizeof value);
  __stcg(reinterpret_cast<typename Carrier<sizeof(T)>::Type*>(pointer), bits);
}
LSTM_FAST_DEVICE void Signal(Global<unsigned> counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
LSTM_FAST_DEVICE void AwaitAtLeast(Global<unsigned> counter, unsigned value) {
  unsigned seen;
  do {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  } while (static_cast<int>(seen - value) < 0);
}

// Four registers that are loaded and stored at once.
struct alignas(16) Words {
  uint32_t word[4];
};

// float16 and bfloat16, by their bits; to nearest, ties to even.
LSTM_FAST_DEVICE float HalfToFloat(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
LSTM_FAST_DEVICE float BFloat16ToFloat(uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
LSTM_FAST_DEVICE uint16_t FloatToHalf(float value) { return __half_as_ushort(__float2half_rn(value)); }
LSTM_FAST_DEVICE uint16_t FloatToBFloat16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

LSTM_FAST_DEVICE uint32_t BitsOf(float value) { return __float_as_uint(value); }
LSTM_FAST_DEVICE float FloatOf(uint32_t bits) { return __uint_as_float(bits); }

// Nearest value with 10 bits of mantissa, ties away from zero, as a float.
LSTM_FAST_DEVICE uint32_t RoundToTf32(float value) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#else
  return __float_as_uint(value);
#endif
}

// Matrix products of a warp: d += a b, with a [16, K], b [K, 8], d [16, 8], in the layout of PTX's mma.m16n8k8 (tf32)
// and mma.m16n8k16 (float16, bfloat16). With lane = 4 g + t, element i of d is row g + 8 (i / 2), column 2 t + i % 2.
LSTM_FAST_DEVICE void MultiplyTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
LSTM_FAST_DEVICE void MultiplyHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
LSTM_FAST_DEVICE void MultiplyBFloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

LSTM_FAST_DEVICE float MultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LSTM_FAST_DEVICE double MultiplyAdd(double a, double b, double c) { return __fma_rn(a, b, c); }

// Functions of float32 wait for each other all through a timestep, so they are short and do not branch. Exp() is off by
// (2 + |x|) 2^-23 of its value, which a sigmoid does not see; Tanh() by about 2 units in the last place.
LSTM_FAST_DEVICE float Exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
}
LSTM_FAST_DEVICE double Exp(double x) { return exp(x); }
LSTM_FAST_DEVICE float Reciprocal(float x) {  // 0 from 2^126 on
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
LSTM_FAST_DEVICE double Reciprocal(double x) { return 1.0 / x; }
// Up to kSmallTanh a polynomial, fitted to the least relative error, 0.05 units in the last place.
constexpr float kSmallTanh = 0.6f;
LSTM_FAST_DEVICE float TanhOfSmall(float size) {
  const float square = size * size;
  float odd = MultiplyAdd(-5.8951578e-3f, square, 2.0795971e-2f);
  odd = MultiplyAdd(odd, square, -5.3783830e-2f);
  odd = MultiplyAdd(odd, square, 1.3331924e-1f);
  odd = MultiplyAdd(odd, square, -3.3333299e-1f);
  return MultiplyAdd(size * square, odd, size);
}
LSTM_FAST_DEVICE float Tanh(float x) {
  const float size = fabsf(x), small = TanhOfSmall(size);
  const float large = MultiplyAdd(-2.0f, Reciprocal(1.0f + Exp(2.0f * size)), 1.0f);
  return copysignf(size < kSmallTanh ? small : large, x);
}
// Lanes that want the one and lanes that want the other go one way: numbers differ, not what is done with them.
LSTM_FAST_DEVICE float SigmoidOrTanh(float x, bool tanh) {
  const float size = fabsf(x), small = TanhOfSmall(size);
  const float reciprocal = Reciprocal(1.0f + Exp(tanh ? 2.0f * size : -x));
  const float large = MultiplyAdd(tanh ? -2.0f : 1.0f, reciprocal, tanh ? 1.0f : 0.0f);
  return copysignf(size < (tanh ? kSmallTanh : 0.0f) ? small : large, tanh ? x : 1.0f);
}
LSTM_FAST_DEVICE double Tanh(double x) { return tanh(x); }

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_DEVICE_H_
