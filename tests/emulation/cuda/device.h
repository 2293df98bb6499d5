// In place of csrc/cuda/device.h: the same names, on the emulated device. Every access to memory is checked.
#ifndef LSTM_FAST_TESTS_EMULATION_CUDA_DEVICE_H_
#define LSTM_FAST_TESTS_EMULATION_CUDA_DEVICE_H_

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "machine.h"
#include "matrix.h"
#include "memory.h"
#include "numbers.h"

#define LSTM_FAST_KERNEL
#define LSTM_FAST_DEVICE inline
#define LSTM_FAST_BOUNDS(threads, blocks)
#define LSTM_FAST_ARGUMENT const
#define LSTM_FAST_UNROLL
#define LSTM_FAST_NO_UNROLL

namespace lstm_fast::cuda {

constexpr bool kHasTensorCores = true, kLacksTensorCores = true;  // which, the test says when it runs

using emulation::Site;

template <class T>
using Global = emulation::Pointer<emulation::GlobalPlace, T>;
template <class T>
using Shared = emulation::Pointer<emulation::SharedPlace, T>;

template <class T>
Global<T> InGlobal(const void* pointer) {
  return Global<T>(emulation::InGlobal(pointer));
}
template <class T>
bool IsNull(Global<T> pointer) {
  return pointer.place().memory == nullptr;
}

template <class T>
Shared<T> InShared(int64_t offset, int64_t count) {
  return Shared<T>(emulation::InShared(offset, count * static_cast<int64_t>(sizeof(T))));
}
template <class T>
Shared<T> Remote(Shared<T> pointer, int rank) {
  return Shared<T>(emulation::Remote(pointer.place(), rank));
}

template <class U, class Place, class T>
emulation::Pointer<Place, U> Cast(emulation::Pointer<Place, T> pointer) {
  static_assert(std::is_const_v<U> || !std::is_const_v<T>, "takes const away");
  return emulation::Pointer<Place, U>(pointer.place());
}

inline int Thread() { return emulation::Current().index; }
inline int Threads() { return emulation::Threads(); }
inline int Block() { return emulation::Current().block->index; }
inline int Blocks() { return emulation::Blocks(); }

inline void SyncBlock(Site site = Site::Here()) { emulation::SyncBlock(site); }
inline void ArriveAtCluster(Site site = Site::Here()) { emulation::ArriveAtCluster(site); }
inline void AwaitCluster(Site site = Site::Here()) { emulation::AwaitCluster(site); }

// As on the device, this orders nothing in memory; nor do the matrix products.
template <class T>
T Shuffle(const char* what, T value, int lane, Site site) {
  struct Values {
    T value;
    int lane;
    T result;
  } own = {value, lane, value};
  const auto exchange = [](void* const(&lanes)[emulation::kLanes]) {
    for (void* to : lanes) {
      auto& reader = *static_cast<Values*>(to);
      const auto from = static_cast<uint32_t>(reader.lane) % emulation::kLanes;
      reader.result = static_cast<const Values*>(lanes[from])->value;
    }
  };
  emulation::MeetWarp(what, site, exchange, &own);
  return own.result;
}
template <class T>
T ShuffleFrom(T value, int lane, Site site = Site::Here()) {
  return Shuffle("ShuffleFrom", value, lane, site);
}
template <class T>
T ShuffleXor(T value, int mask, Site site = Site::Here()) {
  return Shuffle("ShuffleXor", value, (emulation::Current().index % static_cast<int>(emulation::kLanes)) ^ mask, site);
}

inline uint32_t Ballot(bool value, Site site = Site::Here()) {
  struct Vote {
    bool value;
    uint32_t result;
  } own = {value, 0};
  const auto count = [](void* const(&lanes)[emulation::kLanes]) {
    uint32_t all = 0;
    for (uint32_t lane = 0; lane < emulation::kLanes; ++lane) {
      all |= static_cast<const Vote*>(lanes[lane])->value ? uint32_t{1} << lane : 0;
    }
    for (void* lane : lanes) static_cast<Vote*>(lane)->result = all;
  };
  emulation::MeetWarp("Ballot", site, count, &own);
  return own.result;
}
inline int CountBits(uint32_t bits) { return __builtin_popcount(bits); }
inline int HighestBit(uint32_t bits) { return 31 - __builtin_clz(bits); }

template <class T>
T LoadL2(Global<const T> pointer) {
  return *pointer;
}
template <class T>
T LoadL2(Global<T> pointer) {
  return *pointer;
}
template <class T>
void StoreL2(Global<T> pointer, T value) {
  *pointer = value;
}
inline void Signal(Global<unsigned> counter) { emulation::Signal(counter.place()); }
inline void AwaitAtLeast(Global<unsigned> counter, unsigned value, Site site = Site::Here()) {
  emulation::AwaitAtLeast(counter.place(), value, site);
}

struct alignas(16) Words {
  uint32_t word[4];
};

using emulation::numbers::BFloat16ToFloat;
using emulation::numbers::BitsOf;
using emulation::numbers::FloatOf;
using emulation::numbers::FloatToBFloat16;
using emulation::numbers::FloatToHalf;
using emulation::numbers::HalfToFloat;
inline uint32_t RoundToTf32(float value) { return emulation::numbers::FloatToTf32(value); }

inline void MultiplyTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::Here()) {
  emulation::MultiplyTf32({d, a, b}, site);
}
inline void MultiplyHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::Here()) {
  emulation::MultiplyHalf({d, a, b}, site);
}
inline void MultiplyBFloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::Here()) {
  emulation::MultiplyBFloat16({d, a, b}, site);
}

inline float MultiplyAdd(float a, float b, float c) { return std::fma(a, b, c); }
inline double MultiplyAdd(double a, double b, double c) { return std::fma(a, b, c); }

inline float Exp(float x) { return std::exp(x); }
inline double Exp(double x) { return std::exp(x); }
inline float Reciprocal(float x) { return std::fabs(x) >= 0x1p126f ? 0 : 1 / x; }
inline double Reciprocal(double x) { return 1 / x; }
inline float Tanh(float x) { return std::tanh(x); }
inline double Tanh(double x) { return std::tanh(x); }
inline float SigmoidOrTanh(float x, bool tanh) { return tanh ? std::tanh(x) : Reciprocal(1 + Exp(-x)); }

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_TESTS_EMULATION_CUDA_DEVICE_H_
